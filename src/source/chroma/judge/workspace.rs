//! A scratch database for joins, with the captured database attached read-only as `store`.

use super::offenders::{Offenders, shown};
use super::trouble::Outcome;
use crate::progress::Stop;
use crate::source::scratch::CHECK_PREFIX;
use crate::source::sqlite::{escape, stop_when};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Statement};
use std::cell::RefCell;
use std::path::Path;

/// Tables of the scratch database:
/// - `collection`: what each has applied, by number;
/// - `topic`: the queue's topics, as collections' numbers;
/// - `tail`: the last deciding operation per id above what the vector (`vector_op`) and the metadata segment
///   (`metadata_op`) have applied; `indexed`: the id is in the pickle;
/// - `expected`: the queue row that should have made an id's vector (`seq`, NULL: none that can be told);
/// - `candidate`: the same by label;
/// - `one_side`, `other_side`: sets that differ, to name what is in one only.
const TABLES: &str = "
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16384; PRAGMA trusted_schema=OFF;
CREATE TABLE collection(n INTEGER PRIMARY KEY, vector_seq INTEGER, metadata_seq INTEGER, segment TEXT);
CREATE TABLE topic(topic TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tail(n INTEGER, id TEXT, vector_op INTEGER, metadata_op INTEGER, indexed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(n, id)) WITHOUT ROWID;
CREATE TABLE expected(n INTEGER, id TEXT, seq INTEGER, op INTEGER, sure INTEGER, gone INTEGER,
    PRIMARY KEY(n, id)) WITHOUT ROWID;
CREATE TABLE candidate(n INTEGER, label INTEGER, seq INTEGER, PRIMARY KEY(n, label)) WITHOUT ROWID;
CREATE TABLE one_side(element BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE other_side(element BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// Opens the scratch database in `temporary_directory` and attaches `copy`, which nobody may write meanwhile. Whatever it does ends
/// soon after somebody asked to stop.
pub fn open_workspace(copy: &Path, temporary_directory: &Path, stop: &Stop) -> Outcome<Connection> {
    // Its name goes with `scratch` when this returns; SQLite keeps its descriptor.
    let scratch = tempfile::Builder::new().prefix(CHECK_PREFIX).tempfile_in(temporary_directory)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(scratch.path(), flags)?;
    stop_when(&mut connection, stop)?;
    connection.execute_batch(TABLES)?;
    let uri = format!("file:{}?immutable=1&mode=ro", escape(&copy.display().to_string()));
    connection.execute("ATTACH ?1 AS store", [uri])?;
    // One transaction from here on: each statement by itself would be one.
    connection.execute_batch("BEGIN")?;
    Ok(connection)
}

/// Two sets that are known to differ.
pub struct Difference<'c> {
    connection: &'c Connection,
    one: SideStatements<'c>,
    other: SideStatements<'c>,
}

struct SideStatements<'c> {
    insert: RefCell<Statement<'c>>,
    delete: RefCell<Statement<'c>>,
}

/// A set of a [`Difference`].
#[derive(Debug, Clone, Copy)]
pub enum Side {
    One,
    Other,
}

impl<'c> Difference<'c> {
    /// Begins with two empty sets.
    pub fn new(connection: &'c Connection) -> Outcome<Self> {
        connection.execute_batch("DELETE FROM one_side; DELETE FROM other_side")?;
        let side = |table: &str| -> Outcome<SideStatements<'c>> {
            let insert = connection.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES(?1)"))?;
            let delete = connection.prepare(&format!("DELETE FROM {table} WHERE element = ?1"))?;
            Ok(SideStatements { insert: RefCell::new(insert), delete: RefCell::new(delete) })
        };
        Ok(Self { connection, one: side("one_side")?, other: side("other_side")? })
    }

    fn side(&self, side: Side) -> &SideStatements<'c> {
        match side {
            Side::One => &self.one,
            Side::Other => &self.other,
        }
    }

    pub fn insert(&self, side: Side, element: &[u8]) -> Outcome<()> {
        self.side(side).insert.borrow_mut().execute([element])?;
        Ok(())
    }

    pub fn remove(&self, side: Side, element: &[u8]) -> Outcome<()> {
        self.side(side).delete.borrow_mut().execute([element])?;
        Ok(())
    }

    /// What is in `side` only; `name` makes an element readable.
    pub fn only_in(&self, side: Side, name: impl Fn(&[u8]) -> String) -> Outcome<Offenders> {
        let query = match side {
            Side::One => {
                "SELECT element FROM one_side a WHERE NOT EXISTS (SELECT 1 FROM other_side b WHERE b.element = a.element)"
            }
            Side::Other => {
                "SELECT element FROM other_side a WHERE NOT EXISTS (SELECT 1 FROM one_side b WHERE b.element = a.element)"
            }
        };
        let mut statement = self.connection.prepare(query)?;
        let mut rows = statement.query([])?;
        let mut found = Offenders::default();
        while let Some(row) = rows.next()? {
            let element = bytes_of(row.get_ref(0)?);
            found.add(|| name(element));
        }
        Ok(found)
    }
}

/// The bytes of a text or a blob; nothing for other values.
pub fn bytes_of<'v>(value: ValueRef<'v>) -> &'v [u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    }
}

/// Names of an element that is an id.
pub fn id_name(element: &[u8]) -> String {
    shown(element)
}

/// Name of an element that is a label in eight little-endian bytes.
pub fn label_name(element: &[u8]) -> String {
    element.first_chunk().map_or_else(|| "?".to_owned(), |bytes| u64::from_le_bytes(*bytes).to_string())
}

/// True if the captured database has the table, or view, and the column.
pub fn has_column(connection: &Connection, table: &str, column: &str) -> Outcome<bool> {
    let query = "SELECT 1 FROM pragma_table_info(?1, 'store') WHERE name = ?2";
    Ok(connection.prepare(query)?.exists([table, column])?)
}
