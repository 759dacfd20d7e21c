//! What all checks of one store share.

use crate::source::interface::{Judgement, ReadAt, StoredFiles};
use std::io;
use std::path::Path;

/// The store that is judged, and where findings go.
pub struct Context<'j> {
    pub judgement: &'j mut Judgement,
    /// The source's name, the prefix of all codes.
    pub source: &'j str,
    pub files: &'j dyn StoredFiles,
    /// For scratch files.
    pub scratch: &'j Path,
}

impl<'j> Context<'j> {
    pub fn error(&mut self, fact: &str, path: &str, detail: impl Into<String>) {
        self.judgement.error(self.source, fact, path.as_bytes(), detail);
    }

    pub fn warning(&mut self, fact: &str, path: &str, detail: impl Into<String>) {
        self.judgement.warning(self.source, fact, path.as_bytes(), detail);
    }

    /// Opens a file of a segment's directory.
    pub fn open(&self, directory: &str, name: &str) -> io::Result<Box<dyn ReadAt + 'j>> {
        self.files.open(place(directory, name).as_bytes())
    }
}

/// The path of a file in a segment's directory.
pub fn place(directory: &str, name: &str) -> String {
    format!("{directory}/{name}")
}
