//! Applies a retention policy to the snapshots of one profile.

use crate::format::Key;
use crate::repository::{Repository, RepositoryError, Snapshot, Snapshots};
use crate::retention::{Candidate, Policy, Verdict, decide};
use crate::stamp::Stamp;
use std::collections::{HashMap, HashSet};

/// By which time a policy counts a snapshot.
pub enum CountedBy<'a> {
    /// By the second that its name says.
    Stamp,
    /// By when it came to this place: whoever sends snapshots can give them any name.
    Arrival(&'a HashMap<Stamp, Stamp>),
}

/// When each snapshot came to where the repository is, by that place's clock. What came within a day of the repository itself was
/// there before, and counts by its name, if that is older.
pub fn arrivals(
    repository: &Repository,
    snapshots: &Snapshots,
) -> Result<HashMap<Stamp, Stamp>, RepositoryError> {
    let arrived = |key: Key| {
        Ok::<_, RepositoryError>(repository.backend().arrived(&key.path())?.map(Stamp::from_nanos))
    };
    let settled = arrived(Key::Config)?.map(|begun| begun.unix().saturating_add(86_400));
    let mut times = HashMap::new();
    for snapshot in &snapshots.list {
        let Some(time) = arrived(Key::Snapshot(snapshot.stamp))? else { continue };
        let came_with_it = settled.is_some_and(|settled| time.unix() <= settled);
        times.insert(snapshot.stamp, if came_with_it { time.min(snapshot.stamp) } else { time });
    }
    Ok(times)
}

/// What becomes of each snapshot of a profile. What an open restore needs stays too.
pub fn verdicts(
    snapshots: &Snapshots,
    profile: &str,
    policy: &Policy,
    counted_by: &CountedBy<'_>,
    needed: &HashSet<Stamp>,
    now: Stamp,
) -> Vec<Verdict> {
    let own = snapshots.list.iter().filter(|snapshot| snapshot.manifest.profile == profile);
    let mut candidates: Vec<Candidate> = own.map(candidate).collect();
    let mut names: HashMap<Stamp, Stamp> = HashMap::new();
    if let CountedBy::Arrival(times) = counted_by {
        let time_of = |stamp: Stamp| times.get(&stamp).copied().unwrap_or(stamp);
        candidates.sort_by_key(|candidate| (time_of(candidate.stamp), candidate.stamp));
        // Each needs a second of its own.
        let mut last: Option<Stamp> = None;
        for candidate in &mut candidates {
            let time = time_of(candidate.stamp);
            let time = last.filter(|last| *last >= time).map_or(time, Stamp::next);
            names.insert(time, std::mem::replace(&mut candidate.stamp, time));
            last = Some(time);
        }
    }
    let mut verdicts = decide(&candidates, policy, now);
    for verdict in &mut verdicts {
        verdict.stamp = names.get(&verdict.stamp).copied().unwrap_or(verdict.stamp);
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
