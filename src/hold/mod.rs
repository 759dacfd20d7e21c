//! How a path is held still while it is read, from outside, without writing a byte into it.
//!
//! The only room with raw system calls, and with `unsafe` but for one call of SQLite's.

mod filesystem;
mod holders;
mod lease;
mod lock_file;
mod no_atime;
mod reflink;
mod sqlite_lock;
mod subvolume;
mod watchdog;

pub use filesystem::locks_reach;
pub use holders::{Holder, Holders};
pub use lease::{Openness, WriteLease, openness};
pub use lock_file::LockFile;
pub use no_atime::{open_directory, open_file, open_file_at};
pub use reflink::CloneSpace;
pub use sqlite_lock::{Attempt, Sidecars, SqliteExclusive, SqliteHold, sqlite_locks_of};
pub use subvolume::{SNAPSHOT_PREFIX, SnapshotPlace, holds_others, is_subvolume};
pub use watchdog::{Grip, Watchdog};
