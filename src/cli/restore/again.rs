//! `--resume` and `--rollback`: by the journal of an earlier run, and by what lies at the target now.

use super::choose::verify_of;
use super::in_place::{self, Job};
use super::told::Told;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::flow::{RestoreItem, open_undo};
use crate::format::{JournalItem, Manifest, RestoreState, SnapshotRef};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{OpenJournal, Owner};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Finishes, or undoes, the last in-place restore.
pub fn run(context: &Context, arguments: &args::Restore, progress: &dyn Progress) -> Result<Report, Failure> {
    let opened = context.open().map(Arc::new);
    let id = opened.as_ref().ok().map(|repository| repository.id());
    let (journals, warnings) = context.journals();
    let configured: Vec<&Path> = context
        .config
        .iter()
        .flat_map(|config| &config.sources)
        .map(|source| source.spec.path.as_path())
        .collect();
    // Found by the repository, or by the places that the config names.
    let own = journals.into_iter().filter(|open| {
        Some(open.journal.repository) == id || configured.iter().any(|place| open.concerns(place))
    });
    let open = last(own.collect(), arguments.resume)?;
    let verb = if arguments.resume { "finishing" } else { "undoing" };
    let told = format!(
        "{verb} the restore of snapshot {} that is {} (journal: {})",
        open.journal.goal.stamp,
        state_word(open.journal.state),
        open.path().display()
    );
    progress.begin(&told, None);
    let job =
        if arguments.resume { resume(context, arguments, open, opened?)? } else { rollback(open, opened)? };
    let report = in_place::run(context, arguments, job, progress);
    report.map(|mut report| {
        report.lines.insert(0, told);
        report.warnings.splice(0..0, warnings);
        report
    })
}

fn state_word(state: RestoreState) -> &'static str {
    match state {
        RestoreState::Begun => "interrupted",
        RestoreState::Placed => "in place, but not checked",
        RestoreState::Finished => "finished",
        RestoreState::RolledBack => "undone",
    }
}

/// The newest one that can be gone on with: an interrupted one before a finished one.
fn last(own: Vec<OpenJournal>, resumes: bool) -> Result<OpenJournal, Failure> {
    let is_open =
        |open: &&OpenJournal| matches!(open.journal.state, RestoreState::Begun | RestoreState::Placed);
    let finished = |open: &&OpenJournal| open.journal.state == RestoreState::Finished;
    let unfinished = own.iter().rfind(is_open);
    let found = if resumes { unfinished } else { unfinished.or_else(|| own.iter().rfind(finished)) };
    found.cloned().ok_or_else(|| {
        let message = if resumes { "there is no restore to resume" } else { "there is no restore to undo" };
        Failure::new(ExitCode::NoSnapshot, "no_restore", message).hint(
            "nothing was changed. Journals are looked for in the repository, and in the state directory (--state-dir); \
             safety snapshots are in `icecore list`",
        )
    })
}

fn owner_of(open: &OpenJournal) -> Owner {
    open.journal.owner.map_or(Owner::AsRecorded, |(uid, gid)| Owner::Fixed { uid, gid })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn resume(
    context: &Context,
    arguments: &args::Restore,
    open: OpenJournal,
    repository: Arc<Repository>,
) -> Result<Job, Failure> {
    // A restore of a safety snapshot's state that was kept beside another journal reads from there.
    let goal = open.journal.goal;
    let (goals, manifest) = find_manifest(&open, &goal, &repository)?;
    let mut items = Vec::new();
    for item in &open.journal.items {
        let (part, base) = (path_of(&item.part), path_of(&item.base));
        let mut item = item_of(&goals, &manifest, &item.source, &part, base)?;
        item.verify = verify_of(context, arguments, &item);
        items.push(item);
    }
    let told = Told::of(goal.stamp, &manifest);
    let (owner, ends_as) = (owner_of(&open), RestoreState::Finished);
    let (repository, earlier) = (Some(repository), Some(open));
    Ok(Job { goals, repository, items, owner, goal, told, earlier, ends_as })
}

/// The goal's manifest lies in the repository, or in the undo of an earlier restore that this one undid.
fn find_manifest(
    open: &OpenJournal,
    goal: &SnapshotRef,
    repository: &Arc<Repository>,
) -> Result<(Arc<Repository>, Manifest), Failure> {
    let missing = match repository.read_manifest(&goal.manifest) {
        Ok(manifest) => return Ok((Arc::clone(repository), manifest)),
        Err(error) => error,
    };
    for other in open.place.list()?.list.iter().filter(|other| other.journal.has_undo) {
        if other.journal.before.manifest == goal.manifest
            && let Ok(undo) = open_undo(&other.place, &other.id)
        {
            let undo = undo.over(Arc::clone(repository));
            let manifest = undo.read_manifest(&goal.manifest)?;
            return Ok((Arc::new(undo), manifest));
        }
    }
    Err(missing.into())
}

/// What was saved goes back; the repository is needed only where it holds that.
fn rollback(open: OpenJournal, repository: Result<Arc<Repository>, Failure>) -> Result<Job, Failure> {
    let goal = open.journal.before;
    let (goals, repository) = if open.journal.has_undo {
        let undo = open_undo(&open.place, &open.id)?;
        match repository {
            Ok(repository) => (Arc::new(undo.over(Arc::clone(&repository))), Some(repository)),
            Err(_) => (Arc::new(undo), None),
        }
    } else {
        let repository = repository?;
        (Arc::clone(&repository), Some(repository))
    };
    let manifest = goals.read_manifest(&goal.manifest)?;
    let mut items: Vec<RestoreItem> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for JournalItem { saved_as, saved_part, base, source, .. } in &open.journal.items {
        if seen.contains(&saved_as.as_str()) {
            continue;
        }
        seen.push(saved_as);
        let mut item = item_of(&goals, &manifest, saved_as, Path::new(""), path_of(base))?;
        // An undo holds no more than the part that was overwritten.
        item.target.part = path_of(saved_part);
        item.part = path_of(saved_part);
        item.source.clone_from(source);
        items.push(item);
    }
    let told = Told::of(goal.stamp, &manifest);
    // Owners are as they were.
    let (owner, ends_as, earlier) = (Owner::AsRecorded, RestoreState::RolledBack, Some(open));
    Ok(Job { goals, repository, items, owner, goal, told, earlier, ends_as })
}

fn item_of(
    goals: &Repository,
    manifest: &Manifest,
    source: &str,
    part: &Path,
    base: PathBuf,
) -> Result<RestoreItem, Failure> {
    let gone = || {
        let message =
            format!("snapshot {} doesn't hold {source}/{} any more", manifest.stamp, part.display());
        Failure::new(ExitCode::Damaged, "repository_damaged", message).hint("nothing was changed")
    };
    let record = manifest.source(source).ok_or_else(gone)?;
    RestoreItem::of(goals, record, manifest.is_safety(), part, base)?.ok_or_else(gone)
}
