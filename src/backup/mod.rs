//! Reads sources into a repository and drafts the manifest; publishing is somebody else's decision.

mod draft;
mod error;
mod parent;
mod pool;
mod recorder;
mod retake;

pub use draft::{BackupRequest, Draft, backup, check_overlap};
pub use error::BackupError;
