//! From a chunk's bytes to its stored bytes and back.

use crate::format::{Encoding, Method};
use std::cell::RefCell;

/// Fast and close to the best ratio for database pages; higher levels cost twice the time for a percent.
const ZSTD_LEVEL: i32 = 1;
/// A longer chunk is judged by compressing this much of its middle first.
const PROBE_BYTES: usize = 4096;
/// Compression is kept where it saves at least this part (1/32, about 3 %).
const WORTH: usize = 32;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Encodes a chunk: zstd where that clearly saves bytes, raw otherwise.
pub fn encode(plain: &[u8]) -> (Encoding, Vec<u8>) {
    let middle = plain.len() / 2;
    let probe = plain.get(middle.saturating_sub(PROBE_BYTES / 2)..).and_then(|rest| rest.get(..PROBE_BYTES));
    let hopeless = probe.is_some_and(|probe| compress(probe).is_none());
    match if hopeless { None } else { compress(plain) } {
        Some(stored) => (Encoding::ZSTD, stored),
        None => (Encoding::RAW, plain.to_vec()),
    }
}

fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let stored = slot.as_mut()?.compress(plain).ok()?;
        (stored.len() + plain.len() / WORTH < plain.len()).then_some(stored)
    })
}

/// Decodes stored bytes to exactly `plain_len` bytes; otherwise says what is wrong.
pub fn decode(encoding: Encoding, stored: &[u8], plain_len: u32) -> Result<Vec<u8>, String> {
    let plain = match encoding.method {
        Method::Raw => stored.to_vec(),
        Method::Zstd => decompress(stored, plain_len as usize)?,
        Method::Delta => return Err("delta chunks need a newer icecore".into()),
    };
    if plain.len() == plain_len as usize {
        Ok(plain)
    } else {
        Err(format!("decodes to {} bytes instead of {plain_len}", plain.len()))
    }
}

fn decompress(stored: &[u8], capacity: usize) -> Result<Vec<u8>, String> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        let decompressor = slot.as_mut().ok_or("zstd could not start")?;
        decompressor.decompress(stored, capacity).map_err(|error| format!("zstd: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::format::Encoding;
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn every_chunk_reads_back(plain in prop::collection::vec(any::<u8>(), 0..9000), repeat in 1usize..20) {
            let plain = plain.repeat(repeat);
            let (encoding, stored) = encode(&plain);
            assert!(stored.len() <= plain.len());
            assert_eq!(decode(encoding, &stored, plain.len() as u32).unwrap(), plain);
        }

        #[test]
        fn hostile_bytes_are_an_error_at_worst(stored in prop::collection::vec(any::<u8>(), 0..300), len in 0u32..70_000) {
            drop(decode(Encoding::ZSTD, &stored, len));
        }
    }

    #[test]
    fn a_length_that_lies_is_noticed() {
        let plain = vec![7u8; 5000];
        let (encoding, stored) = encode(&plain);
        assert_eq!(encoding, Encoding::ZSTD);
        assert!(decode(encoding, &stored, 4999).is_err());
        assert!(decode(encoding, &stored, 5001).is_err());
    }
}
