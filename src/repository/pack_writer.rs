//! Gathers new chunks into packs.

use super::bases::{Bases, Encoded, encode_all};
use super::error::RepositoryError;
use super::memory_table::IdMap;
use super::open::Repository;
use super::open_pack::OpenPack;
use super::pack_lane::ToLane;
use super::unlisted::Unlisted;
use crate::backend::Aligned;
use crate::crypto::SealedFile;
use crate::format::{ChunkRecord, ChunkRef, Encoding, IndexedPack, Key, Pack, PackKind};
use crate::id::{Id, Naming};
use crate::progress::Progress;
use crate::stamp::now_nanos;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers of packs that are kept for the next ones.
const MOST_SPARE: usize = 2;

/// What a run has added to the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub packs: Vec<Id>,
    /// Plain bytes of new data chunks.
    pub new_bytes: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// Data chunks among them that were stored as differences.
    pub delta_chunks: u64,
    /// All other bytes: tree chunks, trailers, index files.
    pub metadata_bytes: u64,
}

impl Written {
    fn count(&mut self, kind: PackKind, record: &ChunkRecord) {
        match kind {
            PackKind::Data => {
                self.new_bytes += u64::from(record.plain_len);
                self.stored_bytes += u64::from(record.stored_len);
                self.delta_chunks += u64::from(record.encoding.is_difference());
            }
            PackKind::Tree => self.metadata_bytes += u64::from(record.stored_len),
        }
    }
}

/// A chunk to be kept.
pub struct NewChunk<'c> {
    pub id: Id,
    pub plain: &'c [u8],
    pub old: Before<'c>,
}

/// What was in a chunk's place before.
pub enum Before<'c> {
    /// These chunks, or nothing.
    Chunks(&'c [ChunkRef]),
    /// It was read already.
    Read(Bases),
}

/// When a chunk counts as kept already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// When the index knows it, in a pack that is there and was read back.
    Index,
    /// When it was read back and proven just now; a damaged one is stored again.
    Nothing,
}

/// Writes chunks that the repository doesn't have. Shared by threads; each chunk is stored once.
pub struct ChunkWriter<'r> {
    pub(super) repository: &'r Repository,
    trust: Trust,
    data: Mutex<OpenPack>,
    tree: Mutex<OpenPack>,
    /// Chunks of this run, which the index doesn't know yet.
    claimed: Mutex<IdMap<()>>,
    pub(super) unlisted: Mutex<Unlisted>,
    /// Held by who reads back a pack of another run.
    pub(super) adopting: Mutex<()>,
    pub(super) written: Mutex<Written>,
    /// Buffers of packs that are written: new ones would have to be given by the system, page by page.
    spare: Mutex<Vec<Aligned>>,
    pub(super) to_lane: Arc<ToLane>,
    /// What went wrong first. A chunk that was claimed may then be in no pack: nothing that was kept counts any more.
    failed: Mutex<Option<RepositoryError>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> ChunkWriter<'r> {
    /// A writer into an open repository.
    pub fn new(repository: &'r Repository, trust: Trust) -> Self {
        if trust == Trust::Nothing {
            repository.backend().read_anew();
        }
        let open = |kind| Mutex::new(OpenPack::new(kind, None));
        Self {
            repository,
            trust,
            data: open(PackKind::Data),
            tree: open(PackKind::Tree),
            claimed: Mutex::default(),
            unlisted: Mutex::default(),
            adopting: Mutex::default(),
            written: Mutex::default(),
            spare: Mutex::default(),
            to_lane: Arc::default(),
            failed: Mutex::default(),
        }
    }

    /// How chunks get their ids.
    pub fn naming(&self) -> Naming {
        self.repository.naming()
    }

    /// The repository that is written to.
    pub fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// Keeps a chunk and returns its id. One that is there already isn't stored again. When this returns the chunk may
    /// still be in memory; `finish` makes all of them durable.
    pub fn put(&self, kind: PackKind, plain: &[u8]) -> Result<Id, RepositoryError> {
        let id = self.naming().id_of(plain);
        self.put_all(kind, &[NewChunk { id, plain, old: Before::Chunks(&[]) }])?;
        Ok(id)
    }

    /// What a chunk in the place of these can be told as a difference to. Where they can't be read it is nothing, and the new is
    /// stored whole.
    pub fn bases(&self, old: &[ChunkRef]) -> Bases {
        self.adopt_bases(old).and_then(|()| Bases::of(self.repository, old)).unwrap_or_default()
    }

    /// Keeps chunks, in order. What is there already isn't stored again; what is not far from what was there before is stored
    /// as the difference.
    pub fn put_all(&self, kind: PackKind, chunks: &[NewChunk<'_>]) -> Result<(), RepositoryError> {
        self.failure()?;
        self.noted(self.try_put_all(kind, chunks))
    }

    /// What went wrong with some chunk, whoever put it.
    fn failure(&self) -> Result<(), RepositoryError> {
        lock(&self.failed).clone().map_or(Ok(()), Err)
    }

    /// Notes an error, so that `finish` tells it even if whoever gets it here goes on.
    pub(super) fn noted<T>(&self, done: Result<T, RepositoryError>) -> Result<T, RepositoryError> {
        if let Err(error) = &done {
            lock(&self.failed).get_or_insert_with(|| error.clone());
        }
        done
    }

    fn try_put_all(&self, kind: PackKind, chunks: &[NewChunk<'_>]) -> Result<(), RepositoryError> {
        let mut fresh = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if !self.is_kept(&chunk.id)? && lock(&self.claimed).insert(chunk.id, ()).is_none() {
                fresh.push(chunk);
            }
        }
        let bases = fresh.iter().map(|chunk| match &chunk.old {
            Before::Chunks(old) => Cow::Owned(self.bases(old)),
            Before::Read(bases) => Cow::Borrowed(bases),
        });
        let bases: Vec<Cow<'_, Bases>> = bases.collect();
        let plains: Vec<&[u8]> = fresh.iter().map(|chunk| chunk.plain).collect();
        for (chunk, encoded) in fresh.iter().zip(encode_all(kind, &plains, &bases)) {
            let Encoded { encoding, bases, stored } = encoded;
            let stored = self.repository.seal_chunk(chunk.id.prefix(), encoding, &bases, stored)?;
            let (stored_len, plain_len) = (stored.len() as u32, chunk.plain.len() as u32);
            let record = ChunkRecord { id: chunk.id, stored_len, plain_len, encoding, bases };
            self.append(kind, record, &stored)?;
        }
        Ok(())
    }

    /// Keeps a chunk as it is stored elsewhere, byte for byte, whatever is there already; once in a run.
    pub fn put_stored(
        &self,
        kind: PackKind,
        record: &ChunkRecord,
        stored: &[u8],
    ) -> Result<(), RepositoryError> {
        self.failure()?;
        if lock(&self.claimed).insert(record.id, ()).is_some() {
            return Ok(());
        }
        self.noted(self.append(kind, record.clone(), stored))
    }

    fn append(&self, kind: PackKind, record: ChunkRecord, stored: &[u8]) -> Result<(), RepositoryError> {
        let open = match kind {
            PackKind::Data => &self.data,
            PackKind::Tree => &self.tree,
        };
        lock(&self.written).count(kind, &record);
        let mut pack = lock(open);
        pack.add(record, stored);
        if !pack.is_full() {
            return Ok(());
        }
        let full = self.replace(&mut pack);
        drop(pack);
        match self.to_lane.hand_over(full) {
            Some(full) => self.write_pack(full),
            None => Ok(()),
        }
    }

    fn replace(&self, pack: &mut OpenPack) -> OpenPack {
        let next = OpenPack::new(pack.content.kind, lock(&self.spare).pop());
        std::mem::replace(pack, next)
    }

    /// The index knows it, in a pack that is there to stay. False where that can't be told.
    pub fn knows(&self, id: &Id) -> bool {
        self.repository.index().is_ok_and(|index| index.holds(id).unwrap_or(false))
    }

    fn is_kept(&self, id: &Id) -> Result<bool, RepositoryError> {
        match self.trust {
            Trust::Index => Ok(self.kept_in(id)?.is_some()),
            Trust::Nothing if !self.repository.index()?.holds(id)? => Ok(false),
            Trust::Nothing => match self.repository.read_chunk(id) {
                Ok(_) => Ok(self.kept_in(id)?.is_some()),
                Err(RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Makes a pack durable and known to the index of this run.
    pub(super) fn write_pack(&self, mut pack: OpenPack) -> Result<(), RepositoryError> {
        let mut chunks_end = pack.bytes.len();
        let mut id = self.end(&mut pack)?;
        // The same chunks in the same order make the same name. Under one that is condemned they would be deleted.
        while self.repository.index()?.is_doomed(&id) {
            pack.bytes.truncate(chunks_end);
            let salt = now_nanos().to_le_bytes();
            let (salt_id, encoding, bases) = (self.naming().id_of(&salt), Encoding::RAW, Box::default());
            let stored = self.repository.seal_chunk(salt_id.prefix(), encoding, &bases, salt.to_vec())?;
            let (stored_len, plain_len) = (stored.len() as u32, salt.len() as u32);
            pack.add(ChunkRecord { id: salt_id, stored_len, plain_len, encoding, bases }, &stored);
            chunks_end = pack.bytes.len();
            id = self.end(&mut pack)?;
        }
        let OpenPack { content: Pack { kind, records }, bytes, .. } = pack;
        self.repository.backend().put(&Key::Pack(id).path(), &bytes)?;
        {
            let mut written = lock(&self.written);
            written.packs.push(id);
            written.metadata_bytes += (bytes.len() - chunks_end) as u64 + Pack::FIRST_OFFSET;
        }
        let indexed = IndexedPack { pack: id, kind, records };
        self.repository.index()?.add(&indexed, bytes.len() as u64);
        let mut spare = lock(&self.spare);
        if spare.len() < MOST_SPARE {
            spare.push(bytes);
        }
        drop(spare);
        // From here on the index knows them: a first backup of any size remembers only what isn't in a pack yet.
        let mut claimed = lock(&self.claimed);
        for record in &indexed.records {
            claimed.remove(&record.id);
        }
        drop(claimed);
        self.note_written(id);
        Ok(())
    }

    /// Appends the trailer; returns the name.
    fn end(&self, pack: &mut OpenPack) -> Result<Id, RepositoryError> {
        let trailer = self.repository.seal_file(SealedFile::Trailer, pack.content.trailer())?;
        pack.bytes.extend_from_slice(&Pack::end_with(trailer));
        Ok(pack.name())
    }

    /// Writes what is still in memory, and reads back what wasn't yet. When this returns, every chunk that was put is durable, in a
    /// pack that was read back and is listed in an index file. A pack that isn't there as it was written is an error, and
    /// condemned. What went wrong before goes wrong again.
    pub fn finish(&self, progress: &dyn Progress) -> Result<Written, RepositoryError> {
        self.failure()?;
        self.noted(self.try_finish(progress))
    }

    fn try_finish(&self, progress: &dyn Progress) -> Result<Written, RepositoryError> {
        for open in [&self.data, &self.tree] {
            let mut pack = lock(open);
            if pack.content.records.is_empty() {
                continue;
            }
            let last = self.replace(&mut pack);
            drop(pack);
            self.write_pack(last)?;
        }
        self.prove_and_list(progress)?;
        Ok(lock(&self.written).clone())
    }
}
