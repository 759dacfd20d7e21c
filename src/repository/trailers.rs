//! Whole ids of chunks, from the trailers of packs; those that were asked for lately are kept.

use super::error::{RepositoryError, well_read};
use crate::backend::Backend;
use crate::crypto::{SealedFile, Seals};
use crate::format::{ChunkRecord, IndexedPack, Key, Pack};
use crate::id::Id;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// What is kept at most; the newest pack is kept always.
const LIMIT_BYTES: usize = 16 << 20;

/// A pack's chunks: where each begins, and its id, ascending.
type Chunks = Arc<Vec<(u64, Id)>>;

/// Trailers in memory, the oldest going first.
pub struct Trailers {
    seals: Seals,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    packs: HashMap<Id, Chunks>,
    order: VecDeque<Id>,
    bytes: usize,
}

impl Trailers {
    /// Those of a repository with these seals.
    pub fn new(seals: Seals) -> Self {
        Self { seals, kept: Mutex::default() }
    }

    /// At this offset of a pack of that length begins the chunk with this id.
    pub fn holds(
        &self,
        backend: &dyn Backend,
        pack: (Id, u64),
        offset: u64,
        id: &Id,
    ) -> Result<bool, RepositoryError> {
        Ok(self.id_at(backend, pack, offset)?.is_some_and(|found| found == *id))
    }

    /// The id of the chunk that begins at this offset of a pack of that length.
    pub fn id_at(
        &self,
        backend: &dyn Backend,
        (pack, len): (Id, u64),
        offset: u64,
    ) -> Result<Option<Id>, RepositoryError> {
        let known = self.kept.lock().unwrap_or_else(PoisonError::into_inner).packs.get(&pack).map(Arc::clone);
        let chunks = match known {
            Some(chunks) => chunks,
            None => self.keep(pack, &read_trailer(backend, &self.seals, pack, len)?.records),
        };
        let place = chunks.binary_search_by_key(&offset, |(offset, _)| *offset).ok();
        Ok(place.and_then(|place| chunks.get(place)).map(|(_, found)| *found))
    }

    /// Keeps what a trailer says.
    pub fn keep(&self, pack: Id, records: &[ChunkRecord]) -> Chunks {
        let offsets = records.iter().scan(Pack::FIRST_OFFSET, |next, record| {
            let offset = *next;
            *next += u64::from(record.stored_len);
            Some((offset, record.id))
        });
        let chunks: Chunks = Arc::new(offsets.collect());
        let size = |chunks: &Chunks| chunks.len() * size_of::<(u64, Id)>();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.packs.insert(pack, Arc::clone(&chunks)).is_none() {
            kept.order.push_back(pack);
            kept.bytes += size(&chunks);
        }
        while kept.bytes > LIMIT_BYTES
            && kept.order.len() > 1
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.packs.remove(&oldest).as_ref().map_or(0, size);
        }
        chunks
    }
}

/// Reads a pack's trailer without its chunks.
pub fn read_trailer(
    backend: &dyn Backend,
    seals: &Seals,
    pack: Id,
    size: u64,
) -> Result<IndexedPack, RepositoryError> {
    let key = Key::Pack(pack).path();
    let damaged = |detail: String| RepositoryError::Damaged { file: key.clone(), detail };
    let foot_at = size.checked_sub(Pack::FOOT_LEN).ok_or_else(|| damaged("too short to be a pack".into()))?;
    let read = |from, len| well_read(&key, backend.get_range(&key, from, len));
    let foot = read(foot_at, Pack::FOOT_LEN)?;
    let trailer_len = Pack::trailer_len(&foot).map_err(|error| damaged(error.to_string()))?;
    let trailer_at =
        foot_at.checked_sub(trailer_len).ok_or_else(|| damaged("its trailer is cut short".into()))?;
    let trailer = seals
        .open_file(SealedFile::Trailer, read(trailer_at, trailer_len)?)
        .map_err(|error| damaged(format!("its trailer: {error}")))?;
    let decoded =
        Pack::decode_trailer(&trailer, trailer_len, size).map_err(|error| damaged(error.to_string()))?;
    Ok(IndexedPack { pack, kind: decoded.kind, records: decoded.records })
}
