//! Finds entries by their paths, directory by directory as a walk goes along.

use super::error::RepositoryError;
use super::open::Repository;
use crate::format::{Content, Entry, EntryKind};

/// The entries below one root. The directories on the way to the path that was asked for last are kept, so that a walk in
/// depth-first order loads each directory once.
pub struct Finder<'r> {
    repository: &'r Repository,
    root: Entry,
    /// Outermost first.
    open: Vec<(Vec<u8>, Vec<Entry>)>,
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
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Entry>, RepositoryError> {
        if path.is_empty() {
            return Ok(Some(self.root.clone()));
        }
        let (directory, name) = split(path);
        let entries = self.directory(directory)?;
        let place = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok();
        Ok(place.and_then(|place| entries.get(place)).cloned())
    }

    /// What the directory at `path` holds, by name; nothing where there is no directory.
    fn directory(&mut self, path: &[u8]) -> Result<&[Entry], RepositoryError> {
        while let Some((open, _)) = self.open.last() {
            let is_above =
                open.is_empty() || open == path || path.starts_with(&[open, b"/".as_slice()].concat());
            if is_above {
                break;
            }
            self.open.pop();
        }
        if self.open.last().is_none_or(|(open, _)| open != path) {
            let found = self.find(path)?.filter(|entry| entry.kind == EntryKind::Directory);
            let content = found.map(|entry| entry.content).unwrap_or(Content::Empty);
            let entries = self.repository.entries(&content)?;
            self.open.push((path.to_owned(), entries));
        }
        Ok(self.open.last().map(|(_, entries)| entries.as_slice()).unwrap_or_default())
    }
}

/// The directory and the last name of a path below a source.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}
