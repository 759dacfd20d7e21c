//! Scratch copies of a database, and reading files by position.

use crate::hold::{CloneSpace, open_file};
use crate::source::interface::GoOn;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const COPY_BUFFER_BYTES: usize = 1 << 20;

/// A database and its journal, copied side by side so that SQLite can roll the journal back.
pub struct RollbackCopy {
    directory: tempfile::TempDir,
}

impl RollbackCopy {
    /// Copies both; `None` if the journal has gone meanwhile, `TimedOut` if `go_on` says no before the end.
    pub fn make(database: &File, journal: &Path, below: &Path, go_on: GoOn<'_>) -> io::Result<Option<Self>> {
        let directory = tempfile::Builder::new().prefix("icecore-rollback-").tempdir_in(below)?;
        copy_file(database, &directory.path().join("copy"), go_on)?;
        let journal = match open_file(journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        copy_file(&journal, &directory.path().join("copy-journal"), go_on)?;
        Ok(Some(Self { directory }))
    }

    /// Opening the copy makes SQLite roll its journal back.
    pub fn roll_back(&self) -> Result<File, String> {
        let copy = self.directory.path().join("copy");
        let roll_back = || -> rusqlite::Result<()> {
            let connection = rusqlite::Connection::open(&copy)?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            connection.close().map_err(|(_, error)| error)
        };
        roll_back().map_err(|error| error.to_string())?;
        File::open(&copy).map_err(|error| error.to_string())
    }
}

fn copy_file(from: &File, to: &Path, go_on: GoOn<'_>) -> io::Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    let mut target = File::create_new(to)?;
    // Where the scratch directory shares extents with the source, this takes no time.
    if let Some(space) = CloneSpace::find(from, &[parent])
        && let Ok(mut clone) = space.clone_of(from)
    {
        io::copy(&mut clone, &mut target)?;
        return target.flush();
    }
    let mut reader = ByPosition::new(from);
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        if !go_on() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return target.flush();
        }
        target.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

/// Reads a file from its beginning without moving a shared file offset.
pub struct ByPosition<'f> {
    file: &'f File,
    at: u64,
}

impl<'f> ByPosition<'f> {
    pub fn new(file: &'f File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for ByPosition<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
