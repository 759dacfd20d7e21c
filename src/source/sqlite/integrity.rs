//! Asks SQLite whether a database that nobody writes is whole.

use crate::progress::Stop;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::io;
use std::path::Path;

/// SQLite reports up to 100 problems; this many are enough to see what is wrong.
const MESSAGES: usize = 10;
/// Steps of SQLite's virtual machine, or pages that it checks, between two looks at whether to stop: some milliseconds.
const STEPS: i32 = 1000;

/// Opens a database that nobody writes: nothing is locked, created or changed, also if its header says that it has a log.
pub fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let uri = format!("file:{}?immutable=1", escape(&path.display().to_string()));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
}

/// A path as part of a `file:` URI.
pub fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// From here on whatever the connection does ends with `OperationInterrupted` soon after somebody asked to stop. SQLite doesn't
/// look up while it follows the pages of one long value, or a full-text index.
pub fn stop_when(connection: &mut Connection, stop: &Stop) -> rusqlite::Result<()> {
    let stop = stop.clone();
    connection.progress_handler(STEPS, Some(move || stop.is_asked()))
}

/// What SQLite says is the machine's trouble, or somebody asked to stop (`Interrupted`): the database isn't to blame.
pub fn trouble_of_ours(error: &rusqlite::Error) -> Option<io::Error> {
    match error.sqlite_error_code()? {
        ErrorCode::OperationInterrupted => Some(io::ErrorKind::Interrupted.into()),
        ErrorCode::DiskFull => Some(io::Error::new(io::ErrorKind::StorageFull, error.to_string())),
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::OutOfMemory | ErrorCode::ReadOnly => {
            Some(io::Error::other(error.to_string()))
        }
        _ => None,
    }
}

/// What `integrity_check` says besides "ok" about all there is.
pub fn integrity_messages(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    messages(connection, &MESSAGES.to_string())
}

/// What it says about one table, and a virtual table about itself.
pub fn integrity_messages_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    messages(connection, &format!("\"{}\"", table.replace('"', "\"\"")))
}

fn messages(connection: &Connection, argument: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({argument})"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.filter(|message| !matches!(message.as_deref(), Ok("ok"))).take(MESSAGES).collect()
}

#[cfg(test)]
mod tests {
    use super::{stop_when, trouble_of_ours};
    use crate::progress::Stop;
    use rusqlite::{Connection, ErrorCode, ffi};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Without it the query would go on for ever.
    #[test]
    fn a_query_ends_when_somebody_asks_to_stop() {
        let signal = Arc::new(AtomicUsize::new(0));
        let mut connection = Connection::open_in_memory().unwrap();
        stop_when(&mut connection, &Stop::watching(Arc::clone(&signal))).unwrap();
        let asking = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            signal.store(15, Ordering::Relaxed);
        });
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        let ended = connection.query_row(endless, [], |row| row.get::<_, i64>(0));
        assert_eq!(ended.unwrap_err().sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
        asking.join().unwrap();
    }

    #[test]
    fn the_database_is_not_to_blame_for_the_machine() {
        let is_ours =
            |code| trouble_of_ours(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).is_some();
        assert!(
            is_ours(ffi::SQLITE_IOERR_READ) && is_ours(ffi::SQLITE_NOMEM) && is_ours(ffi::SQLITE_CANTOPEN)
        );
        assert!(
            !is_ours(ffi::SQLITE_CORRUPT_INDEX)
                && !is_ours(ffi::SQLITE_NOTADB)
                && !is_ours(ffi::SQLITE_ERROR)
        );
        let full = trouble_of_ours(&rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None));
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
}
