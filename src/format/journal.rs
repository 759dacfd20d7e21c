//! The journal of an in-place restore: what it writes where, what was there before, and how far it is known to be.

use super::error::FormatError;
use super::reader::{Reader, check_format, from_cbor, to_cbor};
use super::wire;
use crate::id::Id;
use crate::stamp::Stamp;
use serde::{Deserialize, Serialize};

/// How far a restore has come. Nothing more precise is kept: whoever goes on looks at the target itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// The target may be a mix of old and new.
    Begun,
    /// Everything is in place and durable, but a check of it failed or was not made.
    Placed,
    /// In place and checked.
    Finished,
    /// The state before is back.
    RolledBack,
}

/// A snapshot, and the manifest that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    #[serde(with = "wire::stamp")]
    pub stamp: Stamp,
    #[serde(with = "wire::id")]
    pub manifest: Id,
}

/// One thing that is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalItem {
    /// The source's name in the snapshot.
    pub source: String,
    /// What is restored of it; empty for all.
    #[serde(with = "serde_bytes")]
    pub part: Vec<u8>,
    /// Where the source is, absolute and without symlinks.
    #[serde(with = "serde_bytes")]
    pub base: Vec<u8>,
    /// The source of that name in the snapshot of the state before.
    pub saved_as: String,
    /// What of the source that one holds; empty for all.
    #[serde(with = "serde_bytes")]
    pub saved_part: Vec<u8>,
}

/// A journal. Its file carries its own BLAKE3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub format: u32,
    pub state: RestoreState,
    /// When it began.
    pub begun_ns: i64,
    pub profile: String,
    pub host: String,
    pub tool: String,
    #[serde(with = "wire::id")]
    pub repository: Id,
    /// What is restored.
    pub goal: SnapshotRef,
    /// The state before.
    pub before: SnapshotRef,
    /// The state before lies in the journal's own repository `undo`, not in the one that is restored from.
    pub has_undo: bool,
    /// Owner and group that everything is given to; absent: as recorded.
    pub owner: Option<(u32, u32)>,
    pub items: Vec<JournalItem>,
    /// The restore that this one undoes, by its id; absent: it is no rollback.
    #[serde(default)]
    pub undoes: Option<String>,
    /// Directories above the targets that did not exist, outermost first.
    pub made: Vec<serde_bytes::ByteBuf>,
    /// Of an encrypted repository: authenticates all else, and the journal's id.
    #[serde(default)]
    pub code: Option<serde_bytes::ByteBuf>,
}

impl Journal {
    /// What its authenticator is about: its id, and all but that.
    pub fn authenticated(&self, id: &str) -> Vec<u8> {
        let mut body = id.as_bytes().to_vec();
        body.push(0);
        body.extend_from_slice(&to_cbor(&Self { code: None, ..self.clone() }));
        body
    }

    /// The file's bytes: the BLAKE3 of what follows, then CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let body = to_cbor(self);
        [Id::of(&body).as_bytes().as_slice(), &body].concat()
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "journal";
        let mut reader = Reader::new(bytes, what);
        let id = reader.id()?;
        let body = reader.take(reader.remaining())?;
        if Id::of(body) != id {
            return Err(FormatError::Hash { what });
        }
        check_format(body, what)?;
        from_cbor(body, what)
    }
}
