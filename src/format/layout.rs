//! Where each kind of repository file lies.

use crate::id::Id;
use crate::stamp::Stamp;

/// One file of a repository. What doesn't parse as a key isn't part of the repository and is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Config,
    Readme,
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
