//! The keys of an encrypted repository, and how bytes are sealed with them so that a changed or misplaced one is noticed.

use crate::id::Naming;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Random bytes in front of what is sealed. Together with what it is about they make a key of its own, so that no two
/// plaintexts ever share a key and a nonce.
const SALT_LEN: usize = 16;
/// The authenticator behind it (GCM, NIST SP 800-38D).
const TAG_LEN: usize = 16;
/// How a sealed file begins.
const MAGIC: &[u8; 8] = b"ICESEAL0";

/// The one secret of a repository, from which all its keys are derived; `keys/` holds it, wrapped for each recipient.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryKey(Zeroizing<[u8; 32]>);

impl RepositoryKey {
    /// A random one.
    pub fn random() -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| CryptoError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Takes exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 32 hexadecimal digits that tell keys apart and tell nothing of them.
    pub fn fingerprint(&self) -> String {
        let derived = self.derive("icecore 2026 fingerprint of the repository key");
        derived.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }
}

/// What a sealed file is; one can't be passed off as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedFile {
    Trailer,
    Index,
    Manifest,
    Proof,
    Doomed,
}

impl SealedFile {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Trailer => b"pack trailer",
            Self::Index => b"index",
            Self::Manifest => b"manifest",
            Self::Proof => b"proof",
            Self::Doomed => b"doomed",
        }
    }
}

/// Seals and opens the bytes of one repository. One without keys, the default, leaves them as they are.
#[derive(Clone, Default)]
pub struct Seals(Option<Arc<Keys>>);

struct Keys {
    master: RepositoryKey,
    chunks: Zeroizing<[u8; 32]>,
    files: Zeroizing<[u8; 32]>,
    config: Zeroizing<[u8; 32]>,
    journals: Zeroizing<[u8; 32]>,
    ids: Zeroizing<[u8; 32]>,
    gear: Zeroizing<[u8; 32]>,
}

/// Never shows a key.
impl std::fmt::Debug for Seals {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_some() { "Seals(with keys)" } else { "Seals(none)" })
    }
}

impl Seals {
    /// Those of an encrypted repository.
    pub fn by(master: RepositoryKey) -> Self {
        let derive = |context| master.derive(context);
        Self(Some(Arc::new(Keys {
            chunks: derive("icecore 2026 sealing of chunks"),
            files: derive("icecore 2026 sealing of files"),
            config: derive("icecore 2026 authenticator of the config"),
            journals: derive("icecore 2026 authenticator of journals"),
            ids: derive("icecore 2026 ids of chunks"),
            gear: derive("icecore 2026 gear of content-defined cuts"),
            master,
        })))
    }

    /// The repository's key, if it is encrypted.
    pub fn master(&self) -> Option<&RepositoryKey> {
        self.0.as_deref().map(|keys| &keys.master)
    }

    /// How chunks get their ids.
    pub fn naming(&self) -> Naming {
        self.0.as_deref().map_or(Naming::PLAIN, |keys| Naming::keyed(*keys.ids))
    }

    /// Where contents are cut: 256 secret numbers for FastCDC, from BLAKE3's extended output; `None`: its own.
    pub fn gear(&self) -> Option<Box<[u64; 256]>> {
        let keys = self.0.as_deref()?;
        let mut output = blake3::Hasher::new_keyed(&keys.gear).finalize_xof();
        let mut gear = Box::new([0; 256]);
        for value in gear.iter_mut() {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        Some(gear)
    }

    /// Authenticates the config, which must be readable without the key.
    pub fn config_code(&self, body: &[u8]) -> Option<String> {
        let keys = self.0.as_deref()?;
        Some(blake3::keyed_hash(&keys.config, body).to_hex().to_string())
    }

    /// Authenticates the journal of a restore: what it says is overwritten with what.
    pub fn journal_code(&self, body: &[u8]) -> Option<[u8; 32]> {
        let keys = self.0.as_deref()?;
        Some(*blake3::keyed_hash(&keys.journals, body).as_bytes())
    }

    /// Seals a chunk's encoded bytes, bound to what `about` says of it.
    pub fn seal_chunk(&self, about: &[u8], encoded: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
        match self.0.as_deref() {
            None => Ok(encoded),
            Some(keys) => seal(&keys.chunks, &[], about, &encoded),
        }
    }

    /// Opens what `seal_chunk` made of the same `about`.
    pub fn open_chunk(&self, about: &[u8], sealed: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
        match self.0.as_deref() {
            None => Ok(sealed),
            Some(keys) => open(&keys.chunks, about, sealed),
        }
    }

    /// Seals a whole file, or a pack's trailer.
    pub fn seal_file(&self, what: SealedFile, bytes: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
        match self.0.as_deref() {
            None => Ok(bytes),
            Some(keys) => seal(&keys.files, MAGIC, what.name(), &bytes),
        }
    }

    /// Opens what `seal_file` made.
    pub fn open_file(&self, what: SealedFile, mut bytes: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
        let Some(keys) = self.0.as_deref() else { return Ok(bytes) };
        if !bytes.starts_with(MAGIC) {
            return Err(CryptoError::NotSealed);
        }
        open(&keys.files, what.name(), bytes.split_off(MAGIC.len()))
    }
}

/// The key for one sealing: nobody has sealed anything else with it, so the nonce may be the same always.
fn sealing_key(key: &[u8; 32], salt: &[u8], about: &[u8]) -> Result<LessSafeKey, CryptoError> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(salt).update(about);
    let own = Zeroizing::new(*hasher.finalize().as_bytes());
    UnboundKey::new(&AES_256_GCM, &*own).map(LessSafeKey::new).map_err(|_| CryptoError::Refused)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn seal(key: &[u8; 32], magic: &[u8], about: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut salt = [0; SALT_LEN];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| CryptoError::NoRandomness)?;
    let mut sealed = Vec::with_capacity(magic.len() + SALT_LEN + plain.len() + TAG_LEN);
    sealed.extend_from_slice(magic);
    sealed.extend_from_slice(&salt);
    let begin = sealed.len();
    sealed.extend_from_slice(plain);
    let own = sealing_key(key, &salt, about)?;
    let bytes = sealed.get_mut(begin..).unwrap_or_default();
    let tag = own.seal_in_place_separate_tag(nonce(), Aad::from(about), bytes);
    sealed.extend_from_slice(tag.map_err(|_| CryptoError::Refused)?.as_ref());
    Ok(sealed)
}

fn open(key: &[u8; 32], about: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
    let (salt, bytes) = sealed.split_at_mut_checked(SALT_LEN).ok_or(CryptoError::Forged)?;
    let own = sealing_key(key, salt, about)?;
    let opened = own.open_in_place(nonce(), Aad::from(about), bytes).map_err(|_| CryptoError::Forged)?;
    let len = opened.len();
    sealed.copy_within(SALT_LEN..SALT_LEN + len, 0);
    sealed.truncate(len);
    Ok(sealed)
}

/// Why bytes could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("it is not as it was sealed with this repository's key, or not what it is taken for")]
    Forged,
    #[error("it is not sealed, in a repository that is encrypted")]
    NotSealed,
    #[error("the system gives no random bytes")]
    NoRandomness,
    #[error("the cipher refuses it")]
    Refused,
}

#[cfg(test)]
mod tests {
    use super::{CryptoError, RepositoryKey, SALT_LEN, SealedFile, Seals, TAG_LEN};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    fn seals(byte: u8) -> Seals {
        Seals::by(RepositoryKey::from_slice(&[byte; 32]).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_sealed_opens_to_the_same_and_nothing_else(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            about in prop::collection::vec(any::<u8>(), 0..50),
            (at, bit) in (any::<prop::sample::Index>(), 0u8..8),
        ) {
            let sealed = seals(1).seal_chunk(&about, plain.clone()).unwrap();
            assert_eq!(sealed.len(), plain.len() + SALT_LEN + TAG_LEN);
            assert_eq!(seals(1).open_chunk(&about, sealed.clone()), Ok(plain.clone()));
            assert_ne!(seals(1).seal_chunk(&about, plain.clone()).unwrap(), sealed, "another salt each time");
            assert_eq!(seals(2).open_chunk(&about, sealed.clone()), Err(CryptoError::Forged));
            let other = [about.as_slice(), b"!"].concat();
            assert_eq!(seals(1).open_chunk(&other, sealed.clone()), Err(CryptoError::Forged));
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= 1 << bit;
            assert_eq!(seals(1).open_chunk(&about, flipped), Err(CryptoError::Forged));
            let cut = sealed[..at.index(sealed.len())].to_vec();
            assert_eq!(seals(1).open_chunk(&about, cut), Err(CryptoError::Forged));
        }
    }

    #[test]
    fn a_file_is_what_it_was_sealed_as() {
        let sealed = seals(1).seal_file(SealedFile::Index, b"index".to_vec()).unwrap();
        assert_eq!(seals(1).open_file(SealedFile::Index, sealed.clone()).unwrap(), b"index");
        assert_eq!(seals(1).open_file(SealedFile::Manifest, sealed), Err(CryptoError::Forged));
        assert_eq!(seals(1).open_file(SealedFile::Index, b"index".to_vec()), Err(CryptoError::NotSealed));
        assert_eq!(Seals::default().open_file(SealedFile::Index, b"index".to_vec()).unwrap(), b"index");
    }

    #[test]
    fn keys_of_one_repository_differ_from_each_other_and_from_others() {
        let [one, two] = [seals(1), seals(2)];
        assert_ne!(one.gear(), two.gear());
        assert_ne!(one.naming().id_of(b"x"), two.naming().id_of(b"x"));
        assert_ne!(one.config_code(b"x"), two.config_code(b"x"));
        let fingerprint = one.master().unwrap().fingerprint();
        assert_eq!(fingerprint.len(), 32);
        assert_ne!(fingerprint, two.master().unwrap().fingerprint());
    }
}
