//! The trait that every place for repository files implements, and its errors.

pub use super::wire::Piece;
use crate::id::{Id, IdHasher};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// What is read at a time to be hashed.
const HASH_BYTES: u64 = 1 << 20;

/// The hash of a file of so many bytes, read from the device that it lies on where this can be had.
pub fn hash_anew(backend: &dyn Backend, key: &str, size: u64) -> Result<Id, BackendError> {
    let (mut hasher, mut at) = (IdHasher::default(), 0);
    while at < size {
        let bytes = backend.get_range_anew(key, at, HASH_BYTES.min(size - at))?;
        hasher.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(hasher.finish())
}

/// A key is a relative path with `/`, such as `index/0123…`. No order is promised by `list`.
pub trait Backend: Send + Sync {
    /// How a person would name this place.
    fn location(&self) -> String;
    /// All bytes of a key.
    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError>;
    /// Exactly `len` bytes from `offset`; fewer there are is `Short`.
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError>;
    /// As `get_range`, from the device that it lies on where this can be had, not from memory.
    fn get_range_anew(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        self.get_range(key, offset, len)
    }
    /// Bytes under a key.
    fn size(&self, key: &str) -> Result<u64, BackendError>;
    /// There is such a key.
    fn has(&self, key: &str) -> Result<bool, BackendError> {
        match self.size(key) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            // It is there, whoever reads it.
            Err(error) if error.kind == ErrorKind::Lost => Ok(true),
            other => other.map(|_| true),
        }
    }
    /// When the key was written here, by this place's clock, in nanoseconds since 1970; `None` where nobody knows.
    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError>;
    /// As `get`, from where it lies, whatever was kept near.
    fn get_anew(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        self.get(key)
    }
    /// From now on nothing that was kept near stands in for what lies there.
    fn read_anew(&self) {}
    /// The BLAKE3 of a key's bytes, if it can be computed where they lie.
    fn hash_there(&self, _key: &str) -> Result<Option<Id>, BackendError> {
        Ok(None)
    }
    /// Reading from this key costs no way over a network.
    fn is_near(&self, _key: &str) -> bool {
        true
    }
    /// Puts a file together here from pieces of files that are here, and from what is sent. False where that can't be done, or
    /// makes something else than the name says.
    fn compose(&self, _key: &str, _pieces: &[Piece], _sent: &[u8]) -> Result<bool, BackendError> {
        Ok(false)
    }
    /// `compose` is worth trying.
    fn can_compose(&self) -> bool {
        false
    }
    /// Keeps `bytes` under `key`, replacing what was there. Atomic; durable when it returns.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError>;
    /// As `put`, but of several writers of the same key exactly one succeeds; the others get `Exists`.
    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError>;
    /// Whether `put_new` has one winner here. Where the operating system promises it nothing is tried.
    fn prove_exclusive(&self) -> Result<bool, BackendError> {
        Ok(true)
    }
    /// Keys below a directory (recursively) with their sizes; empty if there is none. Unfinished writes aren't listed.
    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError>;
    /// Removes a key; an absent one is fine.
    fn delete(&self, key: &str) -> Result<(), BackendError>;
    /// Removes what runs that were killed long ago have left behind. Failures don't matter.
    fn remove_stale_temporaries(&self) {}
    /// Tries to take the named lock without waiting. It ends with its holder, however that ends, so it can't go stale.
    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Lock, BackendError>;
}

/// Gives a lock back when dropped.
pub trait LockGuard: Send {}

/// With whom a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// With nobody.
    Exclusive,
    /// With others who take it like this.
    Shared,
}

/// The answer to `try_lock`.
pub enum Lock {
    /// Taken.
    Held(Box<dyn LockGuard>),
    /// Somebody else has it; who, as far as known.
    Busy { holder: String },
    /// This place has no locks (or is read-only).
    Unsupported,
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    NotFound,
    Exists,
    /// The key holds fewer bytes than asked for.
    Short,
    NoSpace,
    Denied,
    /// The place doesn't answer now: that says nothing about what it holds.
    Unreachable,
    /// It is kept by its place (retention), and can't be deleted now.
    Held,
    /// The device or the file system has lost what lies there: as bad as wrong bytes.
    Lost,
    /// Too many open files, too little memory, a refusal: that says nothing about what lies there either.
    Other,
}

/// What Linux says of sectors that can't be read, and file systems of blocks whose checksums don't fit.
pub(super) fn has_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::ILSEQ, Errno::NODATA, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|errno| lost.contains(&errno))
}

/// An operation on one key that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct BackendError {
    pub kind: ErrorKind,
    pub action: &'static str,
    /// The full path or URL.
    pub path: String,
    #[source]
    pub source: Arc<io::Error>,
}

impl BackendError {
    /// Classifies an I/O error.
    pub fn new(action: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::UnexpectedEof => ErrorKind::Short,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
            _ if has_lost(&source) => ErrorKind::Lost,
            _ => ErrorKind::Other,
        };
        Self::of(kind, action, path, source)
    }

    /// An error that was classified elsewhere.
    pub fn of(kind: ErrorKind, action: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        Self { kind, action, path: path.into(), source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::{BackendError, ErrorKind};
    use rustix::io::Errno;

    #[test]
    fn only_what_disks_and_file_systems_say_of_lost_data_is_lost() {
        let kind = |errno: Errno| BackendError::new("read", "x", errno.into()).kind;
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG] {
            assert_eq!(kind(errno), ErrorKind::Lost, "{errno}");
        }
        for errno in [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::TIMEDOUT, Errno::STALE] {
            assert_eq!(kind(errno), ErrorKind::Other, "{errno}");
        }
        assert_eq!(kind(Errno::NOENT), ErrorKind::NotFound);
    }
}
