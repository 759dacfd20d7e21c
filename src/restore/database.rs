//! The order in which a database is overwritten, so that at no moment a half-restored one can be opened.
//!
//! 1. `mark`: the first sector becomes a text that SQLite takes for "not a database"; durable. Then what lies beside it goes;
//!    durable. (A journal or a log that is still there between the two makes SQLite see the whole state before.)
//! 2. `fill`: all bytes but the first sector, the length; durable.
//! 3. `finish`: what shall lie beside it comes, each with its first sector last; durable. Then the database's own first
//!    sector. A sector is written whole or not at all.
//!
//! A database that isn't there is made without a name, which it gets in the third step.

use super::content::Contents;
use super::error::RestoreError;
use super::holes::dig;
use super::make::create_file;
use crate::hold::{SqliteExclusive, WriteLease};
use crate::progress::Progress;
use crate::source::{Compared, Patches, SQLITE_MAGIC};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What disks write whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

const MARKER: &[u8] = b"icecore restore: this database is being overwritten and is not whole.\n\
    `icecore restore --resume` finishes it, `icecore restore --rollback` brings back what was here before.\n";

/// It begins like a database, or like one that is being restored.
pub fn looks_like_database(start: &[u8]) -> bool {
    start.starts_with(SQLITE_MAGIC)
        || (start.len() >= 16 && MARKER.starts_with(start.get(..16).unwrap_or_default()))
}

/// A file that is being overwritten, which others can't open, nor SQLite lock, until this is dropped.
pub struct Overwritten {
    pub file: File,
    /// What makes it what it shall be, as far as that is known of the file as it was when it was opened. Of a database that is
    /// marked meanwhile only behind the first sector, which `unmark` writes.
    pub patches: Option<Arc<Patches>>,
    _lease: Option<WriteLease>,
    _locks: Option<SqliteExclusive>,
}

impl Overwritten {
    /// Opens an existing file, which was `compared` before. Where no lease can be had, `open` was already said to be safe.
    pub fn open(
        directory: BorrowedFd<'_>,
        name: &[u8],
        shown: &Path,
        is_database: bool,
        compared: Option<&Compared>,
    ) -> Result<Self, RestoreError> {
        let fail = |errno: Errno| RestoreError::io("open", shown, errno);
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let opened = openat(directory, OsStr::from_bytes(name), flags, Mode::empty()).map_err(fail)?;
        let file = File::from(opened);
        let in_use = || RestoreError::InUse { path: shown.to_owned() };
        let lease = match WriteLease::take(&file) {
            Ok(None) => return Err(in_use()),
            Ok(lease) => lease,
            Err(_) => None,
        };
        let locks = match is_database.then(|| SqliteExclusive::take(&file)) {
            Some(Ok(None)) => return Err(in_use()),
            Some(Ok(locks)) => locks,
            // A file system without locks.
            Some(Err(_)) | None => None,
        };
        // Looked at behind the lease: nobody else writes to it from here on. Without one every block is compared.
        let is_same = |compared: &&Compared| {
            lease.is_some() && file.metadata().is_ok_and(|metadata| compared.is_of(&metadata))
        };
        let patches = compared.filter(is_same).map(|compared| Arc::clone(&compared.patches));
        Ok(Self { file, patches, _lease: lease, _locks: locks })
    }
}

/// Makes the database unreadable; durable.
pub fn mark(file: &File, shown: &Path) -> Result<(), RestoreError> {
    let mut sector = [0u8; SECTOR_BYTES as usize];
    for (byte, text) in sector.iter_mut().zip(MARKER) {
        *byte = *text;
    }
    let done = file.write_all_at(&sector, 0).and_then(|()| file.sync_all());
    done.map_err(|error| RestoreError::io("write", shown, error))
}

/// Writes all but the first sector, and the length; durable. Returns the bytes written.
pub fn fill(
    contents: &Contents<'_>,
    file: &File,
    differing: &[u32],
    patches: Option<&Patches>,
    shown: &Path,
    progress: &dyn Progress,
) -> Result<u64, RestoreError> {
    let fail = |error| RestoreError::io("write", shown, error);
    let mut written = dig(file, &contents.filled_holes(file)).map_err(fail)?;
    written += contents.write(file, differing, SECTOR_BYTES, patches, shown, progress)?;
    let len = contents.size().max(SECTOR_BYTES);
    if file.metadata().map_err(fail)?.len() != len {
        file.set_len(len).map_err(fail)?;
    }
    file.sync_all().map_err(fail)?;
    Ok(written)
}

/// Writes the first sector, which makes the file what it shall be; durable. Returns the bytes written.
pub fn unmark(contents: &Contents<'_>, file: &File, shown: &Path) -> Result<u64, RestoreError> {
    let fail = |error| RestoreError::io("write", shown, error);
    let mut sector = [0u8; SECTOR_BYTES as usize];
    let count = contents.start(&mut sector)?;
    if contents.size() < SECTOR_BYTES {
        file.set_len(contents.size()).map_err(fail)?;
    }
    file.write_all_at(sector.get(..count).unwrap_or_default(), 0).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    Ok(count as u64)
}

/// A file that has no name yet, or, where the file system has no such files, one that is marked.
pub struct Unnamed {
    pub file: File,
    is_named: bool,
}

impl Unnamed {
    /// Makes it in an open directory.
    pub fn create(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<Self, RestoreError> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_TMPFILE;
        match openat(directory, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => Ok(Self { file: File::from(file), is_named: false }),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
                Self::create_marked(directory, name, shown)
            }
            Err(errno) => Err(RestoreError::io("create", shown, errno)),
        }
    }

    /// Makes it with its name, and marked.
    pub fn create_marked(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<Self, RestoreError> {
        let file = create_file(directory, name, shown)?;
        mark(&file, shown)?;
        Ok(Self { file, is_named: true })
    }

    /// Gives it its name, if it has none.
    pub fn publish(&self, directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<(), RestoreError> {
        if self.is_named {
            return Ok(());
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let name = OsStr::from_bytes(name);
        linkat(AT_FDCWD, path.as_str(), directory, name, AtFlags::AT_SYMLINK_FOLLOW)
            .map_err(|errno| RestoreError::io("create", shown, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::Overwritten;
    use crate::source::{Compared, Stat};
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    #[test]
    fn patches_are_for_the_file_that_was_compared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"as it was compared", 0).unwrap();
        let Stat { mtime_ns, .. } = Stat::from(&file.metadata().unwrap());
        let state = Stat::from(&file.metadata().unwrap()).state();
        let compared = Compared { state, mtime_ns, differing: [0].into(), patches: Arc::default() };
        let above = open(directory.path(), OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let has_patches = |compared| {
            let over = Overwritten::open(above.as_fd(), b"file", &path, false, compared).unwrap();
            over.patches.is_some()
        };
        drop(file);
        assert!(has_patches(Some(&compared)) && !has_patches(None));
        std::thread::sleep(std::time::Duration::from_millis(20));
        File::options().write(true).open(&path).unwrap().write_all_at(b"is", 0).unwrap();
        assert!(!has_patches(Some(&compared)));
    }
}
