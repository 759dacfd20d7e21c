//! Condemns, and takes back; condemns what a run wrote and doesn't find as it wrote it.

use super::condemned::{Condemned, read_doomed};
use super::error::RepositoryError;
use super::open::Repository;
use crate::backend::ErrorKind;
use crate::crypto::SealedFile;
use crate::format::{Doomed, DoomedFile, DoomedKind, Key, ListedPack};
use crate::id::Id;
use crate::stamp::now_nanos;

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

    /// As `prove_to_list`, of a pack whose chunks were decoded and compared before it got its name. One that isn't what was written is
    /// condemned, so that no later run takes what lies there for stored.
    pub(super) fn prove_written(&self, pack: &Id) -> Result<(u64, ListedPack), RepositoryError> {
        let proven = self.prove_to_list(pack);
        if matches!(proven, Err(RepositoryError::Damaged { .. })) {
            let doomed = vec![Doomed { kind: DoomedKind::Pack, id: *pack, since_ns: now_nanos() }];
            // Where that fails too, the damage is what has to be told.
            drop(self.condemn(&Condemned::default(), doomed));
        }
        proven
    }

    /// A list that its place keeps condemns nothing that is needed: whoever deletes asks that first.
    fn delete_unless_held(&self, key: &str) -> Result<(), RepositoryError> {
        match self.backend().delete(key) {
            Err(error) if error.kind == ErrorKind::Held => Ok(()),
            other => Ok(other?),
        }
    }
}
