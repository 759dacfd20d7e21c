//! What differs in few places from a base of the same length: the places, and the bytes there.
//!
//! Stored: how many runs there are (u16); of each the bytes before it that are the base's, and its own (u16 each); the runs' bytes, one
//! behind another, as they are or as a zstd frame. Behind the last run the base goes on.

use super::parts::{Compress, Decompress, list_of, places, shortest, whole};
use crate::differing::{differing_words, runs_of};
use std::ops::Range;

/// What a run takes in the list. Fewer equal bytes between two runs are cheaper told again.
const PLACE: usize = 4;
/// Runs are few if they are at most this part of the chunk (1/16); more is better searched for what moved.
const FEW: usize = 16;
/// Fewer bytes hardly get shorter.
const LEAST_COMPRESSED: usize = 128;
/// The longest way from one run to the next.
const FARTHEST: usize = u16::MAX as usize;

/// Where the two, of the same length, differ; `None` if that is more than few bytes.
fn find(plain: &[u8], base: &[u8]) -> Option<Vec<Range<usize>>> {
    let bytes = differing_words(plain, base).flatten().filter(|at| plain.get(*at) != base.get(*at));
    runs_of(bytes.map(|at| at..at + 1), PLACE, plain.len() / FEW)
}

/// The chunk as a patch of `base`, if that takes at most `most` bytes and reads back.
pub fn encode(
    plain: &[u8],
    base: &[u8],
    most: usize,
    compress: Compress<'_>,
    decompress: Decompress<'_>,
) -> Option<Vec<u8>> {
    if plain.len() != base.len() {
        return None;
    }
    let (mut places, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
    for run in find(plain, base)? {
        let mut gap = run.start - at;
        while gap > FARTHEST {
            places.push((FARTHEST, 0));
            gap -= FARTHEST;
        }
        places.push((gap, run.len()));
        bytes.extend_from_slice(plain.get(run.clone())?);
        at = run.end;
    }
    let mut stored = list_of(&places)?;
    let compressed = if bytes.len() < LEAST_COMPRESSED { None } else { compress(&bytes) };
    stored.extend_from_slice(&shortest(&bytes, compressed));
    if stored.len() > most {
        return None;
    }
    let mut rest = Some(plain);
    let told = apply(&stored, base, plain.len(), decompress, &mut |part| {
        rest = rest.and_then(|rest| rest.strip_prefix(part));
    });
    (told.is_ok() && rest.is_some_and(<[u8]>::is_empty)).then_some(stored)
}

/// The `len` bytes that a patch makes of `base`.
pub fn decode(stored: &[u8], base: &[u8], len: usize, decompress: Decompress<'_>) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(base.len());
    apply(stored, base, len, decompress, &mut |part| plain.extend_from_slice(part))?;
    Ok(plain)
}

/// Hands over what a patch makes of `base`, which is `len` bytes, in parts from beginning to end.
fn apply(
    stored: &[u8],
    base: &[u8],
    len: usize,
    decompress: Decompress<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), String> {
    let short = || "patch: cut short".to_owned();
    if base.len() != len {
        return Err(format!("patch: of {} bytes for a chunk of {len}", base.len()));
    }
    let (runs, part) = places(stored).ok_or_else(short)?;
    let total: usize = runs.clone().map(|(_, len)| len).sum();
    if total > len {
        return Err("patch: longer than the chunk".into());
    }
    let bytes = whole(part, total, decompress)?;
    let (mut bytes, mut base) = (&*bytes, base);
    for (gap, len) in runs {
        let (before, after) = base.split_at_checked(gap).ok_or("patch: outside of the chunk")?;
        let (run, others) = bytes.split_at_checked(len).ok_or_else(short)?;
        take(before);
        take(run);
        (base, bytes) = (after.get(len..).ok_or("patch: outside of the chunk")?, others);
    }
    take(base);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use proptest::prelude::{any, prop, proptest};

    /// Of much the same nothing is left: enough to see that it was asked.
    fn squeeze(bytes: &[u8]) -> Option<Vec<u8>> {
        let byte = bytes.first()?;
        bytes.iter().all(|other| other == byte).then(|| vec![*byte])
    }

    fn unsqueeze(part: &[u8], len: usize) -> Result<Vec<u8>, String> {
        part.first().map(|byte| vec![*byte; len]).ok_or_else(|| "nothing".into())
    }

    proptest! {
        /// Few changes cost their bytes and little else, wherever they are; many, or another length, are no patch.
        #[test]
        fn a_patch_makes_the_chunk(
            len in 1usize..200_000, seed in any::<u8>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1usize..20, any::<u8>()), 0..30),
        ) {
            let base: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(seed | 1)).collect();
            let mut plain = base.clone();
            for (at, count, by) in &changes {
                let at = at.index(len);
                plain[at..(at + count).min(len)].iter_mut().for_each(|byte| *byte ^= by);
            }
            let touched: usize = changes.iter().map(|(_, count, _)| count + 4).sum();
            match encode(&plain, &base, len, &squeeze, &unsqueeze) {
                Some(stored) => {
                    assert!(stored.len() <= 2 + 4 * (changes.len() + len / 65_535) + touched);
                    assert_eq!(decode(&stored, &base, len, &unsqueeze).unwrap(), plain);
                    assert!(encode(&plain, &base, stored.len() - 1, &squeeze, &unsqueeze).is_none());
                    assert!(decode(&stored, &base[1..], len, &unsqueeze).is_err());
                }
                None => assert!(touched > len / 16 || len < 16 + touched),
            }
            assert!(encode(&plain[1..], &base, len, &squeeze, &unsqueeze).is_none());
        }

        #[test]
        fn hostile_patches_are_an_error_at_worst(
            stored in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 255]), 0..40), len in 0usize..300,
        ) {
            let base = vec![9; len];
            if let Ok(plain) = decode(&stored, &base, len, &unsqueeze) {
                assert_eq!(plain.len(), len);
            }
        }
    }

    #[test]
    fn long_runs_are_compressed() {
        let base = vec![1; 50_000];
        let mut plain = base.clone();
        plain[20_000..22_000].fill(5);
        let stored = encode(&plain, &base, 50_000, &squeeze, &unsqueeze).unwrap();
        assert_eq!(stored.len(), 2 + 4 + 1);
        assert_eq!(decode(&stored, &base, 50_000, &unsqueeze).unwrap(), plain);
        // Everything differs.
        assert!(encode(&vec![2; 50_000], &base, 50_000, &squeeze, &unsqueeze).is_none());
        // What is compressed to other bytes isn't kept.
        let wrong = |_: &[u8], len| Ok(vec![6; len]);
        assert!(encode(&plain, &base, 50_000, &squeeze, &wrong).is_none());
    }
}
