//! From arguments to what is done: beside, in place, again, or only looked at.

use super::again;
use super::choose::{choose, owner};
use super::failed::cannot_plan;
use super::in_place::{self, Job};
use super::refuse;
use super::told::{self, Told};
use crate::catalog::find;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::flow::{BesideError, RestoreItem, restore_beside};
use crate::format::SnapshotRef;
use crate::progress::Progress;
use crate::repository::{Repository, Snapshot};
use crate::restore::{Owner, RestoreError};
use std::sync::Arc;

/// Restores what the arguments choose.
pub fn run(context: &Context, arguments: &args::Restore, progress: &dyn Progress) -> Result<Report, Failure> {
    if arguments.resume || arguments.rollback {
        return again::run(context, arguments, progress);
    }
    let repository = Arc::new(context.open()?);
    let _in_use = repository.lock_for_use(context.patience()?)?;
    let snapshots = repository.snapshots()?;
    let stamp = arguments.stamp.as_deref().unwrap_or("latest");
    let snapshot = find(&snapshots, stamp, &context.profile, None)?;
    let items = choose(context, arguments, &repository, snapshot)?;
    let owner = owner(context, arguments)?;
    if let Some(refusal) = refuse::by_snapshot(context, arguments, snapshot) {
        return Err(refusal);
    }
    let mut report = if arguments.target.is_some() {
        beside(context, arguments, &repository, snapshot, items, owner, progress)
    } else {
        let goal = SnapshotRef { stamp: snapshot.stamp, manifest: snapshot.manifest_id };
        let told = Told::of(context, snapshot.stamp, &snapshot.manifest).proven_as(snapshot);
        let job = Job::new(Arc::clone(&repository), items, owner, goal, told);
        in_place::run(context, arguments, job, progress)
    }?;
    report.warnings.extend(repository.warnings());
    Ok(report)
}

fn beside(
    context: &Context,
    arguments: &args::Restore,
    repository: &Repository,
    snapshot: &Snapshot,
    items: Vec<RestoreItem>,
    owner: Owner,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let mut told = Told::of(context, snapshot.stamp, &snapshot.manifest).proven_as(snapshot);
    let scratch = context.temporary_directory()?;
    // What was missing then isn't made beside either.
    let items: Vec<RestoreItem> = items.into_iter().filter(|item| item.goal.root.is_some()).collect();
    for item in &items {
        refuse::by_repository(context, &item.target.path())?;
        let place = item.target.path();
        let occupied = match std::fs::read_dir(&place) {
            Ok(mut listing) => listing.next().is_some(),
            Err(_) => place.symlink_metadata().is_ok(),
        };
        if occupied {
            return Err(RestoreError::NotEmpty { path: place }.into());
        }
    }
    if arguments.dry_run {
        return in_place::dry_run(repository, &items, owner, told, None, progress);
    }
    let hooks = context.config.as_ref().map(|config| config.hooks.clone()).unwrap_or_default();
    let restored = restore_beside(repository, &items, owner, &hooks, &scratch, progress);
    let (placed, findings) = restored.map_err(|error| match error {
        BesideError::CannotPlan(error @ (RestoreError::Unwritable { .. } | RestoreError::Overlap { .. })) => {
            error.into()
        }
        BesideError::CannotPlan(error) => cannot_plan(error),
        BesideError::Restore(error) => error.into(),
        BesideError::NoSpace(shortage) => told::no_space(&shortage),
        BesideError::Verify(error) => {
            Failure::new(ExitCode::RestoredButBad, "verify_failed", format!("restored, but {error}"))
        }
    })?;
    told.placed = placed;
    told.findings = findings;
    told.read_bytes = repository.read_bytes();
    told.conclude(&items, "restored")
}
