//! Who opens an encrypted repository: the wrapped keys, and what is made of them.

use super::error::RepositoryError;
use crate::backend::{Backend, ErrorKind};
use crate::crypto::{RepositoryKey, Seals};
use crate::format::{Encryption, Key, KeyName, RepositoryConfig};

/// No wrapped key is longer.
const MOST_KEY_BYTES: u64 = 64 << 10;

/// What lies in `keys/`: the repository's key, wrapped for whoever may have it.
pub type KeyFiles = Vec<(KeyName, Vec<u8>)>;

/// Finds the repository's key: gets the key's fingerprint and the wrapped keys. The error says why there is none.
pub type Unlock<'u> = &'u mut dyn FnMut(&str, &KeyFiles) -> Result<RepositoryKey, String>;

/// The wrapped keys that prove themselves.
pub fn read_keys(backend: &dyn Backend) -> Result<KeyFiles, RepositoryError> {
    let (mut files, mut lost) = (KeyFiles::new(), None);
    for (path, len) in backend.list("keys")? {
        let Some(Key::WrappedKey(name)) = Key::parse(&path).filter(|_| len <= MOST_KEY_BYTES) else {
            continue;
        };
        match backend.get(&path) {
            Ok(bytes) if name.proves(&bytes) => files.push((name, bytes)),
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) if error.kind == ErrorKind::Lost => lost = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    files.sort_unstable();
    // Where there is another key, it may be the one that is at hand.
    match lost {
        Some(error) if files.is_empty() => Err(error.into()),
        _ => Ok(files),
    }
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
