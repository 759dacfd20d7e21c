//! Reads chunks back and proves each of them by its id.

use super::chunk_index::Location;
use super::codec;
use super::error::RepositoryError;
use super::open::Repository;
use crate::backend::ErrorKind;
use crate::format::{Key, Pack};
use crate::id::Id;

impl Repository {
    /// The bytes of a chunk, proven to be those that the id names.
    pub fn read_chunk(&self, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        let location = self.index()?.find(id).ok_or(RepositoryError::MissingChunk { id: *id })?;
        self.read_at(id, &location)
    }

    /// The chunk is in a pack that is there, and that pack has the size which the index expects.
    pub fn has_chunk(&self, id: &Id) -> Result<bool, RepositoryError> {
        let index = self.index()?;
        let Some(location) = index.find(id) else { return Ok(false) };
        let end = location.offset + u64::from(location.stored_len);
        Ok(index.pack_len(&location.pack).is_some_and(|len| end <= len))
    }

    fn read_at(&self, id: &Id, location: &Location) -> Result<Vec<u8>, RepositoryError> {
        let key = Key::Pack(location.pack).path();
        let stored = match self.backend().get_range(&key, location.offset, u64::from(location.stored_len)) {
            Err(error) if matches!(error.kind, ErrorKind::Short | ErrorKind::NotFound) => {
                return Err(RepositoryError::damaged(key, error));
            }
            other => other?,
        };
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
