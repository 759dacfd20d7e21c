//! An open repository: its place, its config, and its chunk index, loaded when first needed.

use super::chunk_cache::ChunkCache;
use super::chunk_index::{ChunkIndex, IndexOptions};
use super::error::RepositoryError;
use super::keys::{KeyFiles, Unlock, read_keys, unlocked};
use crate::backend::{Backend, ErrorKind, Lock, LockGuard, LockKind};
use crate::crypto::{RepositoryKey, Seals};
use crate::format::{Chunking, Encryption, FormatError, Key, RepositoryConfig};
use crate::id::Id;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What stands in every repository for the one who finds it without knowing icecore.
const README: &str = include_str!("repository_readme.txt");
/// A chunk list is asked for several times in one run.
const NODE_BYTES: usize = 16 << 20;
/// Neighbours that moved have bases in common.
const BASE_BYTES: usize = 2 << 20;
/// No config is longer.
const MOST_CONFIG_BYTES: u64 = 1 << 20;
/// The lock of those who publish snapshots or read them whole.
const WRITERS: &str = "writers";
/// A shared lock is waited for this long in any case.
const LOOK: Duration = Duration::from_secs(1);
/// How often a lock that somebody else has is tried again.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// A repository on some backend.
pub struct Repository {
    backend: Arc<dyn Backend>,
    config: RepositoryConfig,
    id: Id,
    options: IndexOptions,
    index: OnceLock<ChunkIndex>,
    seals: Seals,
    /// Where chunks are looked for that aren't here.
    beneath: Option<Arc<Repository>>,
    read_bytes: AtomicU64,
    nodes: ChunkCache,
    bases: ChunkCache,
}

/// A lock on the repository, given back when dropped; `None` where the place has no locks.
pub struct Held(#[expect(dead_code, reason = "dropping it gives the lock back")] Option<Box<dyn LockGuard>>);

impl Repository {
    /// Makes an empty repository. The config comes last, so that a half-made repository is none.
    pub fn create(backend: Arc<dyn Backend>, random: [u8; 32]) -> Result<RepositoryConfig, RepositoryError> {
        Self::create_locked(backend, random, None)
    }

    /// As `create`; with a key, the repository is encrypted, and these are what its key is wrapped in.
    pub fn create_locked(
        backend: Arc<dyn Backend>,
        random: [u8; 32],
        lock: Option<(&RepositoryKey, &KeyFiles)>,
    ) -> Result<RepositoryConfig, RepositoryError> {
        let location = backend.location();
        match backend.size(&Key::Config.path()) {
            Ok(_) => return Err(RepositoryError::AlreadyThere { location }),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        // A config that was lost is no reason to make another one.
        for directory in ["packs", "manifests", "snapshots"] {
            if !backend.list(directory)?.is_empty() {
                return Err(RepositoryError::NotEmpty { location });
            }
        }
        if lock.is_none() {
            // What an encrypted try has left that was broken off: it opens nothing, and would be taken for the sign of another hand.
            for (path, _) in backend.list("keys")? {
                backend.delete(&path)?;
            }
        }
        let mut config = RepositoryConfig::new(Id::of(&random));
        if let Some((key, files)) = lock {
            let seals = Seals::by(key.clone());
            let encrypted = config.encrypted(key.fingerprint(), |body| seals.config_code(body));
            config = encrypted.ok_or_else(|| RepositoryError::damaged("config", "it can't be encrypted"))?;
            for (name, bytes) in files {
                backend.put(&Key::WrappedKey(name.clone()).path(), bytes)?;
            }
        }
        backend.put(&Key::Readme.path(), README.as_bytes())?;
        match backend.put_new(&Key::Config.path(), &config.encode()) {
            Err(error) if error.kind == ErrorKind::Exists => Err(RepositoryError::AlreadyThere { location }),
            other => other.map(|()| config).map_err(RepositoryError::from),
        }
    }

    /// Opens a repository: its config must be there, whole, and of a format that this build knows. Not an encrypted one.
    pub fn open(backend: Arc<dyn Backend>, options: IndexOptions) -> Result<Self, RepositoryError> {
        Self::open_locked(backend, options, &mut |_, _| Err("no key was given".into()))
    }

    /// As `open`; `unlock` is asked for the key if the repository is encrypted.
    pub fn open_locked(
        backend: Arc<dyn Backend>,
        options: IndexOptions,
        unlock: Unlock<'_>,
    ) -> Result<Self, RepositoryError> {
        let (config, bytes) = Self::read_config(&*backend)?;
        let id = config.id().ok_or_else(|| RepositoryError::damaged("config", "repository id"))?;
        let seals = unlocked(&*backend, &config, &bytes, unlock)?;
        let (beneath, read_bytes) = (None, AtomicU64::new(0));
        let (nodes, bases) = (ChunkCache::new(NODE_BYTES), ChunkCache::new(BASE_BYTES));
        let index = OnceLock::new();
        Ok(Self { backend, config, id, options, index, seals, beneath, read_bytes, nodes, bases })
    }

    /// Which repository it is, and whether it is encrypted, told without its key.
    pub fn identify(backend: &dyn Backend) -> Result<(Id, Option<Encryption>), RepositoryError> {
        let (config, _) = Self::read_config(backend)?;
        let id = config.id().ok_or_else(|| RepositoryError::damaged("config", "repository id"))?;
        Ok((id, config.encryption))
    }

    fn read_config(backend: &dyn Backend) -> Result<(RepositoryConfig, Vec<u8>), RepositoryError> {
        let location = backend.location();
        if backend.size(&Key::Config.path()).is_ok_and(|len| len > MOST_CONFIG_BYTES) {
            return Err(RepositoryError::damaged("config", "it is too long to be one"));
        }
        let bytes = match backend.get(&Key::Config.path()) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let packs = backend.list("packs").unwrap_or_default();
                return Err(if packs.is_empty() {
                    RepositoryError::Absent { location }
                } else {
                    RepositoryError::damaged("config", "it is missing, but there are packs")
                });
            }
            other => other?,
        };
        let config = RepositoryConfig::decode(&bytes).map_err(|error| match error {
            FormatError::TooNew { .. } | FormatError::Requires { .. } => {
                RepositoryError::Unsupported { location: location.clone(), source: error }
            }
            FormatError::Magic { .. } => {
                RepositoryError::NotARepository { location: location.clone(), detail: error.to_string() }
            }
            // Another program's `config` carries no hash of ours; ours damaged is told by the files around it.
            _ if backend.size(&Key::Readme.path()).is_err() => {
                RepositoryError::NotARepository { location: location.clone(), detail: error.to_string() }
            }
            _ => RepositoryError::damaged("config", error),
        })?;
        Ok((config, bytes))
    }

    /// A repository of its own for part of what this one holds or will hold, locked by the same key.
    pub fn create_beside(
        &self,
        backend: Arc<dyn Backend>,
        random: [u8; 32],
    ) -> Result<RepositoryConfig, RepositoryError> {
        let files = if self.key().is_some() { read_keys(self.backend())? } else { KeyFiles::new() };
        Self::create_locked(backend, random, self.key().map(|key| (key, &files)))
    }

    /// The same repository, which finds in another one the chunks that it doesn't hold itself.
    pub fn over(self, beneath: Arc<Self>) -> Self {
        Self { beneath: Some(beneath), ..self }
    }

    /// Where chunks are looked for that aren't here.
    pub(super) fn beneath(&self) -> Option<&Self> {
        self.beneath.as_deref()
    }

    /// Bytes of chunks that were read so far, as they are stored.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed) + self.beneath().map_or(0, Self::read_bytes)
    }

    /// Nodes that were read lately.
    pub(super) fn nodes(&self) -> &ChunkCache {
        &self.nodes
    }

    /// Chunks that deltas were made to lately.
    pub(super) fn bases(&self) -> &ChunkCache {
        &self.bases
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Where the files lie.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The repository's own id, repeated in each manifest.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What its bytes are sealed by.
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// How files are cut here.
    pub fn chunking(&self) -> &Chunking {
        &self.config.chunking
    }

    /// The chunk index, loaded on first use.
    pub fn index(&self) -> Result<&ChunkIndex, RepositoryError> {
        if let Some(index) = self.index.get() {
            return index.whole();
        }
        let loaded = ChunkIndex::load(&self.backend, &self.seals, self.id, &self.options)?;
        Ok(self.index.get_or_init(|| loaded))
    }

    /// What loading the index had to work around, if it was loaded.
    pub fn warnings(&self) -> Vec<String> {
        self.index.get().map(ChunkIndex::warnings).unwrap_or_default()
    }

    /// Takes a named lock alone, waiting up to `patience` for whoever has it.
    pub fn lock(&self, name: &str, patience: Duration) -> Result<Held, RepositoryError> {
        self.lock_as(name, LockKind::Exclusive, patience)
    }

    /// What every run holds, together with others, that publishes a snapshot, or must find to its end what was there when it began.
    pub fn lock_for_use(&self, patience: Duration) -> Result<Held, RepositoryError> {
        self.lock_as(WRITERS, LockKind::Shared, patience)
    }

    /// Somebody has that lock. False where there are no locks.
    pub fn has_users(&self) -> Result<bool, RepositoryError> {
        Ok(matches!(self.backend.try_lock(WRITERS, LockKind::Exclusive)?, Lock::Busy { .. }))
    }

    /// Waits until nobody has that lock, and keeps others from taking it.
    pub fn lock_out_others(&self, patience: Duration) -> Result<Held, RepositoryError> {
        self.lock_as(WRITERS, LockKind::Exclusive, patience)
    }

    fn lock_as(&self, name: &str, kind: LockKind, patience: Duration) -> Result<Held, RepositoryError> {
        lock_as(self.backend(), name, kind, patience)
    }
}

/// `Repository::lock_for_use` for whoever has no key to open it.
pub fn lock_for_use(backend: &dyn Backend, patience: Duration) -> Result<Held, RepositoryError> {
    lock_as(backend, WRITERS, LockKind::Shared, patience)
}

fn lock_as(
    backend: &dyn Backend,
    name: &str,
    kind: LockKind,
    patience: Duration,
) -> Result<Held, RepositoryError> {
    // A prune looks for a moment whether anybody is there.
    let least = if kind == LockKind::Shared { LOOK } else { Duration::ZERO };
    let deadline = Instant::now() + patience.max(least);
    loop {
        match backend.try_lock(name, kind)? {
            Lock::Held(guard) => return Ok(Held(Some(guard))),
            Lock::Unsupported => return Ok(Held(None)),
            Lock::Busy { holder } if Instant::now() >= deadline => {
                return Err(RepositoryError::Busy { what: name.to_owned(), holder });
            }
            Lock::Busy { .. } => std::thread::sleep(LOCK_POLL),
        }
    }
}
