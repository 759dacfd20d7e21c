//! Where bytes differ from others.

use std::ops::Range;

/// Bytes that are compared at once; only where they differ words are looked at.
const BLOCK: usize = 256;

/// A word's bytes.
pub const WORD: usize = 8;

/// The words, counted from the beginning, in which the two differ, in order. The last may be shorter; what only one of them has isn't
/// looked at.
pub fn differing_words<'b>(one: &'b [u8], other: &'b [u8]) -> impl Iterator<Item = Range<usize>> + 'b {
    let len = one.len().min(other.len());
    let [one, other] = [one, other].map(|bytes| bytes.get(..len).unwrap_or_default());
    let blocks = one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate();
    blocks.filter(|(_, (one, other))| one != other).flat_map(|(block, (one, other))| {
        // Words of a known length are compared as numbers.
        let ((one, last), (other, last_of_other)) = (one.as_chunks::<WORD>(), other.as_chunks::<WORD>());
        let whole = one.iter().zip(other).map(|(one, other)| (one != other, WORD));
        let words = whole.chain([(last != last_of_other, last.len())]).enumerate();
        words.filter(|(_, (differ, _))| *differ).map(move |(word, (_, len))| {
            let start = block * BLOCK + word * WORD;
            start..start + len
        })
    })
}

/// Puts ranges, which are in order, together where at most `gap` bytes lie between them; `None` if that makes more than `most` bytes.
pub fn runs_of(
    ranges: impl Iterator<Item = Range<usize>>,
    gap: usize,
    most: usize,
) -> Option<Vec<Range<usize>>> {
    let (mut runs, mut total): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
    for range in ranges {
        match runs.last_mut() {
            Some(run) if range.start <= run.end + gap => {
                total += range.end - run.end;
                run.end = range.end;
            }
            _ => {
                total += range.len();
                runs.push(range);
            }
        }
        if total > most {
            return None;
        }
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::{WORD, differing_words, runs_of};
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn each_byte_that_differs_is_in_a_word(
            one in prop::collection::vec(any::<u8>(), 0..1200), longer in 0usize..300,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..9),
        ) {
            let mut other = one.clone();
            for (at, by) in changes.iter().filter(|_| !one.is_empty()) {
                other[at.index(one.len())] ^= by;
            }
            let differing: Vec<usize> = (0..one.len()).filter(|at| one[*at] != other[*at]).collect();
            let mut words: Vec<usize> = differing.iter().map(|at| at / WORD * WORD).collect();
            words.dedup();
            other.resize(one.len() + longer, 7);
            let found: Vec<_> = differing_words(&one, &other).collect();
            assert_eq!(found.iter().map(|word| word.start).collect::<Vec<_>>(), words);
            assert!(found.iter().all(|word| word.end == (word.start + WORD).min(one.len())));
            assert_eq!(differing_words(&other, &one).collect::<Vec<_>>(), found);
        }

        #[test]
        fn ranges_that_lie_near_are_one_run(
            steps in prop::collection::vec((0usize..12, 1usize..9), 0..20), gap in 0usize..12,
        ) {
            let mut end = 0;
            let mut next = |(step, len): &(usize, usize)| {
                let start = end + step;
                end = start + len;
                start..end
            };
            let ranges: Vec<_> = steps.iter().map(&mut next).collect();
            let is_apart = |at: &usize| *at == 0 || ranges[*at].start - ranges[at - 1].end > gap;
            let firsts: Vec<usize> = (0..ranges.len()).filter(is_apart).collect();
            let behind = firsts.iter().skip(1).copied().chain([ranges.len()]);
            let runs: Vec<_> =
                firsts.iter().zip(behind).map(|(first, behind)| ranges[*first].start..ranges[behind - 1].end).collect();
            let total: usize = runs.iter().map(|run| run.len()).sum();
            assert_eq!(runs_of(ranges.iter().cloned(), gap, total), Some(runs));
            assert!(total == 0 || runs_of(ranges.iter().cloned(), gap, total - 1).is_none());
        }
    }
}
