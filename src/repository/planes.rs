//! Numbers of four bytes, taken apart: the bytes at places equal modulo four form four planes, of which those that say
//! little (signs and exponents of floats, the upper bytes of small integers) compress well, and the others not at all.
//!
//! Stored: the length of each plane as stored (4 × u32), then the planes. A plane as long as its bytes is raw, a shorter one
//! is a zstd frame.

use super::parts::{Compress, Decompress, shortest, whole};
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::LazyLock;

/// How many planes there are.
const PLANES: usize = 4;
/// Words that are taken apart or put together at once.
const GROUP: usize = 16;
const HEAD_BYTES: usize = 4 * PLANES;
/// A plane is said to compress below this many bits per byte: in a short sample even noise seems to have less than eight.
const WORTH_BITS: f32 = 7.4;
thread_local! {
    /// A chunk's planes, until they are stored.
    static APART: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How many bytes of plane `number` there are in `len` bytes.
fn plane_len(len: usize, number: usize) -> usize {
    (len + PLANES - 1).saturating_sub(number) / PLANES
}

/// What a sample tells about each plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// About how many bytes the sample would take.
    pub bytes: usize,
    /// Which planes are worth compressing.
    pub worth: [bool; PLANES],
}

impl Estimate {
    /// Noise in most planes, and something in another: zstd, which looks for what comes again, would find nothing.
    pub fn are_floats(&self) -> bool {
        let worth = self.worth.iter().filter(|worth| **worth).count();
        (1..=PLANES / 2).contains(&worth)
    }
}

/// What a byte that comes so often takes from the entropy.
fn weight(count: usize) -> f32 {
    if count == 0 { 0.0 } else { count as f32 * (count as f32).log2() }
}

/// Logarithms would cost more than the rest.
static WEIGHTS: LazyLock<Vec<f32>> = LazyLock::new(|| (0..=1024).map(weight).collect());

/// Judges a sample by the entropy of each plane.
pub fn estimate(sample: &[u8]) -> Estimate {
    // Words in turn: where a byte comes again at once, the second count would wait for the first.
    let mut counts = [[[0u32; 256]; PLANES]; 2];
    for quads in sample.as_chunks::<PLANES>().0.chunks(counts.len()) {
        for (counts, quad) in counts.iter_mut().zip(quads) {
            for (count, byte) in counts.iter_mut().zip(quad) {
                if let Some(count) = count.get_mut(usize::from(*byte)) {
                    *count += 1;
                }
            }
        }
    }
    let total = (sample.len() / PLANES).max(1);
    let weight = |count: usize| WEIGHTS.get(count).copied().unwrap_or_else(|| weight(count));
    // Side by side: one sum alone waits for each of its additions.
    let mut sums = [0f32; PLANES];
    let [[a, b, c, d], [e, f, g, h]] = &counts;
    let pairs = a.iter().zip(e).zip(b.iter().zip(f)).zip(c.iter().zip(g)).zip(d.iter().zip(h));
    for (((a, b), c), d) in pairs {
        for (sum, (one, other)) in sums.iter_mut().zip([a, b, c, d]) {
            *sum += weight((one + other) as usize);
        }
    }
    let entropies = sums.map(|sum| (total as f32).log2() - sum / total as f32);
    let worth = entropies.map(|entropy| entropy < WORTH_BITS);
    let bits = entropies.iter().zip(worth).map(|(entropy, worth)| if worth { entropy + 0.2 } else { 8.0 });
    let bytes = HEAD_BYTES + (sample.len() as f32 * bits.sum::<f32>() / (8.0 * PLANES as f32)) as usize;
    Estimate { bytes, worth }
}

/// Takes bytes apart into their planes, which lie one behind another in `planes`.
fn split(plain: &[u8], planes: &mut [u8]) {
    let len = |number| plane_len(plain.len(), number);
    let (a, rest) = planes.split_at_mut(len(0));
    let (b, rest) = rest.split_at_mut(len(1));
    let (c, d) = rest.split_at_mut(len(2));
    let (quads, last) = plain.as_chunks::<PLANES>();
    let (groups, few) = quads.as_chunks::<GROUP>();
    let mut done = 0;
    // A fixed number of words at a time, so that the compiler takes them all at once.
    for ((((group, a), b), c), d) in groups
        .iter()
        .zip(a.as_chunks_mut::<GROUP>().0)
        .zip(b.as_chunks_mut::<GROUP>().0)
        .zip(c.as_chunks_mut::<GROUP>().0)
        .zip(d.as_chunks_mut::<GROUP>().0)
    {
        let words = group.map(u32::from_le_bytes);
        *a = words.map(|word| word as u8);
        *b = words.map(|word| (word >> 8) as u8);
        *c = words.map(|word| (word >> 16) as u8);
        *d = words.map(|word| (word >> 24) as u8);
        done += GROUP;
    }
    let left = few.iter().map(|quad| quad.as_slice()).chain([last]);
    for (number, quad) in (done..).zip(left) {
        for (byte, plane) in quad.iter().zip([&mut *a, &mut *b, &mut *c, &mut *d]) {
            if let Some(place) = plane.get_mut(number) {
                *place = *byte;
            }
        }
    }
}

/// Encodes by planes, those compressed that are `worth` it; `None` if they are too long for that.
pub fn encode(plain: &[u8], worth: [bool; PLANES], compress: Compress<'_>) -> Option<Vec<u8>> {
    APART.with_borrow_mut(|planes| {
        planes.resize(plain.len(), 0);
        split(plain, planes);
        store(planes, worth, compress)
    })
}

/// Stores planes that lie one behind another.
fn store(planes: &[u8], worth: [bool; PLANES], compress: Compress<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + planes.len());
    bytes.resize(HEAD_BYTES, 0);
    let mut rest = planes;
    for (number, worth) in (0..PLANES).zip(worth) {
        let (plane, after) = rest.split_at_checked(plane_len(planes.len(), number))?;
        let stored = shortest(plane, if worth { compress(plane) } else { None });
        bytes.extend_from_slice(&stored);
        let len = u32::try_from(stored.len()).ok()?;
        bytes.get_mut(4 * number..4 * number + 4)?.copy_from_slice(&len.to_le_bytes());
        rest = after;
    }
    Some(bytes)
}

/// Puts the planes together again: `len` bytes.
pub fn decode(stored: &[u8], len: usize, decompress: Decompress<'_>) -> Result<Vec<u8>, String> {
    let short = || "planes: cut short".to_owned();
    let (head, mut rest) = stored.split_at_checked(HEAD_BYTES).ok_or_else(short)?;
    let mut planes: [Cow<'_, [u8]>; PLANES] = Default::default();
    for (number, (plane, part_len)) in planes.iter_mut().zip(head.chunks_exact(4)).enumerate() {
        let part_len = part_len.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
        let (part, after) = rest.split_at_checked(part_len).ok_or_else(short)?;
        let wanted = plane_len(len, number);
        *plane = whole(part, wanted, decompress)?;
        if plane.len() != wanted {
            return Err(format!("planes: one of {} bytes instead of {wanted}", plane.len()));
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err("planes: bytes behind the last".to_owned());
    }
    Ok(join(&planes, len))
}

fn join(planes: &[Cow<'_, [u8]>; PLANES], len: usize) -> Vec<u8> {
    let [a, b, c, d] = planes;
    let words = a.iter().zip(b.iter()).zip(c.iter()).zip(d.iter());
    // With room for the bytes behind the last word.
    let mut quads: Vec<[u8; PLANES]> = Vec::with_capacity(len / PLANES + 1);
    quads.extend(words.map(|(((a, b), c), d)| [*a, *b, *c, *d]));
    let mut plain = quads.into_flattened();
    plain.extend(planes.iter().take(len % PLANES).filter_map(|plane| plane.last()));
    plain
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn planes_read_back(plain in prop::collection::vec(any::<u8>(), 0..300), shortens in any::<[bool; 4]>()) {
            let turn = std::cell::Cell::new(0);
            // Not a compression, but it tells that parts and lengths find each other.
            let cut = |plane: &[u8]| {
                turn.set(turn.get() + 1);
                shortens[turn.get() - 1].then(|| plane[..plane.len() / 2].to_vec())
            };
            let stored = encode(&plain, [true; 4], &cut).unwrap();
            let planes: Vec<Vec<u8>> = (0..4).map(|plane| plain.iter().skip(plane).step_by(4).copied().collect()).collect();
            let find = |part: &[u8], len: usize| {
                let found = planes.iter().find(|plane| plane.len() == len && plane[..len / 2] == *part);
                found.cloned().ok_or_else(|| "no such plane".to_owned())
            };
            let again = decode(&stored, plain.len(), &find).unwrap();
            let alike = |one: usize, other: usize| one != other && planes[one][..planes[one].len() / 2] == planes[other][..planes[other].len() / 2];
            let is_clear = (0..4).all(|one| (0..4).all(|other| !alike(one, other)));
            assert!(!is_clear || again == plain);
        }

        #[test]
        fn hostile_planes_are_an_error_at_worst(stored in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..10_000) {
            drop(decode(&stored, len, &|part, _| Ok(part.to_vec())));
        }
    }
}
