//! What prunes have condemned.

use super::error::RepositoryError;
use super::open::Repository;
use crate::backend::{Backend, ErrorKind};
use crate::crypto::{SealedFile, Seals};
use crate::format::{Doomed, DoomedFile, Key};
use crate::id::Id;

/// All that is condemned, and the files that say so.
#[derive(Default)]
pub struct Condemned {
    /// Each file once, with the time when it was condemned first.
    pub list: Vec<Doomed>,
    files: Vec<Id>,
    /// Files that don't prove themselves: what they condemned isn't.
    pub damaged: Vec<String>,
}

/// Reads `doomed/`.
pub fn read_doomed(backend: &dyn Backend, seals: &Seals) -> Result<Condemned, RepositoryError> {
    let mut condemned = Condemned::default();
    for (path, _) in backend.list("doomed")? {
        let Some(Key::Doomed(id)) = Key::parse(&path) else { continue };
        let bytes = match backend.get(&path) {
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            other => other?,
        };
        let is_right = Id::of(&bytes) == id;
        let opened = seals.open_file(SealedFile::Doomed, bytes).ok().filter(|_| is_right);
        match opened.and_then(|bytes| DoomedFile::decode(&bytes).ok()) {
            Some(file) => {
                condemned.files.push(id);
                condemned.list.extend(file.doomed);
            }
            None => condemned.damaged.push(path),
        }
    }
    condemned.list.sort_unstable();
    condemned.list.dedup_by_key(|doomed| (doomed.kind, doomed.id));
    Ok(condemned)
}

impl Repository {
    /// What is condemned.
    pub fn condemned(&self) -> Result<Condemned, RepositoryError> {
        read_doomed(self.backend(), self.seals())
    }

    /// Condemns exactly this from now on. Interrupted, it condemns what either list names.
    pub fn condemn(&self, before: &Condemned, mut list: Vec<Doomed>) -> Result<(), RepositoryError> {
        list.sort_unstable();
        list.dedup_by_key(|doomed| (doomed.kind, doomed.id));
        let bytes = DoomedFile { doomed: list.clone() }.encode();
        let bytes = self.seal_file(SealedFile::Doomed, bytes)?;
        let id = Id::of(&bytes);
        if !list.is_empty() && !before.files.contains(&id) {
            self.backend().put(&Key::Doomed(id).path(), &bytes)?;
        }
        let is_kept = |file: &&Id| **file == id && !list.is_empty();
        for file in before.files.iter().filter(|file| !is_kept(file)) {
            self.delete_unless_held(&Key::Doomed(*file).path())?;
        }
        for damaged in &before.damaged {
            self.delete_unless_held(damaged)?;
        }
        Ok(())
    }

    /// A list that its place keeps condemns nothing that is needed: whoever deletes asks that first.
    fn delete_unless_held(&self, key: &str) -> Result<(), RepositoryError> {
        match self.backend().delete(key) {
            Err(error) if error.kind == ErrorKind::Held => Ok(()),
            other => Ok(other?),
        }
    }
}
