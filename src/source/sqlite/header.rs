//! The first 100 bytes of an SQLite database (<https://sqlite.org/fileformat2.html#the_database_header>).

/// What every SQLite 3 database begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The fields that tell what the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub page_size: u32,
    pub change_counter: u32,
    pub page_count: u32,
    /// The change counter when `page_count` was written; where it differs the count is stale.
    pub valid_for: u32,
    pub is_wal: bool,
}

impl Header {
    /// Bytes of the header.
    pub const LEN: usize = 100;

    /// Reads a header; `None` if this isn't an SQLite database.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let big = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let page_size = match u16::from_be_bytes(*bytes.get(16..)?.first_chunk()?) {
            1 => 65_536,
            size => u32::from(size),
        };
        let valid = (512..=65_536).contains(&page_size) && page_size.is_power_of_two();
        valid.then_some(Self {
            page_size,
            change_counter: big(24)?,
            page_count: big(28)?,
            valid_for: big(92)?,
            is_wal: bytes.get(18..20)? == [2, 2],
        })
    }

    /// Bytes that the database should have, where the header knows.
    pub fn expected_bytes(&self) -> Option<u64> {
        let known = self.page_count > 0 && (self.valid_for == self.change_counter);
        known.then(|| u64::from(self.page_size) * u64::from(self.page_count))
    }
}
