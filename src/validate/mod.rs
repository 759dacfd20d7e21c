//! Proves snapshots from their stored bytes.

mod chunks;
mod prove;
mod stored_files;

pub use prove::{Depth, Outcome, ValidateOptions, prove_draft, validate};
