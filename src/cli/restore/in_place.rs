//! In place: guarded, saved before, journalled.

use super::failed::failure_of;
use super::refuse;
use super::told::{self, Told};
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::flow::{Before, RestoreItem, RestoreRequest, SaveTo, look, look_for_users, restore_safely};
use crate::format::{RestoreState, SnapshotRef};
use crate::hooks::Hooks;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{Guard, OpenJournal, Owner};
use std::sync::Arc;

/// What is to be restored in place.
pub struct Job {
    /// Where the goals are read from.
    pub goals: Arc<Repository>,
    /// The repository of the command line; absent where it can't be reached and isn't needed.
    pub repository: Option<Arc<Repository>>,
    pub items: Vec<RestoreItem>,
    pub owner: Owner,
    pub goal: SnapshotRef,
    pub told: Told,
    /// An earlier run that this one goes on with, to its end or back to its beginning.
    pub earlier: Option<OpenJournal>,
    /// A restore that was finished, and is undone by this one.
    pub undone: Option<OpenJournal>,
    pub ends_as: RestoreState,
}

impl Job {
    /// A first restore of these items.
    pub fn new(
        repository: Arc<Repository>,
        items: Vec<RestoreItem>,
        owner: Owner,
        goal: SnapshotRef,
        told: Told,
    ) -> Self {
        let (goals, repository, ends_as) =
            (Arc::clone(&repository), Some(repository), RestoreState::Finished);
        Self { goals, repository, items, owner, goal, told, earlier: None, undone: None, ends_as }
    }
}

/// Restores, or only looks.
pub fn run(
    context: &Context,
    arguments: &args::Restore,
    job: Job,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let scratch = context.temporary_directory()?;
    let hooks = hooks_of(context, arguments);
    refuse_places(context, &job)?;
    if arguments.dry_run {
        refuse_by_journals(context, &job)?;
        if job.earlier.is_none() {
            context.journal_place(arguments.no_pre_snapshot)?;
        }
        let refused = refuse::by_confirmation(arguments);
        let accepts = (hooks.before_restore.is_some(), arguments.accept_blind_guard);
        let guarding = Some(Guarding { refused, is_stopped_by_hook: accepts.0, accepts_blind: accepts.1 });
        return dry_run(&job.goals, &job.items, job.owner, job.told, guarding, progress);
    }
    if let Some(refusal) = refuse::by_confirmation(arguments) {
        return Err(refusal);
    }
    // One run of a profile at a time: a backup must not read what is being overwritten.
    let locked = job.repository.as_deref().unwrap_or(&job.goals);
    let running = locked.lock(&format!("backup-{}", context.profile), context.patience()?);
    let _running = running.map_err(refuse::by_running)?;
    // Whoever had the lock may have left something.
    refuse_by_journals(context, &job)?;
    let Job { goals, repository, items, owner, goal, mut told, earlier, undone, ends_as } = job;
    let kept_in = repository.as_deref().unwrap_or(&goals);
    let before = match &earlier {
        Some(open) => Before::Saved(Box::new(open.clone())),
        None => {
            let (place, is_repository) = context.journal_place(arguments.no_pre_snapshot)?;
            let to =
                if is_repository && !arguments.no_pre_snapshot { SaveTo::Repository } else { SaveTo::Undo };
            let author = context.author(vec!["before-restore".into()]);
            let undoes = undone.as_ref().map(|open| open.id.clone());
            Before::Save { to, repository: kept_in, place, author, goal, undoes }
        }
    };
    let taken_back = if ends_as == RestoreState::RolledBack { &earlier } else { &undone };
    let unmakes = taken_back.as_ref().map(OpenJournal::made).unwrap_or_default();
    let names: Vec<told::Restored> = items.iter().map(told::Restored::of).collect();
    let request = RestoreRequest {
        repository: &goals,
        items,
        owner,
        before,
        unmakes,
        ends_as,
        accepts_blind_guard: arguments.accept_blind_guard,
        accepts_unsaved: arguments.accept_incomplete_safety,
        hooks,
        profile: context.profile.clone(),
        temporary_directory: scratch,
    };
    let done = restore_safely(request, progress);
    told.read_bytes = goals.read_bytes();
    match done {
        Ok(restored) => {
            // What was undone is undone; its own journal is closed too.
            if let Some(mut open) = undone {
                drop(open.set_state(RestoreState::RolledBack));
            }
            told.take(restored);
            told.conclude_in_place(&names)
        }
        Err(failed) => Err(failure_of(*failed, told, &names)),
    }
}

/// Neither where the repository lies nor where its journals are can be restored to.
fn refuse_places(context: &Context, job: &Job) -> Result<(), Failure> {
    for item in &job.items {
        refuse::by_repository(context, &item.target.path())?;
    }
    Ok(())
}

/// An interrupted restore at the same place, or one that somebody has gone on with meanwhile.
fn refuse_by_journals(context: &Context, job: &Job) -> Result<(), Failure> {
    let places: Vec<_> = job.items.iter().map(|item| item.target.path()).collect();
    let places = || places.iter().map(std::path::PathBuf::as_path);
    if let Some(open) = job.earlier.iter().chain(&job.undone).find(|open| !open.is_as_read()) {
        return Err(refuse::by_change(open));
    }
    match context.unfinished_at(places())? {
        Some(open) if job.earlier.as_ref().is_none_or(|earlier| earlier.id != open.id) => {
            Err(refuse::by_unfinished(context, &open, ExitCode::Refused))
        }
        _ => Ok(()),
    }
}

/// What a dry run says about users of the files.
pub struct Guarding {
    pub refused: Option<Failure>,
    /// A hook stops the service before anything is looked at.
    pub is_stopped_by_hook: bool,
    pub accepts_blind: bool,
}

/// Runs every guard and lists what would be done.
pub fn dry_run(
    repository: &Repository,
    items: &[RestoreItem],
    owner: Owner,
    mut told: Told,
    guarding: Option<Guarding>,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let prospect = look(repository, items, owner, true, progress).map_err(super::failed::cannot_plan)?;
    told.read_bytes = repository.read_bytes();
    if let Some(guarding) = guarding {
        let guard: Guard = look_for_users(&prospect.plans);
        told.guard = Some(guard.clone());
        let is_used = !guard.in_use.is_empty();
        if is_used && guarding.is_stopped_by_hook {
            told.warnings
                .push("files are in use now; `before_restore` would run before they are looked at".into());
        } else if is_used {
            return Err(super::failed::in_use(told));
        } else if let (Some((path, reason)), false) = (&guard.unknown, guarding.accepts_blind) {
            let failure = super::failed::blind(path, reason);
            return Err(told.into_failure(failure));
        }
        let refused = guarding.refused.into_iter();
        told.warnings.extend(refused.map(|refusal| format!("it would be refused: {}", refusal.message)));
    }
    if let Some(shortage) = &prospect.shortage {
        let failure = told::no_space(shortage);
        return Err(told.into_failure(failure));
    }
    Ok(told.list(items, &prospect))
}

/// Hooks belong to the config's sources.
fn hooks_of(context: &Context, arguments: &args::Restore) -> Hooks {
    let config = context.config.as_ref().filter(|_| !arguments.no_hooks);
    config.map(|config| config.hooks.clone()).unwrap_or_default()
}
