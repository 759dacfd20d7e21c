//! The chunk index of a small repository: a hash table in memory.

use super::location::{Location, PackNumbers};
use crate::format::{Encoding, ListedChunk, ListedPack};
use crate::id::Id;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

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

/// Where chunks lie, by the beginnings of their ids.
#[derive(Default)]
pub struct MemoryTable {
    /// As they lie in packs: whoever reads a file asks for neighbours.
    places: Vec<Place>,
    /// The number of each chunk's first place.
    first: PrefixMap<u32>,
    /// Further places of the few chunks that lie in several packs, and of ids that begin alike.
    others: PrefixMap<Vec<u32>>,
    /// The bases of deltas, one delta's behind another's.
    bases: Vec<u64>,
    /// The whole chunk, and the delta, that were asked for last.
    latest: [AtomicU32; 2],
}

#[derive(Clone, Copy)]
struct Place {
    prefix: u64,
    pack: u32,
    offset: u32,
    stored_len: u32,
    plain_len: u32,
    /// Where its bases begin.
    bases: u32,
    encoding: u8,
}

impl Place {
    fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_len)
    }
}

impl MemoryTable {
    /// Makes room for so many chunks.
    pub fn reserve(&mut self, chunks: usize) {
        self.places.reserve(chunks);
        self.first.reserve(chunks);
    }

    /// Adds a pack's chunks.
    pub fn insert(&mut self, listed: &ListedPack, numbers: &mut PackNumbers) {
        let pack = numbers.number(listed.pack);
        self.first.reserve(listed.chunks.len());
        for (offset, chunk) in listed.places() {
            let (Ok(offset), Ok(number), Ok(at)) =
                (u32::try_from(offset), u32::try_from(self.places.len()), u32::try_from(self.bases.len()))
            else {
                continue;
            };
            let ListedChunk { prefix, stored_len, plain_len, encoding, ref bases } = *chunk;
            let encoding = encoding.byte();
            self.places.push(Place { prefix, pack, offset, stored_len, plain_len, bases: at, encoding });
            self.bases.extend_from_slice(bases);
            match self.first.entry(prefix) {
                Entry::Vacant(vacant) => {
                    vacant.insert(number);
                }
                Entry::Occupied(_) => self.others.entry(prefix).or_default().push(number),
            }
        }
    }

    /// Everywhere that a chunk may lie whose id begins like this.
    pub fn find(&self, prefix: u64, numbers: &PackNumbers) -> impl Iterator<Item = Location> {
        self.places(prefix).filter_map(|(place, encoding)| {
            Some(Location {
                pack: numbers.id(place.pack)?,
                offset: u64::from(place.offset),
                stored_len: place.stored_len,
                plain_len: place.plain_len,
                encoding,
                bases: self.bases(place, encoding).into(),
            })
        })
    }

    /// Some place of a chunk whose id begins like this will do, and so does one where each of its bases lies whole. `does` is
    /// given a pack's number and where in it the chunk ends. As `find`, but nothing is made.
    pub fn is_there(&self, prefix: u64, does: &mut dyn FnMut(u32, u64) -> bool) -> bool {
        self.places(prefix).any(|(place, encoding)| {
            let mut is_whole = |base: &u64| {
                let mut places = self.places(*base);
                places.any(|(place, encoding)| !encoding.is_difference() && does(place.pack, place.end()))
            };
            self.bases(place, encoding).iter().all(&mut is_whole) && does(place.pack, place.end())
        })
    }

    fn places(&self, prefix: u64) -> impl Iterator<Item = (&Place, Encoding)> {
        let others = self.others.get(&prefix);
        let first = match others {
            None => self.behind_latest(prefix),
            Some(_) => None,
        };
        let first = first.or_else(|| self.first.get(&prefix).copied());
        let all = first.into_iter().chain(others.into_iter().flatten().copied());
        all.filter_map(|number| {
            let place = self.places.get(number as usize)?;
            let encoding = Encoding::from_byte(place.encoding).ok()?;
            let [whole, delta] = &self.latest;
            let latest = if encoding.is_difference() { delta } else { whole };
            latest.store(number, Ordering::Relaxed);
            Some((place, encoding))
        })
    }

    /// The chunk behind one that was asked for last, if it is this one: mostly that saves a miss of the processor's caches.
    /// Bases lie elsewhere than what is told against them: whoever asks for both in turn goes on in two places.
    fn behind_latest(&self, prefix: u64) -> Option<u32> {
        let numbers = self.latest.iter().map(|latest| latest.load(Ordering::Relaxed).wrapping_add(1));
        numbers
            .into_iter()
            .find(|number| self.places.get(*number as usize).is_some_and(|place| place.prefix == prefix))
    }

    fn bases(&self, place: &Place, encoding: Encoding) -> &[u64] {
        let from = place.bases as usize;
        self.bases.get(from..from + usize::from(encoding.bases)).unwrap_or_default()
    }

    /// How many chunks it knows.
    pub fn len(&self) -> usize {
        self.first.len()
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryTable;
    use crate::format::{Encoding, ListedChunk, ListedPack, Method, PackKind};
    use crate::id::Id;
    use crate::repository::location::PackNumbers;
    use proptest::prelude::{ProptestConfig, prop, proptest};
    use std::collections::HashMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// In whatever order it is asked: each place of each chunk, and nothing else.
        #[test]
        fn all_places_are_found_in_any_order(
            packs in prop::collection::vec(prop::collection::vec((0u64..60, 0u8..3), 1..40), 1..6),
            asked in prop::collection::vec(0u64..70, 0..200),
            long in prop::collection::vec(0u64..400, 6),
        ) {
            let (mut table, mut numbers) = (MemoryTable::default(), PackNumbers::default());
            let mut expected: HashMap<u64, Vec<(Id, u64, usize)>> = HashMap::new();
            for (number, chunks) in packs.iter().enumerate() {
                let chunk = |(prefix, bases): &(u64, u8)| {
                    let encoding = Encoding::difference(Method::Delta, usize::from(*bases)).unwrap_or(Encoding::RAW);
                    let bases = (0..*bases).map(u64::from).collect();
                    ListedChunk { prefix: *prefix, stored_len: 10, plain_len: 20, encoding, bases }
                };
                let chunks = chunks.iter().map(chunk).collect();
                let listed = ListedPack { pack: Id::of(&[number as u8]), kind: PackKind::Data, chunks };
                table.insert(&listed, &mut numbers);
                for (offset, chunk) in listed.places() {
                    expected.entry(chunk.prefix).or_default().push((listed.pack, offset, chunk.bases.len()));
                }
            }
            let in_order = packs.iter().flatten().map(|(prefix, _)| *prefix);
            for prefix in asked.into_iter().chain(in_order) {
                let found = table.find(prefix, &numbers);
                let found: Vec<_> = found.map(|place| (place.pack, place.offset, place.bases.len())).collect();
                assert_eq!(found, expected.get(&prefix).cloned().unwrap_or_default());
            }
            assert_eq!(table.len(), expected.len());
            let id = |number: u32| Id::of(&[number as u8]);
            let fits = |pack: Id, end: u64| (0u32..).zip(&long).any(|(number, len)| id(number) == pack && end <= *len);
            for prefix in 0..70 {
                let places = |prefix| expected.get(&prefix).into_iter().flatten();
                let lies = |(pack, offset, _): &(Id, u64, usize)| fits(*pack, offset + 10);
                let is_there = places(prefix).any(|place| {
                    let is_whole = |base| places(base).any(|place| place.2 == 0 && lies(place));
                    lies(place) && (0..place.2 as u64).all(is_whole)
                });
                assert_eq!(table.is_there(prefix, &mut |number, end| fits(id(number), end)), is_there, "{prefix}");
            }
        }
    }
}
