//! Gitignore patterns, relative to a source.

use crate::source::interface::CaptureError;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct Excludes(Gitignore);

impl Excludes {
    /// Compiles patterns; one that makes no sense is an error.
    pub fn new(patterns: &[String]) -> Result<Self, CaptureError> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| CaptureError::BadPattern {
                pattern: pattern.clone(),
                detail: error.to_string(),
            })?;
        }
        let compiled = builder.build();
        compiled.map(Self).map_err(|error| CaptureError::BadPattern {
            pattern: patterns.join(", "),
            detail: error.to_string(),
        })
    }

    /// The pattern that leaves a path below the source out, if one does. Its parents are the caller's concern.
    pub fn pattern_for(&self, relative: &[u8], is_directory: bool) -> Option<&str> {
        match self.0.matched(Path::new(OsStr::from_bytes(relative)), is_directory) {
            ignore::Match::Ignore(glob) => Some(glob.original()),
            _ => None,
        }
    }
}
