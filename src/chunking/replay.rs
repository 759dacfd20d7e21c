//! Cuts a changed content where it was cut before, as far as its bytes allow, so that what didn't change needs hashing only.
//!
//! A cut depends on nothing but the bytes between it and the cut before, and on the byte behind it. So from a recorded cut on,
//! chunks that are equal, and followed by what followed them, are what a fresh cutting finds. Where one isn't, its cut may still be
//! one, which `changed_in_place` tells; else the content is cut anew from its beginning until a cut meets a recorded one.

use super::boundaries::Recorded;
use super::content_defined::{Cuts, Cutter};
use crate::id::Id;
use std::ops::Range;
use std::sync::Arc;

/// A chunk of the content as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub id: Id,
    pub start: usize,
    pub len: usize,
    /// The recorded chunks that were in its place.
    pub old: Range<usize>,
    /// It is the recorded one.
    pub is_same: bool,
}

/// What a part of a content consists of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub pieces: Vec<Piece>,
    /// Bytes that the pieces cover. Fewer than the recorded chunks have: where the next cut lies, or whether it meets a
    /// recorded one, these bytes don't tell.
    pub resolved: usize,
}

/// Bytes behind the last recorded chunk that tell whether its cut is still one.
pub const LOOKAHEAD_BYTES: usize = 64;

/// Finds the bytes of a recorded chunk by its number, if that is cheap; the id is that of what lies there now.
pub type OldBytes<'b> = &'b mut dyn FnMut(usize, &Id) -> Option<Arc<Vec<u8>>>;

/// Compares `bytes`, which begin at a recorded cut, with what is recorded from there on. They go on to the end of the last
/// recorded chunk, and for `LOOKAHEAD_BYTES` behind it; or, with `last`, to the end of the content, wherever that is. Of a chunk that
/// differs `old_bytes` is asked for those that it had: with them only what lies about its changes has to be looked at for a cut.
pub fn replay(
    cutter: &Cutter,
    cuts: Cuts,
    bytes: &[u8],
    recorded: &[Recorded],
    last: bool,
    old_bytes: OldBytes<'_>,
) -> Replayed {
    let mut starts = Vec::with_capacity(recorded.len() + 1);
    starts.push(0);
    for chunk in recorded {
        starts.push(starts.last().copied().unwrap_or(0) + chunk.len as usize);
    }
    let recorded_end = starts.last().copied().unwrap_or(0);
    let end = if last { bytes.len() } else { recorded_end.min(bytes.len()) };
    // What lies where a recorded chunk lay, hashed when first asked for.
    let mut found: Vec<Option<Id>> = vec![None; recorded.len()];
    let mut id_at = |number: usize| {
        let chunk = recorded.get(number)?;
        let start = starts.get(number).copied()?;
        let slot = found.get_mut(number)?;
        if slot.is_none() {
            *slot = Some(cutter.naming().id_of(bytes.get(start..start + chunk.len as usize)?));
        }
        slot.map(|id| (id, id == chunk.id))
    };
    let mut pieces = Vec::with_capacity(recorded.len());
    let mut at = 0;
    let mut known: Option<usize> = Some(0);
    while at < end {
        if let Some(number) = known
            && let Some((id, is_same)) = id_at(number)
            && let Some(len) = recorded.get(number).map(|chunk| chunk.len as usize)
        {
            // The first byte behind a cut has a say in it. Equal chunks that follow each other tell of themselves.
            let rest = bytes.get(at..).unwrap_or_default();
            let is_cut = (is_same && id_at(number + 1).is_some_and(|(_, is_same)| is_same))
                || match if is_same || cuts != Cuts::ByContent { None } else { old_bytes(number, &id) } {
                    None => is_same && cutter.ends_as_before(cuts, rest.get(..len).unwrap_or_default(), rest),
                    Some(before) => before.len() == len && cutter.ends_as_before(cuts, &before, rest),
                }
                || cutter.next(cuts, rest, last) == Some(len);
            if is_cut {
                pieces.push(Piece { id, start: at, len, old: number..number + 1, is_same });
                (at, known) = (at + len, Some(number + 1));
                continue;
            }
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(len) = cutter.next(cuts, rest, last).filter(|len| at + len <= end) else { break };
        let id = cutter.naming().id_of(rest.get(..len).unwrap_or_default());
        let first = starts.partition_point(|start| *start <= at).saturating_sub(1);
        let behind = starts.partition_point(|start| *start < at + len).min(recorded.len());
        let old = first.min(behind)..behind;
        pieces.push(Piece { id, start: at, len, old, is_same: false });
        at += len;
        known = starts.binary_search(&at).ok();
    }
    // What ends between recorded cuts has to be gone on with from there by whoever has more bytes.
    Replayed { pieces, resolved: at }
}

#[cfg(test)]
mod tests {
    use super::{LOOKAHEAD_BYTES, replay};
    use crate::chunking::{Cuts, Cutter, Recorded, Sizes};
    use crate::id::{Id, Naming};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};
    use std::sync::Arc;

    const SIZES: Sizes = Sizes { min: 64, average: 256, max: 1024 };

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| step()).collect()
    }

    fn fresh(cutter: &Cutter, cuts: Cuts, bytes: &[u8]) -> Vec<Recorded> {
        let mut at = 0;
        let lengths = cutter.cut(cuts, bytes, true).into_iter();
        let part = |len: usize| {
            at += len;
            Recorded { id: Id::of(&bytes[at - len..at]), len: len as u32 }
        };
        lengths.map(part).collect()
    }

    /// The bytes of every other chunk, as if only these were at hand.
    fn was(old: &[u8], recorded: &[Recorded], number: usize) -> Option<Arc<Vec<u8>>> {
        let start = recorded[..number].iter().map(|chunk| chunk.len as usize).sum::<usize>();
        let bytes = &old[start..start + recorded[number].len as usize];
        (number % 4 != 3).then(|| Arc::new(bytes.to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Long chunks, of which most bytes aren't looked at, changed where it matters: near cuts, and to bytes that make cuts.
        #[test]
        fn long_chunks_are_cut_like_fresh_ones(
            len in 100_000usize..400_000, seed in any::<u64>(), is_secret in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0i64..400), 0..80),
        ) {
            let secret = is_secret.then(|| Box::new(std::array::from_fn(|byte| (byte as u64 + 1).wrapping_mul(seed | 1))));
            let cutter = Cutter::new(Sizes { min: 1024, average: 4096, max: 16384 }, 0).secret(Naming::PLAIN, secret);
            let old = noise(len, seed);
            let recorded = fresh(&cutter, Cuts::ByContent, &old);
            let ends: Vec<usize> = recorded.iter().scan(0, |at, chunk| { *at += chunk.len as usize; Some(*at) }).collect();
            let mut new = old.clone();
            for (end, from, before) in changes {
                // What makes a cut elsewhere is copied to somewhere near another cut.
                let to = ends[end.index(ends.len())].saturating_sub(before as usize).max(80);
                let from = ends[from.index(ends.len())].max(80);
                let count = (before as usize % 70).min(to).min(from);
                new.copy_within(from - count..from, to - count);
            }
            let mut asked = 0;
            let replayed = replay(&cutter, Cuts::ByContent, &new, &recorded, true, &mut |number, _| {
                asked += 1;
                was(&old, &recorded, number)
            });
            let found: Vec<Recorded> = replayed.pieces.iter().map(|piece| Recorded { id: piece.id, len: piece.len as u32 }).collect();
            assert_eq!(found, fresh(&cutter, Cuts::ByContent, &new));
            assert!(asked > 0 || new == old);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// What is told by the bytes about changes is what a cutting says, however the content goes on or ends.
        #[test]
        fn a_cut_that_stays_is_one(
            seed in any::<u64>(), is_dull in any::<bool>(), wanted in prop::sample::select(vec![64usize, 65, 66, 300, 1021, 1022, 1023, 1024]),
            ends in any::<bool>(), behind in 0usize..5, last in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let cutter = Cutter::new(SIZES, 0);
            let mut bytes = noise(1100, seed);
            if is_dull {
                bytes.iter_mut().for_each(|byte| *byte &= 1);
            }
            // Cut by content, or by the end of what there was.
            let before = if ends { &bytes[..wanted] } else { &bytes[..] };
            let len = cutter.next(Cuts::ByContent, before, true).unwrap();
            let mut now = bytes[..(len + behind).min(bytes.len())].to_vec();
            for (at, byte) in changes {
                let at = at.index(now.len());
                now[at] = byte;
            }
            if cutter.ends_as_before(Cuts::ByContent, &bytes[..len], &now) {
                assert_eq!(cutter.next(Cuts::ByContent, &now, last), Some(len));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Whatever changed: the pieces are the beginning of what a fresh cutting finds, and with the end of the content in
        /// sight all of it.
        #[test]
        fn it_is_what_a_fresh_cutting_finds(
            len in 0usize..12_000, seed in any::<u64>(), every in 0u32..700,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..8),
            upto in any::<prop::sample::Index>(),
        ) {
            let cutter = Cutter::new(SIZES, 0);
            let cuts = if every < 100 { Cuts::ByContent } else { Cuts::Every(every) };
            let old = noise(len, seed);
            let recorded = fresh(&cutter, cuts, &old);
            let mut new = old.clone();
            for (at, byte, kind) in changes {
                match kind {
                    _ if new.is_empty() => new.push(byte),
                    0 => drop(new.remove(at.index(new.len()))),
                    1 => new.insert(at.index(new.len()), byte),
                    _ => {
                        let at = at.index(new.len());
                        new[at] ^= byte;
                    }
                }
            }
            let expected = fresh(&cutter, cuts, &new);
            let found = |bytes: &[u8], recorded: &[Recorded], last: bool| {
                let replayed = replay(&cutter, cuts, bytes, recorded, last, &mut |number, _| was(&old, recorded, number));
                let mut at = 0;
                for piece in &replayed.pieces {
                    assert_eq!(piece.start, at);
                    assert_eq!(piece.id, Id::of(&bytes[at..at + piece.len]));
                    assert!(piece.old.end <= recorded.len());
                    assert!(!piece.is_same || recorded[piece.old.start].id == piece.id);
                    at += piece.len;
                }
                assert_eq!(at, replayed.resolved);
                replayed.pieces.iter().map(|piece| Recorded { id: piece.id, len: piece.len as u32 }).collect::<Vec<_>>()
            };
            // A chunk that the old end had cut short may be followed by more bytes: whoever calls knows.
            let sum = |recorded: &[Recorded]| recorded.iter().map(|chunk| chunk.len as usize).sum::<usize>();
            let grew = new.len() > sum(&recorded);
            let stable = if grew { &recorded[..recorded.len().saturating_sub(1)] } else { &recorded[..] };
            if !grew || stable.is_empty() {
                assert_eq!(found(&new, stable, true), expected);
            }
            let part = &stable[..if stable.is_empty() { 0 } else { upto.index(stable.len()) }];
            if sum(part) + LOOKAHEAD_BYTES <= new.len() {
                let pieces = found(&new[..sum(part) + LOOKAHEAD_BYTES], part, false);
                assert_eq!(pieces, expected[..pieces.len()]);
            }
        }
    }

    #[test]
    fn what_is_as_it_was_is_known_and_changes_in_place_are_resolved() {
        let cutter = Cutter::new(SIZES, 0);
        let old = noise(100_000, 5);
        let recorded = fresh(&cutter, Cuts::ByContent, &old);
        let end: usize = recorded[..200].iter().map(|chunk| chunk.len as usize).sum();
        let mut new = old.clone();
        let places = [1000usize, 30_000, 30_500];
        places.iter().for_each(|place| new[*place] ^= 1);
        let replayed = replay(
            &cutter,
            Cuts::ByContent,
            &new[..end + LOOKAHEAD_BYTES],
            &recorded[..200],
            false,
            &mut |_, _| None,
        );
        assert_eq!(replayed.resolved, end);
        assert!(replayed.pieces.iter().filter(|piece| !piece.is_same).count() <= 9);
    }
}
