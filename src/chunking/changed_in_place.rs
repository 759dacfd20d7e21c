//! Whether a chunk that changed in places still ends where it did, told from the bytes about what changed.

use super::content_defined::{Cuts, Cutter, Sizes};
use crate::differing::{WORD, differing_words};
use std::ops::Range;

/// The hash at a byte knows this many bytes up to it: it has 64 bits, and each byte pushes one of them out.
const WINDOW: usize = 64;

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
        for word in differing_words(before, now).filter(|word| word.len() == WORD) {
            let (from, to) = (word.start.saturating_sub(WINDOW).max(min), word.end + WINDOW);
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
