//! The files of a Chroma store (versions 0.4 to 1.5, from their sources and measured).

use rusqlite::{Connection, OpenFlags};
use std::collections::HashSet;
use std::path::Path;

/// The store's database; its presence makes a directory a store.
pub const DATABASE: &str = "chroma.sqlite3";

/// The files of a persisted vector segment, in the order in which Chroma writes them; the pickle comes last.
pub const INDEX_FILES: [&str; 4] = [HEADER, DATA, LENGTHS, LINK_LISTS];
pub const HEADER: &str = "header.bin";
/// Vectors, their links on level 0, and labels.
pub const DATA: &str = "data_level0.bin";
/// Vectors' norms, where the space is cosine.
pub const LENGTHS: &str = "length.bin";
/// Links on the levels above 0.
pub const LINK_LISTS: &str = "link_lists.bin";
pub const PICKLE: &str = "index_metadata.pickle";

/// The type of the vector segments that have files.
pub const VECTOR_SEGMENT_TYPE: &str = "urn:chroma:segment/vector/hnsw-local-persisted";
/// The type of the segments that hold ids, metadata and documents in the database.
pub const METADATA_SEGMENT_TYPE: &str = "urn:chroma:segment/metadata/sqlite";

/// A vector segment's directory is named by the segment's UUID.
pub fn is_segment_name(name: &[u8]) -> bool {
    name.len() == 36
        && name.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The ids of all vector segments. The database must not be written meanwhile: it is opened as immutable, so that
/// nothing is locked, created or changed.
pub fn vector_segments(database: &Path) -> rusqlite::Result<HashSet<Vec<u8>>> {
    let uri = format!("file:{}?immutable=1", crate::source::sqlite::escape(&database.display().to_string()));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    let mut statement = connection.prepare("SELECT id FROM segments WHERE scope = 'VECTOR'")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.map(|id| id.map(String::into_bytes)).collect()
}

/// The fields of `header.bin`: 100 bytes, little endian, packed (hnswlib's `HierarchicalNSW::saveIndex` as Chroma has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    pub version: u32,
    pub level0_offset: u64,
    pub max_elements: u64,
    pub elements: u64,
    pub element_bytes: u64,
    pub label_offset: u64,
    pub data_offset: u64,
    pub max_level: i32,
    pub entry_point: u32,
    pub max_links: u64,
    pub max_links_level0: u64,
}

impl IndexHeader {
    pub const LEN: usize = 100;
    /// Larger elements (16 million dimensions) are no Chroma's.
    const MAX_ELEMENT_BYTES: u64 = 64 << 20;

    /// Reads the fields without judging them; `None` if there are not exactly 100 bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            version: word(0)?,
            level0_offset: long(4)?,
            max_elements: long(12)?,
            elements: long(20)?,
            element_bytes: long(28)?,
            label_offset: long(36)?,
            data_offset: long(44)?,
            max_level: word(52)? as i32,
            entry_point: word(56)?,
            max_links: long(60)?,
            max_links_level0: long(68)?,
        })
    }

    /// Floats per vector. The fields are sound.
    pub fn dimension(&self) -> u64 {
        self.label_offset.saturating_sub(self.data_offset) / 4
    }

    /// Bytes of one level's links above level 0.
    pub fn list_bytes(&self) -> u64 {
        self.max_links.saturating_mul(4).saturating_add(4)
    }

    /// What is wrong with the fields' arithmetic, if anything.
    pub fn problem(&self) -> Option<String> {
        let links = self.max_links_level0.checked_mul(4).and_then(|bytes| bytes.checked_add(4));
        let dimension_bytes = self.label_offset.checked_sub(self.data_offset);
        let sound = self.level0_offset == 0
            // Link counts are 16 bits wide.
            && self.max_links <= u64::from(u16::MAX)
            && self.max_links_level0 <= u64::from(u16::MAX)
            && self.element_bytes <= Self::MAX_ELEMENT_BYTES
            && links == Some(self.data_offset)
            && dimension_bytes.is_some_and(|bytes| bytes % 4 == 0)
            && self.label_offset.checked_add(8) == Some(self.element_bytes)
            && self.elements <= self.max_elements
            && (self.elements == 0 || u64::from(self.entry_point) < self.elements);
        (!sound).then(|| format!("{self:?}"))
    }
}
