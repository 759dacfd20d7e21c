//! Content-defined cuts by FastCDC (Xia et al., 2020), so that equal bytes get equal chunks wherever they lie; databases,
//! whose pages never move, are cut at fixed places.

use crate::id::Naming;
use fastcdc::v2020::{self, Normalization};
use std::ops::Range;
use std::sync::Arc;

/// How every SQLite database begins (<https://sqlite.org/fileformat2.html>).
const DATABASE_MAGIC: &[u8] = b"SQLite format 3\0";

/// The bounds of a chunk's length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub min: u32,
    pub average: u32,
    pub max: u32,
}

/// Where a content is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    ByContent,
    /// At multiples of this many bytes.
    Every(u32),
}

/// Numbers for each byte, which decide where cuts fall. Secret ones keep lengths of chunks from telling what they hold.
pub type Gear = [u64; 256];

/// Cuts buffers into chunks.
#[derive(Clone)]
pub struct Cutter {
    sizes: Sizes,
    /// 0: databases are cut like everything else.
    database_bytes: u32,
    naming: Naming,
    gear: Option<Arc<SecretGear>>,
    /// Which bits of a hash must be 0 where a chunk is cut: more of them below the average length than above.
    masks: (u64, u64),
}

struct SecretGear {
    gear: Gear,
    shifted: Gear,
}

impl Cutter {
    /// A cutter with these bounds, which cuts databases at multiples of `database_bytes`, if that isn't 0.
    pub fn new(sizes: Sizes, database_bytes: u32) -> Self {
        let masks = v2020::select_masks(sizes.average as usize, Normalization::Level1);
        Self { sizes, database_bytes, naming: Naming::PLAIN, gear: None, masks }
    }

    /// One that gives chunks these ids, and cuts by this gear instead of FastCDC's own.
    pub fn secret(self, naming: Naming, gear: Option<Box<Gear>>) -> Self {
        let gear =
            gear.map(|gear| Arc::new(SecretGear { gear: *gear, shifted: gear.map(|value| value << 1) }));
        Self { naming, gear, ..self }
    }

    /// How chunks get their ids.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// How a content that begins like this is cut.
    pub fn cuts_of(&self, start: &[u8]) -> Cuts {
        if self.database_bytes > 0 && start.starts_with(DATABASE_MAGIC) {
            Cuts::Every(self.database_bytes)
        } else {
            Cuts::ByContent
        }
    }

    /// How a content was cut that consists of chunks of these lengths.
    pub fn cuts_before(&self, lengths: &[u32]) -> Cuts {
        let every = self.database_bytes;
        match lengths.split_last() {
            Some((last, before))
                if every > 0 && *last <= every && before.iter().all(|length| *length == every) =>
            {
                Cuts::Every(every)
            }
            _ => Cuts::ByContent,
        }
    }

    /// The lengths of the chunks at the front of `buffer`. With `last` they cover it; without, the rest (at most the
    /// greatest chunk) waits for more bytes: pass it again in front of them, and the cuts are those of the whole.
    pub fn cut(&self, cuts: Cuts, buffer: &[u8], last: bool) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut rest = buffer;
        while let Some(length) = self.next(cuts, rest, last) {
            lengths.push(length);
            rest = rest.get(length..).unwrap_or_default();
        }
        lengths
    }

    /// The length of the first chunk of `buffer`; `None` if that takes more bytes to tell.
    pub fn next(&self, cuts: Cuts, buffer: &[u8], last: bool) -> Option<usize> {
        let (len, most) = match cuts {
            Cuts::Every(bytes) => (buffer.len().min(bytes.max(1) as usize), bytes),
            Cuts::ByContent => {
                let Sizes { min, average, max } = self.sizes;
                let window = buffer.get(..max as usize).unwrap_or(buffer);
                let (min, average, most) = (min as usize, average as usize, max as usize);
                let len = self.gear_cut(window, min, average, most);
                (len, max)
            }
        };
        // A cut at the end of the bytes is one only where they end, or can't be more.
        let is_told = last || len < buffer.len() || len >= most as usize;
        (len > 0 && is_told).then_some(len)
    }

    /// So many bytes has a chunk at most.
    pub fn longest(&self) -> usize {
        self.sizes.max as usize
    }

    /// The bounds of a chunk's length.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Where the first hash of this range cuts, counted from its beginning; its length if none does. The range begins at an even
    /// place. Hashes of its first 63 bytes lack bytes before it, unless a chunk's least length lies there.
    pub(super) fn first_cut(&self, buffer: &[u8], range: Range<usize>) -> usize {
        let average = (self.sizes.average as usize).saturating_sub(range.start);
        let part = buffer.get(range).unwrap_or_default();
        self.gear_cut(part, 0, average, part.len())
    }

    fn gear_cut(&self, bytes: &[u8], min: usize, average: usize, max: usize) -> usize {
        let (small, large) = self.masks;
        let (small_shifted, large_shifted) = (small << 1, large << 1);
        let (_, len) = match &self.gear {
            None => v2020::cut(bytes, min, average, max, small, large, small_shifted, large_shifted),
            Some(secret) => {
                let SecretGear { gear, shifted } = &**secret;
                v2020::cut_gear(
                    bytes,
                    min,
                    average,
                    max,
                    small,
                    large,
                    small_shifted,
                    large_shifted,
                    gear,
                    shifted,
                )
            }
        };
        len
    }
}

#[cfg(test)]
mod tests {
    use super::{Cuts, Cutter, Sizes};
    use proptest::prelude::{ProptestConfig, any, proptest};

    const SIZES: Sizes = Sizes { min: 64, average: 256, max: 1024 };

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| step()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_are_cut_like_the_whole(
            len in 0usize..20_000, piece in 1100usize..5000, seed in any::<u64>(), every in 0u32..1000,
        ) {
            let bytes = noise(len, seed);
            let cutter = Cutter::new(SIZES, 0);
            let cuts = if every < 100 { Cuts::ByContent } else { Cuts::Every(every) };
            let whole = cutter.cut(cuts, &bytes, true);
            assert_eq!(whole.iter().sum::<usize>(), len);
            let mut streamed = Vec::new();
            let (mut buffer, mut rest) = (Vec::new(), bytes.as_slice());
            loop {
                let take = piece.min(rest.len());
                buffer.extend_from_slice(&rest[..take]);
                rest = &rest[take..];
                let lengths = cutter.cut(cuts, &buffer, rest.is_empty());
                buffer.drain(..lengths.iter().sum::<usize>());
                streamed.extend(lengths);
                if rest.is_empty() {
                    break;
                }
            }
            assert_eq!(streamed, whole);
        }
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let mut bytes = noise(100_000, 7);
        let cutter = Cutter::new(SIZES, 0);
        let before = cutter.cut(Cuts::ByContent, &bytes, true);
        bytes.insert(50_000, 1);
        let after = cutter.cut(Cuts::ByContent, &bytes, true);
        let same_tail =
            before.iter().rev().zip(after.iter().rev()).take_while(|(left, right)| left == right).count();
        assert!(same_tail > before.len() / 3, "{same_tail} of {}", before.len());
    }

    #[test]
    fn databases_are_cut_at_fixed_places() {
        let cutter = Cutter::new(SIZES, 512);
        let mut database = b"SQLite format 3\0".to_vec();
        database.extend(noise(2000, 3));
        let cuts = cutter.cuts_of(&database);
        assert_eq!(cuts, Cuts::Every(512));
        let lengths = cutter.cut(cuts, &database, true);
        assert_eq!(lengths, [512, 512, 512, 480]);
        let lengths: Vec<u32> = lengths.iter().map(|length| *length as u32).collect();
        assert_eq!(cutter.cuts_before(&lengths), cuts);
        assert_eq!(cutter.cuts_before(&[512, 480, 512]), Cuts::ByContent);
        assert_eq!(cutter.cuts_before(&[]), Cuts::ByContent);
        assert_eq!(Cutter::new(SIZES, 0).cuts_of(&database), Cuts::ByContent);
    }
}
