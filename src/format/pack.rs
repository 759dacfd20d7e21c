//! A pack: stored chunks one after another, then the trailer that lists them.

use super::error::FormatError;
use super::reader::Reader;
use super::record::ChunkRecord;

const HEAD: &[u8; 8] = b"ICEPACK0";
const TAIL: &[u8; 8] = b"ICEPEND0";
/// The trailer's length field and the closing magic number.
const FOOT_BYTES: usize = 4 + 8;

/// What a pack holds; kept apart so that metadata can be read without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// File contents.
    Data,
    /// Entry trees and chunk lists.
    Tree,
}

impl PackKind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Tree => 1,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            0 => Ok(Self::Data),
            1 => Ok(Self::Tree),
            other => Err(FormatError::invalid("pack", format!("unknown kind {other}"))),
        }
    }
}

/// What a pack's trailer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    pub kind: PackKind,
    pub records: Vec<ChunkRecord>,
}

impl Pack {
    /// Where the first chunk lies: behind the opening magic number.
    pub const FIRST_OFFSET: u64 = HEAD.len() as u64;

    /// Bytes at a pack's end that tell how long its trailer is.
    pub const FOOT_LEN: u64 = FOOT_BYTES as u64;

    /// The first bytes of every pack.
    pub fn begin() -> Vec<u8> {
        HEAD.to_vec()
    }

    /// Appends trailer, its length and the closing magic number to the chunks in `bytes`.
    pub fn end(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&Self::end_with(self.trailer()));
    }

    /// The trailer's bytes.
    pub fn trailer(&self) -> Vec<u8> {
        let mut trailer = vec![self.kind.byte()];
        ChunkRecord::encode_all(&self.records, &mut trailer);
        trailer
    }

    /// What comes behind the last chunk, from a trailer as it is to be stored.
    pub fn end_with(mut trailer: Vec<u8>) -> Vec<u8> {
        trailer.extend_from_slice(&(trailer.len() as u32).to_le_bytes());
        trailer.extend_from_slice(TAIL);
        trailer
    }

    /// How many bytes before the foot the trailer takes, read from the last `FOOT_LEN` bytes of a pack.
    pub fn trailer_len(foot: &[u8]) -> Result<u64, FormatError> {
        let mut reader = Reader::new(foot, "pack");
        let length = reader.u32()?;
        if reader.take(TAIL.len())? != TAIL {
            return Err(FormatError::Magic { what: "pack" });
        }
        reader.finish()?;
        Ok(u64::from(length))
    }

    /// Reads the trailer of a pack of `pack_len` bytes, where it takes `stored_len`, and checks that the chunks it lists fill the
    /// pack exactly.
    pub fn decode_trailer(trailer: &[u8], stored_len: u64, pack_len: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(trailer, "pack trailer");
        let kind = PackKind::from_byte(reader.u8()?)?;
        let records = ChunkRecord::decode_all(&mut reader)?;
        reader.finish()?;
        let chunks: u64 = records.iter().map(|record| u64::from(record.stored_len)).sum();
        let expected = (Self::FIRST_OFFSET + chunks + FOOT_BYTES as u64).saturating_add(stored_len);
        if expected == pack_len {
            Ok(Self { kind, records })
        } else {
            Err(FormatError::invalid(
                "pack trailer",
                format!("lists {expected} bytes, the pack has {pack_len}"),
            ))
        }
    }

    /// Reads a whole pack.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let short = FormatError::Truncated { what: "pack" };
        if bytes.first_chunk() != Some(HEAD) {
            return Err(FormatError::Magic { what: "pack" });
        }
        let (rest, foot) = bytes.split_last_chunk::<FOOT_BYTES>().ok_or(short.clone())?;
        let length = usize::try_from(Self::trailer_len(foot)?).map_err(|_| short.clone())?;
        let start = rest.len().checked_sub(length).ok_or(short.clone())?;
        let trailer = rest.get(start..).ok_or(short)?;
        Self::decode_trailer(trailer, trailer.len() as u64, bytes.len() as u64)
    }
}
