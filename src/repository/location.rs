//! Where a chunk's stored bytes lie.

use super::memory_table::IdMap;
use crate::format::Encoding;
use crate::id::Id;

/// Where the stored bytes of a chunk lie whose id begins in a certain way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub pack: Id,
    pub offset: u64,
    pub stored_len: u32,
    pub plain_len: u32,
    pub encoding: Encoding,
    /// How the ids of its bases begin.
    pub bases: Box<[u64]>,
}

/// Packs by small numbers, so that a table needn't repeat their ids.
#[derive(Default)]
pub struct PackNumbers {
    ids: Vec<Id>,
    numbers: IdMap<u32>,
}

impl PackNumbers {
    pub(super) fn number(&mut self, pack: Id) -> u32 {
        *self.numbers.entry(pack).or_insert_with(|| {
            self.ids.push(pack);
            self.ids.len() as u32 - 1
        })
    }

    pub(super) fn id(&self, number: u32) -> Option<Id> {
        self.ids.get(number as usize).copied()
    }
}
