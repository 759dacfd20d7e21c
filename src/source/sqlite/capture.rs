//! Captures a database's last committed state while other processes use it, in steps.

use super::frozen::{Frozen, take_merged};
use super::marks::{Marks, TICK};
use super::scratch_copy::{ByPosition, RollbackCopy};
use crate::format::{Captured, Consistency, Entry, EntryKind, FileState};
use crate::hold::{Attempt, CloneSpace, Sidecars, SqliteHold, open_file};
use crate::source::attributes::{attributes_of, bare_entry};
use crate::source::interface::{Capture, CaptureError, CaptureOptions, HoldMode, Recorder, Taken};
use crate::source::staged::{Freeze, Holding, Terms};
use crate::source::stat::Stat;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A smaller database is read into memory under the hold at once; a larger one is rehearsed first.
const SMALL_BYTES: u64 = 8 << 20;
/// How long the header of a log is given to be whole.
const HEADER_PATIENCE: Duration = Duration::from_millis(20);

/// A captured database, not yet in its directory.
pub struct Image {
    pub taken: Option<Taken>,
    pub entry: Entry,
    pub capture: Capture,
}

/// The last pass over a database without any lock.
struct Rehearsal {
    taken: Taken,
    marks: Marks,
    /// The database was touched so shortly before that a further change might not show.
    racy: bool,
    /// What the pass took, and the pause between two commits during it.
    lasted: Duration,
    commit_every: Duration,
}

impl Rehearsal {
    /// It is the database as these marks show it.
    fn shows(&self, marks: &Marks) -> bool {
        self.marks == *marks && !self.racy
    }
}

/// A database on its way through a capture's steps.
pub struct DatabaseCapture<'a> {
    /// The real file: SQLite puts journal and log beside it, not beside a symlink.
    path: PathBuf,
    options: &'a CaptureOptions,
    sidecars: Sidecars,
    /// Its name, and its path below the source.
    name: Vec<u8>,
    place: Vec<u8>,
    rehearsal: Option<Rehearsal>,
    clones: Option<CloneSpace>,
    hold: Option<(SqliteHold, Instant)>,
    /// How many frames of the log belong to the state.
    frames: Option<u32>,
    frozen: Option<(Frozen, Metadata, Marks)>,
    capture: Capture,
}

impl<'a> DatabaseCapture<'a> {
    /// The database at `path`, symlinks resolved; `name` is what its entry is called, `place` its path below the source.
    pub fn new(
        path: &Path,
        name: &[u8],
        place: &[u8],
        options: &'a CaptureOptions,
    ) -> Result<Self, CaptureError> {
        let path = fs::canonicalize(path).map_err(|error| CaptureError::io("resolve", path, error))?;
        let sidecars = Sidecars::of(&path);
        Ok(Self {
            path,
            options,
            sidecars,
            name: name.to_owned(),
            place: place.to_owned(),
            rehearsal: None,
            clones: None,
            hold: None,
            frames: None,
            frozen: None,
            capture: Capture::unheld(Consistency::Locked),
        })
    }

    /// The real file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where clones of files beside the database can be made, once the rehearsal has found a place.
    pub fn clones(&self) -> Option<&CloneSpace> {
        self.clones.as_ref()
    }

    /// Reads a large database without a lock, so that under the lock little is left to do; where it can be cloned, nothing
    /// needs to be read before.
    pub fn rehearse(&mut self, recorder: &mut dyn Recorder) -> Result<Duration, CaptureError> {
        let started = Instant::now();
        let fail = |error| CaptureError::io("read", &self.path, error);
        let marks = self.marks()?;
        // In WAL mode nobody waits for the reading.
        if marks.wal_mode || self.options.cold || self.proven(&marks, recorder)?.is_some() {
            return Ok(Duration::ZERO);
        }
        let file = open_file(&self.path).map_err(fail)?;
        if self.may_clone() && self.clones.is_none() {
            let beside = self.path.parent().unwrap_or(Path::new("/"));
            self.clones = CloneSpace::find(&file, &[&self.options.temporary_directory, beside]);
        }
        if self.clones.is_some() {
            return Ok(started.elapsed());
        }
        if self.options.hold == HoldMode::Reflink {
            let detail =
                "its file system shares no extents between files, or gives no place to clone it to".into();
            return Err(CaptureError::CannotHold {
                path: self.path.clone(),
                hold: HoldMode::Reflink,
                detail,
            });
        }
        if marks.database.size < SMALL_BYTES {
            return Ok(Duration::ZERO);
        }
        let racy = marks.is_racy();
        let taken = match self.rehearsal.take() {
            None => recorder
                .take(&self.place, &mut ByPosition::new(&file))
                .map_err(|error| error.at(&self.path))?,
            Some(Rehearsal { taken, .. }) => {
                let retaken = recorder.retake(Some(&taken), &file, &|| true);
                recorder.settle(&self.place, retaken.map_err(|error| error.at(&self.path))?)?
            }
        };
        // Encoding and storing it must not be waited for under the hold.
        recorder.await_stored(&taken)?;
        let lasted = started.elapsed();
        let commits = self.marks()?.change_counter.wrapping_sub(marks.change_counter);
        let commit_every = lasted.checked_div(commits).unwrap_or(Duration::MAX);
        self.rehearsal = Some(Rehearsal { taken, marks, racy, lasted, commit_every });
        Ok(lasted)
    }

    /// Tries for `patience` to hold it.
    pub fn hold(&mut self, patience: Duration, go_on: &dyn Fn() -> bool) -> Result<Holding, CaptureError> {
        let fail = |error| CaptureError::io("lock", &self.path, error);
        let hold = if self.options.cold || self.options.hold == HoldMode::Optimistic {
            SqliteHold::none(&self.path).map_err(fail)?
        } else {
            match SqliteHold::wait(&self.path, patience, go_on).map_err(fail)? {
                Attempt::Held(hold) => hold,
                Attempt::Busy(detail) => return Ok(Holding::Busy(detail)),
            }
        };
        let holding = match &hold {
            SqliteHold::Rollback { .. } | SqliteHold::HotJournal { .. } => {
                Holding::Held(Some(hold.grip().map_err(fail)?))
            }
            SqliteHold::Wal { .. } => Holding::Held(None),
            SqliteHold::WalIdle { .. } | SqliteHold::Unlocked { .. } => Holding::Unheld,
        };
        self.hold = Some((hold, Instant::now()));
        self.frames = None;
        Ok(holding)
    }

    /// Notes how far the log goes at this moment: what is frozen later ends there.
    pub fn note(&mut self) -> Result<Option<u64>, CaptureError> {
        let Some((hold, _)) = &self.hold else { return Ok(None) };
        let since = Instant::now();
        let frames = || hold.frames().map_err(|error| CaptureError::io("read", &self.sidecars.shm, error));
        self.frames = frames()?;
        while self.frames.is_none() && hold.has_log() && since.elapsed() < HEADER_PATIENCE {
            self.frames = frames()?;
        }
        Ok(self.frames.map(u64::from))
    }

    /// Nobody can write the database now, so that it can be read through its own name, and stays as it was frozen.
    pub fn excludes_writers(&self) -> bool {
        matches!(self.hold, Some((SqliteHold::Rollback { .. }, _)))
    }

    /// Under the hold: takes what the rehearsal lacks, or notes what can be read later.
    pub fn freeze(&mut self, recorder: &mut dyn Recorder, terms: &Terms<'_>) -> Result<Freeze, CaptureError> {
        if let Some((Frozen::Differences(earlier), ..)) = self.frozen.take() {
            recorder.discard(earlier);
        }
        let Some((hold, since)) = self.hold.take() else { return Ok(Freeze::Again("it was not held")) };
        let frozen = self.freeze_held(&hold, recorder, terms);
        let still = hold.still_holds(&self.path).map_err(|error| CaptureError::io("stat", &self.path, error));
        self.hold = Some((hold, since));
        match (frozen?, still?) {
            (Ok(frozen), true) => {
                self.frozen = Some(frozen);
                Ok(Freeze::Complete)
            }
            (Ok(_), false) => Ok(Freeze::Again("the database was replaced, or changed its journal mode")),
            (Err(reason), _) => Ok(Freeze::Again(reason)),
        }
    }

    /// Lets writers go on, and notes how long they had to wait. A log stays held until it is recorded: nobody waits for
    /// that.
    pub fn release(&mut self) {
        let keeps = matches!(self.frozen, Some((Frozen::Log { .. }, ..)));
        match self.hold.take() {
            Some((hold @ SqliteHold::Wal { .. }, since)) if keeps => self.hold = Some((hold, since)),
            Some((hold, since)) => {
                let waits = hold.keeps_writers_out();
                drop(hold);
                if waits {
                    self.capture.writer_pause = self.capture.writer_pause.max(since.elapsed());
                }
            }
            None => {}
        }
    }

    /// The longest that writers had to wait for one hold.
    pub fn writer_pause(&self) -> Duration {
        self.capture.writer_pause
    }

    /// Records what was frozen.
    pub fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Image, CaptureError> {
        let nothing =
            || CaptureError::Unusable { path: self.path.clone(), detail: "it was not frozen".into() };
        let (frozen, metadata, marks) = self.frozen.take().ok_or_else(nothing)?;
        let (state, mtime_ns) = marks.combined();
        if let Frozen::Parent(parent, _) = frozen {
            let mut entry = self.entry(&metadata, parent.size, Some(state), mtime_ns);
            entry.content = parent.content;
            return Ok(Image { taken: None, entry, capture: self.capture.clone() });
        }
        let settled = !matches!(frozen, Frozen::ToRollBack(_));
        let taken = frozen.record(&self.path, &self.place, recorder)?;
        self.hold = None;
        let entry = self.entry(&metadata, taken.bytes, settled.then_some(state), mtime_ns);
        Ok(Image { taken: Some(taken), entry, capture: self.capture.clone() })
    }

    fn may_clone(&self) -> bool {
        matches!(self.options.hold, HoldMode::Auto | HoldMode::Reflink)
    }

    fn marks(&self) -> Result<Marks, CaptureError> {
        Marks::of(&self.path, &self.sidecars).map_err(|error| CaptureError::io("stat", &self.path, error))
    }

    /// What the parent snapshot has, if by its marks the database is still that.
    fn proven(
        &self,
        marks: &Marks,
        recorder: &mut dyn Recorder,
    ) -> Result<Option<(Entry, Consistency)>, CaptureError> {
        let Some(seen) = recorder.parent(&self.place)? else { return Ok(None) };
        let quiet = marks.journal.is_none_or(|(journal, _)| journal.size == 0);
        let (state, mtime_ns) = marks.combined();
        let same = quiet && seen.entry.captured == Captured::Sqlite && seen.proves(&state, mtime_ns);
        Ok(same.then_some((seen.entry, seen.consistency)))
    }

    fn entry(&self, metadata: &Metadata, size: u64, state: Option<FileState>, mtime_ns: i64) -> Entry {
        Entry {
            mtime_ns,
            size,
            captured: Captured::Sqlite,
            state,
            xattrs: attributes_of(&self.path),
            ..bare_entry(&self.name, &Stat::from(metadata), EntryKind::File)
        }
    }

    /// What is frozen, or why it has to be tried again.
    fn freeze_held(
        &mut self,
        hold: &SqliteHold,
        recorder: &mut dyn Recorder,
        terms: &Terms<'_>,
    ) -> Result<Result<(Frozen, Metadata, Marks), &'static str>, CaptureError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => CaptureError::HeldTooLong,
            _ => CaptureError::io("read", &self.path, error),
        };
        let mut marks = self.marks()?;
        let mut racy = marks.is_racy();
        if matches!(hold, SqliteHold::WalIdle { .. }) {
            // Nobody waits, and whoever comes and goes meanwhile leaves the database alone: its times can grow old.
            let since = Instant::now();
            while marks.is_database_racy() && since.elapsed() < 3 * TICK {
                std::thread::sleep(TICK / 4);
                marks = self.marks()?;
            }
            racy = marks.is_database_racy();
        }
        let metadata = hold.database().metadata().map_err(fail)?;
        let mut consistency = match hold {
            _ if self.options.cold => Consistency::Cold,
            SqliteHold::Unlocked { .. } => Consistency::Optimistic,
            _ => Consistency::Locked,
        };
        let is_hot = || match hold {
            SqliteHold::HotJournal { .. } => Ok(true),
            SqliteHold::Unlocked { wal_mode: false, .. } => self.sidecars.has_hot_journal().map_err(fail),
            _ => Ok(false),
        };
        let frozen = if let Some((entry, consistency)) = self.proven(&marks, recorder)? {
            Frozen::Parent(Box::new(entry), consistency)
        } else if is_hot()? {
            let below = &self.options.temporary_directory;
            let check = &*recorder;
            let go_on = || (terms.go_on)() && check.check().is_ok();
            let copied =
                RollbackCopy::make(hold.database(), &self.path, &self.sidecars.journal, below, &go_on);
            recorder.check()?;
            match copied.map_err(fail)? {
                Ok(copy) => Frozen::ToRollBack(copy),
                Err(reason) => return Ok(Err(reason)),
            }
        } else if let SqliteHold::Rollback { database } = hold {
            match self.freeze_rollback(database, &marks, recorder, terms)? {
                Some(frozen) => frozen,
                None => return Ok(Err("it was being written")),
            }
        } else {
            match self.freeze_merged(hold, &marks, recorder)? {
                Some(frozen) => frozen,
                None => return Ok(Err("its log was being begun anew")),
            }
        };
        if matches!(hold, SqliteHold::WalIdle { .. } | SqliteHold::Unlocked { .. }) && !self.options.cold {
            let after = self.marks()?;
            let idle = matches!(hold, SqliteHold::WalIdle { .. });
            let same = if idle { after.only_appended_since(&marks) } else { after == marks };
            if racy || !same {
                return Ok(Err("it changed while it was read, and no lock reaches its writers"));
            }
        }
        match &frozen {
            Frozen::Clone(_) => consistency = Consistency::Reflinked,
            Frozen::Parent(_, recorded) => consistency = *recorded,
            _ => {}
        }
        self.capture.consistency = consistency;
        Ok(Ok((frozen, metadata, marks)))
    }

    /// With writers kept out: a clone, the rehearsal where nothing changed since, else what differs from it. `None` if
    /// catching up without the lock is worth a try.
    fn freeze_rollback(
        &mut self,
        database: &File,
        marks: &Marks,
        recorder: &mut dyn Recorder,
        terms: &Terms<'_>,
    ) -> Result<Option<Frozen>, CaptureError> {
        if let Some(space) = &self.clones {
            match space.clone_of(database) {
                Ok(clone) => return Ok(Some(Frozen::Clone(clone))),
                Err(error) if self.options.hold == HoldMode::Reflink => {
                    return Err(CaptureError::io("clone", &self.path, error));
                }
                // The rehearsal is made up for, and the locks must do.
                Err(_) => {
                    self.clones = None;
                    return Ok(None);
                }
            }
        }
        let rehearsal = self.rehearsal.as_ref();
        let is_large = marks.database.size >= SMALL_BYTES;
        if rehearsal.is_none() && (is_large || self.options.hold == HoldMode::Reflink) {
            // It seemed unchanged, and was written before it was held.
            return Ok(None);
        }
        if let Some(rehearsal) = rehearsal {
            if rehearsal.shows(marks) {
                return Ok(Some(Frozen::Taken(rehearsal.taken.clone())));
            }
            // Between two commits there is room for a pass: the next hold may find nothing new.
            if terms.may_catch_up && rehearsal.commit_every > rehearsal.lasted {
                return Ok(None);
            }
        }
        let earlier = rehearsal.map(|rehearsal| &rehearsal.taken);
        let retaken =
            recorder.retake(earlier, database, terms.go_on).map_err(|error| error.at(&self.path))?;
        Ok(Some(Frozen::Differences(retaken)))
    }

    /// Database and log as one image.
    fn freeze_merged(
        &self,
        hold: &SqliteHold,
        marks: &Marks,
        recorder: &mut dyn Recorder,
    ) -> Result<Option<Frozen>, CaptureError> {
        let fail = |error| CaptureError::io("read", &self.path, error);
        let log = match open_file(&self.sidecars.wal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(|error| CaptureError::io("read", &self.sidecars.wal, error))?),
        };
        if let SqliteHold::Wal { database, .. } = hold {
            // What is behind the frames that were noted may never have been seen by anybody.
            let Some(frames) = self.frames else { return Ok(None) };
            let database = database.try_clone().map_err(fail)?;
            return Ok(Some(Frozen::Log { database, log, frames }));
        }
        if let Some(rehearsal) = &self.rehearsal
            && rehearsal.shows(marks)
        {
            return Ok(Some(Frozen::Taken(rehearsal.taken.clone())));
        }
        let taken = take_merged(hold.database(), log.as_ref(), u32::MAX, &self.place, recorder);
        taken.map(|taken| Some(Frozen::Taken(taken))).map_err(|error| error.at(&self.path))
    }
}
