//! How one chunk lies in a pack: id, lengths, encoding, bases.

use super::error::FormatError;
use super::reader::Reader;
use crate::id::Id;

/// The way from a chunk's bytes to its stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Stored as it is.
    Raw,
    /// One zstd frame (RFC 8878).
    Zstd,
    /// One zstd frame whose prefix is the concatenation of the bases.
    Delta,
    /// One zstd frame of the chunk's bytes, each XORed with the byte of the concatenated bases at its place. Read only: `Patch` is
    /// written instead.
    Xor,
    /// The bytes at places equal modulo four apart, each of the four planes as it is or as a zstd frame.
    Planes,
    /// Runs of numbers by planes, apart from what lies between them.
    Runs,
    /// The concatenated bases, in which runs of bytes are replaced.
    Patch,
}

/// The encoding byte: low nibble the method, high nibble the number of bases (0 to 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    pub method: Method,
    pub bases: u8,
}

impl Encoding {
    pub const RAW: Self = Self { method: Method::Raw, bases: 0 };
    pub const ZSTD: Self = Self { method: Method::Zstd, bases: 0 };
    pub const PLANES: Self = Self { method: Method::Planes, bases: 0 };
    pub const RUNS: Self = Self { method: Method::Runs, bases: 0 };

    /// A difference to so many bases.
    pub fn difference(method: Method, bases: usize) -> Option<Self> {
        let bases = u8::try_from(bases).ok().filter(|bases| (1..=4).contains(bases))?;
        Some(Self { method, bases })
    }

    /// It can't be decoded without bases.
    pub fn is_difference(self) -> bool {
        self.bases > 0
    }

    /// The byte as stored.
    pub fn byte(self) -> u8 {
        let method = match self.method {
            Method::Raw => 0,
            Method::Zstd => 1,
            Method::Delta => 2,
            Method::Planes => 3,
            Method::Xor => 4,
            Method::Runs => 5,
            Method::Patch => 6,
        };
        self.bases << 4 | method
    }

    /// Reads the byte; a method or a number of bases that the format does not have is an error.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        let method = match byte & 0x0f {
            0 => Method::Raw,
            1 => Method::Zstd,
            2 => Method::Delta,
            3 => Method::Planes,
            4 => Method::Xor,
            5 => Method::Runs,
            6 => Method::Patch,
            other => return Err(FormatError::invalid("chunk record", format!("unknown encoding {other}"))),
        };
        let bases = byte >> 4;
        let is_difference = matches!(method, Method::Delta | Method::Xor | Method::Patch);
        let fits = if is_difference { (1..=4).contains(&bases) } else { bases == 0 };
        if fits {
            Ok(Self { method, bases })
        } else {
            Err(FormatError::invalid("chunk record", format!("encoding byte {byte:#04x}")))
        }
    }
}

/// Appends a length of three bytes: no chunk is longer.
pub(super) fn put_u24(len: u32, out: &mut Vec<u8>) {
    let [low, middle, high, _] = len.to_le_bytes();
    out.extend_from_slice(&[low, middle, high]);
}

/// One chunk of a pack, as its trailer and the index files list it. The offset is the sum of the lengths before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    pub id: Id,
    /// Bytes in the pack.
    pub stored_len: u32,
    /// Bytes of the chunk itself.
    pub plain_len: u32,
    pub encoding: Encoding,
    /// The first eight bytes of each base's id.
    pub bases: Box<[u64]>,
}

impl ChunkRecord {
    /// Bytes of a record without bases.
    pub const LEN: usize = Id::LEN + 3 + 3 + 1;

    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        put_u24(self.stored_len, out);
        put_u24(self.plain_len, out);
        out.push(self.encoding.byte());
        for base in &self.bases {
            out.extend_from_slice(&base.to_le_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let id = reader.id()?;
        let (stored_len, plain_len) = (reader.u24()?, reader.u24()?);
        let encoding = Encoding::from_byte(reader.u8()?)?;
        let bases = (0..encoding.bases).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        Ok(Self { id, stored_len, plain_len, encoding, bases })
    }

    /// Appends `count` (u32) and the records.
    pub(super) fn encode_all(records: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(&(records.len() as u32).to_le_bytes());
        for record in records {
            record.encode(out);
        }
    }

    /// Reads what `encode_all` wrote; the count is checked against the bytes that are left before anything is allocated.
    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, FormatError> {
        let count = reader.u32()? as usize;
        if count > reader.remaining() / Self::LEN {
            return Err(FormatError::Truncated { what: "chunk records" });
        }
        (0..count).map(|_| Self::decode(reader)).collect()
    }
}
