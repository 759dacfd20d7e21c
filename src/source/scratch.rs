//! What killed runs leave in the temporary directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How the names of scratch copies begin.
pub const CHECK_PREFIX: &str = "icecore-check-";
pub const ROLLBACK_PREFIX: &str = "icecore-rollback-";

/// No scratch copy keeps its name this long.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// Removes this user's scratch copies of databases that nobody can be using any more. What can't be removed stays.
pub fn remove_stale_scratch(directory: &Path) {
    let (Ok(listing), Ok(own)) = (fs::read_dir(directory), fs::metadata("/proc/self")) else { return };
    for item in listing.flatten() {
        let name = item.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(CHECK_PREFIX) && !name.starts_with(ROLLBACK_PREFIX) {
            continue;
        }
        let Ok(metadata) = item.metadata() else { continue };
        let is_old = metadata.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > AGE));
        if is_old && metadata.uid() == own.uid() {
            let _ = if metadata.is_dir() {
                fs::remove_dir_all(item.path())
            } else {
                fs::remove_file(item.path())
            };
        }
    }
}
