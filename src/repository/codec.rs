//! From a chunk's bytes to its stored bytes and back.

use super::{float_runs, patch, planes};
use crate::format::{Encoding, Method};
use std::borrow::Cow;
use std::cell::RefCell;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch};

/// Fast and close to the best ratio for database pages; higher levels cost twice the time for a percent.
const ZSTD_LEVEL: i32 = 1;
/// A level at which zstd looks for repetitions so rarely that it finds none.
const NO_SEARCH: i32 = -1000;
/// zstd's smallest table of positions, and one for short input: 2^6 and 2^11 entries.
const LEAST_TABLE: u32 = 6;
const SMALL_TABLE: u32 = 11;
/// A longer chunk is judged by this much of its middle first.
const PROBE_BYTES: usize = 4096;
/// Planes that save a fifth of a whole chunk are better than those of runs in it.
const STRONG: (usize, usize) = (4, 5);
/// Compression is kept where it saves at least this part (1/32, about 3 %).
const WORTH: usize = 32;
thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static ENTROPY_CODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static LITTLE_CODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Encodes a chunk by itself: what saves clearly and reads back, else raw.
pub fn encode(plain: &[u8]) -> (Encoding, Vec<u8>) {
    let checked = |encoding: Encoding, stored: Option<Vec<u8>>| {
        let stored = stored.filter(|stored| is_worth(stored.len(), plain.len()))?;
        reads_back(encoding, &stored, plain).then_some((encoding, stored))
    };
    let by_planes = |worth| checked(Encoding::PLANES, planes::encode(plain, worth, &code_entropy));
    let by_zstd = || checked(Encoding::ZSTD, compress(plain));
    // The sample's planes are the chunk's only if it begins at a multiple of four.
    let from = (plain.len() / 2).saturating_sub(PROBE_BYTES / 2) / 4 * 4;
    let encoded = match plain.get(from..).and_then(|rest| rest.get(..PROBE_BYTES)) {
        None => by_zstd(),
        Some(probe) => {
            let planes = planes::estimate(probe);
            let are_worth = is_worth(planes.bytes, probe.len());
            if planes.are_floats() && are_worth {
                by_planes(planes.worth).or_else(by_zstd)
            } else if planes.bytes * STRONG.1 > probe.len() * STRONG.0
                && let Some(stored) = float_runs::encode(plain, &code_entropy, &compress)
            {
                checked(Encoding::RUNS, Some(stored)).or_else(by_zstd)
            } else if are_worth || compress(probe).is_some_and(|stored| is_worth(stored.len(), probe.len())) {
                let zstd = compress(plain);
                let len = zstd.as_ref().map_or(plain.len(), Vec::len);
                // What the sample's planes would take of the whole.
                let are_shorter = are_worth && planes.bytes * plain.len() < len * probe.len();
                let by_planes = if are_shorter { by_planes(planes.worth) } else { None };
                by_planes.or_else(|| checked(Encoding::ZSTD, zstd))
            } else {
                None
            }
        }
    };
    encoded.unwrap_or_else(|| (Encoding::RAW, plain.to_vec()))
}

fn reads_back(encoding: Encoding, stored: &[u8], plain: &[u8]) -> bool {
    decode(encoding, stored.into(), plain.len() as u32).is_ok_and(|again| again == plain)
}

fn is_worth(stored: usize, plain: usize) -> bool {
    stored + plain / WORTH < plain
}

fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        slot.as_mut()?.compress(plain).ok()
    })
}

/// Huffman codes in a zstd frame, without a search for repetitions: the planes of floats have none, and this is four times as
/// fast, and even a little shorter.
fn code_entropy(plain: &[u8]) -> Option<Vec<u8>> {
    let literals = CParameter::LiteralCompressionMode(ParamSwitch::Enable);
    let parameters = [CParameter::CompressionLevel(NO_SEARCH), CParameter::HashLog(LEAST_TABLE), literals];
    ENTROPY_CODER.with_borrow_mut(|slot| compress_by(slot, &parameters, plain, plain.len()))
}

/// Compresses few bytes, if they get shorter: a small table of positions is cleared sooner.
fn compress_little(plain: &[u8]) -> Option<Vec<u8>> {
    let parameters = [CParameter::CompressionLevel(ZSTD_LEVEL), CParameter::HashLog(SMALL_TABLE)];
    LITTLE_CODER.with_borrow_mut(|slot| compress_by(slot, &parameters, plain, plain.len()))
}

/// Compresses by a context that is made with these parameters when it is first needed.
fn compress_by(
    slot: &mut Option<CCtx<'static>>,
    parameters: &[CParameter],
    plain: &[u8],
    most: usize,
) -> Option<Vec<u8>> {
    if slot.is_none() {
        let mut context = CCtx::try_create()?;
        parameters.iter().try_for_each(|parameter| context.set_parameter(*parameter).map(drop)).ok()?;
        *slot = Some(context);
    }
    let mut stored = Vec::with_capacity(most);
    slot.as_mut()?.compress2(&mut stored, plain).ok()?;
    Some(stored)
}

/// Encodes chunks as differences. One serves for many: starting one costs as much as encoding a few chunks.
pub struct DeltaEncoder<'b> {
    context: CCtx<'b>,
}

impl<'b> DeltaEncoder<'b> {
    /// An encoder for chunks and bases whose bytes together are at most these.
    pub fn new(longest: usize) -> Option<Self> {
        let mut context = CCtx::try_create()?;
        // By themselves the parameters for small inputs overlook most matches in a prefix: the table of positions has to be as
        // large as what it is about.
        let bits = usize::BITS - longest.max(1 << 15).next_power_of_two().leading_zeros() - 1;
        let parameters = [
            CParameter::CompressionLevel(ZSTD_LEVEL),
            CParameter::WindowLog(bits.max(17)),
            CParameter::HashLog(bits.clamp(15, 20)),
            CParameter::ContentSizeFlag(false),
        ];
        parameters.into_iter().all(|parameter| context.set_parameter(parameter).is_ok()).then_some(())?;
        Some(Self { context })
    }

    /// The chunk as a difference to `base`, if that takes at most `most` bytes and reads back.
    pub fn encode(&mut self, plain: &[u8], base: &'b [u8], most: usize) -> Option<Vec<u8>> {
        self.context.ref_prefix(base).ok()?;
        let mut stored = Vec::with_capacity(most);
        self.context.compress2(&mut stored, plain).ok()?;
        // A base that begins like a dictionary of zstd's would be taken for one.
        let reads_back = decode_difference(Method::Delta, &stored, base, plain.len() as u32);
        reads_back.is_ok_and(|again| again == plain).then_some(stored)
    }
}

/// Decodes stored bytes to exactly `plain_len` bytes; otherwise says what is wrong.
pub fn decode(encoding: Encoding, stored: Cow<'_, [u8]>, plain_len: u32) -> Result<Cow<'_, [u8]>, String> {
    let plain = match encoding.method {
        Method::Raw => stored,
        Method::Zstd => decompress(&stored, &[], plain_len as usize)?.into(),
        Method::Planes => planes::decode(&stored, plain_len as usize, &decompress_part)?.into(),
        Method::Runs => float_runs::decode(&stored, plain_len as usize, &decompress_part)?.into(),
        Method::Delta | Method::Xor | Method::Patch => return Err("a difference without its bases".into()),
    };
    exactly(plain, plain_len)
}

/// Decodes a difference to its bases' bytes.
pub fn decode_difference(
    method: Method,
    stored: &[u8],
    base: &[u8],
    plain_len: u32,
) -> Result<Vec<u8>, String> {
    let plain = match method {
        Method::Patch => patch::decode(stored, base, plain_len as usize, &decompress_part)?,
        Method::Xor => {
            let mut plain = decompress(stored, &[], plain_len as usize)?;
            plain.iter_mut().zip(base).for_each(|(byte, base)| *byte ^= base);
            plain
        }
        _ => decompress(stored, base, plain_len as usize)?,
    };
    exactly(plain.into(), plain_len).map(Cow::into_owned)
}

/// A chunk in which little differs from a base of the same length, byte for byte: several times cheaper than looking for what
/// is equal.
pub fn encode_patch(plain: &[u8], base: &[u8], most: usize) -> Option<Vec<u8>> {
    patch::encode(plain, base, most, &compress_little, &decompress_part)
}

fn exactly(plain: Cow<'_, [u8]>, plain_len: u32) -> Result<Cow<'_, [u8]>, String> {
    if plain.len() == plain_len as usize {
        Ok(plain)
    } else {
        Err(format!("decodes to {} bytes instead of {plain_len}", plain.len()))
    }
}

fn decompress_part(part: &[u8], len: usize) -> Result<Vec<u8>, String> {
    decompress(part, &[], len)
}

fn decompress(stored: &[u8], base: &[u8], capacity: usize) -> Result<Vec<u8>, String> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot.as_mut().ok_or("zstd could not start")?;
        let mut plain = Vec::with_capacity(capacity);
        let done = context.decompress_using_dict(&mut plain, stored, base);
        let name = |code| format!("zstd: {}", zstd::zstd_safe::get_error_name(code));
        done.map(|_| plain).map_err(name)
    })
}

#[cfg(test)]
mod tests {
    use super::{DeltaEncoder, decode, decode_difference, encode, encode_patch};
    use crate::format::{Encoding, Method};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    fn floats(count: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count).flat_map(|_| (next() * 0.1).to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn every_chunk_reads_back(plain in prop::collection::vec(any::<u8>(), 0..9000), repeat in 1usize..20) {
            let plain = plain.repeat(repeat);
            let (encoding, stored) = encode(&plain);
            assert!(stored.len() <= plain.len());
            assert_eq!(decode(encoding, stored.as_slice().into(), plain.len() as u32).unwrap(), plain);
        }

        #[test]
        fn floats_read_back(count in 1usize..20_000, cut in 0usize..8, end in 0usize..8) {
            let all = floats(count + 4);
            let plain = &all[cut..all.len() - end];
            let (encoding, stored) = encode(plain);
            assert_eq!(decode(encoding, stored.as_slice().into(), plain.len() as u32).unwrap(), plain);
            assert!(plain.len() < 8192 || encoding.method == Method::Planes, "{encoding:?}");
            assert!(plain.len() < 8192 || stored.len() * 6 < plain.len() * 5, "{} of {}", stored.len(), plain.len());
        }

        #[test]
        fn hostile_bytes_are_an_error_at_worst(
            stored in prop::collection::vec(any::<u8>(), 0..300), len in 0u32..70_000,
            base in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            drop(decode(Encoding::ZSTD, stored.as_slice().into(), len));
            drop(decode(Encoding::PLANES, stored.as_slice().into(), len));
            drop(decode(Encoding::RUNS, stored.as_slice().into(), len));
            drop(decode_difference(Method::Delta, &stored, &base, len));
            drop(decode_difference(Method::Xor, &stored, &base, len));
            drop(decode_difference(Method::Patch, &stored, &base, len));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Few changes in much that doesn't compress cost few bytes, also where bytes were put in or taken out.
        #[test]
        fn deltas_read_back_and_are_small(
            seed in any::<u64>(), len in 4000usize..200_000, dictionary in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..12),
        ) {
            let mut state = seed | 1;
            let mut next = || { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); (state >> 56) as u8 };
            let mut base: Vec<u8> = (0..len).map(|_| next()).collect();
            if dictionary {
                base[..4].copy_from_slice(&[0x37, 0xA4, 0x30, 0xEC]);
            }
            let mut plain = base.clone();
            for (at, byte, kind) in &changes {
                let at = at.index(plain.len());
                match kind {
                    0 => plain[at] = *byte,
                    1 => plain.insert(at, *byte),
                    _ => drop(plain.remove(at)),
                }
            }
            let mut encoder = DeltaEncoder::new(base.len() + plain.len()).unwrap();
            match encoder.encode(&plain, &base, plain.len()) {
                None => assert!(dictionary),
                Some(stored) => {
                    let again = decode_difference(Method::Delta, &stored, &base, plain.len() as u32);
                    assert_eq!(again.unwrap(), plain);
                    assert!(stored.len() < 100 + 40 * changes.len(), "{} for {}", stored.len(), changes.len());
                }
            }
        }
    }

    #[test]
    fn vectors_in_rows_go_by_planes_of_their_own() {
        let mut plain = Vec::new();
        for (number, vector) in floats(384 * 20).chunks(384 * 4).enumerate() {
            // Digits look like the upper bytes of floats, and are the same in each row.
            plain.extend_from_slice(format!("row {number} of a table, at 20261126101010").as_bytes());
            plain.extend_from_slice(vector);
            plain.extend_from_slice(&b"and the text to which it belongs. ".repeat(15));
        }
        let (encoding, stored) = encode(&plain);
        assert_eq!(encoding, Encoding::RUNS);
        assert_eq!(decode(encoding, stored.as_slice().into(), plain.len() as u32).unwrap(), plain);
        let by_zstd = super::compress(&plain).unwrap().len();
        assert!(stored.len() * 100 < by_zstd * 92, "{} against {by_zstd}", stored.len());
        // A row that was written again and again is better told by zstd.
        let again = plain[..3000].repeat(8);
        assert_eq!(encode(&again).0, Encoding::ZSTD);
    }

    #[test]
    fn small_numbers_go_by_planes_and_rows_of_them_by_zstd() {
        let noise = floats(4096);
        let numbers: Vec<u8> = noise.iter().flat_map(|byte| u32::from(*byte).to_le_bytes()).collect();
        let (encoding, stored) = encode(&numbers);
        assert_eq!(encoding, Encoding::PLANES);
        assert!(stored.len() * 100 < numbers.len() * 28, "{} of {}", stored.len(), numbers.len());
        assert_eq!(decode(encoding, stored.as_slice().into(), numbers.len() as u32).unwrap(), numbers);
        let rows = numbers[..2048].repeat(32);
        assert_eq!(encode(&rows).0, Encoding::ZSTD);
    }

    /// As earlier builds wrote it.
    #[test]
    fn what_was_xored_reads_back() {
        let (base, plain) = (floats(500), floats(501)[4..].to_vec());
        let mixed: Vec<u8> = plain.iter().zip(&base).map(|(byte, base)| byte ^ base).collect();
        let stored = super::compress(&mixed).unwrap();
        assert_eq!(decode_difference(Method::Xor, &stored, &base, plain.len() as u32).unwrap(), plain);
    }

    #[test]
    fn few_changes_in_place_are_a_patch() {
        let base = floats(20_000);
        let mut plain = base.clone();
        (0..40).for_each(|number| plain[number * 1900] ^= 0x5a);
        let stored = encode_patch(&plain, &base, 2000).unwrap();
        assert!(stored.len() < 400, "{}", stored.len());
        assert_eq!(decode_difference(Method::Patch, &stored, &base, plain.len() as u32).unwrap(), plain);
        assert!(encode_patch(&plain, &base, 20).is_none(), "longer than wanted");
        assert!(encode_patch(&plain[1..], &base, 2000).is_none(), "another length");
        assert!(encode_patch(&plain[4..], &base[..base.len() - 4], 80_000).is_none(), "moved");
    }

    #[test]
    fn a_length_that_lies_is_noticed() {
        let plain = vec![7u8; 5000];
        let (encoding, stored) = encode(&plain);
        assert_eq!(encoding, Encoding::ZSTD);
        assert!(decode(encoding, stored.as_slice().into(), 4999).is_err());
        assert!(decode(encoding, stored.as_slice().into(), 5001).is_err());
    }
}
