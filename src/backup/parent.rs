//! What the parent snapshot holds at a path, found directory by directory as the walk goes along.

use crate::format::{Consistency, Content, Entry, EntryKind, SourceRecord};
use crate::repository::Repository;
use crate::source::Seen;

/// A source of the parent snapshot.
pub struct Parent<'r> {
    repository: &'r Repository,
    root: Entry,
    captured_ns: i64,
    consistency: Consistency,
    /// The directories on the way to the path asked for last, outermost first.
    open: Vec<(Vec<u8>, Vec<Entry>)>,
    /// A directory of the parent could not be read: files below it are then read from the source again.
    pub damage: Option<String>,
}

impl<'r> Parent<'r> {
    pub fn new(repository: &'r Repository, root: Entry, source: &SourceRecord) -> Self {
        let (captured_ns, consistency) = (source.captured_ns, source.consistency);
        Self { repository, root, captured_ns, consistency, open: Vec::new(), damage: None }
    }

    /// The parent's entry at `path`; the walk asks in depth-first order, so that each directory is loaded once.
    pub fn find(&mut self, path: &[u8]) -> Option<Seen> {
        if path.is_empty() {
            return Some(self.seen(self.root.clone()));
        }
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash)?, path.get(slash + 1..)?),
            None => (&[][..], path),
        };
        let entries = self.directory(directory)?;
        let place = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()?;
        let entry = entries.get(place)?.clone();
        Some(self.seen(entry))
    }

    fn seen(&self, entry: Entry) -> Seen {
        Seen { entry, consistency: self.consistency, captured_ns: self.captured_ns }
    }

    fn directory(&mut self, path: &[u8]) -> Option<&[Entry]> {
        while let Some((open, _)) = self.open.last() {
            let is_above =
                open.is_empty() || open == path || path.starts_with(&[open, b"/".as_slice()].concat());
            if is_above {
                break;
            }
            self.open.pop();
        }
        if self.open.last().is_none_or(|(open, _)| open != path) {
            let content = if path.is_empty() { self.root.content.clone() } else { self.content_of(path) };
            let entries = match self.repository.entries(&content) {
                Ok(entries) => entries,
                Err(error) => {
                    self.damage.get_or_insert_with(|| error.to_string());
                    Vec::new()
                }
            };
            self.open.push((path.to_owned(), entries));
        }
        self.open.last().map(|(_, entries)| entries.as_slice())
    }

    fn content_of(&mut self, path: &[u8]) -> Content {
        let found = self.find(path).map(|seen| seen.entry);
        found
            .filter(|entry| entry.kind == EntryKind::Directory)
            .map(|entry| entry.content)
            .unwrap_or_default()
    }
}
