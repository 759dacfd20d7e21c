//! What the snapshots that stay need, and whether it is there.

use crate::progress::Progress;
use crate::reach::{Reached, Survey};
use crate::repository::{Condemned, Repository, RepositoryError, Snapshot};
use crate::stamp::Stamp;
use std::collections::HashSet;

/// What is reached; an error where that can't be told.
pub fn sound_survey(
    repository: &Repository,
    snapshots: &[&Snapshot],
    condemned: &Condemned,
    progress: &dyn Progress,
) -> Result<Survey, RepositoryError> {
    // What a snapshot that is known to be invalid has lost keeps nobody. What both need is asked about for the others' sake.
    let (valid, invalid): (Vec<&Snapshot>, Vec<&Snapshot>) = snapshots.iter().partition(|one| one.is_valid());
    let valid_stamps: HashSet<Stamp> = valid.iter().map(|snapshot| snapshot.stamp).collect();
    let at_once = repository.looked_up_at_once()?;
    let mut needed = Needed { repository, at_once, prefixes: Vec::new(), stamps: Vec::new() };
    let mut look = |stamp, reached| match reached {
        Reached::Chunk(chunk) if valid_stamps.contains(&stamp) => needed.add(stamp, chunk.id.prefix()),
        _ => Ok(()),
    };
    let survey = Survey::new(repository, &[valid, invalid].concat(), condemned, &mut look, progress)?;
    needed.find()?;
    match survey.lost.first() {
        None => Ok(survey),
        Some((stamp, lost)) => {
            let detail =
                format!("what snapshot {stamp} needs can't be told, so nothing is freed: {}", lost.error);
            Err(RepositoryError::damaged(format!("node {}", lost.node), detail))
        }
    }
}

/// Chunks that snapshots need which nobody has found invalid, until they are looked up. 16 bytes each.
struct Needed<'r> {
    repository: &'r Repository,
    at_once: usize,
    prefixes: Vec<u64>,
    /// The place from which on they belong to a snapshot.
    stamps: Vec<(usize, Stamp)>,
}

impl Needed<'_> {
    fn add(&mut self, stamp: Stamp, prefix: u64) -> Result<(), RepositoryError> {
        if self.stamps.last().is_none_or(|(_, last)| *last != stamp) {
            self.stamps.push((self.prefixes.len(), stamp));
        }
        self.prefixes.push(prefix);
        if self.prefixes.len() >= self.at_once { self.find() } else { Ok(()) }
    }

    /// Those that were added are there, as far as can be told without reading them. Where one isn't, the snapshot that would stay may
    /// be worth less than those that would go.
    fn find(&mut self) -> Result<(), RepositoryError> {
        let lacking: HashSet<u64> = self.repository.lacking(self.prefixes.clone())?.into_iter().collect();
        let first = self.prefixes.iter().position(|prefix| lacking.contains(prefix));
        if let Some(first) = first {
            let stamp =
                self.stamps.iter().rfind(|(from, _)| *from <= first).map(|(_, stamp)| stamp.to_string());
            let detail = "it has lost data, and isn't marked invalid: `icecore validate --all` does that, and then sound ones are kept";
            return Err(RepositoryError::damaged(format!("snapshots/{}", stamp.unwrap_or_default()), detail));
        }
        self.prefixes.clear();
        self.stamps.clear();
        Ok(())
    }
}
