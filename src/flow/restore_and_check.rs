//! Restore, then judge what lies on the disk.

use crate::format::{Entry, Finding, Level, SourceKind};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{Extras, Owner, PlaceOptions, Placed, PlacedFiles, RestoreError, Target, place};
use crate::source::judge;
use std::path::Path;

/// One thing to restore.
pub struct RestoreItem {
    /// The source's name.
    pub name: String,
    /// `None` for a part of a source: a part isn't judged.
    pub kind: Option<SourceKind>,
    pub entry: Entry,
    pub target: Target,
    pub extras: Extras,
}

/// What was restored.
pub struct Restored {
    pub placed: Placed,
    pub findings: Vec<Finding>,
}

/// Places one item and judges the result as it lies on the disk, at the full level.
pub fn restore_and_check(
    repository: &Repository,
    item: &RestoreItem,
    owner: Owner,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Restored, RestoreError> {
    progress.begin(&format!("restoring {}", item.name), None);
    let options = PlaceOptions { owner, extras: item.extras.clone() };
    let placed = place(repository, &item.entry, &item.target, options, progress)?;
    let Some(kind) = item.kind else { return Ok(Restored { placed, findings: Vec::new() }) };
    progress.begin(&format!("checking {}", item.name), None);
    let files = PlacedFiles { repository, root: item.entry.clone(), target: item.target.path() };
    let judged = judge(kind, &item.name, &files, Level::Full, temporary_directory);
    let judgement = judged.map_err(|source| RestoreError::Unchecked { name: item.name.clone(), source })?;
    Ok(Restored { placed, findings: judgement.findings })
}
