//! A file that was compared with what is to take its place, and what makes it that.

use super::interface::{file_id, mtime_ns};
use crate::format::FileState;
use std::collections::HashMap;
use std::fs::Metadata;
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
    room_bytes: usize,
}

impl Patches {
    /// So many more bytes of memory may be taken; none before this is said.
    pub fn make_room(&self, bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).room_bytes += bytes;
    }

    /// Keeps a chunk's patch while there is room.
    pub fn add(&self, number: u32, patch: Patch) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = kept.room_bytes.checked_sub(patch.memory_bytes()) {
            kept.room_bytes = left;
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
    /// Bytes that are looked at together, and if they differ by these parts.
    const BLOCK: usize = 256;
    const WORD: usize = 8;
    /// Equal bytes between two runs that are cheaper to put again than a run more.
    const GAP: usize = 16;
    /// More than this part of a chunk is no patch (1/4).
    const MOST: usize = 4;

    /// What makes `from` to `to`; `None` if that is much of it, or they aren't of the same length.
    pub fn between(from: &[u8], to: &[u8]) -> Option<Self> {
        if from.len() != to.len() || u32::try_from(to.len()).is_err() {
            return None;
        }
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut total = 0;
        let blocks = from.chunks(Self::BLOCK).zip(to.chunks(Self::BLOCK)).enumerate();
        for (block, (was, now)) in blocks.filter(|(_, (was, now))| was != now) {
            let words = was.chunks(Self::WORD).zip(now.chunks(Self::WORD)).enumerate();
            for (word, (_, now)) in words.filter(|(_, (was, now))| was != now) {
                let start = block * Self::BLOCK + word * Self::WORD;
                let end = start + now.len();
                match runs.last_mut() {
                    Some((begin, len)) if start <= *begin + *len + Self::GAP => {
                        total += end - (*begin + *len);
                        *len = end - *begin;
                    }
                    _ => {
                        total += now.len();
                        runs.push((start, now.len()));
                    }
                }
            }
            if total > to.len() / Self::MOST {
                return None;
            }
        }
        let mut bytes = Vec::with_capacity(total);
        runs.iter().for_each(|(begin, len)| {
            bytes.extend_from_slice(to.get(*begin..*begin + *len).unwrap_or_default())
        });
        let runs = runs.iter().map(|(begin, len)| (*begin as u32, *len as u32)).collect();
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
        size_of::<(u32, Arc<Self>)>() + size_of::<Self>() + self.runs.len() * 8 + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Patch, Patches};
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        /// A patch makes the one the other, and begins and ends each run near where they differ.
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
                        for edge in [begin..(begin + 8).min(from.len()), (begin + run.len()).saturating_sub(8)..begin + run.len()] {
                            assert_ne!(from[edge.clone()], to[edge]);
                        }
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
        let (from, patches) = (vec![0; 16 << 20], Patches::default());
        let mut to = from.clone();
        to[..3 << 20].fill(1);
        patches.make_room(8 << 20);
        (0..4).for_each(|number| patches.add(number, Patch::between(&from, &to).unwrap()));
        let kept: Vec<bool> = (0..4).map(|number| patches.get(number).is_some()).collect();
        assert_eq!(kept, [true, true, false, false]);
    }
}
