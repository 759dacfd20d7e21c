//! What a local repository asks of a file system, call by call, so that tests can put a failing one under it.

use super::direct;
use super::interface::has_lost;
use nix::fcntl::{Flock, FlockArg};
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files are private to the owner: they hold copies of everything that was backed up.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A file system. Nothing is durable before it was synced: a file's bytes by `DiskFile::sync`, its name by `sync_directory`
/// of the directory that holds it.
pub trait Disk: Send + Sync {
    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Exactly `len` bytes from `offset`; `UnexpectedEof` if there are fewer.
    fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>>;
    /// As `read_range`, from the device and not from memory, where the file system can.
    fn read_range_anew(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.read_range(path, offset, len)
    }
    /// A file's length.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// When a file was written.
    fn modified(&self, path: &Path) -> io::Result<SystemTime>;
    /// What a directory holds.
    fn list(&self, directory: &Path) -> io::Result<Vec<DiskItem>>;
    /// There is a directory.
    fn is_directory(&self, path: &Path) -> bool;
    /// Makes a directory; `AlreadyExists` if there is something.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file with a name of its own in a directory.
    fn create_temporary(&self, directory: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// As `rename`, but `AlreadyExists` if something has the name.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes a lock on a file, which is made if it isn't there, without waiting.
    fn try_lock(&self, path: &Path, is_shared: bool) -> io::Result<DiskLock>;
}

/// A file that is being written.
pub trait DiskFile {
    /// Its present name.
    fn path(&self) -> &Path;
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A name in a directory.
pub struct DiskItem {
    pub name: OsString,
    pub is_directory: bool,
    pub is_file: bool,
    pub len: u64,
    pub modified: Option<SystemTime>,
}

/// What became of a lock.
pub enum DiskLock {
    /// Taken until this is dropped.
    Held(Box<dyn Send>),
    /// Others have it; who, as far as known.
    Busy(String),
    /// The file system has no locks.
    Unsupported,
}

/// The operating system's own.
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = offset.checked_add(len).ok_or_else(short)?;
        if end > file.metadata()?.len() {
            return Err(short());
        }
        let len = usize::try_from(len).map_err(|_| short())?;
        // Not zeroed first: that would cost as much as the reading.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            if retry_on_intr(|| pread(&file, spare_capacity(&mut bytes), at))? == 0 {
                return Err(short());
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn read_range_anew(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let bytes =
            usize::try_from(len).map_or(Ok(None), |len| direct::read(&File::open(path)?, offset, len))?;
        bytes.map_or_else(|| self.read_range(path, offset, len), Ok)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        fs::metadata(path).map(|metadata| metadata.len())
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        fs::metadata(path)?.modified()
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DiskItem>> {
        let mut items = Vec::new();
        for item in fs::read_dir(directory)? {
            let item = item?;
            let metadata = match item.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // It is there, and whoever reads it is told so.
                Err(error) if has_lost(&error) => None,
                other => Some(other?),
            };
            let kind =
                metadata.as_ref().map_or_else(|| item.file_type(), |metadata| Ok(metadata.file_type()))?;
            items.push(DiskItem {
                name: item.file_name(),
                is_directory: kind.is_dir(),
                is_file: kind.is_file(),
                len: metadata.as_ref().map_or(0, std::fs::Metadata::len),
                modified: metadata.and_then(|metadata| metadata.modified().ok()),
            });
        }
        Ok(items)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn create_temporary(&self, directory: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("put-").permissions(fs::Permissions::from_mode(FILE_MODE));
        // Whoever fails removes it by name; what a kill leaves is swept up a day later.
        let (file, path) = builder.tempfile_in(directory)?.keep().map_err(|failed| failed.error)?;
        Ok(Box::new(RealFile { file, path, is_begun: false }))
    }

    #[expect(clippy::disallowed_methods, reason = "whoever calls this syncs the directory")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        tempfile::TempPath::try_from_path(from)?.persist_noclobber(to).map_err(|failed| {
            // Whether it stays is the caller's business.
            drop(failed.path.keep());
            failed.error
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn try_lock(&self, path: &Path, is_shared: bool) -> io::Result<DiskLock> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = match options.open(path) {
            Err(error) if is_read_only(&error) => return Ok(DiskLock::Unsupported),
            other => other?,
        };
        let wanted = if is_shared { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
        match Flock::lock(file, wanted) {
            Ok(mut held) => {
                // Who holds it is a courtesy for the message; the lock itself is the kernel's.
                let note = format!("process {} since Unix time {}\n", std::process::id(), unix_time());
                drop(held.set_len(0).and_then(|()| held.write_all(note.as_bytes())));
                Ok(DiskLock::Held(Box::new(held)))
            }
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => Ok(DiskLock::Busy(holder_of(file))),
            Err((_, nix::errno::Errno::ENOLCK | nix::errno::Errno::EOPNOTSUPP)) => Ok(DiskLock::Unsupported),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
    /// Something was written.
    is_begun: bool,
}

impl DiskFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let done = if self.is_begun { 0 } else { direct::write_first(&mut self.file, bytes)? };
        self.is_begun = true;
        self.file.write_all(bytes.get(done..).unwrap_or_default())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Whom the kernel names as holders; those of other process namespaces it doesn't, so that their own note must do.
fn holder_of(mut file: File) -> String {
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let ends = format!(":{inode}");
    let holders: Vec<&str> = locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&"FLOCK"))
        .filter(|words| words.get(5).is_some_and(|place| place.ends_with(&ends)))
        .filter_map(|words| words.get(4).copied())
        .filter(|process| process.parse::<u32>().is_ok_and(|process| process > 0))
        .collect();
    let mut note = String::new();
    drop((&mut file).take(200).read_to_string(&mut note));
    let note = note.trim();
    match holders.as_slice() {
        [] => note.to_owned(),
        [one] if note.split_whitespace().nth(1) == Some(one) => note.to_owned(),
        [one] => format!("process {one}"),
        several => format!("processes {}", several.join(", ")),
    }
}

/// Seconds since 1970: this room imports nothing of ours, so no calendar here.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
