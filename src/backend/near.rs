//! What is far away, with what was read or written lately kept near: in memory, and in the cache directory.

use super::interface::{Backend, BackendError, Lock, LockKind, Piece};
use crate::id::Id;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pack up to this size is fetched whole: it holds nodes, of which many are read.
const WHOLE_BYTES: u64 = 5 << 20;
/// Who reads on where he ended gets so much at once.
const AHEAD_BYTES: u64 = 1 << 20;
/// What is kept in memory.
const MEMORY_BYTES: usize = 32 << 20;
/// What is kept on disk; the oldest goes first.
const DISK_BYTES: u64 = 2 << 30;
/// Directories whose files never change and prove themselves by their names.
const IMMUTABLE: [&str; 4] = ["packs/", "index/", "manifests/", "proofs/"];

/// A backend behind a cache. Nothing that is kept is believed: its name proves it when it is read.
pub struct NearBackend {
    far: Arc<dyn Backend>,
    directory: Option<PathBuf>,
    state: Mutex<State>,
    /// Nothing that was kept stands in for what lies there.
    is_honest: AtomicBool,
    /// Bytes that were written to disk since room was made there.
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    sizes: HashMap<String, u64>,
    /// Cached files that this process has written, or compared with their names.
    proven: HashSet<String>,
    /// Files and runs of bytes, the oldest first: key, offset, bytes.
    kept: VecDeque<(String, u64, Arc<Vec<u8>>)>,
    bytes: usize,
    /// Where the last reading of a pack ended.
    ends: HashMap<String, u64>,
}

impl NearBackend {
    /// Keeps files below `directory`, which is made; `None`: in memory only.
    pub fn new(far: Arc<dyn Backend>, directory: Option<&Path>) -> Self {
        let name = Id::of(far.location().as_bytes()).hex();
        let directory = directory.map(|directory| directory.join("near").join(name));
        let directory = directory.filter(|directory| fs::create_dir_all(directory).is_ok());
        let near = Self {
            far,
            directory,
            state: Mutex::default(),
            is_honest: AtomicBool::new(false),
            written: AtomicU64::new(0),
        };
        near.forget_oldest();
        near
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_immutable(key: &str) -> bool {
        IMMUTABLE.iter().any(|directory| key.starts_with(directory))
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        let name = key.rsplit('/').next().filter(|name| Id::from_hex(name).is_some())?;
        Some(self.directory.as_ref()?.join(name))
    }

    /// The cached file of a key, proven by its name when it is used first.
    fn cached(&self, key: &str) -> Option<File> {
        if !Self::is_immutable(key) || self.is_honest.load(Ordering::Relaxed) {
            return None;
        }
        let path = self.path(key)?;
        let mut file = File::open(&path).ok()?;
        if self.state().proven.contains(key) {
            return Some(file);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        if Id::of(&bytes).hex() != path.file_name()?.to_str()? {
            drop(fs::remove_file(path));
            return None;
        }
        self.state().proven.insert(key.to_owned());
        if bytes.len() <= MEMORY_BYTES / 4 {
            self.remember(key, 0, Arc::new(bytes));
        }
        Some(file)
    }

    fn remember(&self, key: &str, offset: u64, bytes: Arc<Vec<u8>>) {
        let mut state = self.state();
        state.bytes += bytes.len();
        state.kept.push_back((key.to_owned(), offset, bytes));
        while state.bytes > MEMORY_BYTES && state.kept.len() > 1 {
            if let Some((_, _, oldest)) = state.kept.pop_front() {
                state.bytes -= oldest.len();
            }
        }
    }

    /// Keeps a whole file. What can't be kept is fetched again.
    fn keep(&self, key: &str, bytes: &[u8]) {
        self.state().sizes.insert(key.to_owned(), bytes.len() as u64);
        if !Self::is_immutable(key) || self.is_honest.load(Ordering::Relaxed) {
            return;
        }
        let (Some(path), Some(directory)) = (self.path(key), &self.directory) else {
            if bytes.len() <= MEMORY_BYTES / 4 {
                self.remember(key, 0, Arc::new(bytes.to_vec()));
            }
            return;
        };
        if self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed) > DISK_BYTES / 8 {
            self.written.store(0, Ordering::Relaxed);
            self.forget_oldest();
        }
        if let Ok(mut file) = tempfile::NamedTempFile::new_in(directory)
            && file.write_all(bytes).is_ok()
            && file.persist(path).is_ok()
        {
            self.state().proven.insert(key.to_owned());
        }
    }

    fn forget(&self, key: &str) {
        let mut state = self.state();
        state.sizes.remove(key);
        let dropped: usize =
            state.kept.iter().filter(|(known, ..)| known == key).map(|(_, _, bytes)| bytes.len()).sum();
        state.kept.retain(|(known, ..)| known != key);
        state.bytes -= dropped;
        state.proven.remove(key);
        drop(state);
        if let Some(path) = self.path(key) {
            drop(fs::remove_file(path));
        }
    }

    fn forget_oldest(&self) {
        let Some(directory) = &self.directory else { return };
        let mut files: Vec<_> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|item| {
                let metadata = item.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), item.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total <= DISK_BYTES {
                break;
            }
            drop(fs::remove_file(path));
            total -= len;
        }
    }

    fn in_memory(&self, key: &str, offset: u64, len: u64) -> Option<Vec<u8>> {
        let state = self.state();
        state.kept.iter().rev().filter(|(known, ..)| known == key).find_map(|(_, from, bytes)| {
            let start = usize::try_from(offset.checked_sub(*from)?).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?).map(<[u8]>::to_vec)
        })
    }
}

impl Backend for NearBackend {
    fn location(&self) -> String {
        self.far.location()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        if let Some(mut file) = self.cached(key) {
            let mut bytes = Vec::new();
            if file.rewind().and_then(|()| file.read_to_end(&mut bytes)).is_ok() {
                return Ok(bytes);
            }
        }
        let bytes = self.far.get(key)?;
        if bytes.len() as u64 <= WHOLE_BYTES {
            self.keep(key, &bytes);
        }
        Ok(bytes)
    }

    fn get_anew(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        self.far.get_anew(key)
    }

    fn read_anew(&self) {
        self.is_honest.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.kept.clear();
        state.bytes = 0;
    }

    fn hash_there(&self, key: &str) -> Result<Option<Id>, BackendError> {
        self.far.hash_there(key)
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        if !Self::is_immutable(key) {
            return self.far.get_range(key, offset, len);
        }
        if let Some(found) = self.in_memory(key, offset, len) {
            return Ok(found);
        }
        if let (Some(file), Ok(wanted)) = (self.cached(key), usize::try_from(len)) {
            let is_there = offset.checked_add(len).zip(file.metadata().ok());
            if is_there.is_some_and(|(end, metadata)| end <= metadata.len()) {
                let mut bytes = vec![0; wanted];
                if file.read_exact_at(&mut bytes, offset).is_ok() {
                    return Ok(bytes);
                }
            }
        }
        let size = match self.state().sizes.get(key).copied() {
            Some(size) => size,
            None => return self.far.get_range(key, offset, len),
        };
        let is_honest = self.is_honest.load(Ordering::Relaxed);
        if size <= WHOLE_BYTES && !is_honest {
            let bytes = self.far.get(key)?;
            self.keep(key, &bytes);
            let start = usize::try_from(offset).ok();
            let range = start.zip(usize::try_from(len).ok());
            let found = range.and_then(|(start, len)| bytes.get(start..start.checked_add(len)?));
            if let Some(found) = found.map(<[u8]>::to_vec) {
                self.remember(key, 0, Arc::new(bytes));
                return Ok(found);
            }
            return self.far.get_range(key, offset, len);
        }
        let end = offset.saturating_add(len);
        let goes_on = self.state().ends.insert(key.to_owned(), end) == Some(offset);
        let wanted = if goes_on { len.max(AHEAD_BYTES.min(size.saturating_sub(offset))) } else { len };
        let mut bytes = self.far.get_range(key, offset, wanted)?;
        if wanted > len {
            self.remember(key, offset, Arc::new(bytes.clone()));
            bytes.truncate(len as usize);
        }
        Ok(bytes)
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        self.far.size(key)
    }

    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        self.far.arrived(key)
    }

    fn is_near(&self, key: &str) -> bool {
        self.path(key).is_some_and(|path| path.exists())
    }

    fn compose(&self, key: &str, pieces: &[Piece], sent: &[u8]) -> Result<bool, BackendError> {
        self.far.compose(key, pieces, sent)
    }

    fn can_compose(&self) -> bool {
        self.far.can_compose()
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.far.put(key, bytes)?;
        self.forget(key);
        self.keep(key, bytes);
        Ok(())
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.far.put_new(key, bytes)
    }

    fn prove_exclusive(&self) -> Result<bool, BackendError> {
        self.far.prove_exclusive()
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        let listed = self.far.list(directory)?;
        self.state().sizes.extend(listed.iter().cloned());
        Ok(listed)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.forget(key);
        self.far.delete(key)
    }

    fn remove_stale_temporaries(&self) {
        self.far.remove_stale_temporaries();
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Lock, BackendError> {
        self.far.try_lock(name, kind)
    }
}
