//! A source in the repository, as its judge reads it.

use super::chunks::{Found, Proven, each_file, quick_chunks};
use crate::format::{Captured, Entry, Level, SourceRecord};
use crate::repository::{FileReader, Repository};
use crate::source::{ReadAt, StoredFiles};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Listings that are kept: a judge asks for file after file of a directory, and again of its own.
const LISTINGS: usize = 4;

/// A directory's path and what it holds.
type Listing = (Vec<u8>, Rc<Vec<Entry>>);

/// One source of a snapshot.
pub struct RepositoryFiles<'r> {
    repository: &'r Repository,
    source: &'r SourceRecord,
    root: &'r Entry,
    level: Level,
    /// The directories listed last, the latest first.
    listed: RefCell<Vec<Listing>>,
    /// The chunks of what was read and closed again.
    proven: RefCell<Proven>,
    /// What the walk over all files found about their chunks, at the quick level.
    walked: RefCell<Option<Found>>,
}

impl<'r> RepositoryFiles<'r> {
    pub fn new(repository: &'r Repository, source: &'r SourceRecord, root: &'r Entry, level: Level) -> Self {
        let (listed, proven, walked) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { repository, source, root, level, listed, proven, walked }
    }

    /// The chunks that a judge has read on its way: each was proven by its id. And, at the quick level, what is known of all
    /// others, if the judge has walked over them.
    pub fn proven(self) -> (Proven, Option<Found>) {
        (self.proven.into_inner(), self.walked.into_inner())
    }

    fn find(&self, path: &[u8]) -> io::Result<Entry> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = slash.map_or((&[][..], path), |at| {
            (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default())
        });
        let listing = self.listing(above)?;
        let place = listing.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok();
        place.and_then(|place| listing.get(place)).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn listing(&self, path: &[u8]) -> io::Result<Rc<Vec<Entry>>> {
        let place = self.listed.borrow().iter().position(|(listed, _)| listed == path);
        let found = match place {
            Some(place) => self.listed.borrow_mut().remove(place),
            None => (path.to_owned(), Rc::new(self.list(&self.find(path)?)?)),
        };
        let listing = Rc::clone(&found.1);
        let mut listed = self.listed.borrow_mut();
        listed.insert(0, found);
        listed.truncate(LISTINGS);
        Ok(listing)
    }
}

impl StoredFiles for RepositoryFiles<'_> {
    fn root(&self) -> &Entry {
        self.root
    }

    fn list(&self, directory: &Entry) -> io::Result<Vec<Entry>> {
        self.repository.entries(&directory.content).map_err(io::Error::other)
    }

    fn databases(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut databases = Vec::new();
        let mut see = |path: &[u8], entry: &Entry| {
            if entry.captured == Captured::Sqlite {
                databases.push(path.to_owned());
            }
        };
        if self.level == Level::Quick {
            // Nobody has to list it all once more to find the chunks.
            let walked = quick_chunks(self.repository, self.source, self.root, &mut see);
            *self.walked.borrow_mut() = Some(walked.map_err(io::Error::other)?);
        } else {
            let mut see = |path: &[u8], entry: &Entry| {
                see(path, entry);
                Ok(())
            };
            each_file(self.repository, self.root, &mut see).map_err(|(_, error)| io::Error::other(error))?;
        }
        Ok(databases)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn ReadAt + '_>> {
        let entry = self.find(path)?;
        let file = FileReader::open(self.repository, &entry).map_err(io::Error::other)?;
        Ok(Box::new(Stored { file, proven: &self.proven }))
    }
}

struct Stored<'r> {
    file: FileReader<'r>,
    proven: &'r RefCell<Proven>,
}

impl Drop for Stored<'_> {
    fn drop(&mut self) {
        self.proven.borrow_mut().extend(self.file.chunks_read());
    }
}

impl ReadAt for Stored<'_> {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.file.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, offset).map_err(io::Error::other)
    }

    fn on_disk(&self) -> Option<&Path> {
        None
    }
}
