//! SQLite databases: a consistent image while others write, and proof that a copy is sound.

mod capture;
mod frozen;
mod full_text;
mod header;
mod integrity;
mod judge;
mod marks;
mod modules;
mod scratch_copy;
mod source;
mod write_ahead_log;

pub use capture::DatabaseCapture;
pub use full_text::FullTexts;
pub use header::MAGIC;
pub use integrity::{escape, stop_when, trouble_of_ours};
pub use judge::{DatabaseFacts, judge_copy, judge_database};
pub use scratch_copy::ByPosition;
pub use source::DatabaseSource;
pub use write_ahead_log::{CommittedPages, Merged};
