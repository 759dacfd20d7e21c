//! Whether chunks are there, one or many at a time. Nothing is read but the index.

use super::chunk_index::ChunkIndex;
use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::id::Id;

impl Repository {
    /// The chunk is in a pack that is there, and that pack has the size which the index expects; of a delta, the bases too.
    pub fn has_chunk(&self, id: &Id) -> Result<bool, RepositoryError> {
        self.has(id.prefix())
    }

    fn has(&self, prefix: u64) -> Result<bool, RepositoryError> {
        let index = self.index()?;
        let is_whole = |location: &Location| {
            let mut bases = location.bases.iter();
            fits(index, location) && bases.all(|base| self.whole_copies(*base).is_ok_and(|copies| copies > 0))
        };
        let here = index.find(prefix).is_some_and(|location| is_whole(&location))
            || index.find_all(prefix).iter().any(is_whole);
        match self.beneath() {
            Some(beneath) if !here => beneath.has(prefix),
            _ => Ok(here),
        }
    }

    /// Of chunks whose ids begin like these, those that `has_chunk` denies. An index in RocksDB is asked in its own order: the
    /// more at once the better, since with very many each asking is about one reading of the whole table.
    pub fn lacking(&self, mut prefixes: Vec<u64>) -> Result<Vec<u64>, RepositoryError> {
        let index = self.index()?;
        if !index.is_in_memory() {
            sort_in_order(&mut prefixes);
            let mut found = found_in_order(index, &prefixes).into_iter();
            prefixes.retain(|_| !found.next().unwrap_or(false));
        }
        let mut lacking = Vec::new();
        for prefix in prefixes {
            if !self.has(prefix)? {
                lacking.push(prefix);
            }
        }
        Ok(lacking)
    }

    /// So many chunks are worth being looked up at once; 9 bytes of memory each.
    pub const LOOKED_UP_AT_ONCE: usize = 2 << 20;
}

/// By their bytes, as RocksDB has them, each once.
fn sort_in_order(prefixes: &mut Vec<u64>) {
    prefixes.sort_unstable_by_key(|prefix| prefix.swap_bytes());
    prefixes.dedup();
}

/// The pack is there, and long enough to hold it.
fn fits(index: &ChunkIndex, location: &Location) -> bool {
    let end = location.offset + u64::from(location.stored_len);
    index.pack_len(&location.pack).is_some_and(|len| end <= len)
}

/// Which of these chunks, in order, are there by RocksDB; of the others nothing is known.
fn found_in_order(index: &ChunkIndex, prefixes: &[u64]) -> Vec<bool> {
    let mut found = vec![false; prefixes.len()];
    let mut mark = |place: usize| found.get_mut(place).into_iter().for_each(|found| *found = true);
    let mut differences: Vec<(usize, Box<[u64]>)> = Vec::new();
    index.each_in_order(&mut prefixes.iter().copied(), &mut |place, location| {
        if !fits(index, &location) {
        } else if location.bases.is_empty() {
            mark(place);
        } else {
            differences.push((place, location.bases));
        }
    });
    let mut bases: Vec<u64> = differences.iter().flat_map(|(_, bases)| bases.iter().copied()).collect();
    sort_in_order(&mut bases);
    let mut whole = vec![false; bases.len()];
    index.each_in_order(&mut bases.iter().copied(), &mut |place, location| {
        if let Some(whole) = whole.get_mut(place) {
            *whole |= !location.encoding.is_difference() && fits(index, &location);
        }
    });
    let is_whole = |base: &u64| {
        let place = bases.binary_search_by_key(&base.swap_bytes(), |prefix| prefix.swap_bytes());
        place.is_ok_and(|place| whole.get(place).is_some_and(|whole| *whole))
    };
    let sound = differences.iter().filter(|(_, bases)| bases.iter().all(is_whole));
    sound.for_each(|(place, _)| mark(*place));
    found
}
