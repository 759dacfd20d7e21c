//! Whether chunks are there, one or many at a time. Nothing is read but the index.

use super::chunk_index::ChunkIndex;
use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::id::Id;

/// Fewer than these are asked for one by one.
const FEW: usize = 64;
/// So many chunks are worth being looked up at once in RocksDB. They take 9 bytes of memory each.
const AT_ONCE: usize = 2 << 20;
/// What is gone through before the bases that came together are looked up, if these are many: each takes 16 to 33 bytes.
const PART: usize = 1 << 16;
const MANY_BASES: usize = 1 << 20;

impl Repository {
    /// The chunk is in a pack that is there, and that pack has the size which the index expects; of a delta, the bases too.
    pub fn has_chunk(&self, id: &Id) -> Result<bool, RepositoryError> {
        Ok(self.lacking(vec![id.prefix()])?.is_empty())
    }

    fn has_here(&self, prefix: u64) -> Result<bool, RepositoryError> {
        let index = self.index()?;
        let is_there = |location: &Location| {
            let mut bases = location.bases.iter();
            index.fits(location) && bases.all(|base| self.has_whole(*base).unwrap_or(false))
        };
        Ok(index.find_all(prefix).iter().any(is_there))
    }

    /// A whole copy lies where it fits, here or beneath.
    fn has_whole(&self, prefix: u64) -> Result<bool, RepositoryError> {
        let index = self.index()?;
        let does = |location: &Location| !location.encoding.is_difference() && index.fits(location);
        let is_here = index.find_all(prefix).iter().any(does);
        match self.beneath() {
            Some(beneath) if !is_here => beneath.has_whole(prefix),
            _ => Ok(is_here),
        }
    }

    /// How many chunks `lacking` should be asked for at once: one asking for very many in RocksDB is about one reading of the
    /// whole table.
    pub fn looked_up_at_once(&self) -> Result<usize, RepositoryError> {
        Ok(if self.index()?.is_in_memory() { FEW } else { AT_ONCE })
    }

    /// Of chunks whose ids begin like these, those that `has_chunk` denies, in any order. An index in RocksDB is asked in its
    /// own order.
    pub fn lacking(&self, mut prefixes: Vec<u64>) -> Result<Vec<u64>, RepositoryError> {
        let index = self.index()?;
        index.take_out_known(&mut prefixes);
        if prefixes.len() >= FEW && !index.is_in_memory() {
            sort_in_order(&mut prefixes);
            let mut found = found_in_order(index, &prefixes).into_iter();
            prefixes.retain(|_| !found.next().unwrap_or(false));
        }
        let mut lacking = Vec::new();
        for prefix in prefixes {
            if !self.has_here(prefix)? {
                lacking.push(prefix);
            }
        }
        match self.beneath() {
            Some(beneath) if !lacking.is_empty() => beneath.lacking(lacking),
            _ => Ok(lacking),
        }
    }
}

/// By their bytes, as RocksDB has them, each once.
fn sort_in_order(prefixes: &mut Vec<u64>) {
    prefixes.sort_unstable_by_key(|prefix| prefix.swap_bytes());
    prefixes.dedup();
}

/// Which of these chunks, in order, are there by RocksDB; of the others nothing is known.
fn found_in_order(index: &ChunkIndex, prefixes: &[u64]) -> Vec<bool> {
    let mut found = vec![false; prefixes.len()];
    let mut differences = Differences::default();
    for (number, part) in prefixes.chunks(PART).enumerate() {
        index.each_in_order(&mut part.iter().copied(), &mut |place, location| {
            let place = number * PART + place;
            let Some(found) = found.get_mut(place).filter(|_| index.fits(&location)) else { return };
            if location.bases.is_empty() {
                *found = true;
            } else if !*found {
                differences.add(place, &location.bases);
            }
        });
        if differences.bases.len() >= MANY_BASES {
            std::mem::take(&mut differences).mark(index, &mut found);
        }
    }
    differences.mark(index, &mut found);
    found
}

/// Chunks that are there if their bases are.
#[derive(Default)]
struct Differences {
    /// The place of each, ascending, and how many bases it has.
    places: Vec<(usize, usize)>,
    /// How the ids of the bases begin, one chunk's behind another's.
    bases: Vec<u64>,
}

impl Differences {
    /// Of several copies the first must do.
    fn add(&mut self, place: usize, bases: &[u64]) {
        if self.places.last().is_none_or(|(last, _)| *last != place) {
            self.places.push((place, bases.len()));
            self.bases.extend_from_slice(bases);
        }
    }

    /// Marks those of which RocksDB has a whole copy of every base.
    fn mark(self, index: &ChunkIndex, found: &mut [bool]) {
        let mut distinct = self.bases.clone();
        sort_in_order(&mut distinct);
        let mut whole = vec![false; distinct.len()];
        index.each_in_order(&mut distinct.iter().copied(), &mut |place, location| {
            if let Some(whole) = whole.get_mut(place) {
                *whole |= !location.encoding.is_difference() && index.fits(&location);
            }
        });
        let is_whole = |base: &u64| {
            let place = distinct.binary_search_by_key(&base.swap_bytes(), |prefix| prefix.swap_bytes());
            place.is_ok_and(|place| whole.get(place).is_some_and(|whole| *whole))
        };
        let mut rest = self.bases.as_slice();
        for (place, count) in self.places {
            let (bases, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = after;
            if let Some(found) = found.get_mut(place) {
                *found |= bases.iter().all(is_whole);
            }
        }
    }
}
