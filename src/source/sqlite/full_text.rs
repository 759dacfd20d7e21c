//! Full-text indexes compared with their texts, on a thread beside whatever else is judged.
//!
//! That takes several times as long as all else that is asked of a database, and can't be divided.

use super::integrity::{integrity_messages, integrity_messages_of, stop_when, trouble_of_ours};
use crate::format::Finding;
use crate::progress::Stop;
use crate::source::interface::Judgement;
use rusqlite::{Connection, InterruptHandle};
use std::cell::RefCell;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How often whoever waits asks whether to stop: in the middle of an index nothing else does.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the connection has said in the end.
type Told = rusqlite::Result<Vec<String>>;

/// Comparisons, one at a time: each keeps a copy of its database.
pub struct FullTexts {
    stop: Stop,
    running: RefCell<Option<Running>>,
    found: RefCell<Judgement>,
}

/// A database whose virtual tables are being asked.
struct Running {
    source: String,
    path: Vec<u8>,
    /// What trouble is called that isn't a full-text index's.
    corrupt: &'static str,
    told: Receiver<Told>,
    interrupt: InterruptHandle,
}

impl Drop for Running {
    /// Nobody waits any more; a thread in the middle of an index goes on to its end.
    fn drop(&mut self) {
        self.interrupt.interrupt();
    }
}

impl FullTexts {
    /// None yet. Whoever waits for one is told `Interrupted` soon after somebody asked to stop.
    pub fn new(stop: Stop) -> Self {
        Self { stop, running: RefCell::default(), found: RefCell::default() }
    }

    /// Begins with all virtual tables of a database, once the one before is done. The database may lose its name, but not
    /// change.
    pub fn begin(
        &self,
        (source, path, corrupt): (&str, &[u8], &'static str),
        mut connection: Connection,
    ) -> io::Result<()> {
        let tables = virtual_tables(&connection);
        if matches!(&tables, Ok(tables) if tables.is_empty()) {
            return Ok(());
        }
        self.end()?;
        stop_when(&mut connection, &self.stop).map_err(io::Error::other)?;
        let interrupt = connection.get_interrupt_handle();
        let (tell, told) = sync_channel(1);
        std::thread::Builder::new().spawn(move || drop(tell.send(ask(&connection, tables))))?;
        let (source, path) = (source.to_owned(), path.to_owned());
        *self.running.borrow_mut() = Some(Running { source, path, corrupt, told, interrupt });
        Ok(())
    }

    /// Something that was begun isn't known to be done.
    pub fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// Waits for the comparison that is going on, if there is one, so that the room of its copy is free: whether there was one.
    pub fn make_room(&self) -> io::Result<bool> {
        let is_running = self.is_running();
        self.end().map(|()| is_running)
    }

    /// Waits for all that was begun.
    pub fn wait(&self) -> io::Result<Vec<Finding>> {
        self.end()?;
        Ok(self.found.take().findings)
    }

    fn end(&self) -> io::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let told = loop {
            if self.stop.is_asked() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match running.told.recv_timeout(PATIENCE) {
                Ok(told) => break told,
                Err(RecvTimeoutError::Timeout) => {}
                Err(gone @ RecvTimeoutError::Disconnected) => return Err(io::Error::other(gone)),
            }
        };
        let (about_texts, others) = match told {
            Ok(messages) => messages.into_iter().partition(|told| is_about_fts(told)),
            Err(error) => match trouble_of_ours(&error) {
                Some(trouble) => return Err(trouble),
                None => (Vec::new(), vec![error.to_string()]),
            },
        };
        for (fact, messages) in [("fts_corrupt", about_texts), (running.corrupt, others)] {
            if !messages.is_empty() {
                let mut found = self.found.borrow_mut();
                found.error(&running.source, fact, &running.path, messages.join("; "));
            }
        }
        Ok(())
    }
}

fn virtual_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'";
    let mut statement = connection.prepare(query)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// SQLite from 3.44 on lets virtual tables check themselves: "malformed inverted index for FTS5 table main.t", or "unable
/// to validate the inverted index for FTS5 table main.t: …". One whose module isn't built in says nothing. Where the tables
/// can't be named, the whole database is asked.
fn ask(connection: &Connection, tables: rusqlite::Result<Vec<String>>) -> Told {
    let Ok(tables) = tables else { return integrity_messages(connection) };
    let mut told = Vec::new();
    for table in tables {
        match integrity_messages_of(connection, &table) {
            Ok(messages) => told.extend(messages),
            Err(error) if trouble_of_ours(&error).is_some() => return Err(error),
            // Of the others something can be said all the same.
            Err(error) => told.push(format!("{table}: {error}")),
        }
    }
    Ok(told)
}

fn is_about_fts(message: &str) -> bool {
    message.contains("inverted index for FTS")
}

#[cfg(test)]
mod tests {
    use super::FullTexts;
    use crate::progress::Stop;
    use rusqlite::Connection;
    use std::io::ErrorKind;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn database(path: &Path, statements: &str) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(statements).unwrap();
        connection
    }

    const TEXTS: &str = "CREATE VIRTUAL TABLE \"od\"\"d\" USING fts5(x, tokenize = 'trigram');
        CREATE VIRTUAL TABLE r USING rtree(id, a, b);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
            INSERT INTO \"od\"\"d\" SELECT 'some words and the number ' || i FROM n;
        INSERT INTO r VALUES(1, 1, 2), (2, 5, 6);
        PRAGMA writable_schema=ON;
        INSERT INTO sqlite_schema VALUES('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING nobody(x)');";

    /// One after another, each under its own name; what is sound, or can't be asked, isn't mentioned.
    #[test]
    fn each_table_is_asked_about_itself() {
        let scratch = tempfile::tempdir().unwrap();
        let full_texts = FullTexts::new(Stop::default());
        for (name, damage) in [
            ("sound", ""),
            ("texts", "DELETE FROM \"od\"\"d_content\" WHERE id % 2 = 0;"),
            ("bounds", "DELETE FROM r_rowid WHERE rowid = 1;"),
            // A name that isn't text, and a table that can't be opened, beside one that is damaged.
            (
                "unnamed",
                "INSERT INTO sqlite_schema SELECT 'table', n, n, 0, 'CREATE VIRTUAL TABLE \"' || n || '\" USING nobody(x)'
                    FROM (SELECT CAST(x'76ff' AS TEXT) AS n);
                DELETE FROM \"od\"\"d_content\" WHERE id = 1;",
            ),
            (
                "strange",
                "CREATE VIRTUAL TABLE a USING fts5(x);
                UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE a USING fts5(x, nobody = 1)' WHERE name = 'a';
                DELETE FROM \"od\"\"d_content\" WHERE id = 1;",
            ),
        ] {
            drop(database(&scratch.path().join(name), &format!("{TEXTS}{damage}")));
            let connection = Connection::open(scratch.path().join(name)).unwrap();
            std::fs::remove_file(scratch.path().join(name)).unwrap();
            full_texts.begin(("s", name.as_bytes(), "corrupt"), connection).unwrap();
        }
        let found = full_texts.wait().unwrap();
        let told: Vec<_> = found.iter().map(|found| (found.code.as_str(), found.path.as_str())).collect();
        let expected = [
            ("s_fts_corrupt", "texts"),
            ("s_corrupt", "bounds"),
            ("s_fts_corrupt", "unnamed"),
            ("s_fts_corrupt", "strange"),
            ("s_corrupt", "strange"),
        ];
        assert_eq!(told, expected, "{found:?}");
        assert!(full_texts.wait().unwrap().is_empty() && !full_texts.is_running());
    }

    #[test]
    fn nobody_waits_who_was_asked_to_stop() {
        let scratch = tempfile::tempdir().unwrap();
        let signal = Arc::new(AtomicUsize::new(0));
        let full_texts = FullTexts::new(Stop::watching(Arc::clone(&signal)));
        let connection = database(&scratch.path().join("a"), TEXTS);
        full_texts.begin(("s", b"a", "corrupt"), connection).unwrap();
        signal.store(2, Ordering::Relaxed);
        assert_eq!(full_texts.wait().unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
