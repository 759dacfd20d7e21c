//! Runs of floats among other bytes, as pages of a database hold vectors: the runs, wherever they begin, go by planes, and what lies
//! between them as it would by itself.
//!
//! Stored: how many runs there are (u16); of each the bytes before it that are in none, and its words (u16 each); the length of what is
//! in no run as stored (u32); that, as it is or as a zstd frame; the planes of all runs, one behind another.

use super::parts::{Compress, Decompress, list_of, places, shortest, whole};
use super::planes;
use std::collections::HashSet;
use std::ops::Range;

const WORD: usize = 4;
/// Where the byte with sign and exponent lies in a word.
const TOP: usize = 3;
/// So many bytes are looked at together; a run has at least one such block.
const BLOCK: usize = 64;
const LANE: usize = 16;
/// Shorter ones aren't worth their place in the list.
const LEAST_BYTES: usize = 2 * BLOCK;
/// Runs are worth it from this part of a chunk on (1/4).
const WORTH: usize = 4;
/// Which planes of the words are worth compressing is judged by this much of them.
const SAMPLE_BYTES: usize = 4096;

/// 0 if this may be the upper byte of a number below 2 and not below 2^-31, as the components of a unit vector are.
fn oddness(byte: u8) -> u8 {
    (byte & 0x70) ^ 0x30
}

/// At which place in its words a block has upper bytes of floats, if at one only.
fn place_of_tops(block: &[u8; BLOCK]) -> Option<usize> {
    let mut odd = [0u8; LANE];
    for lane in block.as_chunks::<LANE>().0 {
        odd.iter_mut().zip(lane).for_each(|(odd, byte)| *odd |= oddness(*byte));
    }
    let mut of_place = [0u8; WORD];
    for quad in odd.as_chunks::<WORD>().0 {
        of_place.iter_mut().zip(quad).for_each(|(place, odd)| *place |= odd);
    }
    let mut fitting = of_place.iter().enumerate().filter(|(_, odd)| **odd == 0).map(|(place, _)| place);
    // Digits fit everywhere.
    fitting.next().filter(|_| fitting.next().is_none())
}

/// Where floats follow each other, in order and apart.
fn find(plain: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let blocks = plain.as_chunks::<BLOCK>().0;
    let mut next = 0;
    while next < blocks.len() {
        let first = next;
        let place = blocks.get(first).and_then(place_of_tops);
        next += 1;
        let Some(place) = place else { continue };
        while blocks.get(next).is_some_and(|block| place_of_tops(block) == Some(place)) {
            next += 1;
        }
        // From the first to the last upper byte, and on to both sides.
        let fits = |top: usize| plain.get(top).is_some_and(|byte| oddness(*byte) == 0);
        let free = runs.last().map_or(0, |run| run.end);
        let (mut first_top, mut last_top) = (first * BLOCK + place, next * BLOCK - WORD + place);
        while first_top < free + TOP {
            first_top += WORD;
        }
        while first_top >= free + TOP + WORD && fits(first_top - WORD) {
            first_top -= WORD;
        }
        while fits(last_top + WORD) {
            last_top += WORD;
        }
        let run = first_top - TOP..last_top + 1;
        if run.len() >= LEAST_BYTES {
            next = next.max(run.end.div_ceil(BLOCK));
            runs.push(run);
        }
    }
    runs
}

/// Vectors come more than once, as where a record was written again and again: zstd finds that. Of all pairs of neighbouring words the
/// one with the greatest hash tells a run, wherever it was taken to begin (Broder 1997).
fn repeat(plain: &[u8], runs: &[Range<usize>]) -> bool {
    let greatest = |run: &Range<usize>| {
        let words = plain.get(run.clone()).unwrap_or_default().as_chunks::<WORD>().0.iter();
        let pairs = words.clone().zip(words.skip(1)).map(|(one, other)| {
            u64::from(u32::from_le_bytes(*one)) << 32 | u64::from(u32::from_le_bytes(*other))
        });
        pairs.map(|pair| pair.wrapping_mul(0x9E37_79B9_7F4A_7C15)).max()
    };
    let different: HashSet<Option<u64>> = runs.iter().map(greatest).collect();
    different.len() * 4 <= runs.len() * 3
}

/// Encodes runs of floats apart from the rest; `None` where there are too few of them, or they come again and again.
pub fn encode(plain: &[u8], code_words: Compress<'_>, code_rest: Compress<'_>) -> Option<Vec<u8>> {
    let runs = find(plain);
    let floats: usize = runs.iter().map(Range::len).sum();
    if floats < plain.len() / WORTH || repeat(plain, &runs) {
        return None;
    }
    let mut list = Vec::with_capacity(runs.len());
    let (mut rest, mut words) = (Vec::with_capacity(plain.len() - floats), Vec::with_capacity(floats));
    let mut at = 0;
    for run in &runs {
        list.push((run.start - at, run.len() / WORD));
        rest.extend_from_slice(plain.get(at..run.start)?);
        words.extend_from_slice(plain.get(run.clone())?);
        at = run.end;
    }
    rest.extend_from_slice(plain.get(at..)?);
    let rest = shortest(&rest, code_rest(&rest));
    let mut stored = list_of(&list)?;
    stored.reserve(plain.len());
    stored.extend_from_slice(&u32::try_from(rest.len()).ok()?.to_le_bytes());
    stored.extend_from_slice(&rest);
    let sample = words.get(..SAMPLE_BYTES).unwrap_or(&words);
    stored.extend_from_slice(&planes::encode(&words, planes::estimate(sample).worth, code_words)?);
    Some(stored)
}

/// Puts runs and rest together again: `len` bytes, or fewer where the list of runs doesn't fit.
pub fn decode(stored: &[u8], len: usize, decompress: Decompress<'_>) -> Result<Vec<u8>, String> {
    let short = || "runs: cut short".to_owned();
    let (runs, after) = places(stored).ok_or_else(short)?;
    let runs = runs.map(|(gap, words)| (gap, WORD * words));
    let (part_len, after) = after.split_first_chunk().ok_or_else(short)?;
    let (part, planes) = after.split_at_checked(u32::from_le_bytes(*part_len) as usize).ok_or_else(short)?;
    let floats: usize = runs.clone().map(|(_, bytes)| bytes).sum();
    let wanted = len.checked_sub(floats).ok_or("runs: longer than the chunk")?;
    let rest = whole(part, wanted, decompress)?;
    let words = planes::decode(planes, floats, decompress)?;
    let (mut rest, mut words, mut plain) = (&*rest, words.as_slice(), Vec::with_capacity(len));
    for (gap, bytes) in runs {
        let (before, after) = rest.split_at_checked(gap).ok_or("runs: outside of the chunk")?;
        let (run, others) = words.split_at_checked(bytes).ok_or_else(short)?;
        plain.extend_from_slice(before);
        plain.extend_from_slice(run);
        (rest, words) = (after, others);
    }
    plain.extend_from_slice(rest);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::{LEAST_BYTES, decode, encode, find, repeat};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    fn floats(count: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f32 / (1u64 << 30) as f32 - 1.0) * 0.1 + 0.000_001
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Wherever vectors lie among other bytes, and whatever these are: they are found, and all of it reads back.
        #[test]
        fn runs_read_back(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), 0usize..500), 0..12),
            seed in any::<u64>(),
        ) {
            let mut plain = Vec::new();
            let mut expected = 0;
            for (number, (other, count)) in parts.iter().enumerate() {
                plain.extend_from_slice(other);
                plain.extend(floats(*count, seed.wrapping_add(number as u64)));
                expected += if *count >= 80 { 4 * count } else { 0 };
            }
            let runs = find(&plain);
            assert!(runs.iter().all(|run| run.len() % 4 == 0 && run.len() >= LEAST_BYTES && run.end <= plain.len()));
            assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let found: usize = runs.iter().map(|run| run.len()).sum();
            assert!(found * 10 >= expected * 8, "{found} of {expected}");
            let keep = |_: &[u8]| None;
            let broken = |_: &[u8], _| Err("nothing was compressed".to_owned());
            match encode(&plain, &keep, &keep) {
                Some(stored) => assert_eq!(decode(&stored, plain.len(), &broken).unwrap(), plain),
                None => assert!(found < plain.len() / 4 || plain.len() > 1 << 16 || repeat(&plain, &runs)),
            }
        }

        #[test]
        fn hostile_runs_are_an_error_at_worst(stored in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..10_000) {
            drop(decode(&stored, len, &|part, _| Ok(part.to_vec())));
        }
    }

    #[test]
    fn text_and_noise_are_no_floats() {
        let digits: Vec<u8> = (0..20_000u32).flat_map(|number| number.to_string().into_bytes()).collect();
        assert!(find(&digits).is_empty());
        let noise: Vec<u8> =
            (0..20_000u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        assert!(find(&noise).is_empty());
    }
}
