//! Where each kind of repository file lies.

use crate::id::Id;
use crate::stamp::Stamp;

/// One file of a repository. What doesn't parse as a key isn't part of the repository and is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Config,
    Readme,
    /// A wrapped repository key: its holder, and how the BLAKE3 of the file begins.
    WrappedKey(KeyName),
    Pack(Id),
    Index(Id),
    Manifest(Id),
    Snapshot(Stamp),
    Proof(Id),
    Pin(Stamp),
    Doomed(Id),
}

impl Key {
    /// The directories that hold files of one kind; `init` makes them all.
    pub const DIRECTORIES: [&'static str; 10] =
        ["keys", "packs", "index", "manifests", "snapshots", "proofs", "pins", "doomed", "tmp", "locks"];

    /// The path below the repository's root, with `/`.
    pub fn path(&self) -> String {
        match self {
            Self::Config => "config".into(),
            Self::Readme => "README".into(),
            Self::WrappedKey(name) => format!("keys/{name}.age"),
            Self::Pack(id) => {
                let hex = id.hex();
                format!("packs/{}/{hex}", hex.get(..2).unwrap_or_default())
            }
            Self::Index(id) => format!("index/{id}"),
            Self::Manifest(id) => format!("manifests/{id}"),
            Self::Snapshot(stamp) => format!("snapshots/{stamp}"),
            Self::Proof(id) => format!("proofs/{id}"),
            Self::Pin(stamp) => format!("pins/{stamp}"),
            Self::Doomed(id) => format!("doomed/{id}"),
        }
    }

    /// Bytes with this name: it is their hash, or ends with it. Whatever isn't named by its bytes is taken for it.
    pub fn proves(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Pack(id) | Self::Index(id) | Self::Manifest(id) | Self::Proof(id) | Self::Doomed(id) => {
                Id::of(bytes) == *id
            }
            Self::WrappedKey(name) => name.proves(bytes),
            Self::Config | Self::Readme | Self::Snapshot(_) | Self::Pin(_) => true,
        }
    }

    /// Reads a path below the root.
    pub fn parse(path: &str) -> Option<Self> {
        match path {
            "config" => return Some(Self::Config),
            "README" => return Some(Self::Readme),
            _ => {}
        }
        let (directory, name) = path.split_once('/')?;
        let id = || Id::from_hex(name);
        match directory {
            "keys" => KeyName::parse(name.strip_suffix(".age")?).map(Self::WrappedKey),
            "packs" => {
                let (fan, name) = name.split_once('/')?;
                Id::from_hex(name).filter(|_| name.starts_with(fan) && fan.len() == 2).map(Self::Pack)
            }
            "index" => id().map(Self::Index),
            "manifests" => id().map(Self::Manifest),
            "snapshots" => Stamp::parse(name).map(Self::Snapshot),
            "proofs" => id().map(Self::Proof),
            "pins" => Stamp::parse(name).map(Self::Pin),
            "doomed" => id().map(Self::Doomed),
            _ => None,
        }
    }
}

/// The name of a wrapped key, `<holder>.<16 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    holder: String,
    /// The first eight bytes of the BLAKE3 of the file, as hexadecimal digits.
    digits: String,
}

impl KeyName {
    /// The name of the key file with these bytes. `None` if the holder has other characters than letters, digits, `_` and `-`,
    /// or more than 64 of them, or none.
    pub fn of(holder: &str, bytes: &[u8]) -> Option<Self> {
        let digits = Id::of(bytes).hex().get(..16)?.to_owned();
        is_holder(holder).then(|| Self { holder: holder.to_owned(), digits })
    }

    fn parse(name: &str) -> Option<Self> {
        let (holder, digits) = name.rsplit_once('.')?;
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        let fits = is_holder(holder) && digits.len() == 16 && digits.bytes().all(is_hex);
        fits.then(|| Self { holder: holder.to_owned(), digits: digits.to_owned() })
    }

    /// For whom it is.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// These are its bytes.
    pub fn proves(&self, bytes: &[u8]) -> bool {
        Id::of(bytes).hex().starts_with(&self.digits)
    }
}

fn is_holder(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

impl std::fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.holder, self.digits)
    }
}
