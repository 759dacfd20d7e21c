//! A read-only snapshot of a directory that is a btrfs subvolume.

use crate::hold::{SubvolumeSnapshot, holds_others, is_subvolume};
use crate::source::interface::{CaptureError, CaptureOptions, HoldMode};
use std::path::Path;

/// Snapshots the directory at `path` if the options ask for it, or allow it and it can be done. The snapshot lies in a
/// private directory beside the subvolume, or in the temporary directory, and is removed when it is dropped.
pub fn snapshot_of(path: &Path, options: &CaptureOptions) -> Result<Option<SubvolumeSnapshot>, CaptureError> {
    let forced = options.hold == HoldMode::FsSnapshot;
    if options.cold || !(forced || options.hold == HoldMode::Auto) {
        return Ok(None);
    }
    let cannot = |detail: String| CaptureError::CannotHold {
        path: path.to_owned(),
        hold: HoldMode::FsSnapshot,
        detail,
    };
    if !is_subvolume(path) {
        return if forced { Err(cannot("it is not a btrfs subvolume".into())) } else { Ok(None) };
    }
    if holds_others(path).unwrap_or(true) {
        let detail = "other subvolumes or mounts lie inside it, which its snapshot would leave out".into();
        return if forced { Err(cannot(detail)) } else { Ok(None) };
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    let places = [beside, options.temporary_directory.as_path()];
    SubvolumeSnapshot::remove_stale(&places);
    match SubvolumeSnapshot::create(path, &places) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if forced => Err(cannot(format!("no snapshot could be made: {error}"))),
        Err(_) => Ok(None),
    }
}
