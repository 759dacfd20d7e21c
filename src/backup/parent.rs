//! What the parent snapshot holds at a path.

use crate::format::{ChunkRef, Consistency, Entry, EntryKind};
use crate::repository::{Finder, Repository, RepositoryError};
use crate::source::Seen;

/// A source of the parent snapshot.
pub struct Parent<'r> {
    repository: &'r Repository,
    finder: Finder<'r>,
    captured_ns: i64,
    consistency: Consistency,
    /// A directory of the parent could not be read: files below it are then read from the source again.
    pub damage: Option<String>,
}

impl<'r> Parent<'r> {
    pub fn new(repository: &'r Repository, root: Entry, captured_ns: i64, consistency: Consistency) -> Self {
        let finder = Finder::new(repository, root);
        Self { repository, finder, captured_ns, consistency, damage: None }
    }

    /// The parent's entry at `path`; the walk asks in depth-first order, so that each directory is loaded once.
    pub fn find(&mut self, path: &[u8]) -> Option<Seen> {
        let found = self.finder.find(path);
        let entry = self.noted(found)??;
        Some(Seen { entry, consistency: self.consistency, captured_ns: self.captured_ns })
    }

    /// The chunks of the parent's file at `path`; `None` if it has no plain file there, or they can't be read.
    pub fn chunks(&mut self, path: &[u8]) -> Option<Vec<ChunkRef>> {
        let entry = self.find(path)?.entry;
        let is_plain = entry.kind == EntryKind::File && entry.segments.is_none();
        let listed = is_plain.then(|| self.repository.chunk_list(&entry.content))?;
        self.noted(listed)
    }

    fn noted<T>(&mut self, result: Result<T, RepositoryError>) -> Option<T> {
        match result {
            Ok(found) => Some(found),
            Err(error) => {
                self.damage.get_or_insert_with(|| error.to_string());
                None
            }
        }
    }
}
