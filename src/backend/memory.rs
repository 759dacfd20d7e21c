//! A place in memory, for tests of the rooms above.

use super::interface::{Backend, BackendError, Lock, LockGuard, LockKind};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys in a map.
#[derive(Default)]
pub struct MemoryBackend {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    locks: Arc<Locks>,
}

/// Who holds each lock: so many together, or one alone (`None`).
type Locks = Mutex<BTreeMap<String, Option<u32>>>;

impl MemoryBackend {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, key: &str, read: impl FnOnce(&[u8]) -> io::Result<T>) -> Result<T, BackendError> {
        let files = self.files();
        let found = files.get(key).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        found.and_then(|bytes| read(bytes)).map_err(|error| BackendError::new("read", key, error))
    }
}

impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "memory".into()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        self.with(key, |bytes| Ok(bytes.to_vec()))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        self.with(key, |bytes| {
            let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
            let found = range.and_then(|(start, len)| bytes.get(start..start.checked_add(len)?));
            found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        self.with(key, |bytes| Ok(bytes.len() as u64))
    }

    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        self.size(key).map(|_| None)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.files().insert(key.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        let mut files = self.files();
        if files.contains_key(key) {
            return Err(BackendError::new("create", key, io::ErrorKind::AlreadyExists.into()));
        }
        files.insert(key.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        let prefix = format!("{}/", directory.trim_end_matches('/'));
        let files = self.files();
        let below = files.iter().filter(|(key, _)| key.starts_with(&prefix));
        Ok(below.map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect())
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.files().remove(key);
        Ok(())
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Lock, BackendError> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, is_shared) = (locks.get(name).copied(), kind == LockKind::Shared);
        let then = match now {
            None if is_shared => Some(1),
            None => None,
            Some(Some(holders)) if is_shared => Some(holders + 1),
            Some(_) => return Ok(Lock::Busy { holder: "this process".into() }),
        };
        locks.insert(name.to_owned(), then);
        Ok(Lock::Held(Box::new(Held { name: name.to_owned(), locks: Arc::clone(&self.locks) })))
    }
}

struct Held {
    name: String,
    locks: Arc<Locks>,
}

impl LockGuard for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        match locks.get_mut(&self.name) {
            Some(Some(holders)) if *holders > 1 => *holders -= 1,
            _ => drop(locks.remove(&self.name)),
        }
    }
}
