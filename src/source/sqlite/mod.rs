//! SQLite databases: a consistent image while others write, and proof that a copy is sound.

mod capture;
mod header;
mod judge;
mod write_ahead_log;

pub use capture::{ByPosition, Database, Image, capture};
pub use header::MAGIC;
pub use judge::{escape, judge_copy, judge_database};
pub use write_ahead_log::{CommittedPages, Merged};
