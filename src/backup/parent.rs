//! What the parent snapshot holds at a path.

use crate::format::{ChunkRef, Consistency, Entry, EntryKind};
use crate::id::Id;
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

    /// The chunks of the parent's file at `path`; `None` if it has no file there, a sparse one where a plain one is asked
    /// for, or they can't be read.
    pub fn chunks(&mut self, path: &[u8], is_plain: bool) -> Option<Vec<ChunkRef>> {
        let entry = self.find(path)?.entry;
        let fits = entry.kind == EntryKind::File && !(is_plain && entry.segments.is_some());
        let listed = fits.then(|| self.repository.chunk_list(&entry.content))?;
        self.noted(listed)
    }

    /// The lowest nodes of that file's chunk list, with the places where they begin.
    pub fn nodes(&mut self, path: &[u8]) -> Vec<(u64, Id)> {
        let entry = self.find(path).map(|seen| seen.entry);
        let listed = entry.map(|entry| self.repository.chunk_nodes(&entry.content));
        listed.and_then(|listed| self.noted(listed)).unwrap_or_default()
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
