//! A pack that is being filled.

use crate::format::{ChunkRecord, Pack, PackKind};
use crate::id::{Id, IdHasher};

/// What is hashed at a time.
const HASH_BYTES: usize = 128 << 10;

/// Chunks that were appended so far, and what they will be named by.
pub(super) struct OpenPack {
    pub(super) content: Pack,
    pub(super) bytes: Vec<u8>,
    /// Of the first bytes, as they were soon after each chunk was appended.
    hasher: IdHasher,
    hashed: usize,
}

impl OpenPack {
    /// One without chunks, in a buffer that is empty.
    pub(super) fn new(kind: PackKind, mut bytes: Vec<u8>) -> Self {
        bytes.extend_from_slice(&Pack::begin());
        let content = Pack { kind, records: Vec::new() };
        Self { content, bytes, hasher: IdHasher::default(), hashed: 0 }
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
