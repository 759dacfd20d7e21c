//! Finds entries by their paths, directory by directory as a walk goes along.

use super::error::RepositoryError;
use super::open::Repository;
use crate::format::{Content, Entry, EntryKind};
use std::sync::Arc;

/// The entries below one root. The directories on the way to the path that was asked for last are kept, so that a walk in
/// depth-first order loads each directory once.
pub struct Finder<'r> {
    repository: &'r Repository,
    root: Entry,
    /// Outermost first.
    open: Vec<Open>,
}

/// A directory on the way.
struct Open {
    path: Vec<u8>,
    directory: Directory,
    /// Behind the entry that was found last: a walk asks for this one next.
    next: usize,
}

/// What a directory holds.
#[derive(Clone, Default)]
pub struct Directory {
    pub entries: Arc<Vec<Entry>>,
    /// Where the entries are kept.
    pub content: Content,
}

impl<'r> Finder<'r> {
    /// Looks below `root`.
    pub fn new(repository: &'r Repository, root: Entry) -> Self {
        Self { repository, root, open: Vec::new() }
    }

    /// The root itself.
    pub fn root(&self) -> &Entry {
        &self.root
    }

    /// The entry at `path` (empty: the root).
    pub fn find(&mut self, path: &[u8]) -> Result<Option<&Entry>, RepositoryError> {
        if path.is_empty() {
            return Ok(Some(&self.root));
        }
        let (directory, name) = split(path);
        self.open_directory(directory)?;
        Ok(self.open.last_mut().and_then(|open| open.find(name)))
    }

    /// The directory at `path` (empty: the root); an empty one where there is none.
    pub fn directory(&mut self, path: &[u8]) -> Result<Directory, RepositoryError> {
        self.open_directory(path)?;
        Ok(self.open.last().map(|open| open.directory.clone()).unwrap_or_default())
    }

    /// Makes the directory at `path` the last that is open; one without entries where there is none.
    fn open_directory(&mut self, path: &[u8]) -> Result<(), RepositoryError> {
        while self.open.last().is_some_and(|open| !open.is_above(path)) {
            self.open.pop();
        }
        if self.open.last().is_none_or(|open| open.path != path) {
            let found = self.find(path)?.filter(|entry| entry.kind == EntryKind::Directory);
            let content = found.map(|entry| entry.content.clone()).unwrap_or_default();
            let entries = Arc::new(self.repository.entries(&content)?);
            let directory = Directory { entries, content };
            self.open.push(Open { path: path.to_owned(), directory, next: 0 });
        }
        Ok(())
    }
}

impl Open {
    /// It is the directory at `path`, or that lies below it.
    fn is_above(&self, path: &[u8]) -> bool {
        let below = path.strip_prefix(self.path.as_slice());
        self.path.is_empty() || below.is_some_and(|below| below.first().is_none_or(|first| *first == b'/'))
    }

    fn find(&mut self, name: &[u8]) -> Option<&Entry> {
        let entries = &self.directory.entries;
        let is_next = entries.get(self.next).is_some_and(|entry| entry.name == name);
        if !is_next {
            self.next = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()?;
        }
        let found = entries.get(self.next);
        self.next += 1;
        found
    }
}

/// The directory and the last name of a path below a source.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}
