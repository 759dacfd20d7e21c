//! Which snapshots are sent: those that are missing there, and whole here.

use super::done::Replicated;
use super::error::ReplicateError;
use crate::format::PackKind;
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{Reached, Walk, roots};
use crate::repository::{Repository, Snapshot, Snapshots};
use crate::stamp::Stamp;
use std::collections::HashMap;

/// Which snapshots are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those of each profile that are newer than the newest one that both have: what was forgotten there isn't sent again.
    Newer,
    /// All, also such as are there: what they lack there is sent again.
    All,
}

/// Those that aren't there and are newer, in their profile, than the newest that is at both places; or all.
pub fn choose<'s>(
    own: &'s Snapshots,
    theirs: &Snapshots,
    wanted: Wanted,
    done: &mut Replicated,
) -> Vec<&'s Snapshot> {
    if wanted == Wanted::All {
        return own.list.iter().collect();
    }
    let newest = |list: &[Snapshot], counts: &dyn Fn(&Snapshot) -> bool| {
        let mut newest: HashMap<String, Stamp> = HashMap::new();
        for snapshot in list.iter().filter(|snapshot| counts(snapshot)) {
            let newest = newest.entry(snapshot.manifest.profile.clone()).or_insert(snapshot.stamp);
            *newest = snapshot.stamp.max(*newest);
        }
        newest
    };
    let common = newest(&own.list, &|snapshot| theirs.get(snapshot.stamp).is_some());
    let (of_ours, of_theirs) = (newest(&own.list, &|_| true), newest(&theirs.list, &|_| true));
    let is_newer = |snapshot: &Snapshot| {
        let profile = snapshot.manifest.profile.as_str();
        // Where all that was common is forgotten on either side, the newest there is, unless nobody here knows of such times.
        let known = common.get(profile).or_else(|| {
            of_theirs.get(profile).filter(|theirs| of_ours.get(profile).is_some_and(|ours| *theirs <= ours))
        });
        known.is_none_or(|known| snapshot.stamp > *known)
    };
    let missing = own.list.iter().filter(|snapshot| theirs.get(snapshot.stamp).is_none());
    let (chosen, older): (Vec<&Snapshot>, Vec<&Snapshot>) = missing.partition(|snapshot| is_newer(snapshot));
    done.left_out = older.len() as u64;
    chosen
}

/// The snapshots of which everything is in packs that are there, and those of which a chunk isn't.
pub type Sorted<'s> = (Vec<&'s Snapshot>, Vec<(Stamp, Id)>);

pub fn sound<'s>(
    here: &Repository,
    snapshots: Vec<&'s Snapshot>,
    progress: &dyn Progress,
) -> Result<Sorted<'s>, ReplicateError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(here, progress);
    for snapshot in snapshots {
        let mut lost = None;
        for root in roots(&snapshot.manifest) {
            let unread = walk.below(root, &mut |reached| {
                let (id, _) = of(reached);
                if lost.is_none() && !here.has_chunk(&id)? {
                    lost = Some(id);
                }
                Ok(())
            });
            let unread = unread.map_err(ReplicateError::source)?;
            lost = lost.or(unread.first().map(|lost| lost.node));
        }
        match lost {
            None => good.push(snapshot),
            Some(id) => {
                bad.push((snapshot.stamp, id));
                // Another one may share it.
                walk = Walk::new(here, progress);
            }
        }
    }
    Ok((good, bad))
}

pub fn of(reached: Reached) -> (Id, PackKind) {
    match reached {
        Reached::Node(id) => (id, PackKind::Tree),
        Reached::Chunk(chunk) => (chunk.id, PackKind::Data),
    }
}
