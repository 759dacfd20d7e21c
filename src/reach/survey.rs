//! How much of each pack is reached by snapshots.

use super::filter::Filter;
use super::walk::{Lost, Reached, Walk, roots};
use crate::format::{DoomedKind, PackKind};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{ChunkIndex, Condemned, Repository, RepositoryError, Snapshot};
use crate::stamp::{Stamp, now_nanos};
use std::collections::{HashMap, HashSet};

/// A pack, and what of it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackState {
    pub id: Id,
    pub kind: PackKind,
    pub size: u64,
    pub chunks: u64,
    /// Bytes of its chunks as stored.
    pub stored: u64,
    /// Those of them that are reached, and of which there is no better copy.
    pub live: u64,
    pub live_chunks: u64,
    /// Since when it is condemned.
    pub doomed_since: Option<i64>,
}

/// All packs, and what is reached.
pub struct Survey {
    pub packs: Vec<PackState>,
    /// Nodes that can't be read, with a snapshot that needs them. What is below looks like garbage, and must not be taken for it.
    pub lost: Vec<(Stamp, Lost)>,
    /// What snapshots refer to.
    reached: Filter,
    /// What differences among that are told against.
    bases: Filter,
    /// Where chunks lie of which there is a better copy.
    copies: HashMap<Id, HashSet<u64>>,
}

impl Survey {
    /// Walks all snapshots, giving what it comes to to `look`, then all packs. Memory: 20 bits a chunk, 12 more for each that
    /// may be a base, a hundred bytes a pack, 16 bytes a node.
    pub fn new(
        repository: &Repository,
        snapshots: &[&Snapshot],
        condemned: &Condemned,
        look: &mut dyn FnMut(Stamp, Reached) -> Result<(), RepositoryError>,
        progress: &dyn Progress,
    ) -> Result<Self, RepositoryError> {
        let index = repository.index()?;
        let (mut chunks, mut whole, mut bases) = (0, 0, 0);
        index.each_pack(&mut |pack| {
            chunks += pack.chunks.len() as u64;
            whole += pack.chunks.iter().filter(|chunk| chunk.bases.is_empty()).count() as u64;
            bases += pack.chunks.iter().map(|chunk| chunk.bases.len() as u64).sum::<u64>();
            Ok(())
        })?;
        let seed = now_nanos().unsigned_abs();
        let mut reached = Filter::of_reached(chunks, seed);
        progress.begin("finding what snapshots need", None);
        let (mut walk, mut lost) = (Walk::new(repository, progress), Vec::new());
        for snapshot in snapshots {
            for root in roots(&snapshot.manifest) {
                let unread = walk.below(root, &mut |found| {
                    let id = match found {
                        Reached::Node(id) => id,
                        Reached::Chunk(chunk) => chunk.id,
                    };
                    reached.insert(id.prefix());
                    look(snapshot.stamp, found)
                })?;
                lost.extend(unread.into_iter().map(|node| (snapshot.stamp, node)));
            }
        }
        let bases = bases_of(index, &reached, Filter::of_reached(bases.min(whole), seed))?;
        let doomed: HashMap<Id, i64> = condemned
            .list
            .iter()
            .filter(|doomed| doomed.kind == DoomedKind::Pack)
            .map(|doomed| (doomed.id, doomed.since_ns))
            .collect();
        let mut survey = Self { packs: Vec::new(), lost, reached, bases, copies: HashMap::new() };
        survey.copies = copies(index, &survey, Filter::of_seen(chunks, seed), &doomed)?;
        survey.count(index, &doomed)?;
        Ok(survey)
    }

    /// The chunk at this place is reached, and there is no better copy of it.
    pub fn is_live(&self, pack: &Id, offset: u64, prefix: u64) -> bool {
        self.is_reached(prefix) && !self.copies.get(pack).is_some_and(|copies| copies.contains(&offset))
    }

    /// Some chunk whose id begins like this may be reached.
    pub fn is_reached(&self, prefix: u64) -> bool {
        self.reached.has(prefix) || self.bases.has(prefix)
    }

    fn count(&mut self, index: &ChunkIndex, doomed: &HashMap<Id, i64>) -> Result<(), RepositoryError> {
        let mut packs = Vec::new();
        let sizes = index.packs();
        index.each_pack(&mut |pack| {
            let size = sizes.get(&pack.pack).copied().unwrap_or_default();
            let doomed_since = doomed.get(&pack.pack).copied();
            let (id, kind, chunks) = (pack.pack, pack.kind, pack.chunks.len() as u64);
            let mut state =
                PackState { id, kind, size, chunks, stored: 0, live: 0, live_chunks: 0, doomed_since };
            for (offset, chunk) in pack.places() {
                state.stored += u64::from(chunk.stored_len);
                if self.is_live(&id, offset, chunk.prefix) {
                    state.live += u64::from(chunk.stored_len);
                    state.live_chunks += 1;
                }
            }
            packs.push(state);
            Ok(())
        })?;
        packs.sort_by_key(|pack| pack.id);
        self.packs = packs;
        Ok(())
    }
}

/// What the differences among what is reached are told against. A base is always read from a whole copy: where one lies there as a
/// difference too, what that difference is told against isn't needed for its sake. So this takes one step, and must not look at what
/// it adds.
fn bases_of(index: &ChunkIndex, reached: &Filter, mut bases: Filter) -> Result<Filter, RepositoryError> {
    index.each_listing(&mut |pack| {
        let needed = pack.chunks.iter().filter(|chunk| reached.has(chunk.prefix));
        for base in needed.flat_map(|chunk| &chunk.bases) {
            bases.insert(*base);
        }
        Ok(())
    })?;
    Ok(bases)
}

/// Of chunks that lie in several places all but the best copy: a whole one before a difference, then one that isn't condemned,
/// then by the pack's name, so that everybody chooses the same.
fn copies(
    index: &ChunkIndex,
    survey: &Survey,
    mut seen: Filter,
    doomed: &HashMap<Id, i64>,
) -> Result<HashMap<Id, HashSet<u64>>, RepositoryError> {
    let mut others: HashMap<Id, HashSet<u64>> = HashMap::new();
    index.each_pack(&mut |pack| {
        for chunk in &pack.chunks {
            if !survey.is_reached(chunk.prefix) || !seen.insert(chunk.prefix) {
                continue;
            }
            let mut copies = index.copies(chunk.prefix)?;
            copies.sort_by_key(|(location, id)| {
                let is_doomed = doomed.contains_key(&location.pack);
                (*id, location.encoding.is_difference(), is_doomed, location.pack, location.offset)
            });
            for pair in copies.windows(2) {
                if let [(_, one), (location, other)] = pair
                    && one == other
                {
                    others.entry(location.pack).or_default().insert(location.offset);
                }
            }
        }
        Ok(())
    })?;
    Ok(others)
}
