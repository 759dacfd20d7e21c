//! Scratch copies of a database, and reading files by position.

use crate::hold::{CloneSpace, open_file};
use crate::source::scratch::ROLLBACK_PREFIX;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const COPY_BUFFER_BYTES: usize = 1 << 20;

/// A database and its journal, copied side by side so that SQLite can roll the journal back.
pub struct RollbackCopy {
    directory: tempfile::TempDir,
}

impl RollbackCopy {
    /// Copies both, `path` being where the database lies. The inner error says why they can't be had now; `TimedOut` is
    /// returned if `go_on` says no before the end.
    pub fn make(
        database: &File,
        path: &Path,
        journal: &Path,
        below: &Path,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Result<Self, &'static str>> {
        let directory = tempfile::Builder::new().prefix(ROLLBACK_PREFIX).tempdir_in(below)?;
        copy_file(database, &directory.path().join("copy"), go_on)?;
        let journal = match open_file(journal) {
            // Whoever it belonged to is alive.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err("a journal that was to be rolled back went away"));
            }
            other => other?,
        };
        let copy = directory.path().join("copy-journal");
        copy_file(&journal, &copy, go_on)?;
        match SuperJournal::of(&copy)?.map(|named| (named.state(path), named)) {
            None => {}
            // Without the name SQLite rolls back whatever lies in the live directory by then.
            Some((Some(true), named)) => File::options().write(true).open(&copy)?.set_len(named.starts_at)?,
            // The transaction was committed when its super-journal was removed.
            Some((Some(false), _)) => std::fs::remove_file(&copy)?,
            Some((None, _)) => {
                return Ok(Err(
                    "it is part of a transaction over several databases, whose common journal isn't seen here",
                ));
            }
        }
        Ok(Ok(Self { directory }))
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

/// The end of a journal that belongs to a transaction over several databases: the name of their common journal
/// (<https://sqlite.org/fileformat2.html>, and `readSuperJournal` in SQLite's pager.c).
struct SuperJournal {
    name: PathBuf,
    starts_at: u64,
}

impl SuperJournal {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    /// The page number before the name, and length, checksum and magic behind it.
    const AROUND: u64 = 20;
    /// SQLite's own limit for a path is 512 by default.
    const LONGEST: u64 = 64 << 10;

    fn of(journal: &Path) -> io::Result<Option<Self>> {
        let file = File::open(journal)?;
        let size = file.metadata()?.len();
        let Some(end) = size.checked_sub(16) else { return Ok(None) };
        let mut tail = [0u8; 16];
        file.read_exact_at(&mut tail, end)?;
        let word = |at: usize| {
            tail.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
        };
        let (len, checksum) = (u64::from(word(0)), word(4));
        if tail.get(8..) != Some(&Self::MAGIC) || len == 0 || len > Self::LONGEST {
            return Ok(None);
        }
        let Some(starts_at) = size.checked_sub(Self::AROUND + len) else { return Ok(None) };
        let mut name = vec![0u8; len as usize];
        file.read_exact_at(&mut name, end - len)?;
        let sum = name
            .iter()
            .fold(0u32, |sum, byte| sum.wrapping_add(u32::from(byte.cast_signed().cast_unsigned())));
        let name = PathBuf::from(OsStr::from_bytes(&name));
        Ok((sum == checksum).then_some(Self { name, starts_at }))
    }

    /// Whether the common journal is there, as seen from the database at `path`: it lies beside the first database of the
    /// transaction. `None`: the application may see that directory, but not this process.
    fn state(&self, path: &Path) -> Option<bool> {
        let own = path.parent().unwrap_or(Path::new("/"));
        let name = self.name.file_name()?;
        if own.join(name).exists() {
            return Some(true);
        }
        let first = name.to_str().and_then(|name| name.rsplit_once("-mj"));
        let first_is_here = first.is_some_and(|(first, _)| own.join(first).exists());
        let above = self.name.parent()?;
        if first_is_here || above.is_dir() { Some(!first_is_here && self.name.exists()) } else { None }
    }
}

fn copy_file(from: &File, to: &Path, go_on: &dyn Fn() -> bool) -> io::Result<()> {
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
