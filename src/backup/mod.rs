//! Reads sources into a repository and drafts the manifest; publishing is somebody else's decision.

mod buffers;
mod compared;
mod draft;
mod error;
mod old;
mod open_directory;
mod parent;
mod pool;
mod raw;
mod recorder;
mod replaying;
mod retake;
mod stream;

pub use draft::{Author, BackupRequest, Draft, Reading, backup, check_overlap, draft};
pub use error::BackupError;
pub use raw::{RawSource, save_raw};
