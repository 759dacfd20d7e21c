//! Holds an SQLite database still by SQLite's own byte locks, on read-only descriptors.
//!
//! The bytes are those of SQLite's `os_unix.c` and `wal.c`. Open-file-description locks conflict with the POSIX locks
//! that SQLite takes, don't need a writable descriptor, and aren't dropped when the file is closed elsewhere in this
//! process.

use super::filesystem::locks_reach;
use super::no_atime::open_file;
use super::watchdog::Grip;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A range of lock bytes.
#[derive(Clone, Copy)]
struct Range {
    start: i64,
    len: i64,
}

const PENDING: Range = Range { start: 0x4000_0000, len: 1 };
const RESERVED: Range = Range { start: 0x4000_0001, len: 1 };
const SHARED: Range = Range { start: 0x4000_0002, len: 510 };
/// In the `-shm` file: whoever checkpoints holds the first; whoever starts the log anew, every reader's byte, of which
/// the second is the last; whoever has the file open shares the third, so that it isn't begun anew by the next one.
const CHECKPOINT: Range = Range { start: 121, len: 1 };
const LAST_READER: Range = Range { start: 127, len: 1 };
const ALIVE: Range = Range { start: 128, len: 1 };
/// All lock bytes of a database, and all of a `-shm` file.
const ALL: Range = Range { start: PENDING.start, len: 512 };
const ALL_OF_LOG: Range = Range { start: 120, len: 9 };

/// How long to look for a gap between two transactions without a pause, and the pauses between.
const BURST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(20);

fn lock_of(kind: i32, range: Range) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start,
        l_len: range.len,
        l_pid: 0,
    }
}

/// Takes a read lock; `false` if somebody holds a write lock there.
fn try_read_lock(file: &File, range: Range) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_RDLCK, range))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn unlock(file: &File, range: Range) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_UNLCK, range)))?;
    Ok(())
}

/// Somebody else's lock that stands against one of `kind`.
fn held_elsewhere(file: &File, kind: i32, range: Range) -> io::Result<bool> {
    let mut answer = lock_of(kind, range);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok(i32::from(answer.l_type) != libc::F_UNLCK)
}

/// The files that SQLite keeps beside a database.
#[derive(Debug, Clone)]
pub struct Sidecars {
    pub journal: PathBuf,
    pub wal: PathBuf,
    pub shm: PathBuf,
}

impl Sidecars {
    /// The names that SQLite gives them.
    pub const SUFFIXES: [&'static str; 3] = ["-journal", "-wal", "-shm"];

    /// Those of the database at `path`.
    pub fn of(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Self { journal: beside("-journal"), wal: beside("-wal"), shm: beside("-shm") }
    }

    /// A journal that SQLite would roll back: there, not empty, its header not zeroed (as `journal_mode=PERSIST` does).
    pub fn has_hot_journal(&self) -> io::Result<bool> {
        let journal = match open_file(&self.journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let mut first = [0u8; 1];
        Ok(journal.read_at(&mut first, 0)? == 1 && first != [0])
    }
}

/// How a database is held at the moment.
pub enum SqliteHold {
    /// Rollback-journal mode: writers wait, readers don't.
    Rollback { database: File },
    /// A crash left a journal that must be rolled back: writers and whoever would roll back wait. Copy both files.
    HotJournal { database: File },
    /// WAL mode with a live process: nobody waits but checkpoints, so database and log only grow.
    Wal { database: File, shm: File },
    /// WAL mode while no process has it open: whoever comes may write into the log and read, but not tidy up at its end.
    /// Compare before and after.
    WalIdle { database: File },
    /// No lock reaches whoever could write. Compare before and after.
    Unlocked { database: File, wal_mode: bool },
}

/// The answer to one try.
pub enum Attempt {
    Held(SqliteHold),
    /// Somebody holds a lock against us; what they are doing, as far as the locks tell.
    Busy(&'static str),
}

impl SqliteHold {
    /// Tries to hold the database at `path` without waiting. Everything is given back when the hold is dropped.
    pub fn attempt(path: &Path) -> io::Result<Attempt> {
        Self::attempt_opened(open_file(path)?, path)
    }

    /// As `attempt`, but goes on trying for `patience`, and as long as `go_on` says so. A writer that begins its next transaction as soon as one ends
    /// leaves gaps of microseconds, so the wait is done in short bursts of looking (which takes no lock and hinders
    /// nobody) with pauses between them.
    pub fn wait(path: &Path, patience: Duration, go_on: &dyn Fn() -> bool) -> io::Result<Attempt> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            let database = open_file(path)?;
            // Opened before the gap, not in it.
            let ready = database.try_clone()?;
            let mut attempt = Self::attempt_opened(ready, path)?;
            let burst = Instant::now() + BURST;
            while matches!(attempt, Attempt::Busy(_)) && Instant::now() < burst.min(deadline) {
                if !is_being_written(&database)? {
                    attempt = Self::attempt_opened(database.try_clone()?, path)?;
                }
            }
            if matches!(attempt, Attempt::Held(_)) || Instant::now() >= deadline || !go_on() {
                return Ok(attempt);
            }
            drop((attempt, database));
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn attempt_opened(database: File, path: &Path) -> io::Result<Attempt> {
        if !locks_reach(&database) {
            let wal_mode = is_wal_mode(&database)?;
            return Ok(Attempt::Held(Self::Unlocked { database, wal_mode }));
        }
        // SQLite's rule for readers: PENDING keeps new readers out while a writer waits for the last one to leave.
        if !try_read_lock(&database, PENDING)? {
            return Ok(Attempt::Busy(
                "a writer is committing, or keeps the database in exclusive locking mode",
            ));
        }
        let shared = try_read_lock(&database, SHARED)?;
        unlock(&database, PENDING)?;
        if !shared {
            return Ok(Attempt::Busy(
                "a writer is committing, or keeps the database in exclusive locking mode",
            ));
        }
        let attempt = Self::attempt_shared(&database, path);
        if !matches!(attempt, Ok(Attempt::Held(_))) {
            // The description may be shared with the one that goes on waiting: a writer needs these gone to commit.
            unlock(&database, ALL)?;
        }
        attempt
    }

    fn attempt_shared(database: &File, path: &Path) -> io::Result<Attempt> {
        let sidecars = Sidecars::of(path);
        let attempt = if is_wal_mode(database)? {
            Self::attempt_wal(database.try_clone()?, &sidecars)?
        } else {
            Self::attempt_rollback(database.try_clone()?, &sidecars)?
        };
        if same_file(database, path)? {
            Ok(attempt)
        } else {
            Ok(Attempt::Busy("the database file was replaced"))
        }
    }

    /// Opens the database without any lock: its operator says that nothing is running.
    pub fn none(path: &Path) -> io::Result<Self> {
        let database = open_file(path)?;
        let wal_mode = is_wal_mode(&database)?;
        Ok(Self::Unlocked { database, wal_mode })
    }

    /// With SHARED held: RESERVED as well, unless there is a journal to roll back. RESERVED beside such a journal would
    /// make other readers take it for a live writer's and read half-written pages.
    fn attempt_rollback(database: File, sidecars: &Sidecars) -> io::Result<Attempt> {
        let busy = Ok(Attempt::Busy("a write transaction is open"));
        if held_elsewhere(&database, libc::F_RDLCK, RESERVED)? {
            return busy;
        }
        if sidecars.has_hot_journal()? {
            // It may be a writer's that began just now: then RESERVED is taken by the time the journal is seen.
            return if held_elsewhere(&database, libc::F_RDLCK, RESERVED)? {
                busy
            } else {
                Ok(Attempt::Held(Self::HotJournal { database }))
            };
        }
        if !try_read_lock(&database, RESERVED)? {
            return busy;
        }
        if sidecars.has_hot_journal()? || is_wal_mode(&database)? {
            return Ok(Attempt::Busy("the database changed its state just now"));
        }
        Ok(Attempt::Held(Self::Rollback { database }))
    }

    /// With SHARED held, nobody can remove the log at closing. With the checkpoint byte, nobody moves pages from the log
    /// into the database; with a reader's byte, nobody starts the log from the front again.
    fn attempt_wal(database: File, sidecars: &Sidecars) -> io::Result<Attempt> {
        let shm = match open_file(&sidecars.shm) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Attempt::Held(Self::WalIdle { database }));
            }
            other => other?,
        };
        let alive = |shm: &File| held_elsewhere(shm, libc::F_WRLCK, ALIVE);
        if !alive(&shm)? {
            return Ok(Attempt::Held(Self::WalIdle { database }));
        }
        let taken = try_read_lock(&shm, CHECKPOINT)? && try_read_lock(&shm, LAST_READER)?;
        // As one more live process: else the next opener after the last has closed would have to recover the log, which
        // needs the checkpoint byte for itself.
        if !taken || !try_read_lock(&shm, ALIVE)? {
            return Ok(Attempt::Busy("a checkpoint is running"));
        }
        if alive(&shm)? && same_file(&shm, &sidecars.shm)? && is_wal_mode(&database)? {
            Ok(Attempt::Held(Self::Wal { database, shm }))
        } else {
            Ok(Attempt::Busy("the last process closed the database just now"))
        }
    }

    /// The database, to be read by position.
    pub fn database(&self) -> &File {
        match self {
            Self::Rollback { database }
            | Self::HotJournal { database }
            | Self::Wal { database, .. }
            | Self::WalIdle { database }
            | Self::Unlocked { database, .. } => database,
        }
    }

    /// It is held in WAL mode, beside a live process.
    pub fn has_log(&self) -> bool {
        matches!(self, Self::Wal { .. })
    }

    /// How many frames of the log readers see at this moment (`mxFrame` of the wal-index header,
    /// <https://sqlite.org/walformat.html>); it only grows while this holds. `None` outside WAL mode, and while the header
    /// is being written.
    pub fn frames(&self) -> io::Result<Option<u32>> {
        let Self::Wal { shm, .. } = self else { return Ok(None) };
        // The header is there twice, so that whoever finds it different knows that it was in the middle of a change.
        let mut copies = [0u8; 96];
        shm.read_exact_at(&mut copies, 0)?;
        let (one, other) = copies.split_at(48);
        let is_whole = one == other && one.get(12) == Some(&1);
        let frames = one.get(16..).and_then(<[u8]>::first_chunk);
        Ok(frames.filter(|_| is_whole).map(|bytes| u32::from_ne_bytes(*bytes)))
    }

    /// Writers wait as long as this lasts.
    pub fn keeps_writers_out(&self) -> bool {
        matches!(self, Self::Rollback { .. } | Self::HotJournal { .. })
    }

    /// What a watchdog needs to let writers go on from outside.
    pub fn grip(&self) -> io::Result<Grip> {
        Ok(Grip::new(self.database().try_clone()?))
    }

    /// The path still leads to the file that is held, and its journal mode is what it was.
    pub fn still_holds(&self, path: &Path) -> io::Result<bool> {
        let same = same_file(self.database(), path)?;
        let wal_mode = is_wal_mode(self.database())?;
        Ok(same
            && match self {
                Self::Rollback { .. } | Self::HotJournal { .. } => !wal_mode,
                Self::Wal { shm, .. } => wal_mode && same_file(shm, &Sidecars::of(path).shm)?,
                Self::WalIdle { .. } => wal_mode,
                Self::Unlocked { wal_mode: before, .. } => wal_mode == *before,
            })
    }
}

/// Somebody holds one of SQLite's locks on the database at `path`, or on its log. Looking takes no lock.
pub fn sqlite_locks_of(path: &Path) -> io::Result<bool> {
    let held = |path: &Path, range| match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => held_elsewhere(&other?, libc::F_WRLCK, range),
    };
    Ok(held(path, ALL)? || held(&Sidecars::of(path).shm, ALL_OF_LOG)?)
}

/// All of a database's locks, for whoever overwrites it: SQLite then says that it is locked.
pub struct SqliteExclusive {
    file: File,
}

impl SqliteExclusive {
    /// Takes them on a file that is open for writing, without waiting; `None` if somebody holds one.
    pub fn take(file: &File) -> io::Result<Option<Self>> {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_WRLCK, ALL))) {
            Ok(_) => Ok(Some(Self { file: file.try_clone()? })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for SqliteExclusive {
    fn drop(&mut self) {
        // Unlocking can't fail on a descriptor that is open.
        drop(unlock(&self.file, ALL));
    }
}

/// Somebody holds RESERVED or PENDING; looking takes no lock.
fn is_being_written(database: &File) -> io::Result<bool> {
    held_elsewhere(database, libc::F_RDLCK, Range { start: PENDING.start, len: 2 })
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let here = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let held = file.metadata()?;
    Ok(held.dev() == here.dev() && held.ino() == here.ino())
}

/// Bytes 18 and 19 of the header: 1 rollback journal, 2 write-ahead log (<https://sqlite.org/fileformat2.html>).
fn is_wal_mode(database: &File) -> io::Result<bool> {
    let mut versions = [0u8; 2];
    Ok(database.read_at(&mut versions, 18)? == 2 && versions == [2, 2])
}
