//! Proves that a stored database is whole.

use super::full_text::FullTexts;
use super::header::Header;
use super::integrity::{integrity_messages, open_immutable, stop_when, trouble_of_ours};
use super::modules::forget_virtual_tables;
use crate::format::Level;
use crate::progress::Stop;
use crate::source::interface::{JudgeOptions, Judgement, ReadAt};
use crate::source::scratch::CHECK_PREFIX;
use rusqlite::Connection;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

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

/// Judges one database: its header and size always, every page and index at the full level. Comparing full-text indexes with their texts is begun if that is asked for.
pub fn judge_database(
    judgement: &mut Judgement,
    source: &str,
    path: &[u8],
    file: &dyn ReadAt,
    options: &JudgeOptions<'_>,
) -> io::Result<()> {
    judge_copy(judgement, (source, &FACTS), path, file, options, &mut |_| Ok(()))
}

/// As `judge_database`, with other names for the facts. At the full level a file that lies on the disk is read there, another one from a copy; `opened` gets that path, to open it for further questions. A copy's name is gone soon after.
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
        None => Some(match copy_of(file, options.temporary_directory) {
            Err(error) if is_full(&error) && make_room(options)? => {
                copy_of(file, options.temporary_directory)?
            }
            copied => copied?,
        }),
    };
    let place = file.on_disk().or(copy.as_ref().map(NamedTempFile::path)).unwrap_or(Path::new(""));
    let connection = open_immutable(place);
    let beside = options.full_texts.map(|full_texts| (full_texts, open_immutable(place)));
    opened(place)?;
    // From here on the copy has no name; SQLite keeps its descriptors.
    drop(copy);
    if let (Some((full_texts, beside)), Ok(_)) = (beside, &connection) {
        let beside = beside.map_err(io::Error::other)?;
        full_texts.begin((source, path, facts.corrupt), beside)?;
    }
    match connection.and_then(|connection| messages_of_pages(connection, options.stop)) {
        Ok(messages) if messages.is_empty() => {}
        Ok(messages) => judgement.error(source, facts.corrupt, path, messages.join("; ")),
        Err(error) => match trouble_of_ours(&error) {
            Some(trouble) => return Err(trouble),
            None => judgement.error(source, facts.corrupt, path, error.to_string()),
        },
    }
    Ok(())
}

/// What `integrity_check` says, but for what virtual tables say about themselves.
fn messages_of_pages(mut connection: Connection, stop: &Stop) -> rusqlite::Result<Vec<String>> {
    stop_when(&mut connection, stop)?;
    forget_virtual_tables(&connection);
    integrity_messages(&connection)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The copy of another database goes, if one is being read: whether there was one.
fn make_room(options: &JudgeOptions<'_>) -> io::Result<bool> {
    options.full_texts.map_or(Ok(false), FullTexts::make_room)
}

/// Copies a stored database into a temporary file.
fn copy_of(file: &dyn ReadAt, temporary_directory: &Path) -> io::Result<NamedTempFile> {
    let copy = tempfile::Builder::new().prefix(CHECK_PREFIX).tempfile_in(temporary_directory)?;
    file.copy_to(copy.as_file())?;
    // A copy has no log: told that it is in rollback mode, SQLite needs none of the files that WAL mode wants.
    let mut versions = [0u8; 2];
    if file.size() >= Header::LEN as u64 {
        copy.as_file().read_exact_at(&mut versions, 18)?;
    }
    if versions == [2, 2] {
        copy.as_file().write_all_at(&[1, 1], 18)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::judge_database;
    use crate::format::Level;
    use crate::progress::Stop;
    use crate::source::interface::{JudgeOptions, Judgement, ReadAt};
    use crate::source::sqlite::FullTexts;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    /// A stored database that has no room beside another copy.
    struct Crowded<'c> {
        bytes: &'c [u8],
        full_texts: &'c FullTexts,
        has_room: bool,
    }

    impl ReadAt for Crowded<'_> {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.bytes.read_exact_at(buffer, offset)
        }

        fn copy_to(&self, file: &File) -> io::Result<()> {
            if self.full_texts.is_running() || !self.has_room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.write_all_at(self.bytes, 0)
        }

        fn on_disk(&self) -> Option<&Path> {
            None
        }
    }

    /// A restored database that SQLite can't open any more.
    struct Gone<'g>(&'g [u8]);

    impl ReadAt for Gone<'_> {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buffer, offset)
        }

        fn copy_to(&self, _: &File) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn on_disk(&self) -> Option<&Path> {
            Some(Path::new("/nobody/is/here"))
        }
    }

    fn database_bytes(scratch: &Path) -> Vec<u8> {
        let path = scratch.join("a");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES('a text')")
            .unwrap();
        drop(connection);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn what_cannot_be_opened_is_not_called_corrupt() {
        let scratch = tempfile::tempdir().unwrap();
        let bytes = database_bytes(scratch.path());
        let (level, temporary_directory, stop) = (Level::Full, scratch.path(), &Stop::default());
        let options = JudgeOptions { level, full_texts: None, temporary_directory, stop };
        let mut judgement = Judgement::default();
        let judged = judge_database(&mut judgement, "s", b"a", &Gone(&bytes), &options);
        assert!(judged.unwrap_err().to_string().contains("unable to open"));
        assert!(judgement.findings.is_empty(), "{:?}", judgement.findings);
    }

    #[test]
    fn a_copy_waits_for_room() {
        let scratch = tempfile::tempdir().unwrap();
        let bytes = database_bytes(scratch.path());
        let full_texts = FullTexts::new(Stop::default());
        let options = JudgeOptions {
            level: Level::Full,
            full_texts: Some(&full_texts),
            temporary_directory: scratch.path(),
            stop: &Stop::default(),
        };
        let mut judgement = Judgement::default();
        let mut judge = |has_room| {
            let file = Crowded { bytes: &bytes, full_texts: &full_texts, has_room };
            judge_database(&mut judgement, "s", b"a", &file, &options)
        };
        judge(true).unwrap();
        assert!(full_texts.is_running());
        judge(true).unwrap();
        assert_eq!(judge(false).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(full_texts.wait().unwrap().is_empty() && judgement.findings.is_empty());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "only the database itself is left");
    }
}
