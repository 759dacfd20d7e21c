//! Proves that a stored database is whole.

use super::header::Header;
use crate::format::Level;
use crate::source::interface::{JudgeOptions, Judgement, ReadAt};
use rusqlite::{Connection, OpenFlags};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

const COPY_BUFFER_BYTES: usize = 1 << 20;
/// SQLite reports up to 100 problems; this many are enough to see what is wrong.
const MESSAGES: usize = 10;

/// Judges one database: its header and size always, every page and index (FTS5 ones too) at the full level. Returns an
/// open copy at the full level, for further questions, unless it is too broken to be opened.
pub fn judge_database(
    judgement: &mut Judgement,
    source: &str,
    path: &[u8],
    file: &dyn ReadAt,
    options: &JudgeOptions<'_>,
) -> io::Result<Option<Connection>> {
    if file.size() == 0 {
        return Ok(None);
    }
    let mut start = [0u8; Header::LEN];
    let header = match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        other => other.map(|()| Header::parse(&start))?,
    };
    let Some(header) = header else {
        judgement.error(source, "not_sqlite", path, "it does not begin with an SQLite header");
        return Ok(None);
    };
    let shown = || {
        format!("{} bytes, {} pages of {} by its header", file.size(), header.page_count, header.page_size)
    };
    let whole_pages = file.size().is_multiple_of(u64::from(header.page_size));
    match header.expected_bytes() {
        Some(expected) if file.size() < expected => judgement.error(source, "size_mismatch", path, shown()),
        // Legal: SQLite can be told to let files grow in larger steps.
        Some(expected) if file.size() > expected => judgement.warning(source, "size_larger", path, shown()),
        None if !whole_pages => judgement.error(source, "size_mismatch", path, shown()),
        _ => {}
    }
    if options.level < Level::Full {
        return Ok(None);
    }
    match open_copy(file, options.temporary_directory)? {
        Ok(connection) => {
            check_integrity(judgement, source, path, &connection);
            Ok(Some(connection))
        }
        Err(error) => {
            judgement.error(source, "integrity_check_failed", path, error.to_string());
            Ok(None)
        }
    }
}

fn check_integrity(judgement: &mut Judgement, source: &str, path: &[u8], connection: &Connection) {
    let query = format!("PRAGMA integrity_check({MESSAGES})");
    let ask = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&query)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.collect()
    };
    match ask() {
        Ok(messages) if messages == ["ok"] => {}
        Ok(messages) => judgement.error(source, "integrity_check_failed", path, messages.join("; ")),
        Err(error) => judgement.error(source, "integrity_check_failed", path, error.to_string()),
    }
}

/// Copies a stored database into a nameless temporary file and opens it read-only. The outer error is about the copy, the
/// inner one is SQLite's.
pub fn open_copy(file: &dyn ReadAt, temporary_directory: &Path) -> io::Result<rusqlite::Result<Connection>> {
    let mut copy = tempfile::Builder::new().prefix("icecore-check-").tempfile_in(temporary_directory)?;
    let mut buffer = vec![0u8; COPY_BUFFER_BYTES];
    let mut at = 0;
    while at < file.size() {
        let count = (file.size() - at).min(buffer.len() as u64);
        let part = buffer.get_mut(..count as usize).unwrap_or_default();
        file.read_exact_at(part, at)?;
        copy.write_all(part)?;
        at += count;
    }
    // A copy has no log: told that it is in rollback mode, SQLite needs none of the files that WAL mode wants.
    let mut versions = [0u8; 2];
    if file.size() >= Header::LEN as u64 {
        file.read_exact_at(&mut versions, 18)?;
    }
    if versions == [2, 2] {
        copy.seek(SeekFrom::Start(18))?;
        copy.write_all(&[1, 1])?;
    }
    copy.flush()?;
    let uri = format!("file:{}?immutable=1", escape(&copy.path().display().to_string()));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // The file's name goes with `copy` when this returns; SQLite keeps its descriptor.
    Ok(Connection::open_with_flags(uri, flags))
}

/// A path as part of a `file:` URI.
pub fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}
