//! Reads chunks back and proves each of them by its id.

use super::bases::Choice;
use super::codec;
use super::error::{RepositoryError, well_read};
use super::location::Location;
use super::open::Repository;
use super::trailers::read_trailer;
use crate::backend::{ErrorKind, hash_anew};
use crate::format::{ChunkRecord, IndexedPack, Key, ListedChunk, ListedPack, Pack};
use crate::id::{Id, IdHasher};
use std::borrow::Cow;
use std::collections::HashSet;

/// What is read of a pack at a time when it is proven.
const PROVE_BYTES: u64 = 1 << 20;
/// So many choices among copies of a delta's bases are tried.
const MOST_CHOICES: usize = 8;

impl Repository {
    /// The bytes of a chunk, proven to be those that the id names. Where one copy is damaged, the others are tried.
    pub fn read_chunk(&self, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        if let Some(kept) = self.bases().get(id) {
            return Ok(kept.to_vec());
        }
        let index = self.index()?;
        let Some(first) = index.find(id.prefix()) else {
            let beneath = self.beneath().ok_or(RepositoryError::MissingChunk { id: *id })?;
            return beneath.read_chunk(id);
        };
        let damage = match self.read_at(id, &first) {
            Err(error @ RepositoryError::Damaged { .. }) => error,
            other => return other,
        };
        let others = index.find_all(id.prefix()).into_iter().filter(|location| *location != first);
        for location in others {
            match self.read_at(id, &location) {
                Err(RepositoryError::Damaged { .. }) => {}
                other => return other,
            }
        }
        Err(damage)
    }

    /// A chunk's bytes as they are stored.
    pub(super) fn read_stored(&self, location: &Location) -> Result<Vec<u8>, RepositoryError> {
        self.read_stored_at(&location.pack, location.offset, u64::from(location.stored_len))
    }

    /// The stored bytes of chunks that lie one behind another.
    pub(super) fn read_stored_at(
        &self,
        pack: &Id,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, RepositoryError> {
        let key = Key::Pack(*pack).path();
        let stored = match self.backend().get_range(&key, offset, len) {
            // Another copy may do.
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Err(RepositoryError::damaged(key, error));
            }
            other => well_read(&key, other)?,
        };
        self.count_read(stored.len());
        Ok(stored)
    }

    /// Part of a file that should be there, as it lies there.
    fn read_of(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, RepositoryError> {
        well_read(key, self.backend().get_range_anew(key, offset, len))
    }

    pub(super) fn damaged_at(&self, location: &Location, detail: impl ToString) -> RepositoryError {
        RepositoryError::damaged(Key::Pack(location.pack).path(), detail)
    }

    fn read_at(&self, id: &Id, location: &Location) -> Result<Vec<u8>, RepositoryError> {
        let stored = self.read_stored(location)?;
        self.decode_at(id, location, stored.into()).map(Cow::into_owned)
    }

    /// Decodes what is stored somewhere to the chunk with this id, and to nothing else.
    pub(super) fn decode_at<'s>(
        &self,
        id: &Id,
        location: &Location,
        stored: Cow<'s, [u8]>,
    ) -> Result<Cow<'s, [u8]>, RepositoryError> {
        let stored = self.open_chunk(id.prefix(), location, stored)?;
        let named = |detail: String| self.damaged_at(location, format!("chunk {id}: {detail}"));
        let wrong = || self.damaged_at(location, format!("chunk {id} does not match its id"));
        if !location.encoding.is_difference() {
            let plain = codec::decode(location.encoding, stored, location.plain_len).map_err(named)?;
            return if self.naming().id_of(&plain) == *id { Ok(plain) } else { Err(wrong()) };
        }
        // One copy of a base may be damaged, and ids may begin alike: the result tells which choice was right.
        let mut choices = 1;
        for base in &location.bases {
            choices = choices.max(self.whole_copies(*base)?);
        }
        let mut failure = wrong();
        let proven = (0..choices.min(MOST_CHOICES)).map(Choice::Proven);
        for choice in std::iter::once(Choice::First).chain(proven) {
            match self.apply_delta(location, &stored, choice) {
                Ok(plain) if self.naming().id_of(&plain) == *id => return Ok(plain.into()),
                Ok(_) => {}
                Err(error @ RepositoryError::Damaged { .. }) => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// Some copy of a chunk outside of these packs was read, and has its id. Where a whole copy is asked for a difference won't do:
    /// it is no base.
    pub fn prove_copy_outside(
        &self,
        id: &Id,
        packs: &HashSet<Id>,
        is_whole_needed: bool,
    ) -> Result<bool, RepositoryError> {
        for location in self.index()?.find_all(id.prefix()) {
            let serves = !(is_whole_needed && location.encoding.is_difference());
            if packs.contains(&location.pack) || !serves {
                continue;
            }
            match self.read_at(id, &location) {
                Ok(_) => return Ok(true),
                Err(RepositoryError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// A pack's trailer.
    pub fn read_trailer(&self, pack: Id) -> Result<IndexedPack, RepositoryError> {
        let key = Key::Pack(pack).path();
        let size = well_read(&key, self.backend().size(&key))?;
        read_trailer(self.backend(), self.seals(), pack, size)
    }

    /// A chunk as it is stored in a pack, if that is the chunk.
    pub fn read_record(
        &self,
        pack: Id,
        offset: u64,
        record: &ChunkRecord,
    ) -> Result<Vec<u8>, RepositoryError> {
        let ChunkRecord { id, stored_len, plain_len, encoding, ref bases } = *record;
        let location = Location { pack, offset, stored_len, plain_len, encoding, bases: bases.clone() };
        let stored = self.read_stored(&location)?;
        self.decode_at(&id, &location, stored.as_slice().into())?;
        Ok(stored)
    }

    /// A chunk that an index file lists, as it is stored, with the record that its bytes make: its id must begin as the index says.
    pub fn read_listed(
        &self,
        pack: Id,
        offset: u64,
        chunk: &ListedChunk,
    ) -> Result<(ChunkRecord, Vec<u8>), RepositoryError> {
        let ListedChunk { prefix, stored_len, plain_len, encoding, ref bases } = *chunk;
        let location = Location { pack, offset, stored_len, plain_len, encoding, bases: bases.clone() };
        let stored = self.read_stored(&location)?;
        let encoded = self.open_chunk(prefix, &location, stored.as_slice().into())?;
        let plain = if encoding.is_difference() {
            self.apply_delta(&location, &encoded, Choice::First)?
        } else {
            let named = |detail: String| self.damaged_at(&location, detail);
            codec::decode(encoding, encoded, plain_len).map_err(named)?.into_owned()
        };
        let id = self.naming().id_of(&plain);
        if id.prefix() == prefix {
            let bases = location.bases;
            Ok((ChunkRecord { id, stored_len, plain_len, encoding, bases }, stored))
        } else {
            Err(self.damaged_at(&location, "a chunk has another id than the index says"))
        }
    }

    /// Reads a pack again and compares its name; returns its size.
    pub fn prove_name(&self, pack: &Id) -> Result<u64, RepositoryError> {
        let key = Key::Pack(*pack).path();
        let (size, is_proven) = (well_read(&key, self.backend().size(&key))?, self.is_proven_there(pack)?);
        if is_proven {
            return Ok(size);
        }
        if well_read(&key, hash_anew(self.backend(), &key, size))? == *pack {
            Ok(size)
        } else {
            Err(RepositoryError::damaged(key, "its content does not match its name"))
        }
    }

    /// Reads a pack again and compares its name; returns its size, and what its trailer says for an index file.
    pub fn prove_to_list(&self, pack: &Id) -> Result<(u64, ListedPack), RepositoryError> {
        let size = self.prove_name(pack)?;
        Ok((size, ListedPack::from(&self.read_trailer(*pack)?)))
    }

    /// The pack was hashed where it lies, and is what its name says; false where files can't be hashed there.
    fn is_proven_there(&self, pack: &Id) -> Result<bool, RepositoryError> {
        let key = Key::Pack(*pack).path();
        match well_read(&key, self.backend().hash_there(&key))? {
            Some(there) if there != *pack => {
                Err(RepositoryError::damaged(key, "its content does not match its name where it lies"))
            }
            there => Ok(there.is_some()),
        }
    }

    /// Reads a whole pack again: its own name, its trailer, and each chunk in it. Returns the bytes read.
    pub fn prove_pack(&self, pack: &Id) -> Result<u64, RepositoryError> {
        self.is_proven_there(pack)?;
        let key = Key::Pack(*pack).path();
        let size = well_read(&key, self.backend().size(&key))?;
        let records = read_trailer(self.backend(), self.seals(), *pack, size)?.records;
        let mut hasher = IdHasher::default();
        let mut read = |from: u64, to: u64| {
            let bytes = self.read_of(&key, from, to - from)?;
            hasher.update(&bytes);
            Ok::<_, RepositoryError>(bytes)
        };
        read(0, Pack::FIRST_OFFSET)?;
        let (mut offset, mut rest) = (Pack::FIRST_OFFSET, records.as_slice());
        while !rest.is_empty() {
            let mut len = 0;
            let fits = |record: &&ChunkRecord| {
                len += u64::from(record.stored_len);
                len <= PROVE_BYTES
            };
            let (some, after) = rest.split_at(rest.iter().take_while(fits).count().clamp(1, rest.len()));
            let len: u64 = some.iter().map(|record| u64::from(record.stored_len)).sum();
            self.prove_records(some, *pack, offset, &read(offset, offset + len)?)?;
            (rest, offset) = (after, offset + len);
        }
        read(offset, size)?;
        if hasher.finish() == *pack {
            Ok(size)
        } else {
            Err(RepositoryError::damaged(key, "its content does not match its name"))
        }
    }

    fn prove_records(
        &self,
        records: &[ChunkRecord],
        pack: Id,
        mut offset: u64,
        mut stored: &[u8],
    ) -> Result<(), RepositoryError> {
        for record in records {
            let ChunkRecord { id, stored_len, plain_len, encoding, ref bases } = *record;
            let (own, after) = stored.split_at_checked(stored_len as usize).unwrap_or((stored, &[]));
            let location = Location { pack, offset, stored_len, plain_len, encoding, bases: bases.clone() };
            self.decode_at(&id, &location, own.into())?;
            (stored, offset) = (after, offset + u64::from(stored_len));
        }
        Ok(())
    }
}
