//! Applies a retention policy to the snapshots of one profile.

use crate::repository::{Snapshot, Snapshots};
use crate::retention::{Candidate, Policy, Verdict, decide};
use crate::stamp::Stamp;
use std::collections::HashSet;

/// What becomes of each snapshot of a profile. What an open restore needs stays too.
pub fn verdicts(
    snapshots: &Snapshots,
    profile: &str,
    policy: &Policy,
    needed: &HashSet<Stamp>,
    now: Stamp,
) -> Vec<Verdict> {
    let own = snapshots.list.iter().filter(|snapshot| snapshot.manifest.profile == profile);
    let candidates: Vec<Candidate> = own.map(candidate).collect();
    let mut verdicts = decide(&candidates, policy, now);
    for verdict in &mut verdicts {
        if needed.contains(&verdict.stamp) {
            verdict.reasons.push("needed by an open restore".into());
        }
    }
    verdicts
}

fn candidate(snapshot: &Snapshot) -> Candidate {
    let held = snapshot.manifest.sources.iter().filter(|source| source.root.is_some());
    Candidate {
        stamp: snapshot.stamp,
        sources: held.map(|source| source.name.clone()).collect(),
        is_valid: snapshot.is_valid(),
        is_pinned: snapshot.pinned,
        is_safety: snapshot.manifest.is_safety(),
    }
}
