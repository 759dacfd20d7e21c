//! Whether a directory is captured from a read-only snapshot, and where that is put.

use crate::hold::{SnapshotPlace, holds_others, is_subvolume};
use crate::source::interface::{CaptureError, CaptureOptions, HoldMode};
use std::path::Path;

/// A place for snapshots of the directory at `path`, if the options ask for them, or allow them and they can be made: a
/// private directory beside the subvolume, or in the temporary directory.
pub fn snapshot_place(path: &Path, options: &CaptureOptions) -> Result<Option<SnapshotPlace>, CaptureError> {
    let forced = options.hold == HoldMode::FsSnapshot;
    if options.cold || !(forced || options.hold == HoldMode::Auto) {
        return Ok(None);
    }
    let cannot = |detail: String| CaptureError::CannotHold {
        path: path.to_owned(),
        hold: HoldMode::FsSnapshot,
        detail,
    };
    let without = |detail: &str| if forced { Err(cannot(detail.to_owned())) } else { Ok(None) };
    if !is_subvolume(path) {
        return without("it is not a btrfs subvolume");
    }
    if holds_others(path).unwrap_or(true) {
        return without("other subvolumes or mounts lie inside it, which its snapshot would leave out");
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    let places = [beside, options.temporary_directory.as_path()];
    SnapshotPlace::remove_stale(&places);
    match SnapshotPlace::find(path, &places) {
        Ok(place) => Ok(Some(place)),
        Err(error) => without(&format!("no snapshot of it could be made and removed again: {error}")),
    }
}
