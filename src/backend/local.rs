//! A repository in a local directory: temporary file, fsync, rename, fsync of the directory.

use super::interface::{Backend, BackendError, ErrorKind, Lock, LockGuard};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files are private to the owner: they hold copies of everything that was backed up.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// A temporary file this old belongs to a run that was killed.
const STALE_TEMPORARY: Duration = Duration::from_secs(24 * 3600);

/// Keys as files below `root`.
pub struct LocalBackend {
    root: PathBuf,
}

impl LocalBackend {
    /// A place below an existing directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes a directory and its parents durable.
    pub fn create_directory(&self, key: &str) -> Result<(), BackendError> {
        let path = self.root.join(key);
        make_directories(&path)
            .map_err(|error| BackendError::new("create", path.display().to_string(), error))
    }

    /// Removes what killed runs left in `tmp/`, if it is more than a day old. Failures don't matter.
    pub fn remove_stale_temporaries(&self) {
        let Ok(listing) = fs::read_dir(self.root.join("tmp")) else { return };
        for entry in listing.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age > STALE_TEMPORARY) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn fail(&self, action: &'static str, key: &str, error: io::Error) -> BackendError {
        BackendError::new(action, self.path(key).display().to_string(), error)
    }

    fn write(&self, key: &str, bytes: &[u8], replace: bool) -> io::Result<()> {
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.root);
        make_directories(parent)?;
        make_directories(&self.root.join("tmp"))?;
        let mut temporary = tempfile::Builder::new()
            .prefix("put-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE))
            .tempfile_in(self.root.join("tmp"))?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        let persisted = if replace { temporary.persist(&path) } else { temporary.persist_noclobber(&path) };
        persisted.map_err(|failed| failed.error)?;
        File::open(parent)?.sync_all()
    }
}

/// Makes each missing directory of `path`, and makes it durable by an fsync of the directory above it.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directories(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(parent)?.sync_all(),
    }
}

impl Backend for LocalBackend {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        fs::read(self.path(key)).map_err(|error| self.fail("read", key, error))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.path(key))?;
            let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let end = offset.checked_add(len).ok_or_else(short)?;
            if end > file.metadata()?.len() {
                return Err(short());
            }
            // Not zeroed first: that would cost as much as the reading.
            let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(|_| short())?);
            file.seek(SeekFrom::Start(offset))?;
            file.take(len).read_to_end(&mut bytes)?;
            if bytes.len() as u64 == len { Ok(bytes) } else { Err(short()) }
        };
        read().map_err(|error| self.fail("read", key, error))
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        fs::metadata(self.path(key))
            .map(|metadata| metadata.len())
            .map_err(|error| self.fail("stat", key, error))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.write(key, bytes, true).map_err(|error| self.fail("write", key, error))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.write(key, bytes, false).map_err(|error| self.fail("create", key, error))
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        let mut found = Vec::new();
        let mut waiting = vec![directory.trim_end_matches('/').to_owned()];
        while let Some(key) = waiting.pop() {
            let listing = match fs::read_dir(self.path(&key)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| self.fail("list", &key, error))?,
            };
            for item in listing {
                let item = item.map_err(|error| self.fail("list", &key, error))?;
                let Ok(name) = item.file_name().into_string() else { continue };
                let below = format!("{key}/{name}");
                let metadata = match item.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(|error| self.fail("stat", &below, error))?,
                };
                if metadata.is_dir() {
                    waiting.push(below);
                } else if metadata.is_file() {
                    found.push((below, metadata.len()));
                }
            }
        }
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        let path = self.path(key);
        let remove = || -> io::Result<()> {
            fs::remove_file(&path)?;
            File::open(path.parent().unwrap_or(&self.root))?.sync_all()
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| self.fail("delete", key, error)),
        }
    }

    fn try_lock(&self, name: &str) -> Result<Lock, BackendError> {
        let key = format!("locks/{name}");
        let path = self.path(&key);
        let open = || -> io::Result<File> {
            make_directories(path.parent().unwrap_or(&self.root))?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(&path)
        };
        let file = match open().map_err(|error| self.fail("lock", &key, error)) {
            Err(error) if error.kind == ErrorKind::Denied => return Ok(Lock::Unsupported),
            other => other?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                // Who holds it is a courtesy for the message; the lock itself is the kernel's.
                let note = format!("process {} since {}\n", std::process::id(), unix_time());
                drop(held.set_len(0).and_then(|()| held.write_all(note.as_bytes())));
                Ok(Lock::Held(Box::new(Held(held))))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                drop((&mut file).take(200).read_to_string(&mut holder));
                Ok(Lock::Busy { holder: holder.trim().to_owned() })
            }
            Err((_, nix::errno::Errno::ENOLCK | nix::errno::Errno::EOPNOTSUPP)) => Ok(Lock::Unsupported),
            Err((_, errno)) => Err(self.fail("lock", &key, errno.into())),
        }
    }
}

/// Seconds since 1970 as text: this room imports nothing of ours, so no calendar here.
fn unix_time() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("Unix time {}", now.as_secs())
}

struct Held(#[expect(dead_code, reason = "dropping it gives the lock back")] Flock<File>);

impl LockGuard for Held {}
