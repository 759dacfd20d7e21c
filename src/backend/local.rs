//! A repository in a local directory: temporary file, fsync, rename, fsync of the directory.

use super::disk::{Disk, DiskLock, RealDisk};
use super::interface::{Backend, BackendError, ErrorKind, Lock, LockGuard, LockKind};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A temporary file this old belongs to a run that was killed.
const STALE_TEMPORARY: Duration = Duration::from_secs(24 * 3600);

/// Keys as files below `root`.
pub struct LocalBackend {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl LocalBackend {
    /// A place below an existing directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(RealDisk), root)
    }

    /// A place on some other file system than the operating system's.
    pub fn on(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), disk }
    }

    /// Makes a directory and its parents durable.
    pub fn create_directory(&self, key: &str) -> Result<(), BackendError> {
        let path = self.root.join(key);
        self.make_directories(&path)
            .map_err(|error| BackendError::new("create", path.display().to_string(), error))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn fail(&self, action: &'static str, key: &str, error: io::Error) -> BackendError {
        BackendError::new(action, self.path(key).display().to_string(), error)
    }

    fn write(&self, key: &str, bytes: &[u8], is_new: bool) -> io::Result<()> {
        let (path, temporaries) = (self.path(key), self.root.join("tmp"));
        let parent = path.parent().unwrap_or(&self.root);
        self.make_directories(parent)?;
        self.make_directories(&temporaries)?;
        let mut temporary = self.disk.create_temporary(&temporaries)?;
        let mut put = || {
            temporary.write(bytes)?;
            temporary.sync()?;
            if is_new {
                self.disk.rename_new(temporary.path(), &path)
            } else {
                self.disk.rename(temporary.path(), &path)
            }
        };
        put().inspect_err(|_| drop(self.disk.remove(temporary.path())))?;
        self.disk.sync_directory(parent)
    }

    /// Makes each missing directory of `path`, and makes it durable by an fsync of the directory above it.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        if self.disk.is_directory(path) {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.make_directories(parent)?;
        match self.disk.make_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.disk.is_directory(path) => {
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => self.disk.sync_directory(parent),
        }
    }
}

impl Backend for LocalBackend {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        self.disk.read(&self.path(key)).map_err(|error| self.fail("read", key, error))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        self.disk.read_range(&self.path(key), offset, len).map_err(|error| self.fail("read", key, error))
    }

    fn get_range_anew(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        let read = self.disk.read_range_anew(&self.path(key), offset, len);
        read.map_err(|error| self.fail("read", key, error))
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        self.disk.len(&self.path(key)).map_err(|error| self.fail("stat", key, error))
    }

    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        let modified = self.disk.modified(&self.path(key)).map_err(|error| self.fail("stat", key, error))?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok();
        Ok(since.and_then(|since| i64::try_from(since.as_nanos()).ok()))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.write(key, bytes, false).map_err(|error| self.fail("write", key, error))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.write(key, bytes, true).map_err(|error| self.fail("create", key, error))
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        let mut found = Vec::new();
        let mut waiting = vec![directory.trim_end_matches('/').to_owned()];
        while let Some(key) = waiting.pop() {
            let items = match self.disk.list(&self.path(&key)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| self.fail("list", &key, error))?,
            };
            for item in items {
                let Ok(name) = item.name.into_string() else { continue };
                let below = format!("{key}/{name}");
                if item.is_directory {
                    waiting.push(below);
                } else if item.is_file {
                    found.push((below, item.len));
                }
            }
        }
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        let path = self.path(key);
        let remove = || {
            self.disk.remove(&path)?;
            self.disk.sync_directory(path.parent().unwrap_or(&self.root))
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| self.fail("delete", key, error)),
        }
    }

    fn remove_stale_temporaries(&self) {
        let directory = self.root.join("tmp");
        for item in self.disk.list(&directory).unwrap_or_default() {
            let age = item.modified.and_then(|time| SystemTime::now().duration_since(time).ok());
            if item.is_file && age.is_some_and(|age| age > STALE_TEMPORARY) {
                drop(self.disk.remove(&directory.join(item.name)));
            }
        }
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Lock, BackendError> {
        let key = format!("locks/{name}");
        let path = self.path(&key);
        let take = || {
            self.make_directories(path.parent().unwrap_or(&self.root))?;
            self.disk.try_lock(&path, kind == LockKind::Shared)
        };
        match take().map_err(|error| self.fail("lock", &key, error)) {
            Ok(DiskLock::Held(held)) => Ok(Lock::Held(Box::new(Held(held)))),
            Ok(DiskLock::Busy(holder)) => Ok(Lock::Busy { holder }),
            Ok(DiskLock::Unsupported) => Ok(Lock::Unsupported),
            Err(error) if error.kind == ErrorKind::Denied => Ok(Lock::Unsupported),
            Err(error) => Err(error),
        }
    }
}

struct Held(#[expect(dead_code, reason = "dropping it gives the lock back")] Box<dyn Send>);

impl LockGuard for Held {}
