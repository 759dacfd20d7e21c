//! Why a group of checks could not be finished.

use crate::source::chroma::layout::DATABASE;
use crate::source::interface::Judgement;
use crate::source::sqlite::trouble_of_ours;
use rusqlite::ErrorCode;
use std::io;

/// What stops a group of checks; the others go on.
#[derive(Debug)]
pub enum Trouble {
    /// A stored file or a scratch file could not be read or written.
    Io(io::Error),
    /// The database doesn't answer a query.
    Sql(rusqlite::Error),
    /// A pickle is none that Chroma writes.
    Malformed(String),
}

pub type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::Malformed(detail.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Ends a group of checks: a damaged database is an error, one that has other tables or columns than those known is a
/// warning (a newer Chroma may have changed them), scratch space that gives out is ours, and so is the wish to stop. `None` if the group failed.
pub fn end_group<T>(
    judgement: &mut Judgement,
    source: &str,
    group: &str,
    result: Outcome<T>,
) -> io::Result<Option<T>> {
    let error = match result {
        Ok(value) => return Ok(Some(value)),
        Err(Trouble::Io(error)) => return Err(error),
        Err(Trouble::Malformed(detail)) => rusqlite::Error::InvalidParameterName(detail),
        Err(Trouble::Sql(error)) => error,
    };
    let detail = format!("{group}: {error}");
    if let Some(trouble) = trouble_of_ours(&error) {
        return Err(io::Error::new(trouble.kind(), detail));
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            judgement.error(source, "db_corrupt", DATABASE.as_bytes(), detail);
        }
        _ => judgement.warning(source, "schema_unknown", DATABASE.as_bytes(), detail),
    }
    Ok(None)
}
