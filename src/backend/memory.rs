//! A place in memory, for tests of the rooms above.

use super::interface::{Backend, BackendError, Lock, LockGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys in a map.
#[derive(Default)]
pub struct MemoryBackend {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    locks: Arc<Mutex<BTreeSet<String>>>,
}

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

    fn try_lock(&self, name: &str) -> Result<Lock, BackendError> {
        let free = self.locks.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        if free {
            Ok(Lock::Held(Box::new(Held { name: name.to_owned(), locks: Arc::clone(&self.locks) })))
        } else {
            Ok(Lock::Busy { holder: "this process".into() })
        }
    }
}

struct Held {
    name: String,
    locks: Arc<Mutex<BTreeSet<String>>>,
}

impl LockGuard for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
