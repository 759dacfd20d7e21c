//! An in-place restore that can be undone, and that a crash doesn't spoil: look, save, write, check.

use super::check_restored::Check;
use super::restore_items::RestoreItem;
use super::save_before::{SaveError, SaveTo, Saved, Saving, save_before};
use crate::backend::BackendError;
use crate::backup::Author;
use crate::format::{Finding, RestoreState, Severity, SnapshotRef};
use crate::hooks::{HookError, Hooks};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{
    Guard, JournalPlace, OpenJournal, Order, Owner, Placed, Plan, RestoreError, Shortage, Target, guard,
    place, shortage, survey,
};
use crate::source::sidecars_of;
use std::path::PathBuf;

/// What a restore would do, and what stands in its way.
pub struct Prospect {
    /// Resolved.
    pub targets: Vec<Target>,
    pub plans: Vec<Plan>,
    pub shortage: Option<Shortage>,
}

impl Prospect {
    /// What is to be carried out at each target.
    pub fn orders<'o>(
        &'o self,
        repository: &'o Repository,
        items: &'o [RestoreItem],
        owner: Owner,
    ) -> Vec<Order<'o>> {
        let places = items.iter().zip(&self.targets).zip(&self.plans);
        places
            .map(|((item, target), plan)| Order { repository, goal: &item.goal, target, owner, plan })
            .collect()
    }

    /// A file system that has too little room as it is now.
    fn shortage_now(&self) -> Option<Shortage> {
        let pairs: Vec<(&Target, &Plan)> = self.targets.iter().zip(&self.plans).collect();
        shortage(&pairs)
    }

    /// Bytes that will be written at most.
    pub fn bytes(&self) -> u64 {
        self.plans.iter().flat_map(|plan| &plan.steps).map(|step| step.bytes).sum()
    }
}

/// What to do with what is there before it is overwritten.
pub enum Before<'r> {
    /// Save it.
    Save {
        to: SaveTo,
        repository: &'r Repository,
        place: JournalPlace,
        author: Author,
        goal: SnapshotRef,
        /// The restore that this one undoes.
        undoes: Option<String>,
    },
    /// It is saved: an earlier run's journal says where.
    Saved(Box<OpenJournal>),
}

/// An in-place restore.
pub struct RestoreRequest<'r> {
    /// Where the goals are read from.
    pub repository: &'r Repository,
    pub items: Vec<RestoreItem>,
    pub owner: Owner,
    pub before: Before<'r>,
    /// What the journal says when all is well.
    pub ends_as: RestoreState,
    /// Directories that go afterwards if nothing is in them, outermost first: the restore that is undone had made them.
    pub unmakes: Vec<PathBuf>,
    /// Go on where it can't be told whether somebody has the files open.
    pub accepts_blind_guard: bool,
    /// Go on where something can't be read, and so not be brought back.
    pub accepts_unsaved: bool,
    pub hooks: Hooks,
    pub profile: String,
    pub temporary_directory: PathBuf,
}

/// What was restored.
#[derive(Default)]
pub struct Restored {
    pub placed: Placed,
    pub findings: Vec<Finding>,
    pub guard: Option<Guard>,
    pub journal: Option<OpenJournal>,
    pub warnings: Vec<String>,
}

/// Why a restore ended early. Up to `Unsaved` nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    #[error("{0}")]
    BeforeRestore(HookError),
    #[error("it can't be restored: {0}")]
    CannotPlan(RestoreError),
    #[error("files that would be overwritten are in use")]
    InUse,
    #[error("it can't be told whether {path} is in use: {reason}")]
    Blind { path: PathBuf, reason: String },
    #[error("there is not enough room at {}: {} bytes are needed, {} are free", .0.place.display(), .0.needed_bytes, .0.free_bytes)]
    NoSpace(Shortage),
    #[error("the present state could not be saved: {0}")]
    Save(#[from] SaveError),
    #[error("part of the present state could not be read, so it can't be brought back")]
    Unsaved { paths: Vec<String> },
    #[error("its journal could not be written: {0}")]
    Journal(BackendError),
    #[error(transparent)]
    Place(RestoreError),
    #[error("restored, but the result did not pass its check")]
    Unsound,
    #[error(transparent)]
    Unchecked(RestoreError),
    #[error("restored, but {0}")]
    Verify(HookError),
    #[error("restored and checked, but {0}")]
    AfterRestore(HookError),
}

/// How far a restore that ended early had come.
pub struct RestoreFailed {
    pub error: RestoreFailure,
    pub so_far: Restored,
}

/// Plans every item. Nothing is changed.
pub fn look(
    repository: &Repository,
    items: &[RestoreItem],
    owner: Owner,
    lists_all: bool,
    progress: &dyn Progress,
) -> Result<Prospect, RestoreError> {
    let targets = items.iter().map(|item| item.target.resolve()).collect::<Result<Vec<_>, _>>()?;
    refuse_overlaps(items, &targets)?;
    let mut plans = Vec::with_capacity(items.len());
    for (item, target) in items.iter().zip(&targets) {
        progress.begin(&format!("comparing {}", item.name()), None);
        let options = item.survey_options(owner, lists_all);
        plans.push(survey(repository, &item.goal, target, &options, progress)?);
    }
    let mut prospect = Prospect { targets, plans, shortage: None };
    prospect.shortage = prospect.shortage_now();
    Ok(prospect)
}

/// Two targets must not share a name: one would undo what the other does. A place inside another is fine where the outer
/// one leaves it out.
fn refuse_overlaps(items: &[RestoreItem], targets: &[Target]) -> Result<(), RestoreError> {
    for (number, (outer_item, outer)) in items.iter().zip(targets).enumerate() {
        let outer_path = outer.path();
        let others = items.iter().zip(targets).enumerate().filter(|(other, _)| *other != number);
        for (_, (inner_item, inner)) in others {
            let inner_path = inner.path();
            let is_beside = outer_item.is_database() && sidecars_of(&outer_path).contains(&inner_path);
            let below = inner_path.strip_prefix(&outer_path).ok();
            let is_inside = below.is_some_and(|below| !outer_item.leaves_out(below));
            if is_beside || is_inside {
                let (one, other) = (outer_item.name(), inner_item.name());
                return Err(RestoreError::Overlap { one, other, path: inner_path });
            }
        }
    }
    Ok(())
}

/// Looks whether anybody uses what the plans are about.
pub fn look_for_users(plans: &[Plan]) -> Guard {
    guard(&plans.iter().collect::<Vec<_>>())
}

/// Restores in place. The hook `before_restore` runs first; `after_restore` when the sources are whole again, and also if
/// nothing was changed.
pub fn restore_safely(
    request: RestoreRequest<'_>,
    progress: &dyn Progress,
) -> Result<Restored, Box<RestoreFailed>> {
    let mut so_far = Restored::default();
    let hooks = request.hooks.clone();
    let profile = request.profile.clone();
    let stop = || progress.interrupted();
    if let Err(error) = hooks.before_restore(&profile, &stop) {
        return Err(Box::new(RestoreFailed { error: RestoreFailure::BeforeRestore(error), so_far }));
    }
    // What an earlier run left may be a mix already.
    let mut is_touched = matches!(request.before, Before::Saved(_));
    let done = restore_quiesced(request, &mut so_far, &mut is_touched, progress);
    let is_whole = done.is_ok() || !is_touched;
    let after = if is_whole { hooks.after_restore(&profile, done.is_ok()) } else { Ok(()) };
    match (done, after) {
        (Ok(()), Ok(())) => Ok(so_far),
        (Ok(()), Err(error)) => {
            Err(Box::new(RestoreFailed { error: RestoreFailure::AfterRestore(error), so_far }))
        }
        (Err(error), after) => {
            so_far.warnings.extend(after.err().map(|error| error.to_string()));
            Err(Box::new(RestoreFailed { error, so_far }))
        }
    }
}

fn restore_quiesced(
    request: RestoreRequest<'_>,
    so_far: &mut Restored,
    is_touched: &mut bool,
    progress: &dyn Progress,
) -> Result<(), RestoreFailure> {
    let RestoreRequest { repository, items, owner, before, temporary_directory, .. } = request;
    let mut prospect =
        look(repository, &items, owner, false, progress).map_err(RestoreFailure::CannotPlan)?;
    let is_free = |so_far: &mut Restored, plans: &[Plan]| {
        let guard = so_far.guard.insert(look_for_users(plans));
        refuse_by(guard, request.accepts_blind_guard)
    };
    is_free(so_far, &prospect.plans)?;
    if let Some(shortage) = prospect.shortage {
        return Err(RestoreFailure::NoSpace(shortage));
    }
    let mut journal = match before {
        Before::Saved(mut journal) => {
            // Where it says so already nothing is written: the disk may be full.
            if journal.journal.state != RestoreState::Begun {
                journal.set_state(RestoreState::Begun).map_err(RestoreFailure::Journal)?;
            }
            *journal
        }
        Before::Save { to, repository: kept_in, place, author, goal, undoes } => {
            progress
                .begin(&format!("the way back is kept in {}", place.root().join("restores").display()), None);
            let scratch = &temporary_directory;
            let saving = Saving {
                goals: repository,
                repository: kept_in,
                to,
                place: &place,
                author: &author,
                goal,
                undoes,
                owner,
                temporary_directory: scratch,
            };
            let saved = save_before(&saving, &items, &prospect.targets, &mut prospect.plans, progress)?;
            let Saved { mut journal, unsaved } = saved;
            if !unsaved.is_empty() && !request.accepts_unsaved {
                return Err(RestoreFailure::Unsaved { paths: unsaved });
            }
            so_far.warnings.extend(unsaved);
            // Saving may have taken its time, and the room.
            is_free(so_far, &prospect.plans)?;
            if let Some(shortage) = prospect.shortage_now() {
                return Err(RestoreFailure::NoSpace(shortage));
            }
            journal.write().map_err(RestoreFailure::Journal)?;
            journal
        }
    };
    so_far.journal = Some(journal.clone());
    *is_touched = true;
    progress.begin("restoring", Some(prospect.bytes()));
    let orders = prospect.orders(repository, &items, owner);
    so_far.placed = place(&orders, progress).map_err(RestoreFailure::Place)?;
    for path in request.unmakes.iter().rev() {
        // One that is in use by now stays.
        drop(std::fs::remove_dir(path));
    }
    journal.set_state(RestoreState::Placed).map_err(RestoreFailure::Journal)?;
    so_far.journal = Some(journal.clone());
    let check = Check { repository, owner, temporary_directory: &temporary_directory, progress };
    so_far.findings = check.all(&items, &prospect.targets).map_err(RestoreFailure::Unchecked)?;
    if so_far.findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(RestoreFailure::Unsound);
    }
    for (item, target) in items.iter().zip(&prospect.targets) {
        if let Some(command) = &item.verify {
            progress.begin(&format!("verifying {}", item.name()), None);
            let stop = || progress.interrupted();
            request
                .hooks
                .verify(command, &item.source, &target.path(), &stop)
                .map_err(RestoreFailure::Verify)?;
        }
    }
    journal.set_state(request.ends_as).map_err(RestoreFailure::Journal)?;
    journal.place.remove_old();
    so_far.journal = Some(journal);
    Ok(())
}

fn refuse_by(guard: &Guard, accepts_blind: bool) -> Result<(), RestoreFailure> {
    if !guard.in_use.is_empty() {
        return Err(RestoreFailure::InUse);
    }
    match &guard.unknown {
        Some((path, reason)) if !accepts_blind => {
            Err(RestoreFailure::Blind { path: path.clone(), reason: reason.clone() })
        }
        _ => Ok(()),
    }
}
