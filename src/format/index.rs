//! An index file: what the trailers of many packs say, in short.

use super::error::FormatError;
use super::pack::{Pack, PackKind};
use super::reader::Reader;
use super::record::{ChunkRecord, Encoding, put_u24};
use crate::id::Id;

const MAGIC: &[u8; 8] = b"ICEINDX1";

/// One pack as its trailer lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    pub pack: Id,
    pub kind: PackKind,
    pub records: Vec<ChunkRecord>,
}

/// One pack as an index file lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPack {
    pub pack: Id,
    pub kind: PackKind,
    pub chunks: Vec<ListedChunk>,
}

/// One chunk as an index file lists it: enough to read it, which proves it. The pack's trailer has the whole id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedChunk {
    /// The first eight bytes of its id.
    pub prefix: u64,
    pub stored_len: u32,
    pub plain_len: u32,
    pub encoding: Encoding,
    /// The first eight bytes of each base's id.
    pub bases: Box<[u64]>,
}

/// Which chunks lie in which packs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexFile {
    pub packs: Vec<ListedPack>,
}

impl ListedChunk {
    /// Bytes of one without bases.
    pub const LEN: usize = 8 + 3 + 3 + 1;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix.to_le_bytes());
        put_u24(self.stored_len, out);
        put_u24(self.plain_len, out);
        out.push(self.encoding.byte());
        self.bases.iter().for_each(|base| out.extend_from_slice(&base.to_le_bytes()));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let prefix = reader.u64()?;
        let (stored_len, plain_len) = (reader.u24()?, reader.u24()?);
        let encoding = Encoding::from_byte(reader.u8()?)?;
        let bases = (0..encoding.bases).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        Ok(Self { prefix, stored_len, plain_len, encoding, bases })
    }
}

impl ListedPack {
    /// Its chunks with the place of each.
    pub fn places(&self) -> impl Iterator<Item = (u64, &ListedChunk)> {
        self.chunks.iter().scan(Pack::FIRST_OFFSET, |next, chunk| {
            let offset = *next;
            *next += u64::from(chunk.stored_len);
            Some((offset, chunk))
        })
    }
}

impl From<&ChunkRecord> for ListedChunk {
    fn from(record: &ChunkRecord) -> Self {
        let ChunkRecord { id, stored_len, plain_len, encoding, bases } = record;
        let (prefix, bases) = (id.prefix(), bases.clone());
        Self { prefix, stored_len: *stored_len, plain_len: *plain_len, encoding: *encoding, bases }
    }
}

impl From<&IndexedPack> for ListedPack {
    fn from(indexed: &IndexedPack) -> Self {
        let chunks = indexed.records.iter().map(ListedChunk::from).collect();
        Self { pack: indexed.pack, kind: indexed.kind, chunks }
    }
}

impl IndexFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        for pack in &self.packs {
            bytes.extend_from_slice(pack.pack.as_bytes());
            bytes.push(pack.kind.byte());
            bytes.extend_from_slice(&(pack.chunks.len() as u32).to_le_bytes());
            pack.chunks.iter().for_each(|chunk| chunk.encode(&mut bytes));
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
            let count = reader.u32()? as usize;
            if count > reader.remaining() / ListedChunk::LEN {
                return Err(FormatError::Truncated { what: "index" });
            }
            let mut chunks = Vec::with_capacity(count);
            for _ in 0..count {
                chunks.push(ListedChunk::decode(&mut reader)?);
            }
            packs.push(ListedPack { pack, kind, chunks });
        }
        reader.finish()?;
        Ok(Self { packs })
    }
}
