//! How a path is held still while it is read, from outside, without writing a byte into it.
//!
//! The only room with `unsafe` or raw system calls.

mod filesystem;
mod no_atime;
mod sqlite_lock;

pub use filesystem::locks_reach;
pub use no_atime::{open_directory, open_file, open_file_at};
pub use sqlite_lock::{Attempt, Sidecars, SqliteHold};
