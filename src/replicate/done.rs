//! What a run did.

use crate::stamp::Stamp;

/// What one run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicated {
    pub snapshots: Vec<Stamp>,
    pub packs: u64,
    /// Of these, put together there from what was there already.
    pub assembled_packs: u64,
    /// Bytes of files that were sent.
    pub sent_bytes: u64,
    /// Bytes of packs that weren't sent, because they were there in others.
    pub reused_bytes: u64,
    /// The newest snapshot here and there, afterwards.
    pub newest_here: Option<Stamp>,
    pub newest_there: Option<Stamp>,
    /// Snapshots that aren't there, and weren't sent because they are older than what is there.
    pub left_out: u64,
    /// Snapshots that aren't there, where only that was asked for.
    pub missing: Option<u64>,
    pub warnings: Vec<String>,
}

impl Replicated {
    /// Adds what another attempt did.
    pub fn add(&mut self, other: Self) {
        self.snapshots.extend(other.snapshots);
        self.packs += other.packs;
        self.assembled_packs += other.assembled_packs;
        self.sent_bytes += other.sent_bytes;
        self.reused_bytes += other.reused_bytes;
        self.left_out = other.left_out;
        self.newest_here = other.newest_here.or(self.newest_here);
        self.newest_there = other.newest_there.or(self.newest_there);
        self.warnings.extend(
            other.warnings.into_iter().filter(|warning| !self.warnings.contains(warning)).collect::<Vec<_>>(),
        );
    }
}
