//! The repository's `config`: JSON that ends with its own BLAKE3.

use super::FORMAT_VERSION;
use super::error::FormatError;
use crate::id::Id;
use serde::{Deserialize, Serialize};

/// How the repository cuts files into chunks. Fixed at `init`: other parameters would find no duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    pub algorithm: String,
    pub min_bytes: u32,
    pub average_bytes: u32,
    pub max_bytes: u32,
    /// Contents that begin like an SQLite database are cut at multiples of this; 0: like everything else.
    #[serde(default)]
    pub database_bytes: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self {
            algorithm: "fastcdc-v2020".into(),
            min_bytes: 8 << 10,
            average_bytes: 32 << 10,
            max_bytes: 128 << 10,
            database_bytes: 16 << 10,
        }
    }
}

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryConfig {
    /// Always `icecore repository`.
    pub what: String,
    pub format: u32,
    /// 32 random bytes as hex; manifests repeat it.
    pub repository: String,
    /// Features without which the repository must not be used.
    pub requires: Vec<String>,
    /// Features that a reader may ignore.
    pub optional: Vec<String>,
    pub chunking: Chunking,
    /// `null`: not encrypted.
    pub encryption: Option<Encryption>,
}

/// How the repository is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Always `aes-256-gcm`.
    pub cipher: String,
    /// Tells whether a key is the repository's: 32 hexadecimal digits.
    pub key: String,
    /// Authenticates all else in the config: 64 hexadecimal digits.
    pub code: String,
}

/// The one cipher that there is.
const CIPHER: &str = "aes-256-gcm";
/// The feature that encrypted repositories require.
const ENCRYPTION: &str = "encryption";
/// What stands for the code while it is computed.
const NO_CODE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const WHAT: &str = "icecore repository";
/// What stands between the hashed part and the hash, and behind it.
const BEFORE_HASH: &str = ",\n  \"blake3\": \"";
const AFTER_HASH: &str = "\"\n}\n";

impl RepositoryConfig {
    /// The config of a new repository with the given id.
    pub fn new(repository: Id) -> Self {
        Self {
            what: WHAT.into(),
            format: FORMAT_VERSION,
            repository: repository.hex(),
            requires: Vec::new(),
            optional: Vec::new(),
            chunking: Chunking::default(),
            encryption: None,
        }
    }

    /// The same of a repository that is encrypted with the key of this fingerprint; `code` computes the authenticator.
    pub fn encrypted(self, key: String, code: impl FnOnce(&[u8]) -> Option<String>) -> Option<Self> {
        let encryption = Encryption { cipher: CIPHER.into(), key, code: NO_CODE.into() };
        let mut config =
            Self { requires: vec![ENCRYPTION.into()], encryption: Some(encryption.clone()), ..self };
        let code = code(config.body().as_bytes())?;
        config.encryption = Some(Encryption { code, ..encryption });
        Some(config)
    }

    /// The part of an encoded config that its authenticator is about, and the authenticator that it has.
    pub fn authenticated(&self, bytes: &[u8]) -> Option<(Vec<u8>, String)> {
        let code = &self.encryption.as_ref()?.code;
        let (body, _) = std::str::from_utf8(bytes).ok()?.rsplit_once(BEFORE_HASH)?;
        let field = format!("\"code\": \"{code}\"");
        let blank = format!("\"code\": \"{NO_CODE}\"");
        Some((body.replacen(&field, &blank, 1).into_bytes(), code.clone()))
    }

    /// The repository's id.
    pub fn id(&self) -> Option<Id> {
        Id::from_hex(&self.repository)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body();
        format!("{body}{BEFORE_HASH}{}{AFTER_HASH}", Id::of(body.as_bytes())).into_bytes()
    }

    fn body(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let ended = text.strip_suffix('}').unwrap_or(&text);
        ended.trim_end().to_owned()
    }

    /// Reads a config: its hash first, then version and required features, then the rest.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "config";
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::invalid(what, "not UTF-8"))?;
        let ended = text.strip_suffix(AFTER_HASH).ok_or(FormatError::Truncated { what })?;
        let (body, hash) = ended.rsplit_once(BEFORE_HASH).ok_or(FormatError::Truncated { what })?;
        if Id::from_hex(hash) != Some(Id::of(body.as_bytes())) {
            return Err(FormatError::Hash { what });
        }
        let head: Head =
            serde_json::from_str(text).map_err(|error| FormatError::invalid(what, error.to_string()))?;
        if head.what != WHAT {
            return Err(FormatError::Magic { what });
        }
        if head.format > FORMAT_VERSION {
            return Err(FormatError::TooNew { found: head.format, supported: FORMAT_VERSION });
        }
        let unknown: Vec<String> =
            head.requires.into_iter().filter(|feature| feature != ENCRYPTION).collect();
        if !unknown.is_empty() {
            return Err(FormatError::Requires { features: unknown });
        }
        let config: Self =
            serde_json::from_str(text).map_err(|error| FormatError::invalid(what, error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), FormatError> {
        let Chunking { algorithm, min_bytes, average_bytes, max_bytes, database_bytes } = &self.chunking;
        let ordered = (64..=1 << 20).contains(min_bytes)
            && (256..=4 << 20).contains(average_bytes)
            && (1024..16 << 20).contains(max_bytes)
            && min_bytes < average_bytes
            && average_bytes < max_bytes
            && (*database_bytes == 0 || (512..=*max_bytes).contains(database_bytes))
            && [min_bytes, average_bytes, max_bytes].iter().all(|size| **size % 2 == 0);
        if self.id().is_none() {
            Err(FormatError::invalid("config", "repository id"))
        } else if algorithm != "fastcdc-v2020" || !ordered {
            Err(FormatError::invalid("config", "chunking parameters"))
        } else if self.encryption.is_some() != self.requires.iter().any(|feature| feature == ENCRYPTION)
            || self.encryption.as_ref().is_some_and(|encryption| encryption.cipher != CIPHER)
        {
            Err(FormatError::invalid("config", "encryption"))
        } else {
            Ok(())
        }
    }
}

/// What every version of the format keeps, so that an old program can say why it refuses.
#[derive(Deserialize)]
struct Head {
    what: String,
    format: u32,
    requires: Vec<String>,
}
