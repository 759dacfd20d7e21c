//! An index file: the trailers of many packs in one place.

use super::error::FormatError;
use super::pack::PackKind;
use super::reader::Reader;
use super::record::ChunkRecord;
use crate::id::Id;

const MAGIC: &[u8; 8] = b"ICEINDX0";

/// One pack as an index file lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    pub pack: Id,
    pub kind: PackKind,
    pub records: Vec<ChunkRecord>,
}

/// Which chunks lie in which packs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexFile {
    pub packs: Vec<IndexedPack>,
}

impl IndexFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        for pack in &self.packs {
            bytes.extend_from_slice(pack.pack.as_bytes());
            bytes.push(pack.kind.byte());
            ChunkRecord::encode_all(&pack.records, &mut bytes);
        }
        bytes
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "index");
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(FormatError::Magic { what: "index" });
        }
        let count = reader.u32()?;
        let mut packs = Vec::new();
        for _ in 0..count {
            let pack = reader.id()?;
            let kind = PackKind::from_byte(reader.u8()?)?;
            packs.push(IndexedPack { pack, kind, records: ChunkRecord::decode_all(&mut reader)? });
        }
        reader.finish()?;
        Ok(Self { packs })
    }
}
