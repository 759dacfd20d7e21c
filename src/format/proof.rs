//! A proof file: the result of a validation that came after the snapshot was published.

use super::error::FormatError;
use super::manifest::{Finding, Level, Severity};
use super::reader::{from_cbor, to_cbor};
use super::wire;
use crate::id::Id;
use crate::stamp::Stamp;
use serde::{Deserialize, Serialize};

/// What a later validation of a snapshot found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofFile {
    #[serde(with = "wire::stamp")]
    pub stamp: Stamp,
    #[serde(with = "wire::id")]
    pub manifest: Id,
    pub level: Level,
    pub validator: u32,
    pub time_ns: i64,
    /// The sources that were validated.
    pub sources: Vec<String>,
    pub findings: Vec<Finding>,
}

impl ProofFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_cbor(self)
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        from_cbor(bytes, "proof")
    }

    /// No error was found.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// A good one of this source that the checks of this version would not go beyond.
    pub fn is_full_of(&self, source: &str, validator: u32) -> bool {
        let is_full = self.level == Level::Full && self.validator == validator && self.is_valid();
        is_full && self.sources.iter().any(|name| name == source)
    }
}
