//! References: to one chunk of a file, and to the top of a sequence.

use super::MAX_CHUNK_BYTES;
use super::error::FormatError;
use super::reader::Reader;
use crate::id::Id;

/// Deeper trees than this are hostile: 16 items a node at least make 10^18 items at level 15.
pub const MAX_LEVEL: u8 = 15;

/// One chunk of a file: its id and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    pub id: Id,
    pub len: u32,
}

impl ChunkRef {
    /// Bytes of a packed reference.
    pub const LEN: usize = Id::LEN + 4;

    /// References one after another, 36 bytes each.
    pub fn encode_all(refs: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(refs.len() * Self::LEN);
        for chunk in refs {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
        }
        bytes
    }

    /// Reads packed references; their number follows from the length. An empty or over-long chunk is refused.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, FormatError> {
        let mut reader = Reader::new(bytes, "chunk list");
        let mut refs = Vec::with_capacity(bytes.len() / Self::LEN);
        while reader.remaining() > 0 {
            let chunk = Self { id: reader.id()?, len: reader.u32()? };
            if chunk.len == 0 || chunk.len > MAX_CHUNK_BYTES {
                return Err(FormatError::invalid("chunk list", format!("a chunk of {} bytes", chunk.len)));
            }
            refs.push(chunk);
        }
        Ok(refs)
    }
}

/// The top of a sequence. `weight` is what lies below: bytes of a chunk list, entries of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root {
    pub id: Id,
    pub level: u8,
    pub weight: u64,
}

impl Root {
    /// 41 bytes: id, level, weight.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.as_bytes().to_vec();
        bytes.push(self.level);
        bytes.extend_from_slice(&self.weight.to_le_bytes());
        bytes
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "root");
        let root = Self { id: reader.id()?, level: reader.u8()?, weight: reader.u64()? };
        reader.finish()?;
        if root.level > MAX_LEVEL || root.weight == 0 {
            return Err(FormatError::invalid(
                "root",
                format!("level {}, weight {}", root.level, root.weight),
            ));
        }
        Ok(root)
    }
}
