//! Compares sets without keeping them: sums of hashes, which don't depend on the order.

use crate::id::Id;

/// 128 bits of a hash of `bytes`.
pub fn fingerprint(bytes: &[u8]) -> u128 {
    Id::of(bytes).as_bytes().first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

/// A set as the wrapping sum of its elements' hashes. Sets with equal sums and counts are equal, but for a chance of
/// about 2⁻¹²⁸; every element must be added once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetSum {
    pub count: u64,
    sum: u128,
}

impl SetSum {
    pub fn add(&mut self, element: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(fingerprint(element));
    }

    /// Takes an element out that was added.
    pub fn remove(&mut self, element: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(fingerprint(element));
    }
}

/// A Bloom filter of fixed size: tells most elements that are not in a set without asking the database.
pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// 2²⁴ bits (2 MiB): one false hit in a hundred at about a million elements.
    const BITS: u64 = 1 << 24;

    pub fn new() -> Self {
        Self { words: vec![0; (Self::BITS / 64) as usize] }
    }

    fn places(hash: u128) -> [u64; 3] {
        [hash as u64, (hash >> 40) as u64, (hash >> 80) as u64].map(|part| part % Self::BITS)
    }

    pub fn insert(&mut self, hash: u128) {
        for place in Self::places(hash) {
            if let Some(word) = self.words.get_mut((place / 64) as usize) {
                *word |= 1 << (place % 64);
            }
        }
    }

    /// False: `hash` was not inserted.
    pub fn may_hold(&self, hash: u128) -> bool {
        Self::places(hash).into_iter().all(|place| {
            self.words.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
        })
    }
}
