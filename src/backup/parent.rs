//! What the parent snapshot holds at a path.

use crate::format::{Captured, ChunkRef, Consistency, Entry, EntryKind};
use crate::id::Id;
use crate::repository::{Directory, Finder, Repository, RepositoryError};
use crate::source::{Seen, Stat, is_still};

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
        let entry = noted(&mut self.damage, self.finder.find(path))??.clone();
        Some(Seen { entry, consistency: self.consistency, captured_ns: self.captured_ns })
    }

    /// The parent's entry of a file that `stat` proves to be unchanged since, and that is kept as it lay.
    pub fn unchanged(&mut self, path: &[u8], stat: &Stat) -> Option<&Entry> {
        let entry = noted(&mut self.damage, self.finder.find(path))??;
        let is_plain = entry.kind == EntryKind::File && entry.captured == Captured::Plain;
        let is_unchanged = is_plain && is_still(entry, self.captured_ns, &stat.state(), stat.mtime_ns);
        is_unchanged.then_some(entry)
    }

    /// What the parent has as the directory at `path`, if `repository` holds it too.
    pub fn directory(&mut self, path: &[u8], repository: &Repository) -> Directory {
        if !std::ptr::eq(self.repository, repository) {
            return Directory::default();
        }
        noted(&mut self.damage, self.finder.directory(path)).unwrap_or_default()
    }

    /// The chunks of the parent's file at `path`; `None` if it has no file there, a sparse one where a plain one is asked
    /// for, or they can't be read.
    pub fn chunks(&mut self, path: &[u8], is_plain: bool) -> Option<Vec<ChunkRef>> {
        let entry = self.find(path)?.entry;
        let fits = entry.kind == EntryKind::File && !(is_plain && entry.segments.is_some());
        let listed = fits.then(|| self.repository.chunk_list(&entry.content))?;
        noted(&mut self.damage, listed)
    }

    /// The lowest nodes of that file's chunk list, with the places where they begin.
    pub fn nodes(&mut self, path: &[u8]) -> Vec<(u64, Id)> {
        let entry = self.find(path).map(|seen| seen.entry);
        let listed = entry.map(|entry| self.repository.chunk_nodes(&entry.content));
        listed.and_then(|listed| noted(&mut self.damage, listed)).unwrap_or_default()
    }
}

fn noted<T>(damage: &mut Option<String>, result: Result<T, RepositoryError>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(error) => {
            damage.get_or_insert_with(|| error.to_string());
            None
        }
    }
}
