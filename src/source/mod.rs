//! What is backed up. Each kind captures itself whole, judges a captured copy, and settles a restored one.

mod attributes;
mod chroma;
mod compared;
mod detect;
mod group;
mod interface;
mod json;
mod kind;
mod moment;
mod scratch;
mod sqlite;
mod staged;
mod stat;
mod tree;

pub use attributes::{is_told_by, still};
pub use chroma::count_pickle_entries;
pub use compared::{Compared, Patch, Patches};
pub use detect::{detect_kind, find_sources};
pub use group::{Member, Moment};
pub use interface::{
    Capture, CaptureError, CaptureOptions, GoOn, HoldMode, JudgeOptions, Judgement, ReadAt, Recorder,
    Retaken, Seen, SourceSpec, SqliteInTree, StoredFiles, Taken, file_id, is_still,
};
pub use kind::{VALIDATOR_VERSION, capture, judge, keystone_of, sidecars_of, staged};
pub use moment::capture_together;
pub use scratch::remove_stale_scratch;
pub use sqlite::{CommittedPages, FullTexts, MAGIC as SQLITE_MAGIC, Merged};
pub use stat::Stat;
pub use tree::Excludes;
