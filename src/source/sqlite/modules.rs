//! Lets a connection forget its virtual tables.

use rusqlite::{Connection, ffi};

/// From here on `integrity_check` looks at tables, indexes and pages, but doesn't have full-text indexes compare themselves with
/// their texts, which takes four times as long as all else. Their own tables are looked at like others
/// (<https://sqlite.org/c3ref/drop_modules.html>).
#[expect(unsafe_code, reason = "rusqlite has no name for this call of SQLite's")]
pub fn forget_virtual_tables(connection: &Connection) {
    // SAFETY: the handle is that of an open connection, and no list of modules to keep is given.
    unsafe { ffi::sqlite3_drop_modules(connection.handle(), std::ptr::null_mut()) };
}
