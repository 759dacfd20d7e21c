//! SQLite databases: a consistent image while others write, and proof that a copy is sound.

mod capture;
mod frozen;
mod header;
mod judge;
mod marks;
mod modules;
mod scratch_copy;
mod source;
mod write_ahead_log;

pub use capture::DatabaseCapture;
pub use header::MAGIC;
pub use judge::{DatabaseFacts, escape, judge_copy, judge_database};
pub use scratch_copy::ByPosition;
pub use source::DatabaseSource;
pub use write_ahead_log::{CommittedPages, Merged};
