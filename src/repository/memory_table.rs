//! The chunk index of a small repository: a hash table in memory.

use super::location::{Location, PackNumbers};
use crate::format::{Encoding, IndexedPack, Pack};
use crate::id::Id;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// An id is a hash already: its first bytes serve as they are.
#[derive(Default)]
pub struct PrefixHasher(u64);

impl Hasher for PrefixHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _length: usize) {}
}

/// A map with ids as keys.
pub type IdMap<T> = HashMap<Id, T, BuildHasherDefault<PrefixHasher>>;

/// Where each chunk lies; 20 bytes a chunk beside its id.
#[derive(Default)]
pub struct MemoryTable {
    places: IdMap<Place>,
    /// Further places of the few chunks that lie in several packs.
    others: IdMap<Vec<Place>>,
}

#[derive(Clone, Copy)]
struct Place {
    pack: u32,
    offset: u32,
    stored_len: u32,
    plain_len: u32,
    encoding: u8,
}

impl Place {
    fn location(&self, numbers: &PackNumbers) -> Option<Location> {
        Some(Location {
            pack: numbers.id(self.pack)?,
            offset: u64::from(self.offset),
            stored_len: self.stored_len,
            plain_len: self.plain_len,
            encoding: Encoding::from_byte(self.encoding).ok()?,
        })
    }
}

impl MemoryTable {
    /// Adds a pack's chunks.
    pub fn insert(&mut self, indexed: &IndexedPack, numbers: &mut PackNumbers) {
        let pack = numbers.number(indexed.pack);
        let mut offset = Pack::FIRST_OFFSET;
        self.places.reserve(indexed.records.len());
        for record in &indexed.records {
            if let Ok(offset) = u32::try_from(offset) {
                let (stored_len, plain_len) = (record.stored_len, record.plain_len);
                let place = Place { pack, offset, stored_len, plain_len, encoding: record.encoding.byte() };
                match self.places.entry(record.id) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(place);
                    }
                    Entry::Occupied(_) => self.others.entry(record.id).or_default().push(place),
                }
            }
            offset += u64::from(record.stored_len);
        }
    }

    /// Everywhere that a chunk lies.
    pub fn find(&self, id: &Id, numbers: &PackNumbers) -> impl Iterator<Item = Location> {
        let further = self.others.get(id).into_iter().flatten();
        self.places.get(id).into_iter().chain(further).filter_map(|place| place.location(numbers))
    }

    /// How many chunks it knows.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}
