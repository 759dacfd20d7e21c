//! Puts index files together that are small or speak of packs that are gone.

use crate::format::{IndexFile, Key, ListedPack};
use crate::id::Id;
use crate::repository::{Repository, RepositoryError};
use std::collections::HashSet;

/// Smaller files are put together when there are many.
const SMALL_BYTES: u64 = 256 << 10;
const MANY: usize = 8;
/// A file is ended here.
const FULL_CHUNKS: usize = 250_000;

/// Writes files that say what is still true of those that go, and returns these.
pub fn merge(repository: &Repository) -> Result<Vec<Id>, RepositoryError> {
    let index = repository.index()?;
    let (mut gone, mut small) = (Vec::new(), Vec::new());
    for (name, size) in index.files() {
        let Ok(file) = index.read_file(name)? else { continue };
        let void = file.packs.iter().filter(|pack| !index.has_pack(&pack.pack)).count();
        if void * 2 >= file.packs.len() {
            gone.push(*name);
        } else if *size < SMALL_BYTES {
            small.push(*name);
        }
    }
    if small.len() + gone.len() >= MANY {
        gone.append(&mut small);
    }
    let mut writer = Writer { repository, next: IndexFile::default(), chunks: 0, written: HashSet::new() };
    let mut listed = HashSet::new();
    for name in &gone {
        let Ok(file) = index.read_file(name)? else { continue };
        for pack in file.packs {
            if index.has_pack(&pack.pack) && listed.insert(pack.pack) {
                writer.add(pack)?;
            }
        }
    }
    writer.flush()?;
    gone.retain(|name| !writer.written.contains(name));
    Ok(gone)
}

struct Writer<'r> {
    repository: &'r Repository,
    next: IndexFile,
    chunks: usize,
    written: HashSet<Id>,
}

impl Writer<'_> {
    fn add(&mut self, pack: ListedPack) -> Result<(), RepositoryError> {
        self.chunks += pack.chunks.len();
        self.next.packs.push(pack);
        if self.chunks >= FULL_CHUNKS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), RepositoryError> {
        let file = std::mem::take(&mut self.next);
        self.chunks = 0;
        if file.packs.is_empty() {
            return Ok(());
        }
        let bytes = file.encode();
        let name = Id::of(&bytes);
        self.written.insert(name);
        Ok(self.repository.backend().put(&Key::Index(name).path(), &bytes)?)
    }
}
