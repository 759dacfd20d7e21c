//! Which labels were seen, in a bitmap of bounded size.

/// Labels in memory at a time (64 MiB); more take more passes.
const LABELS_AT_ONCE: u64 = 64 << 23;
/// Passes at most: labels of more than 34 billion are counted, not compared.
const MAX_PASSES: u64 = 64;

/// The labels from `start` on.
pub struct LabelWindow {
    start: u64,
    words: Vec<u64>,
}

impl LabelWindow {
    /// A window over the labels from `start`, no further than `highest`.
    pub fn new(start: u64, highest: u64) -> Self {
        let labels = highest.saturating_sub(start).saturating_add(1).min(LABELS_AT_ONCE);
        Self { start, words: vec![0; labels.div_ceil(64) as usize] }
    }

    /// Remembers a label; true if it was there already. Labels outside the window are left for other passes.
    pub fn insert(&mut self, label: u64) -> bool {
        let Some(at) = label.checked_sub(self.start) else { return false };
        let word = usize::try_from(at / 64).ok().and_then(|word| self.words.get_mut(word));
        let Some(word) = word else { return false };
        let bit = 1 << (at % 64);
        let was_there = *word & bit != 0;
        *word |= bit;
        was_there
    }

    /// The window behind this one, if `highest` lies there.
    pub fn next(&self, highest: u64) -> Option<Self> {
        let start = self.start.saturating_add(self.words.len() as u64 * 64);
        (start <= highest && start < LABELS_AT_ONCE * MAX_PASSES).then(|| Self::new(start, highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_seen_twice_in_its_own_window_only() {
        let mut first = LabelWindow::new(0, u64::MAX);
        assert!(!first.insert(0) && first.insert(0));
        assert!(!first.insert(LABELS_AT_ONCE - 1) && first.insert(LABELS_AT_ONCE - 1));
        assert!(!first.insert(LABELS_AT_ONCE) && !first.insert(LABELS_AT_ONCE));
        assert!(first.next(LABELS_AT_ONCE - 1).is_none());
        let mut second = first.next(LABELS_AT_ONCE).unwrap();
        assert!(!second.insert(0) && !second.insert(0));
        assert!(!second.insert(LABELS_AT_ONCE) && second.insert(LABELS_AT_ONCE));
        let mut small = LabelWindow::new(0, 3);
        assert!(!small.insert(500) && !small.insert(500));
    }
}
