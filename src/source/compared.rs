//! A file that was compared with what is to take its place, and what makes it that.

use super::interface::{file_id, mtime_ns};
use crate::differing::{differing_words, runs_of};
use crate::format::FileState;
use std::collections::HashMap;
use std::fs::Metadata;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A file that was compared with what the parent has at the same place, chunk by chunk.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The file as it was when the comparison began.
    pub state: FileState,
    pub mtime_ns: i64,
    /// The numbers of the parent's chunks that are not there, ascending.
    pub differing: Arc<[u32]>,
    /// Whoever reads both sides of a differing chunk may note how they differ, so that nobody has to read the parent's again.
    pub patches: Arc<Patches>,
}

impl Compared {
    /// The file is, by its identity, size and times, still the one that was compared.
    pub fn is_of(&self, metadata: &Metadata) -> bool {
        self.state == file_id(metadata) && self.mtime_ns == mtime_ns(metadata)
    }
}

/// The patches of one file, by the numbers of chunks. Safe to share between threads.
#[derive(Debug, Default)]
pub struct Patches(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    of_chunks: HashMap<u32, Arc<Patch>>,
    /// Bytes that may still be taken, by others too.
    room: Arc<AtomicUsize>,
}

impl Patches {
    /// As many bytes of memory may be taken as there are in `room`; none before this is said.
    pub fn take_from(&self, room: &Arc<AtomicUsize>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).room = Arc::clone(room);
    }

    /// Keeps a chunk's patch, which makes `from` to `to`, while there is room.
    pub fn note(&self, number: u32, from: &[u8], to: &[u8]) {
        let room = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).room);
        if room.load(Ordering::Relaxed) < Patch::LEAST_BYTES {
            return;
        }
        let Some(patch) = Patch::between(from, to) else { return };
        let take = |left: usize| left.checked_sub(patch.memory_bytes());
        if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.of_chunks.insert(number, Arc::new(patch));
        }
    }

    /// A chunk's patch, if there is one.
    pub fn get(&self, number: u32) -> Option<Arc<Patch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).of_chunks.get(&number).map(Arc::clone)
    }
}

/// What has to be put where in some bytes to make them others, of the same length.
#[derive(Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where each run begins, and its length.
    runs: Box<[(u32, u32)]>,
    /// The runs' bytes, one behind another.
    bytes: Box<[u8]>,
}

impl Patch {
    /// Equal bytes between two runs that are cheaper to put again than a run more.
    const GAP: usize = 16;
    /// More than this part of a chunk is no patch (1/4).
    const MOST: usize = 4;
    /// About what one takes of memory beside runs and bytes: itself, its allocations, its place in a map.
    const LEAST_BYTES: usize = 128;

    /// What makes `from` to `to`; `None` if that is much of it, or they aren't of the same length.
    pub fn between(from: &[u8], to: &[u8]) -> Option<Self> {
        if from.len() != to.len() || u32::try_from(to.len()).is_err() {
            return None;
        }
        let runs = runs_of(differing_words(from, to), Self::GAP, to.len() / Self::MOST)?;
        let mut bytes = Vec::new();
        let runs = runs.into_iter().map(|run| {
            // To the byte, so that no block is written that is right already.
            let differs = |at: &usize| from.get(*at) != to.get(*at);
            let first = run.clone().find(differs).unwrap_or(run.start);
            let behind = run.rev().find(differs).map_or(first, |last| last + 1);
            bytes.extend_from_slice(to.get(first..behind).unwrap_or_default());
            (first as u32, (behind - first) as u32)
        });
        let runs = runs.collect();
        Some(Self { runs, bytes: bytes.into() })
    }

    /// The runs: where each begins, and its bytes.
    pub fn runs(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut rest = &*self.bytes;
        self.runs.iter().map(move |(begin, len)| {
            let (run, after) = rest.split_at_checked(*len as usize).unwrap_or((rest, &[]));
            rest = after;
            (*begin as usize, run)
        })
    }

    fn memory_bytes(&self) -> usize {
        Self::LEAST_BYTES + self.runs.len() * 8 + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Patch, Patches};
    use proptest::prelude::{any, prop, proptest};
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    proptest! {
        /// A patch makes the one the other, and each run begins and ends where they differ.
        #[test]
        fn a_patch_makes_the_other(
            from in prop::collection::vec(any::<u8>(), 0..3000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..30),
        ) {
            let mut to = from.clone();
            for (at, byte) in changes.iter().filter(|_| !from.is_empty()) {
                to[at.index(from.len())] = *byte;
            }
            let mut made = from.clone();
            match Patch::between(&from, &to) {
                Some(patch) => {
                    for (begin, run) in patch.runs() {
                        made[begin..begin + run.len()].copy_from_slice(run);
                        let last = begin + run.len() - 1;
                        assert!(from[begin] != to[begin] && from[last] != to[last]);
                    }
                    assert_eq!(made, to);
                }
                None => assert!(changes.len() * 32 > from.len() / 4),
            }
        }
    }

    #[test]
    fn patches_end_where_room_does() {
        assert_eq!(Patch::between(&[1, 2], &[1]), None);
        let from = vec![0; 16 << 20];
        let mut to = from.clone();
        to[..3 << 20].fill(1);
        let room = Arc::new(AtomicUsize::new(8 << 20));
        let [one, other, none] = [(); 3].map(|()| Patches::default());
        one.take_from(&room);
        other.take_from(&room);
        (0..4).for_each(|number| [&one, &other, &none][number as usize % 3].note(number, &from, &to));
        let kept = [one.get(0), other.get(1), none.get(2), one.get(3)].map(|patch| patch.is_some());
        assert_eq!(kept, [true, true, false, false]);
    }
}
