//! Applies a write-ahead log while a database is read, without SQLite and without writing a byte.
//!
//! The result is what SQLite's checkpoint would leave: each page's last committed version in its own place
//! (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

const HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// Where SQLite keeps its lock bytes.
const LOCK_PAGE_AT: u64 = 0x4000_0000;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;

/// The committed part of a log: where each page's last committed version lies.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommittedPages {
    pub page_size: u32,
    /// Pages of the database after the last commit; 0: the log holds no commit.
    pub page_count: u32,
    offsets: HashMap<u32, u64>,
}

impl CommittedPages {
    /// Nothing is committed in the log.
    pub fn is_empty(&self) -> bool {
        self.page_count == 0
    }

    /// Reads a log up to its last intact commit, as SQLite's recovery does: a frame counts only if its salts and its
    /// running checksum are right, and only up to a commit. Frames behind the first `most` are left out.
    pub fn read(log: &File, most: u32) -> io::Result<Self> {
        let size = log.metadata()?.len();
        let Some(header) = LogHeader::read(log, size)? else { return Ok(Self::default()) };
        let frame_bytes = FRAME_HEADER_BYTES + u64::from(header.page_size);
        let mut frame = vec![0u8; frame_bytes as usize];
        let mut checksum = header.checksum;
        let mut committed = Self { page_size: header.page_size, ..Self::default() };
        let mut pending: Vec<(u32, u64)> = Vec::new();
        let mut at = HEADER_BYTES;
        let size = size.min(HEADER_BYTES + u64::from(most) * frame_bytes);
        while at + frame_bytes <= size {
            log.read_exact_at(&mut frame, at)?;
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES as usize);
            let (number, commit_size) = (big(head, 0), big(head, 4));
            checksum = header.add(header.add(checksum, head.get(..8).unwrap_or_default()), page);
            if number == 0
                || (big(head, 8), big(head, 12)) != header.salts
                || (big(head, 16), big(head, 20)) != checksum
            {
                break;
            }
            pending.push((number, at + FRAME_HEADER_BYTES));
            if commit_size > 0 {
                committed.page_count = commit_size;
                committed.offsets.extend(pending.drain(..));
            }
            at += frame_bytes;
        }
        Ok(committed)
    }
}

struct LogHeader {
    big_endian: bool,
    page_size: u32,
    salts: (u32, u32),
    checksum: (u32, u32),
}

fn big(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

impl LogHeader {
    /// `None` for a log that SQLite would take for empty.
    fn read(log: &File, size: u64) -> io::Result<Option<Self>> {
        if size < HEADER_BYTES {
            return Ok(None);
        }
        let mut bytes = [0u8; HEADER_BYTES as usize];
        log.read_exact_at(&mut bytes, 0)?;
        let magic = big(&bytes, 0);
        let page_size = big(&bytes, 8);
        let sound = (magic == MAGIC_LITTLE || magic == MAGIC_BIG)
            && (512..=65_536).contains(&page_size)
            && page_size.is_power_of_two();
        let header = Self {
            big_endian: magic == MAGIC_BIG,
            page_size,
            salts: (big(&bytes, 16), big(&bytes, 20)),
            checksum: (0, 0),
        };
        let checksum = header.add((0, 0), bytes.get(..24).unwrap_or_default());
        let sound = sound && checksum == (big(&bytes, 24), big(&bytes, 28));
        Ok(sound.then_some(Self { checksum, ..header }))
    }

    /// The log's running checksum over pairs of words, in the byte order that its magic number names.
    fn add(&self, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        for pair in bytes.chunks_exact(8) {
            let (left, right) = pair.split_at(4);
            let word = |half: &[u8]| {
                let half: [u8; 4] = half.try_into().unwrap_or_default();
                if self.big_endian { u32::from_be_bytes(half) } else { u32::from_le_bytes(half) }
            };
            first = first.wrapping_add(word(left)).wrapping_add(second);
            second = second.wrapping_add(word(right)).wrapping_add(first);
        }
        (first, second)
    }
}

/// Reads a database with its log applied, page by page.
pub struct Merged<'f> {
    database: &'f File,
    log: &'f File,
    pages: &'f CommittedPages,
    next: u32,
    page: Vec<u8>,
    read: usize,
}

impl<'f> Merged<'f> {
    /// A reader over the settled image. `pages` must hold a commit.
    pub fn new(database: &'f File, log: &'f File, pages: &'f CommittedPages) -> Self {
        Self { database, log, pages, next: 1, page: Vec::new(), read: 0 }
    }

    fn load(&mut self) -> io::Result<bool> {
        if self.next > self.pages.page_count {
            return Ok(false);
        }
        self.page.resize(self.pages.page_size as usize, 0);
        match self.pages.offsets.get(&self.next) {
            Some(offset) => self.log.read_exact_at(&mut self.page, *offset)?,
            None => {
                let at = u64::from(self.next - 1) * u64::from(self.pages.page_size);
                match self.database.read_exact_at(&mut self.page, at) {
                    // The page of SQLite's lock bytes is never written; a database that ends before it has zeros there.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && at == LOCK_PAGE_AT => {
                        self.page.fill(0)
                    }
                    other => other?,
                }
            }
        }
        self.next += 1;
        self.read = 0;
        Ok(true)
    }
}

impl Read for Merged<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.page.len() && !self.load()? {
            return Ok(0);
        }
        let rest = self.page.get(self.read..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{CommittedPages, Merged};
    use proptest::prelude::{ProptestConfig, prop, proptest};
    use rusqlite::Connection;
    use std::fs::{self, File};
    use std::io::Read;

    /// Runs statements on a WAL database that is never checkpointed, and copies database and log as a crash would leave
    /// them.
    fn crashed(
        directory: &std::path::Path,
        page_size: u32,
        statements: &[String],
    ) -> (std::path::PathBuf, std::path::PathBuf) {
        let live = directory.join("live.db");
        let connection = Connection::open(&live).unwrap();
        connection.execute_batch(&format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB);")).unwrap();
        for statement in statements {
            connection.execute_batch(statement).unwrap();
        }
        connection.execute_batch("PRAGMA cache_size=2; BEGIN; INSERT INTO t(b) SELECT zeroblob(3000) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6)").unwrap();
        let (database, log) = (directory.join("copy.db"), directory.join("copy.db-wal"));
        fs::copy(&live, &database).unwrap();
        fs::copy(directory.join("live.db-wal"), &log).unwrap();
        (database, log)
    }

    fn merge(database: &std::path::Path, log: &std::path::Path) -> Vec<u8> {
        let (database, log) = (File::open(database).unwrap(), File::open(log).unwrap());
        let pages = CommittedPages::read(&log, u32::MAX).unwrap();
        let mut image = Vec::new();
        Merged::new(&database, &log, &pages).read_to_end(&mut image).unwrap();
        image
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn merging_is_what_sqlite_checkpoints(
            power in 9u32..=16,
            sizes in prop::collection::vec((1u32..20, 1u32..9000, 0u8..4), 1..8),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let statements: Vec<String> = sizes.iter().map(|(rows, bytes, action)| match action {
                0 => format!("DELETE FROM t WHERE a % 3 = 0; UPDATE t SET b = randomblob({bytes}) WHERE a % 2 = 0"),
                1 => "DELETE FROM t; VACUUM".to_owned(),
                _ => format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t(b) SELECT randomblob({bytes}) FROM n"),
            }).collect();
            let (database, log) = crashed(directory.path(), 1 << power, &statements);
            let merged = merge(&database, &log);
            let connection = Connection::open(&database).unwrap();
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            drop(connection);
            let checkpointed = fs::read(&database).unwrap();
            assert!(merged == checkpointed, "{} and {} bytes", merged.len(), checkpointed.len());
        }
    }

    #[test]
    fn a_torn_log_ends_at_its_last_whole_commit() {
        let directory = tempfile::tempdir().unwrap();
        let statements: Vec<String> =
            (1..=5).map(|row| format!("INSERT INTO t VALUES({row}, randomblob(5000))")).collect();
        let (database, log) = crashed(directory.path(), 4096, &statements);
        let whole = fs::read(&log).unwrap();
        let mut rows_seen = std::collections::BTreeSet::new();
        for cut in (32..whole.len()).step_by(1500) {
            let mut torn = whole[..cut].to_vec();
            torn[cut - 1] ^= 1;
            #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
            fs::write(&log, &torn).unwrap();
            let image = merge(&database, &log);
            if image.is_empty() {
                continue;
            }
            let settled = directory.path().join("settled.db");
            #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
            fs::write(&settled, &image).unwrap();
            let connection = Connection::open(&settled).unwrap();
            let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok");
            let rows: u32 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            rows_seen.insert(rows);
            drop(connection);
            for suffix in ["-wal", "-shm"] {
                drop(fs::remove_file(directory.path().join(format!("settled.db{suffix}"))));
            }
        }
        assert_eq!(rows_seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_flipped_bit_ends_the_log_where_it_ends_for_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        let statements: Vec<String> =
            (1..=4).map(|row| format!("INSERT INTO t VALUES({row}, randomblob(3000))")).collect();
        let (database, log) = crashed(directory.path(), 1024, &statements);
        let (whole_database, whole_log) = (fs::read(&database).unwrap(), fs::read(&log).unwrap());
        let mut lengths = std::collections::BTreeSet::new();
        for at in (0..whole_log.len()).step_by(97) {
            let mut flipped = whole_log.clone();
            flipped[at] ^= 4;
            let again = tempfile::tempdir().unwrap();
            let (database, log) = (again.path().join("copy.db"), again.path().join("copy.db-wal"));
            for (path, bytes) in [(&database, &whole_database), (&log, &flipped)] {
                #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
                fs::write(path, bytes).unwrap();
            }
            let pages = CommittedPages::read(&File::open(&log).unwrap(), u32::MAX).unwrap();
            let merged = if pages.is_empty() { whole_database.clone() } else { merge(&database, &log) };
            let connection = Connection::open(&database).unwrap();
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            drop(connection);
            assert!(merged == fs::read(&database).unwrap(), "flipped at {at}");
            lengths.insert(merged.len());
        }
        assert!(lengths.len() > 3, "{lengths:?}");
    }
}
