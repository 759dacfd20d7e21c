//! A source in the repository, as its judge reads it.

use super::chunks::{Found, Proven, each_file, quick_chunks};
use crate::format::{Captured, Entry, Level, SourceRecord};
use crate::progress::Progress;
use crate::repository::{FileReader, Repository, RepositoryError};
use crate::source::{ReadAt, StoredFiles};
use std::cell::RefCell;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

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
    progress: &'r dyn Progress,
    /// The directories listed last, the latest first.
    listed: RefCell<Vec<Listing>>,
    /// The chunks of what was read and closed again.
    proven: RefCell<Proven>,
    /// What the walk over all files found about their chunks, at the quick level.
    walked: RefCell<Option<Found>>,
}

impl<'r> RepositoryFiles<'r> {
    pub fn new(
        repository: &'r Repository,
        source: &'r SourceRecord,
        root: &'r Entry,
        level: Level,
        progress: &'r dyn Progress,
    ) -> Self {
        let (listed, proven, walked) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { repository, source, root, level, progress, listed, proven, walked }
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
        Ok(Box::new(Stored { file, proven: &self.proven, progress: self.progress }))
    }
}

struct Stored<'r> {
    file: FileReader<'r>,
    proven: &'r RefCell<Proven>,
    progress: &'r dyn Progress,
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
        RepositoryError::stop(self.progress).map_err(io::Error::other)?;
        self.progress.advance(buffer.len() as u64);
        self.file.read_exact_at(buffer, offset).map_err(io::Error::other)
    }

    fn copy_to(&self, file: &File) -> io::Result<()> {
        file.set_len(self.file.size()).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => {
                io::Error::other(RepositoryError::damaged("an entry", "no file system holds a file so long"))
            }
            _ => error,
        })?;
        // The kernel lets one thread at a time write to a file; the others need not spin until it is their turn.
        let output = Mutex::new(file);
        let write = |bytes: &[u8], offset: u64| -> Result<(), Box<dyn Error + Send + Sync>> {
            RepositoryError::stop(self.progress)?;
            self.progress.advance(bytes.len() as u64);
            Ok(output.lock().unwrap_or_else(PoisonError::into_inner).write_all_at(bytes, offset)?)
        };
        let copied = self.file.each_part(&write);
        copied.map_err(|error| error.downcast().map_or_else(io::Error::other, |error| *error))
    }

    fn on_disk(&self) -> Option<&Path> {
        None
    }
}
