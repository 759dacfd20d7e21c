//! A restore into a place of its own: nothing there can be lost, so nothing is guarded or saved.

use super::check_restored::Check;
use super::restore_items::RestoreItem;
use super::restore_safely::look;
use crate::format::Finding;
use crate::hooks::{HookError, Hooks};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{Owner, Placed, RestoreError, Shortage, place};
use std::path::Path;

/// Why a restore beside ended early.
#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    /// Nothing was written.
    #[error(transparent)]
    CannotPlan(RestoreError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("there is not enough room at {}: {} bytes are needed, {} are free", .0.place.display(), .0.needed_bytes, .0.free_bytes)]
    NoSpace(Shortage),
    #[error("restored, but {0}")]
    Verify(HookError),
}

/// Restores every item into its empty or missing place and checks the result.
pub fn restore_beside(
    repository: &Repository,
    items: &[RestoreItem],
    owner: Owner,
    hooks: &Hooks,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<(Placed, Vec<Finding>), BesideError> {
    let prospect = look(repository, items, owner, false, progress).map_err(BesideError::CannotPlan)?;
    if let Some(shortage) = prospect.shortage {
        return Err(BesideError::NoSpace(shortage));
    }
    progress.begin("restoring", Some(prospect.bytes()));
    let placed = place(&prospect.orders(repository, items, owner), progress)?;
    let check = Check { repository, owner, temporary_directory, progress };
    let findings = check.all(items, &prospect.targets)?;
    for item in items {
        if let Some(command) = &item.verify {
            let stop = || progress.interrupted();
            hooks.verify(command, &item.source, &item.target.path(), &stop).map_err(BesideError::Verify)?;
        }
    }
    Ok((placed, findings))
}
