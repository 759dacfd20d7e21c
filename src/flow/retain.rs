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

/// When each snapshot counts as taken, by the clock of the place where the repository is. In the order in which those of a profile came, a name is
/// believed as long as it lies between the time of the one before and its own arrival: a history that comes all at once keeps its
/// times, and who sends a snapshot later can neither put it before the newest that was there nor ahead of now.
pub fn arrivals(
    repository: &Repository,
    snapshots: &Snapshots,
) -> Result<HashMap<Stamp, Stamp>, RepositoryError> {
    let ask = |snapshot: &Snapshot| {
        let time = repository.backend().arrived(&Key::Snapshot(snapshot.stamp).path())?;
        let profile = snapshot.manifest.profile.clone();
        Ok::<_, RepositoryError>((time.map_or(snapshot.stamp, Stamp::from_nanos), snapshot.stamp, profile))
    };
    let arrived = repository.at_once("snapshots", &snapshots.list, ask).into_iter();
    let mut arrived: Vec<(Stamp, Stamp, String)> = arrived.collect::<Result<_, _>>()?;
    arrived.sort_unstable();
    let (mut times, mut last): (HashMap<Stamp, Stamp>, HashMap<String, Stamp>) = Default::default();
    for (arrival, stamp, profile) in arrived {
        let time = last.get(&profile).map_or(stamp, |last| stamp.max(*last)).min(arrival);
        times.insert(stamp, time);
        last.insert(profile, time);
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
    if let CountedBy::Arrival(times) = counted_by {
        for candidate in &mut candidates {
            candidate.time = times.get(&candidate.stamp).copied().unwrap_or(candidate.stamp);
        }
    }
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
        time: snapshot.stamp,
        sources: held.map(|source| source.name.clone()).collect(),
        is_valid: snapshot.is_valid(),
        is_pinned: snapshot.pinned,
        is_safety: snapshot.manifest.is_safety(),
    }
}
