//! A doomed file: what a prune has condemned, and when. A later prune deletes it, or takes it back.

use super::error::FormatError;
use super::layout::Key;
use super::reader::{from_cbor, to_cbor};
use super::wire;
use crate::id::Id;
use serde::{Deserialize, Serialize};

/// Kinds of files that can be condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DoomedKind {
    Pack,
    Index,
    /// A manifest that no name in `snapshots` leads to.
    Manifest,
}

/// One condemned file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Doomed {
    pub kind: DoomedKind,
    #[serde(with = "wire::id")]
    pub id: Id,
    /// When it was condemned, nanoseconds since 1970.
    pub since_ns: i64,
}

impl Doomed {
    /// The file.
    pub fn key(&self) -> Key {
        match self.kind {
            DoomedKind::Pack => Key::Pack(self.id),
            DoomedKind::Index => Key::Index(self.id),
            DoomedKind::Manifest => Key::Manifest(self.id),
        }
    }
}

/// All that was condemned at the end of one prune.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DoomedFile {
    pub doomed: Vec<Doomed>,
}

impl DoomedFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_cbor(self)
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        from_cbor(bytes, "doomed")
    }
}
