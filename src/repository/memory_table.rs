//! The chunk index of a small repository: a hash table in memory.

use super::location::{Location, PackNumbers};
use crate::format::{Encoding, ListedPack, Pack};
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
    fn write_u64(&mut self, prefix: u64) {
        self.0 ^= prefix;
    }
    fn write_usize(&mut self, _length: usize) {}
}

/// A map with ids as keys.
pub type IdMap<T> = HashMap<Id, T, BuildHasherDefault<PrefixHasher>>;
/// A map with the beginnings of ids as keys.
pub type PrefixMap<T> = HashMap<u64, T, BuildHasherDefault<PrefixHasher>>;

/// Where chunks lie, by the beginnings of their ids; 20 bytes a chunk beside that.
#[derive(Default)]
pub struct MemoryTable {
    places: PrefixMap<Place>,
    /// Further places of the few chunks that lie in several packs, and of ids that begin alike.
    others: PrefixMap<Vec<Place>>,
    /// The bases of deltas, by pack and offset.
    bases: HashMap<(u32, u32), Box<[u64]>>,
}

#[derive(Clone, Copy)]
struct Place {
    pack: u32,
    offset: u32,
    stored_len: u32,
    plain_len: u32,
    encoding: u8,
}

impl MemoryTable {
    /// Adds a pack's chunks.
    pub fn insert(&mut self, listed: &ListedPack, numbers: &mut PackNumbers) {
        let pack = numbers.number(listed.pack);
        let mut next = Pack::FIRST_OFFSET;
        self.places.reserve(listed.chunks.len());
        for chunk in &listed.chunks {
            let offset = u32::try_from(next);
            next += u64::from(chunk.stored_len);
            let Ok(offset) = offset else { continue };
            let (stored_len, plain_len) = (chunk.stored_len, chunk.plain_len);
            let place = Place { pack, offset, stored_len, plain_len, encoding: chunk.encoding.byte() };
            if !chunk.bases.is_empty() {
                self.bases.insert((pack, offset), chunk.bases.clone());
            }
            match self.places.entry(chunk.prefix) {
                Entry::Vacant(vacant) => {
                    vacant.insert(place);
                }
                Entry::Occupied(_) => self.others.entry(chunk.prefix).or_default().push(place),
            }
        }
    }

    /// Everywhere that a chunk may lie whose id begins like this.
    pub fn find(&self, prefix: u64, numbers: &PackNumbers) -> impl Iterator<Item = Location> {
        let further = self.others.get(&prefix).into_iter().flatten();
        self.places.get(&prefix).into_iter().chain(further).filter_map(|place| self.location(place, numbers))
    }

    fn location(&self, place: &Place, numbers: &PackNumbers) -> Option<Location> {
        let encoding = Encoding::from_byte(place.encoding).ok()?;
        let bases = if encoding.bases == 0 { None } else { self.bases.get(&(place.pack, place.offset)) };
        Some(Location {
            pack: numbers.id(place.pack)?,
            offset: u64::from(place.offset),
            stored_len: place.stored_len,
            plain_len: place.plain_len,
            encoding,
            bases: bases.cloned().unwrap_or_default(),
        })
    }

    /// How many chunks it knows.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}
