//! Gathers new chunks into packs and lists them in index files at checkpoints.

use super::codec;
use super::error::RepositoryError;
use super::memory_table::IdMap;
use super::open::Repository;
use crate::format::{ChunkRecord, IndexFile, IndexedPack, Key, Pack, PackKind};
use crate::id::Id;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const DATA_PACK_BYTES: usize = 32 << 20;
const TREE_PACK_BYTES: usize = 4 << 20;
/// An index file is written after this many packs or this long, so that a killed first backup goes on where it was.
const CHECKPOINT_PACKS: usize = 32;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(300);

/// What a run has added to the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub packs: Vec<Id>,
    /// Plain bytes of new data chunks.
    pub new_bytes: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// All other bytes: tree chunks, trailers, index files.
    pub metadata_bytes: u64,
}

/// When a chunk counts as kept already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// When the index knows it, in a pack that is there.
    Index,
    /// When it was read back and proven just now; a damaged one is stored again.
    Nothing,
}

struct OpenPack {
    kind: PackKind,
    bytes: Vec<u8>,
    records: Vec<ChunkRecord>,
}

struct Checkpoint {
    packs: Vec<IndexedPack>,
    since: Instant,
}

/// Writes chunks that the repository doesn't have. Shared by threads; each chunk is stored once.
pub struct ChunkWriter<'r> {
    repository: &'r Repository,
    trust: Trust,
    data: Mutex<OpenPack>,
    tree: Mutex<OpenPack>,
    /// Chunks of this run, which the index doesn't know yet.
    claimed: Mutex<IdMap<()>>,
    checkpoint: Mutex<Checkpoint>,
    written: Mutex<Written>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> ChunkWriter<'r> {
    /// A writer into an open repository.
    pub fn new(repository: &'r Repository, trust: Trust) -> Self {
        let open = |kind| Mutex::new(OpenPack { kind, bytes: Pack::begin(), records: Vec::new() });
        Self {
            repository,
            trust,
            data: open(PackKind::Data),
            tree: open(PackKind::Tree),
            claimed: Mutex::default(),
            checkpoint: Mutex::new(Checkpoint { packs: Vec::new(), since: Instant::now() }),
            written: Mutex::default(),
        }
    }

    /// The repository that is written to.
    pub fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// Keeps a chunk and returns its id. One that is there already isn't stored again. When this returns the chunk may
    /// still be in memory; `finish` makes all of them durable.
    pub fn put(&self, kind: PackKind, plain: &[u8]) -> Result<Id, RepositoryError> {
        let id = Id::of(plain);
        if self.is_kept(&id)? || lock(&self.claimed).insert(id, ()).is_some() {
            return Ok(id);
        }
        let (encoding, stored) = codec::encode(plain);
        let (open, limit) = match kind {
            PackKind::Data => (&self.data, DATA_PACK_BYTES),
            PackKind::Tree => (&self.tree, TREE_PACK_BYTES),
        };
        let (stored_len, plain_len) = (stored.len() as u32, plain.len() as u32);
        {
            let mut written = lock(&self.written);
            match kind {
                PackKind::Data => {
                    written.new_bytes += u64::from(plain_len);
                    written.stored_bytes += u64::from(stored_len);
                }
                PackKind::Tree => written.metadata_bytes += u64::from(stored_len),
            }
        }
        let mut pack = lock(open);
        if pack.bytes.is_empty() {
            pack.bytes = Pack::begin();
        }
        pack.bytes.extend_from_slice(&stored);
        pack.records.push(ChunkRecord { id, stored_len, plain_len, encoding, bases: Box::default() });
        if pack.bytes.len() < limit {
            return Ok(id);
        }
        let (bytes, records) = (std::mem::take(&mut pack.bytes), std::mem::take(&mut pack.records));
        drop(pack);
        self.write_pack(kind, bytes, records)?;
        Ok(id)
    }

    fn is_kept(&self, id: &Id) -> Result<bool, RepositoryError> {
        match (self.repository.index()?.find(id), self.trust) {
            (None, _) => Ok(false),
            (Some(_), Trust::Index) => Ok(true),
            (Some(_), Trust::Nothing) => match self.repository.read_chunk(id) {
                Ok(_) => Ok(true),
                Err(RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    fn write_pack(
        &self,
        kind: PackKind,
        bytes: Vec<u8>,
        records: Vec<ChunkRecord>,
    ) -> Result<(), RepositoryError> {
        let pack = Pack { kind, records };
        let mut bytes = bytes;
        let chunks_end = bytes.len();
        pack.end(&mut bytes);
        let id = Id::of(&bytes);
        self.repository.backend().put(&Key::Pack(id).path(), &bytes)?;
        {
            let mut written = lock(&self.written);
            written.packs.push(id);
            written.metadata_bytes += (bytes.len() - chunks_end) as u64 + Pack::FIRST_OFFSET;
        }
        let indexed = IndexedPack { pack: id, kind, records: pack.records };
        self.repository.index()?.add(&indexed, bytes.len() as u64);
        // From here on the index knows them: a first backup of any size remembers only what isn't in a pack yet.
        let mut claimed = lock(&self.claimed);
        for record in &indexed.records {
            claimed.remove(&record.id);
        }
        drop(claimed);
        let mut checkpoint = lock(&self.checkpoint);
        checkpoint.packs.push(indexed);
        let due =
            checkpoint.packs.len() >= CHECKPOINT_PACKS || checkpoint.since.elapsed() >= CHECKPOINT_AFTER;
        if due { self.write_index(&mut checkpoint) } else { Ok(()) }
    }

    fn write_index(&self, checkpoint: &mut Checkpoint) -> Result<(), RepositoryError> {
        checkpoint.since = Instant::now();
        if checkpoint.packs.is_empty() {
            return Ok(());
        }
        let bytes = IndexFile { packs: std::mem::take(&mut checkpoint.packs) }.encode();
        self.repository.backend().put(&Key::Index(Id::of(&bytes)).path(), &bytes)?;
        lock(&self.written).metadata_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is still in memory. When this returns, every chunk is durable, and found through an index file.
    pub fn finish(&self) -> Result<Written, RepositoryError> {
        for open in [&self.data, &self.tree] {
            let mut pack = lock(open);
            if pack.records.is_empty() {
                continue;
            }
            let (kind, bytes) = (pack.kind, std::mem::take(&mut pack.bytes));
            let records = std::mem::take(&mut pack.records);
            drop(pack);
            self.write_pack(kind, bytes, records)?;
        }
        self.write_index(&mut lock(&self.checkpoint))?;
        Ok(lock(&self.written).clone())
    }
}
