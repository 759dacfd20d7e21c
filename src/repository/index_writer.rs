//! Writes index files, none of them so large that reading it takes much memory.

use super::error::RepositoryError;
use super::open::Repository;
use crate::crypto::SealedFile;
use crate::format::{IndexFile, Key, ListedPack};
use crate::id::Id;
use std::collections::HashSet;

/// An index file is ended after so many chunks.
pub const FULL_CHUNKS: usize = 250_000;

/// Lists packs in as many files as are needed.
pub struct IndexWriter<'r> {
    repository: &'r Repository,
    packs: Vec<ListedPack>,
    chunks: usize,
    written: HashSet<Id>,
}

impl<'r> IndexWriter<'r> {
    pub fn new(repository: &'r Repository) -> Self {
        Self { repository, packs: Vec::new(), chunks: 0, written: HashSet::new() }
    }

    /// Lists a pack.
    pub fn add(&mut self, pack: ListedPack) -> Result<(), RepositoryError> {
        self.chunks += pack.chunks.len();
        self.packs.push(pack);
        if self.chunks >= FULL_CHUNKS { self.flush() } else { Ok(()) }
    }

    /// When this returns all files are durable; it returns their names.
    pub fn finish(mut self) -> Result<HashSet<Id>, RepositoryError> {
        self.flush()?;
        Ok(self.written)
    }

    fn flush(&mut self) -> Result<(), RepositoryError> {
        self.chunks = 0;
        if !self.packs.is_empty() {
            let (name, _) = self.repository.put_index(std::mem::take(&mut self.packs))?;
            self.written.insert(name);
        }
        Ok(())
    }
}

impl Repository {
    /// Writes one index file; returns its name and length.
    pub(super) fn put_index(&self, packs: Vec<ListedPack>) -> Result<(Id, u64), RepositoryError> {
        let bytes = self.seal_file(SealedFile::Index, IndexFile { packs }.encode())?;
        let name = Id::of(&bytes);
        self.backend().put(&Key::Index(name).path(), &bytes)?;
        Ok((name, bytes.len() as u64))
    }
}
