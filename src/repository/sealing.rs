//! Who opens an encrypted repository, and what its chunks and files are sealed as.

use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::backend::{Backend, ErrorKind};
use crate::crypto::{RepositoryKey, SealedFile, Seals};
use crate::format::{ChunkRecord, Encoding, Encryption, Key, KeyName, RepositoryConfig};
use crate::id::Naming;

/// No wrapped key is longer.
const MOST_KEY_BYTES: u64 = 64 << 10;

/// What lies in `keys/`: the repository's key, wrapped for whoever may have it.
pub type KeyFiles = Vec<(KeyName, Vec<u8>)>;

/// Finds the repository's key: gets the key's fingerprint and the wrapped keys. The error says why there is none.
pub type Unlock<'u> = &'u mut dyn FnMut(&str, &KeyFiles) -> Result<RepositoryKey, String>;

/// The wrapped keys that prove themselves.
pub fn read_keys(backend: &dyn Backend) -> Result<KeyFiles, RepositoryError> {
    let mut files = KeyFiles::new();
    for (path, len) in backend.list("keys")? {
        let Some(Key::WrappedKey(name)) = Key::parse(&path).filter(|_| len <= MOST_KEY_BYTES) else {
            continue;
        };
        match backend.get(&path) {
            Ok(bytes) if name.proves(&bytes) => files.push((name, bytes)),
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The seals of a repository with this config, `bytes` as they are stored.
pub(super) fn unlocked(
    backend: &dyn Backend,
    config: &RepositoryConfig,
    bytes: &[u8],
    unlock: Unlock<'_>,
) -> Result<Seals, RepositoryError> {
    let Some(Encryption { key: fingerprint, .. }) = &config.encryption else {
        return if read_keys(backend)?.is_empty() {
            Ok(Seals::default())
        } else {
            let detail =
                "it has wrapped keys, and its config says that it isn't encrypted: somebody has changed that";
            Err(RepositoryError::Another { location: backend.location(), detail: detail.into() })
        };
    };
    let locked = |detail: String| RepositoryError::Locked { location: backend.location(), detail };
    let master = unlock(fingerprint, &read_keys(backend)?).map_err(locked)?;
    if master.fingerprint() != *fingerprint {
        return Err(locked("the key is another repository's".into()));
    }
    let seals = Seals::by(master);
    let is_right = config
        .authenticated(bytes)
        .is_some_and(|(body, code)| seals.config_code(&body).as_deref() == Some(code.as_str()));
    if is_right {
        Ok(seals)
    } else {
        Err(RepositoryError::damaged("config", "somebody has changed it who has not the repository's key"))
    }
}

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

    /// A chunk's encoded bytes as they are stored.
    pub(super) fn seal_chunk(
        &self,
        prefix: u64,
        encoding: Encoding,
        bases: &[u64],
        encoded: Vec<u8>,
    ) -> Result<Vec<u8>, RepositoryError> {
        Ok(self.seals().seal_chunk(&about(prefix, encoding, bases), encoded)?)
    }

    /// The encoded bytes of a chunk whose id begins like this, from what is stored at a place.
    pub(super) fn open_chunk(
        &self,
        prefix: u64,
        location: &Location,
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, RepositoryError> {
        let about = about(prefix, location.encoding, &location.bases);
        self.seals().open_chunk(&about, stored).map_err(|error| self.damaged_at(location, error))
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

    /// A chunk's bytes as they are stored, before they are sealed: what a record says is longer by the seal.
    pub fn seal_overhead(&self) -> usize {
        self.seals().chunk_overhead()
    }

    /// How long the encoded bytes of a record are.
    pub fn encoded_len(&self, record: &ChunkRecord) -> u64 {
        u64::from(record.stored_len).saturating_sub(self.seal_overhead() as u64)
    }
}
