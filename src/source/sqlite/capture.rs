//! Captures a database's last committed state while other processes use it.

use super::write_ahead_log::{CommittedPages, Merged};
use crate::format::{Captured, Consistency, Entry, EntryKind, FileState};
use crate::hold::{Attempt, Sidecars, SqliteHold, open_file};
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, Recorder, Retaken, Taken, file_id, mtime_ns,
};
use crate::source::tree::{attributes_of, bare_entry};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A smaller database is read into memory under the hold at once; a larger one is rehearsed first.
const SMALL_BYTES: u64 = 8 << 20;
/// How often a database that no lock holds is read again when it changed meanwhile.
const OPTIMISTIC_TRIES: u32 = 5;
const OPTIMISTIC_PAUSE: Duration = Duration::from_millis(50);
/// As for any racy timestamp: a file touched this recently can change again without showing it.
const TICK: Duration = Duration::from_millis(20);

/// A database to be captured.
pub struct Database<'a> {
    /// The real file: SQLite puts journal and log beside it, not beside a symlink.
    path: PathBuf,
    options: &'a CaptureOptions,
    sidecars: Sidecars,
}

/// A captured database.
pub struct Image {
    pub taken: Option<Taken>,
    pub entry: Entry,
    pub capture: Capture,
}

/// The first pass over a database, without any lock.
pub struct Rehearsal {
    taken: Taken,
    marks: Marks,
    /// The database was touched so shortly before that a further change might not show.
    racy: bool,
}

/// Identity and change marks of a database and what lies beside it, as they were at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Marks {
    database: FileState,
    /// Counts the committed transactions of rollback-journal mode (header bytes 24 to 27).
    change_counter: [u8; 4],
    mtime_ns: i64,
    log: Option<(FileState, i64)>,
    journal: Option<(FileState, i64)>,
}

/// What was read under a hold, to be recorded after it.
enum Reading {
    Whole(Taken),
    Small(Vec<u8>),
    Differences(Retaken),
    /// Database and journal, copied side by side into a private directory.
    ToRollBack(tempfile::TempDir),
}

/// A database that is being held.
pub struct HeldDatabase<'d, 'a> {
    database: &'d Database<'a>,
    hold: SqliteHold,
    since: Instant,
}

/// What came out of a hold, before it is recorded.
pub struct Unsettled {
    reading: Reading,
    metadata: Metadata,
    state: Option<FileState>,
    mtime_ns: i64,
    capture: Capture,
}

impl<'a> Database<'a> {
    /// The database at `path`, symlinks resolved.
    pub fn new(path: &Path, options: &'a CaptureOptions) -> Result<Self, CaptureError> {
        let path = fs::canonicalize(path).map_err(|error| CaptureError::io("resolve", path, error))?;
        let sidecars = Sidecars::of(&path);
        Ok(Self { path, options, sidecars })
    }

    /// Captures the whole database: unchanged → taken over, else rehearse, hold, read, let go, record.
    /// `place` is its path below the source.
    pub fn capture(
        &self,
        name: &[u8],
        place: &[u8],
        recorder: &mut dyn Recorder,
    ) -> Result<Image, CaptureError> {
        if let Some(image) = self.unchanged(name, place, recorder)? {
            return Ok(image);
        }
        let rehearsal = self.rehearse(recorder)?;
        self.held_capture(name, rehearsal.as_ref(), recorder)
    }

    fn held_capture(
        &self,
        name: &[u8],
        rehearsal: Option<&Rehearsal>,
        recorder: &mut dyn Recorder,
    ) -> Result<Image, CaptureError> {
        let mut tries = 0;
        loop {
            let mut held = self.hold()?;
            tries += 1;
            if let Some(unsettled) = held.read(rehearsal, recorder)? {
                let unsettled = held.release(unsettled);
                return self.settle(name, unsettled, recorder);
            }
            if tries >= OPTIMISTIC_TRIES {
                let detail =
                    format!("it changed during each of {tries} readings, and no lock reaches its writers");
                return Err(CaptureError::KeptChanging { path: self.path.clone(), detail });
            }
            drop(held);
            std::thread::sleep(OPTIMISTIC_PAUSE);
        }
    }

    /// By its marks the database is what the parent snapshot has, so it isn't read.
    pub fn unchanged(
        &self,
        name: &[u8],
        place: &[u8],
        recorder: &mut dyn Recorder,
    ) -> Result<Option<Image>, CaptureError> {
        let Some(seen) = recorder.parent(place)? else { return Ok(None) };
        let marks = self.marks().map_err(|error| CaptureError::io("stat", &self.path, error))?;
        let quiet = marks.journal.is_none_or(|(journal, _)| journal.size == 0);
        let (state, mtime_ns) = marks.combined();
        if !quiet || seen.entry.captured != Captured::Sqlite || !seen.proves(&state, mtime_ns) {
            return Ok(None);
        }
        let metadata =
            fs::metadata(&self.path).map_err(|error| CaptureError::io("stat", &self.path, error))?;
        let consistency = seen.consistency;
        let mut entry = self.entry(name, &metadata, seen.entry.size, Some(state), mtime_ns);
        entry.content = seen.entry.content;
        Ok(Some(Image { taken: None, entry, capture: Capture::unheld(consistency) }))
    }

    /// Reads a large database without a lock, so that under the lock little is left to do.
    pub fn rehearse(&self, recorder: &mut dyn Recorder) -> Result<Option<Rehearsal>, CaptureError> {
        let fail = |error| CaptureError::io("read", &self.path, error);
        let marks = self.marks().map_err(fail)?;
        let in_log = marks.log.is_some_and(|(log, _)| log.size > 0);
        if marks.database.size < SMALL_BYTES || in_log || self.options.cold {
            return Ok(None);
        }
        let racy = marks.is_racy();
        let file = open_file(&self.path).map_err(fail)?;
        let taken = recorder.take(&mut ByPosition::new(&file)).map_err(|error| error.at(&self.path))?;
        // Encoding and storing it must not be waited for under the hold.
        recorder.await_stored(&taken)?;
        Ok(Some(Rehearsal { taken, marks, racy }))
    }

    /// Waits for a moment at which nobody writes, and holds it.
    pub fn hold(&self) -> Result<HeldDatabase<'_, 'a>, CaptureError> {
        let started = Instant::now();
        let fail = |error| CaptureError::io("lock", &self.path, error);
        if self.options.cold {
            let hold = SqliteHold::none(&self.path).map_err(fail)?;
            return Ok(HeldDatabase { database: self, hold, since: Instant::now() });
        }
        match SqliteHold::wait(&self.path, self.options.lock_wait).map_err(fail)? {
            Attempt::Held(hold) => Ok(HeldDatabase { database: self, hold, since: Instant::now() }),
            Attempt::Busy(detail) => {
                let (path, waited) = (self.path.clone(), started.elapsed());
                Err(CaptureError::Busy { path, waited, detail: detail.to_owned() })
            }
        }
    }

    /// Records what was read, once the hold is given back.
    pub fn settle(
        &self,
        name: &[u8],
        unsettled: Unsettled,
        recorder: &mut dyn Recorder,
    ) -> Result<Image, CaptureError> {
        let Unsettled { reading, metadata, state, mtime_ns, capture } = unsettled;
        let taken = match reading {
            Reading::Whole(taken) => taken,
            Reading::Small(bytes) => {
                recorder.take(&mut bytes.as_slice()).map_err(|error| error.at(&self.path))?
            }
            Reading::Differences(retaken) => recorder.settle(retaken)?,
            Reading::ToRollBack(directory) => {
                let copy = directory.path().join("copy");
                roll_back(&copy).map_err(|detail| CaptureError::Unusable {
                    path: self.path.clone(),
                    detail: format!("its journal could not be rolled back in a copy: {detail}"),
                })?;
                let file = File::open(&copy).map_err(|error| CaptureError::io("read", &copy, error))?;
                recorder.take(&mut ByPosition::new(&file)).map_err(|error| error.at(&self.path))?
            }
        };
        let entry = self.entry(name, &metadata, taken.bytes, state, mtime_ns);
        Ok(Image { taken: Some(taken), entry, capture })
    }

    fn entry(
        &self,
        name: &[u8],
        metadata: &Metadata,
        size: u64,
        state: Option<FileState>,
        mtime_ns: i64,
    ) -> Entry {
        Entry {
            mtime_ns,
            size,
            captured: Captured::Sqlite,
            state,
            xattrs: attributes_of(&self.path),
            ..bare_entry(name, metadata, EntryKind::File)
        }
    }

    fn marks(&self) -> io::Result<Marks> {
        let of = |path: &Path| match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|metadata| Some((file_id(&metadata), mtime_ns(&metadata)))),
        };
        let metadata = fs::metadata(&self.path)?;
        let mut change_counter = [0; 4];
        // A database shorter than its header has committed nothing yet.
        if let Err(error) = open_file(&self.path)?.read_exact_at(&mut change_counter, 24)
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            return Err(error);
        }
        Ok(Marks {
            change_counter,
            database: file_id(&metadata),
            mtime_ns: mtime_ns(&metadata),
            log: of(&self.sidecars.wal)?,
            journal: of(&self.sidecars.journal)?,
        })
    }
}

impl Marks {
    /// One state for database and log together: any change of either shows in it.
    fn combined(&self) -> (FileState, i64) {
        let mut state = self.database;
        let mut mtime_ns = self.mtime_ns;
        if let Some((log, log_mtime_ns)) = self.log.filter(|(log, _)| log.size > 0) {
            state.size += log.size;
            state.ctime_ns = state.ctime_ns.max(log.ctime_ns);
            mtime_ns = mtime_ns.max(log_mtime_ns);
        }
        (state, mtime_ns)
    }

    /// Touched so recently that a further change might not show.
    fn is_racy(&self) -> bool {
        // A time in the future says nothing: the change time beside it does.
        let tick = TICK.as_nanos() as i64;
        let near = |time: i64| (now_ns() - time).abs() < tick;
        near(self.combined().0.ctime_ns) || near(self.combined().1)
    }
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

impl HeldDatabase<'_, '_> {
    /// Reads the database; `None` if nothing holds it and it changed meanwhile.
    pub fn read(
        &mut self,
        rehearsal: Option<&Rehearsal>,
        recorder: &mut dyn Recorder,
    ) -> Result<Option<Unsettled>, CaptureError> {
        let path = &self.database.path;
        let fail = |error| CaptureError::io("read", path, error);
        let marks = self.database.marks().map_err(fail)?;
        let racy = marks.is_racy();
        let metadata = self.hold.database().metadata().map_err(fail)?;
        let (state, mtime_ns) = marks.combined();
        let (reading, state) = match &self.hold {
            SqliteHold::Rollback { database } => {
                (read_held(database, &marks, rehearsal, recorder, path)?, Some(state))
            }
            SqliteHold::HotJournal { .. } => match self.copy_to_roll_back()? {
                Some(reading) => (reading, None),
                None => return Ok(None),
            },
            SqliteHold::Wal { database, .. } => (self.read_merged(database, recorder)?, Some(state)),
            SqliteHold::Unlocked { database, wal_mode } => {
                let hot = !wal_mode && self.database.sidecars.has_hot_journal().map_err(fail)?;
                let reading = if hot {
                    let Some(reading) = self.copy_to_roll_back()? else { return Ok(None) };
                    (reading, None)
                } else {
                    (self.read_merged(database, recorder)?, Some(state))
                };
                let after = self.database.marks().map_err(fail)?;
                if !self.database.options.cold && (after != marks || racy) {
                    return Ok(None);
                }
                reading
            }
        };
        if !self.hold.still_holds(path).map_err(fail)? {
            return Ok(None);
        }
        let capture = Capture { consistency: self.consistency(), writer_pause: Duration::ZERO };
        Ok(Some(Unsettled { reading, metadata, state, mtime_ns, capture }))
    }

    /// Lets writers go on, and notes how long they had to wait.
    pub fn release(self, mut unsettled: Unsettled) -> Unsettled {
        let waits = matches!(self.hold, SqliteHold::Rollback { .. } | SqliteHold::HotJournal { .. });
        drop(self.hold);
        if waits {
            unsettled.capture.writer_pause = self.since.elapsed();
        }
        unsettled
    }

    /// Nobody can write the database now, so that it can be read through its own name.
    pub fn excludes_writers(&self) -> bool {
        matches!(self.hold, SqliteHold::Rollback { .. })
    }

    fn consistency(&self) -> Consistency {
        match self.hold {
            _ if self.database.options.cold => Consistency::Cold,
            SqliteHold::Unlocked { .. } => Consistency::Optimistic,
            _ => Consistency::Locked,
        }
    }

    /// Reads database and log as one image. Where the log holds no commit, the database is the image.
    fn read_merged(&self, database: &File, recorder: &mut dyn Recorder) -> Result<Reading, CaptureError> {
        let fail = |error| CaptureError::io("read", &self.database.path, error);
        let log = match open_file(&self.database.sidecars.wal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => {
                Some(other.map_err(|error| CaptureError::io("read", &self.database.sidecars.wal, error))?)
            }
        };
        if let Some(log) = log {
            let pages = CommittedPages::read(&log).map_err(fail)?;
            if !pages.is_empty() {
                let taken = recorder.take(&mut Merged::new(database, &log, &pages));
                return taken.map(Reading::Whole).map_err(|error| error.at(&self.database.path));
            }
        }
        let taken = recorder.take(&mut ByPosition::new(database));
        taken.map(Reading::Whole).map_err(|error| error.at(&self.database.path))
    }

    /// `None` if the journal has gone meanwhile: whoever it belonged to is alive.
    fn copy_to_roll_back(&self) -> Result<Option<Reading>, CaptureError> {
        let copy = || -> io::Result<Option<tempfile::TempDir>> {
            let directory = tempfile::Builder::new()
                .prefix("icecore-rollback-")
                .tempdir_in(&self.database.options.temporary_directory)?;
            copy_file(self.hold.database(), &directory.path().join("copy"))?;
            let journal = match open_file(&self.database.sidecars.journal) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            copy_file(&journal, &directory.path().join("copy-journal"))?;
            Ok(Some(directory))
        };
        let copied = copy().map_err(|error| CaptureError::io("copy", &self.database.path, error))?;
        Ok(copied.map(Reading::ToRollBack))
    }
}

/// With writers kept out: the rehearsal as it is where nothing changed since, else what differs from it.
fn read_held(
    database: &File,
    marks: &Marks,
    rehearsal: Option<&Rehearsal>,
    recorder: &mut dyn Recorder,
    path: &Path,
) -> Result<Reading, CaptureError> {
    match rehearsal {
        Some(rehearsal) if rehearsal.marks == *marks && !rehearsal.racy => {
            Ok(Reading::Whole(rehearsal.taken.clone()))
        }
        Some(rehearsal) => {
            let retaken = recorder
                .retake(&rehearsal.taken, &mut ByPosition::new(database))
                .map_err(|error| error.at(path))?;
            Ok(Reading::Differences(retaken))
        }
        None if marks.database.size < 2 * SMALL_BYTES => {
            let mut bytes = Vec::with_capacity(usize::try_from(marks.database.size).unwrap_or(0));
            let read = ByPosition::new(database).read_to_end(&mut bytes);
            read.map_err(|error| CaptureError::io("read", path, error))?;
            Ok(Reading::Small(bytes))
        }
        None => {
            recorder.take(&mut ByPosition::new(database)).map(Reading::Whole).map_err(|error| error.at(path))
        }
    }
}

fn copy_file(from: &File, to: &Path) -> io::Result<()> {
    let mut target = File::create_new(to)?;
    io::copy(&mut ByPosition::new(from), &mut target)?;
    target.flush()
}

/// Opening the copy makes SQLite roll its journal back.
fn roll_back(copy: &Path) -> Result<(), rusqlite::Error> {
    let connection = rusqlite::Connection::open(copy)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
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

/// Captures a source that is one database.
pub fn capture(
    path: &Path,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let metadata = fs::metadata(path).map_err(|error| CaptureError::io("stat", path, error))?;
    if !metadata.is_file() {
        return Err(CaptureError::WrongKind { path: path.to_owned(), expected: "file" });
    }
    let name = path.file_name().map(|name| name.as_bytes().to_owned()).unwrap_or_default();
    let image = Database::new(path, options)?.capture(&name, b"", recorder)?;
    recorder.add(image.entry, image.taken)?;
    Ok(image.capture)
}
