//! What the chunks and files of an encrypted repository are sealed as.

use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::crypto::{RepositoryKey, SealedFile};
use crate::format::{Encoding, Key};
use crate::id::Naming;
use std::borrow::Cow;

/// What a stored chunk is bound to: how its id begins, its encoding, and its bases. Not where it lies, so that it can be moved by
/// whoever has no key.
fn about(prefix: u64, encoding: Encoding, bases: &[u64]) -> Vec<u8> {
    let mut about = prefix.to_le_bytes().to_vec();
    about.push(encoding.byte());
    bases.iter().for_each(|base| about.extend_from_slice(&base.to_le_bytes()));
    about
}

impl Repository {
    /// How chunks get their ids here.
    pub fn naming(&self) -> Naming {
        self.seals().naming()
    }

    /// Where contents are cut here, if not as everywhere.
    pub fn gear(&self) -> Option<Box<[u64; 256]>> {
        self.seals().gear()
    }

    /// The repository's key, if it is encrypted.
    pub fn key(&self) -> Option<&RepositoryKey> {
        self.seals().master()
    }

    /// A chunk's encoded bytes as they are stored; they were opened again.
    pub(super) fn seal_chunk(
        &self,
        prefix: u64,
        encoding: Encoding,
        bases: &[u64],
        encoded: Vec<u8>,
    ) -> Result<Vec<u8>, RepositoryError> {
        match self.key() {
            None => Ok(encoded),
            Some(_) => {
                let about = about(prefix, encoding, bases);
                let sealed = self.seals().seal_chunk(&about, encoded.clone())?;
                match self.seals().open_chunk(&about, sealed.clone()) {
                    Ok(opened) if opened == encoded => Ok(sealed),
                    _ => Err(RepositoryError::damaged("a sealed chunk", "it can't be opened again")),
                }
            }
        }
    }

    /// The encoded bytes of a chunk whose id begins like this, from what is stored at a place.
    pub(super) fn open_chunk<'s>(
        &self,
        prefix: u64,
        location: &Location,
        stored: Cow<'s, [u8]>,
    ) -> Result<Cow<'s, [u8]>, RepositoryError> {
        if self.key().is_none() {
            return Ok(stored);
        }
        let about = about(prefix, location.encoding, &location.bases);
        let opened = self.seals().open_chunk(&about, stored.into_owned());
        opened.map(Cow::Owned).map_err(|error| self.damaged_at(location, error))
    }

    /// The bytes of a small file as they are stored.
    pub(super) fn seal_file(&self, what: SealedFile, bytes: Vec<u8>) -> Result<Vec<u8>, RepositoryError> {
        Ok(self.seals().seal_file(what, bytes)?)
    }

    /// The bytes of a small file from what is stored.
    pub(super) fn open_file(
        &self,
        what: SealedFile,
        key: &Key,
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, RepositoryError> {
        self.seals().open_file(what, stored).map_err(|error| RepositoryError::damaged(key.path(), error))
    }
}
