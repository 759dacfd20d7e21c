//! A pack that is being filled.

use crate::backend::Aligned;
use crate::format::{ChunkRecord, Pack, PackKind};
use crate::id::{Id, IdHasher};

/// What is hashed at a time.
const HASH_BYTES: usize = 128 << 10;
/// Behind the chunks: the last of them, and the trailer.
const ROOM_BYTES: usize = 1 << 20;

/// A pack of small chunks is closed by their number, so that no trailer grows large.
const MOST_RECORDS: usize = 1 << 16;

/// A pack is closed when it has so many bytes.
fn most_bytes(kind: PackKind) -> usize {
    match kind {
        PackKind::Data => 32 << 20,
        PackKind::Tree => 4 << 20,
    }
}

/// Chunks that were appended so far, and what they will be named by.
pub(super) struct OpenPack {
    pub(super) content: Pack,
    pub(super) bytes: Aligned,
    /// Of the first bytes, as they were soon after each chunk was appended.
    hasher: IdHasher,
    hashed: usize,
}

impl OpenPack {
    /// One without chunks, in a used buffer if there is one.
    pub(super) fn new(kind: PackKind, used: Option<Aligned>) -> Self {
        let mut bytes = used.unwrap_or_else(|| Aligned::with_capacity(most_bytes(kind) + ROOM_BYTES));
        bytes.truncate(0);
        bytes.extend_from_slice(&Pack::begin());
        let content = Pack { kind, records: Vec::new() };
        Self { content, bytes, hasher: IdHasher::default(), hashed: 0 }
    }

    /// There is no room for more chunks.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= most_bytes(self.content.kind) || self.content.records.len() >= MOST_RECORDS
    }

    /// Appends a chunk as it is stored.
    pub(super) fn add(&mut self, record: ChunkRecord, stored: &[u8]) {
        self.bytes.extend_from_slice(stored);
        self.content.records.push(record);
        // BLAKE3 is a tree: it is fastest with parts of a power of two.
        while let Some(part) = self.bytes.get(self.hashed..self.hashed + HASH_BYTES) {
            self.hasher.update(part);
            self.hashed += HASH_BYTES;
        }
    }

    /// The name that the bytes make.
    pub(super) fn name(&self) -> Id {
        let mut hasher = self.hasher.clone();
        hasher.update(self.bytes.get(self.hashed..).unwrap_or_default());
        hasher.finish()
    }
}
