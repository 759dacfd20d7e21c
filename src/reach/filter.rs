//! A set of chunks that may say yes to one that is not in it, never no to one that is (Bloom 1970).

/// Bits a chunk in the filter of what is reached: 3 of 1,000 others are taken for reached.
pub const REACHED_BITS: u64 = 12;
/// Bits a chunk in the filter of what was seen before: 2 of 100 are looked up in vain.
pub const SEEN_BITS: u64 = 8;
/// 64 KiB at least: up to ten thousand chunks practically nothing is taken for a member that isn't one.
const LEAST_WORDS: u64 = 8 << 10;

/// The filter. Ids are hashes already, so that their first bytes serve as they are.
pub struct Filter {
    words: Vec<u64>,
    probes: u32,
    /// Another one takes others for members: what one prune keeps in vain, the next one finds.
    seed: u64,
}

impl Filter {
    /// What is reached, of so many chunks.
    pub fn of_reached(chunks: u64, seed: u64) -> Self {
        Self::new(chunks, REACHED_BITS, 8, seed)
    }

    /// What was seen before, of so many chunks.
    pub fn of_seen(chunks: u64, seed: u64) -> Self {
        Self::new(chunks, SEEN_BITS, 5, seed)
    }

    fn new(chunks: u64, bits: u64, probes: u32, seed: u64) -> Self {
        let words = (chunks.saturating_mul(bits) / 64).max(LEAST_WORDS) as usize;
        Self { words: vec![0; words], probes, seed }
    }

    /// Adds a chunk by how its id begins; whether it may have been there.
    pub fn insert(&mut self, prefix: u64) -> bool {
        let mut was_there = true;
        for probe in 0..self.probes {
            let (word, bit) = self.place(prefix, probe);
            if let Some(word) = self.words.get_mut(word) {
                was_there &= *word & bit != 0;
                *word |= bit;
            }
        }
        was_there
    }

    /// It may be there.
    pub fn has(&self, prefix: u64) -> bool {
        let mut places = (0..self.probes).map(|probe| self.place(prefix, probe));
        places.all(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    /// Two hashes are as good as many (Kirsch and Mitzenmacher 2006).
    fn place(&self, prefix: u64, probe: u32) -> (usize, u64) {
        let one = mixed(prefix ^ self.seed);
        let other = mixed(one) | 1;
        let hash = one.wrapping_add(other.wrapping_mul(u64::from(probe)));
        let word = (u128::from(hash) * self.words.len() as u128) >> 64;
        (word as usize, 1 << (mixed(hash) & 63))
    }
}

/// The finalizer of splitmix64 (Steele and others 2014).
fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::Filter;

    /// What a small repository can free is freed by its first prune, whatever the seed.
    #[test]
    fn few_chunks_are_told_apart_by_every_seed() {
        let number = |index: u64| index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for seed in 0..2_000 {
            let mut filter = Filter::of_reached(90, number(seed));
            for index in 0..45 {
                filter.insert(number(index));
            }
            assert!((45..90).all(|index| !filter.has(number(index))), "seed {seed}");
        }
    }

    #[test]
    fn members_are_always_found_and_others_seldom() {
        let number = |index: u64| index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for (mut filter, most) in [(Filter::of_reached(50_000, 7), 300), (Filter::of_seen(50_000, 7), 2_000)]
        {
            for index in 0..50_000 {
                filter.insert(number(index));
            }
            assert!((0..50_000).all(|index| filter.has(number(index))));
            let wrong = (50_000..100_000).filter(|index| filter.has(number(*index))).count();
            assert!(wrong < most, "{wrong} of 50,000");
        }
    }
}
