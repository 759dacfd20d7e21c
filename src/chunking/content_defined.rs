//! Content-defined cuts by FastCDC (Xia et al., 2020), so that equal bytes get equal chunks wherever they lie.

use fastcdc::v2020::FastCDC;

/// The bounds of a chunk's length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub min: u32,
    pub average: u32,
    pub max: u32,
}

/// Cuts buffers into chunks.
#[derive(Debug, Clone, Copy)]
pub struct Cutter {
    sizes: Sizes,
}

impl Cutter {
    /// A cutter with these bounds.
    pub fn new(sizes: Sizes) -> Self {
        Self { sizes }
    }

    /// The lengths of the chunks at the front of `buffer`. With `last` they cover it; without, the rest (less than the
    /// greatest chunk) waits for more bytes: pass it again in front of them, and the cuts are those of the whole.
    pub fn cut(&self, buffer: &[u8], last: bool) -> Vec<usize> {
        let Sizes { min, average, max } = self.sizes;
        let mut lengths = Vec::with_capacity(buffer.len() / average as usize + 1);
        let mut rest = buffer;
        while !rest.is_empty() && (last || rest.len() >= max as usize) {
            let window = rest.get(..max as usize).unwrap_or(rest);
            let length = FastCDC::new(window, min as usize, average as usize, max as usize)
                .next()
                .map_or(window.len(), |chunk| chunk.length);
            lengths.push(length);
            rest = rest.get(length..).unwrap_or_default();
        }
        lengths
    }
}

#[cfg(test)]
mod tests {
    use super::{Cutter, Sizes};
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
        fn pieces_are_cut_like_the_whole(len in 0usize..20_000, piece in 1100usize..5000, seed in any::<u64>()) {
            let bytes = noise(len, seed);
            let cutter = Cutter::new(SIZES);
            let whole = cutter.cut(&bytes, true);
            assert_eq!(whole.iter().sum::<usize>(), len);
            let mut streamed = Vec::new();
            let (mut buffer, mut rest) = (Vec::new(), bytes.as_slice());
            loop {
                let take = piece.min(rest.len());
                buffer.extend_from_slice(&rest[..take]);
                rest = &rest[take..];
                let lengths = cutter.cut(&buffer, rest.is_empty());
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
        let cutter = Cutter::new(SIZES);
        let before = cutter.cut(&bytes, true);
        bytes.insert(50_000, 1);
        let after = cutter.cut(&bytes, true);
        let same_tail =
            before.iter().rev().zip(after.iter().rev()).take_while(|(left, right)| left == right).count();
        assert!(same_tail > before.len() / 3, "{same_tail} of {}", before.len());
    }
}
