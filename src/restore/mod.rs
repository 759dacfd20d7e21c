//! Puts a snapshot's entries back: into an empty place, or over what is there without changing an inode.

mod attributes;
mod content;
mod error;
mod place;
mod placed_files;
mod remove;
mod report;

pub use error::RestoreError;
pub use place::{Extras, PlaceOptions, Target, place};
pub use placed_files::PlacedFiles;
pub use report::{Owner, Placed};
