//! Proves that a stored database is whole.

use super::header::Header;
use super::modules::forget_virtual_tables;
use crate::format::Level;
use crate::source::interface::{JudgeOptions, Judgement, ReadAt};
use crate::source::scratch::CHECK_PREFIX;
use rusqlite::{Connection, OpenFlags};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use tempfile::NamedTempFile;

const COPY_BUFFER_BYTES: usize = 1 << 20;
/// SQLite reports up to 100 problems; this many are enough to see what is wrong.
const MESSAGES: usize = 10;

/// What the facts about a database are called.
pub struct DatabaseFacts {
    pub not_sqlite: &'static str,
    pub size_mismatch: &'static str,
    pub size_larger: &'static str,
    pub corrupt: &'static str,
}

const FACTS: DatabaseFacts = DatabaseFacts {
    not_sqlite: "not_sqlite",
    size_mismatch: "size_mismatch",
    size_larger: "size_larger",
    corrupt: "integrity_check_failed",
};

/// Judges one database: its header and size always, every page and index at the full level, with the content of full-text indexes if that is asked for.
pub fn judge_database(
    judgement: &mut Judgement,
    source: &str,
    path: &[u8],
    file: &dyn ReadAt,
    options: &JudgeOptions<'_>,
) -> io::Result<()> {
    judge_copy(judgement, (source, &FACTS), path, file, options, &mut |_| Ok(()))
}

/// As `judge_database`, with other names for the facts (`fts_corrupt` has one only). At the full level a file that lies on the disk is read there, another one from a copy; `opened` gets that path, to open it for further questions. A copy's name is gone soon after.
pub fn judge_copy(
    judgement: &mut Judgement,
    (source, facts): (&str, &DatabaseFacts),
    path: &[u8],
    file: &dyn ReadAt,
    options: &JudgeOptions<'_>,
    opened: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    if file.size() == 0 {
        return Ok(());
    }
    let mut start = [0u8; Header::LEN];
    let header = match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        other => other.map(|()| Header::parse(&start))?,
    };
    let Some(header) = header else {
        judgement.error(source, facts.not_sqlite, path, "it does not begin with an SQLite header");
        return Ok(());
    };
    let shown = || {
        format!("{} bytes, {} pages of {} by its header", file.size(), header.page_count, header.page_size)
    };
    let whole_pages = file.size().is_multiple_of(u64::from(header.page_size));
    let mismatch = facts.size_mismatch;
    match header.expected_bytes() {
        Some(expected) if file.size() < expected => judgement.error(source, mismatch, path, shown()),
        // Legal: SQLite can be told to let files grow in larger steps.
        Some(expected) if file.size() > expected => {
            judgement.warning(source, facts.size_larger, path, shown());
        }
        None if !whole_pages => judgement.error(source, mismatch, path, shown()),
        _ => {}
    }
    if options.level < Level::Full {
        return Ok(());
    }
    let copy = match file.on_disk() {
        Some(_) => None,
        None => Some(copy_of(file, options.temporary_directory)?),
    };
    let place = file.on_disk().or(copy.as_ref().map(NamedTempFile::path)).unwrap_or(Path::new(""));
    let connection = open_immutable(place);
    opened(place)?;
    // From here on the copy has no name; SQLite keeps its descriptor.
    drop(copy);
    if let Ok(connection) = &connection
        && !options.full_text
    {
        forget_virtual_tables(connection);
    }
    match connection.and_then(|connection| integrity_messages(&connection)) {
        Ok(messages) => {
            let (fts, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(|told| is_about_fts(told));
            if !fts.is_empty() {
                judgement.error(source, "fts_corrupt", path, fts.join("; "));
            }
            if !others.is_empty() {
                judgement.error(source, facts.corrupt, path, others.join("; "));
            }
        }
        Err(error) => judgement.error(source, facts.corrupt, path, error.to_string()),
    }
    Ok(())
}

/// What `integrity_check` says besides "ok".
fn integrity_messages(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MESSAGES})"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.filter(|message| !matches!(message.as_deref(), Ok("ok"))).collect()
}

/// SQLite from 3.44 on lets virtual tables check themselves: "malformed inverted index for FTS5 table main.t", or "unable
/// to validate the inverted index for FTS5 table main.t: …".
fn is_about_fts(message: &str) -> bool {
    message.contains("inverted index for FTS")
}

/// Copies a stored database into a temporary file.
fn copy_of(file: &dyn ReadAt, temporary_directory: &Path) -> io::Result<NamedTempFile> {
    let mut copy = tempfile::Builder::new().prefix(CHECK_PREFIX).tempfile_in(temporary_directory)?;
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
    Ok(copy)
}

/// Opens a database that nobody writes: nothing is locked, created or changed, also if its header says that it has a log.
fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let uri = format!("file:{}?immutable=1", escape(&path.display().to_string()));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
}

/// A path as part of a `file:` URI.
pub fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}
