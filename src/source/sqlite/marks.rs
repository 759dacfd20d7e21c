//! Identity and change marks of a database and of what lies beside it.

use crate::format::FileState;
use crate::hold::{Sidecars, open_file};
use crate::source::interface::{file_id, mtime_ns};
use crate::stamp::now_nanos;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// As for any racy timestamp: a file touched this recently can change again without showing it.
pub const TICK: Duration = Duration::from_millis(20);

/// A file that lies beside the database: what it is, and when it was written last.
type Beside = Option<(FileState, i64)>;

/// The marks as they were at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    pub database: FileState,
    /// Counts the committed transactions of rollback-journal mode (header bytes 24 to 27).
    pub change_counter: u32,
    /// By header bytes 18 and 19.
    pub wal_mode: bool,
    mtime_ns: i64,
    pub log: Beside,
    /// The log's header, whose salts are new whenever it is begun anew.
    log_header: [u8; 32],
    pub journal: Beside,
}

impl Marks {
    /// Looks at the database at `path`.
    pub fn of(path: &Path, sidecars: &Sidecars) -> io::Result<Self> {
        let beside = |path: &Path| match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|metadata| Some((file_id(&metadata), mtime_ns(&metadata)))),
        };
        let metadata = fs::metadata(path)?;
        let log = beside(&sidecars.wal)?;
        // Bytes 18 and 19, and 24 to 27.
        let [write_version, read_version, _, _, _, _, counter @ ..]: [u8; 10] = start_of(path, 18)?;
        Ok(Self {
            // A database shorter than its header has committed nothing yet.
            wal_mode: [write_version, read_version] == [2, 2],
            change_counter: u32::from_be_bytes(counter),
            database: file_id(&metadata),
            mtime_ns: mtime_ns(&metadata),
            log_header: if log.is_some() { start_of(&sidecars.wal, 0)? } else { [0; 32] },
            log,
            journal: beside(&sidecars.journal)?,
        })
    }

    /// One state for database and log together: any change of either shows in it.
    pub fn combined(&self) -> (FileState, i64) {
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
    pub fn is_racy(&self) -> bool {
        let (state, mtime_ns) = self.combined();
        is_near(state.ctime_ns) || is_near(mtime_ns)
    }

    /// As `is_racy`, of the database alone.
    pub fn is_database_racy(&self) -> bool {
        is_near(self.database.ctime_ns) || is_near(self.mtime_ns)
    }

    /// Since `earlier` at most something was put behind the log's end: what was read of both files then is still there.
    pub fn only_appended_since(&self, earlier: &Self) -> bool {
        let log_stays = match (self.log, earlier.log) {
            (Some((now, _)), Some((then, _))) => {
                now.ino == then.ino && now.size >= then.size && self.log_header == earlier.log_header
            }
            (_, None) => true,
            (None, Some((then, _))) => then.size == 0,
        };
        log_stays && self.database == earlier.database && self.mtime_ns == earlier.mtime_ns
    }
}

/// A time in the future says nothing: the change time beside it does.
fn is_near(time_ns: i64) -> bool {
    (now_nanos() - time_ns).abs() < TICK.as_nanos() as i64
}

/// The bytes at `at`; zeros where the file is shorter or has just gone.
fn start_of<const N: usize>(path: &Path, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match open_file(path).and_then(|file| file.read_exact_at(&mut bytes, at)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) => {
            Ok([0; N])
        }
        other => other.map(|()| bytes),
    }
}
