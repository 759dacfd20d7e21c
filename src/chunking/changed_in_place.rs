//! Whether a chunk that changed in places still ends where it did, told from the bytes about what changed.

use super::content_defined::{Cuts, Cutter, Sizes};
use std::ops::Range;

/// The hash at a byte knows this many bytes up to it: it has 64 bits, and each byte pushes one of them out.
const WINDOW: usize = 64;
const WORD: usize = 8;
/// Bytes that are compared at once; only where they differ words are looked at.
const BLOCK: usize = 256;

impl Cutter {
    /// `next` says of `now` what it said of `before`, which went on too: the length of `before`. False where only `next` can tell.
    ///
    /// Before the end no hash was one that cuts; where the bytes that a hash knows are as they were, it isn't one now.
    pub(super) fn ends_as_before(&self, cuts: Cuts, before: &[u8], now: &[u8]) -> bool {
        let Sizes { min, max, .. } = self.sizes();
        let (len, min, max) = (before.len(), min as usize, max as usize);
        // Hashes are looked at in pairs.
        let end = if len == max { max } else { len / 2 * 2 + 2 };
        if cuts != Cuts::ByContent || len <= min || end > max || end > now.len() {
            return false;
        }
        let is_quiet = |range: &Range<usize>| self.first_cut(now, range.clone()) == range.len();
        let mut changed: Option<Range<usize>> = None;
        let words = |block: usize, was: &[u8], is: &[u8]| {
            let words = was.as_chunks::<WORD>().0.iter().zip(is.as_chunks::<WORD>().0).enumerate();
            let differing = words.filter(|(_, (was, is))| was != is);
            differing.map(|(number, _)| block * BLOCK + number * WORD).collect::<Vec<_>>()
        };
        let blocks = before.chunks(BLOCK).zip(now.chunks(BLOCK)).enumerate();
        let differing = blocks.filter(|(_, (was, is))| was != is);
        for word in differing.flat_map(|(block, (was, is))| words(block, was, is)) {
            let (from, to) = (word.saturating_sub(WINDOW).max(min), word + WORD + WINDOW);
            changed = match changed {
                _ if to <= min => None,
                Some(range) if from <= range.end => Some(range.start..to),
                Some(range) if !is_quiet(&range) => return false,
                _ => Some(from..to),
            };
        }
        // The last bytes are no whole word, and the first one behind has a say too.
        let mut last = (len / 2 * 2).saturating_sub(WORD + WINDOW).max(min)..end;
        match changed {
            Some(range) if last.start <= range.end => last.start = last.start.min(range.start),
            Some(range) if !is_quiet(&range) => return false,
            _ => {}
        }
        self.first_cut(now, last.clone()) == len - last.start
    }
}
