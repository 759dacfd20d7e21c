//! Reads chunks back and proves each of them by its id.

use super::codec;
use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::backend::ErrorKind;
use crate::format::{Key, Pack};
use crate::id::Id;

impl Repository {
    /// The bytes of a chunk, proven to be those that the id names. Where one copy is damaged, the others are tried.
    pub fn read_chunk(&self, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        let index = self.index()?;
        let Some(first) = index.find(id) else {
            let beneath = self.beneath().ok_or(RepositoryError::MissingChunk { id: *id })?;
            return beneath.read_chunk(id);
        };
        let damage = match self.read_at(id, &first) {
            Err(error @ RepositoryError::Damaged { .. }) => error,
            other => return other,
        };
        let others = index.find_all(id).into_iter().filter(|location| *location != first);
        others.filter_map(|location| self.read_at(id, &location).ok()).next().ok_or(damage)
    }

    /// The chunk is in a pack that is there, and that pack has the size which the index expects.
    pub fn has_chunk(&self, id: &Id) -> Result<bool, RepositoryError> {
        let index = self.index()?;
        let fits = |location: &Location| {
            let end = location.offset + u64::from(location.stored_len);
            index.pack_len(&location.pack).is_some_and(|len| end <= len)
        };
        let here =
            index.find(id).is_some_and(|location| fits(&location)) || index.find_all(id).iter().any(fits);
        match self.beneath() {
            Some(beneath) if !here => beneath.has_chunk(id),
            _ => Ok(here),
        }
    }

    fn read_at(&self, id: &Id, location: &Location) -> Result<Vec<u8>, RepositoryError> {
        let key = Key::Pack(location.pack).path();
        let stored = match self.backend().get_range(&key, location.offset, u64::from(location.stored_len)) {
            Err(error) if matches!(error.kind, ErrorKind::Short | ErrorKind::NotFound) => {
                return Err(RepositoryError::damaged(key, error));
            }
            other => other?,
        };
        self.count_read(stored.len());
        let plain = codec::decode(location.encoding, &stored, location.plain_len)
            .map_err(|detail| RepositoryError::damaged(&key, format!("chunk {id}: {detail}")))?;
        if Id::of(&plain) == *id {
            Ok(plain)
        } else {
            Err(RepositoryError::damaged(key, format!("chunk {id} does not match its id")))
        }
    }

    /// Reads a whole pack again: its own name, its trailer, and each chunk in it. Returns the bytes read.
    pub fn prove_pack(&self, pack: &Id) -> Result<u64, RepositoryError> {
        let key = Key::Pack(*pack).path();
        let bytes = self.backend().get(&key)?;
        if Id::of(&bytes) != *pack {
            return Err(RepositoryError::damaged(key, "its content does not match its name"));
        }
        let decoded = Pack::decode(&bytes).map_err(|error| RepositoryError::damaged(&key, error))?;
        let mut rest = bytes.get(Pack::FIRST_OFFSET as usize..).unwrap_or_default();
        for record in &decoded.records {
            let (stored, after) = rest.split_at_checked(record.stored_len as usize).unwrap_or((rest, &[]));
            let plain = codec::decode(record.encoding, stored, record.plain_len)
                .map_err(|detail| RepositoryError::damaged(&key, format!("chunk {}: {detail}", record.id)))?;
            if Id::of(&plain) != record.id {
                return Err(RepositoryError::damaged(
                    key,
                    format!("chunk {} does not match its id", record.id),
                ));
            }
            rest = after;
        }
        Ok(bytes.len() as u64)
    }
}
