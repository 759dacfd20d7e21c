//! `--resume` and `--rollback`: by the journal of an earlier run, and by what lies at the target now.

use super::choose::verify_of;
use super::in_place::{self, Job};
use super::refuse;
use super::told::Told;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::crypto::{RepositoryKey, Seals};
use crate::flow::{RestoreItem, open_undo};
use crate::format::{JournalItem, Manifest, RestoreState, SnapshotRef, SourceRecord};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{OpenJournal, Owner, Target};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Finishes, or undoes, an in-place restore.
pub fn run(context: &Context, arguments: &args::Restore, progress: &dyn Progress) -> Result<Report, Failure> {
    let opened = context.open().map(Arc::new);
    let in_use = opened
        .as_ref()
        .ok()
        .map(|repository| repository.lock_for_use(context.patience()?).map_err(Failure::from));
    let _in_use = in_use.transpose()?;
    // Which repository it is can be told also where it can't be opened.
    let identified = || Repository::identify(&*context.backend().ok()?).ok().map(|(id, _)| id);
    let id = opened.as_ref().ok().map(|repository| repository.id()).or_else(identified);
    let (journals, warnings) = context.journals();
    let configured: Vec<&Path> = context
        .config
        .iter()
        .flat_map(|config| &config.sources)
        .map(|source| source.spec.path.as_path())
        .collect();
    // Found by its id, by the repository, or by the places that the config names.
    let is_own = |open: &OpenJournal| match &arguments.journal {
        Some(wanted) => open.id == *wanted,
        None => Some(open.journal.repository) == id || configured.iter().any(|place| open.concerns(place)),
    };
    let own: Vec<OpenJournal> = journals.iter().filter(|open| is_own(open)).cloned().collect();
    let open = last(own, arguments.resume)?;
    let seals = seals_of(context, &open, &opened)?;
    let open = authentic(open, &seals)?;
    let undone = undone_by(&journals, &open).filter(|_| open.is_open());
    let undone = undone.map(|undone| authentic(undone, &seals)).transpose()?;
    // Repeating a rollback that was interrupted finishes it.
    let goes_on = arguments.resume || undone.is_some();
    let verb = if goes_on { "finishing" } else { "undoing" };
    let what = match &undone {
        Some(undone) => {
            format!("the rollback of the restore of snapshot {}, which was", undone.journal.goal.stamp)
        }
        None => format!("the restore of snapshot {} that is", open.journal.goal.stamp),
    };
    let told =
        format!("{verb} {what} {} (journal: {})", state_word(open.journal.state), open.path().display());
    progress.begin(&told, None);
    let job = if goes_on {
        resume(context, arguments, open, undone, opened?)?
    } else {
        rollback(context, open, opened)?
    };
    let report = in_place::run(context, arguments, job, progress);
    report.map(|mut report| {
        report.lines.insert(0, told);
        report.warnings.splice(0..0, warnings);
        report
    })
}

/// What journals are authenticated by: the repository, or, where that can't be opened, what the journal keeps of the state before.
fn seals_of(
    context: &Context,
    open: &OpenJournal,
    opened: &Result<Arc<Repository>, Failure>,
) -> Result<Seals, Failure> {
    match opened {
        Ok(repository) => Ok(repository.seals().clone()),
        Err(_) if open.journal.has_undo => {
            let undo = open_undo(&open.place, &open.id, &mut context.unlock())?;
            context.hold_to_pin(&undo)?;
            // The repository may tell by itself, without its key, what it is encrypted with.
            let identified = context.backend().ok().and_then(|backend| Repository::identify(&*backend).ok());
            match identified.and_then(|(_, encryption)| encryption) {
                Some(encryption)
                    if undo.key().map(RepositoryKey::fingerprint).as_deref() != Some(&encryption.key) =>
                {
                    Err(forged(open))
                }
                _ => Ok(undo.seals().clone()),
            }
        }
        Err(_) => Ok(Seals::default()),
    }
}

/// A journal decides what is overwritten with what: somebody who can write to the repository must not.
fn authentic(open: OpenJournal, seals: &Seals) -> Result<OpenJournal, Failure> {
    if open.is_authentic(seals) { Ok(open.under(seals.clone())) } else { Err(forged(&open)) }
}

fn forged(open: &OpenJournal) -> Failure {
    let message =
        "the journal was not written with this repository's key: somebody has made or changed it".to_owned();
    Failure::new(ExitCode::Damaged, "journal_forged", message)
        .at(&open.path())
        .hint("nothing was changed. Whoever can write there is not to be trusted; look at its directory, and move it away")
}

/// An undo is locked by the key of the repository that it belongs to.
fn undo_of(open: &OpenJournal, repository: &Repository) -> Result<Repository, Failure> {
    let undo = open_undo(&open.place, &open.id, &mut |_, _| key_of(repository))?;
    if undo.key().map(RepositoryKey::fingerprint) == repository.key().map(RepositoryKey::fingerprint) {
        Ok(undo)
    } else {
        Err(forged(open))
    }
}

/// The restore that this one takes back.
fn undone_by(journals: &[OpenJournal], open: &OpenJournal) -> Option<OpenJournal> {
    let undone = open.journal.undoes.as_ref()?;
    journals.iter().find(|other| other.id == *undone).cloned()
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
    let finished = |open: &&OpenJournal| open.journal.state == RestoreState::Finished;
    let unfinished = own.iter().rfind(|open| open.is_open());
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
    undone: Option<OpenJournal>,
    repository: Arc<Repository>,
) -> Result<Job, Failure> {
    // A restore of the state that was kept beside another journal reads from there.
    let goal = open.journal.goal;
    let (goals, manifest, kept_by) = find_goal(&open, &goal, &repository)?;
    let mut items = Vec::new();
    for item in &open.journal.items {
        let part = path_of(&item.part);
        let target = Target { base: path_of(&item.base), part: part.clone() };
        let kept = kept_by.iter().flat_map(|other| &other.journal.items);
        let mut kept = kept.filter(|kept| kept.source == item.source && kept.base == item.base);
        let mut restored = match kept.find(|kept| kept.saved_part == item.part) {
            Some(kept) => from_undo(&goals, &manifest, kept)?,
            None if open.journal.undoes.is_some() => {
                let record = record_of(&manifest, &item.source)?;
                RestoreItem::saved(&goals, record, manifest.is_safety(), &part, target)?
            }
            None => {
                let record = record_of(&manifest, &item.source)?;
                let found = RestoreItem::of(&goals, record, manifest.is_safety(), &part, target)?;
                found.ok_or_else(|| not_held(&manifest, &item.source))?
            }
        };
        restored.verify = verify_of(context, arguments, &restored);
        items.push(restored);
    }
    let told = Told::of(context, goal.stamp, &manifest);
    let (owner, ends_as) = (owner_of(&open), RestoreState::Finished);
    let (repository, earlier) = (Some(repository), Some(open));
    Ok(Job { goals, repository, items, owner, goal, told, earlier, undone, ends_as })
}

/// The goal's manifest lies in the repository, or in the undo of an earlier restore, which this one undid.
fn find_goal(
    open: &OpenJournal,
    goal: &SnapshotRef,
    repository: &Arc<Repository>,
) -> Result<(Arc<Repository>, Manifest, Option<OpenJournal>), Failure> {
    let missing = match repository.read_manifest(&goal.manifest) {
        Ok(manifest) => return Ok((Arc::clone(repository), manifest, None)),
        Err(error) => error,
    };
    for other in open.place.list()?.list.into_iter().filter(|other| other.journal.has_undo) {
        if other.journal.before.manifest == goal.manifest
            && other.is_authentic(repository.seals())
            && let Ok(undo) = undo_of(&other, repository)
        {
            let undo = undo.over(Arc::clone(repository));
            let manifest = undo.read_manifest(&goal.manifest)?;
            return Ok((Arc::new(undo), manifest, Some(other)));
        }
    }
    Err(refuse::by_gone(missing, goal.stamp, "--rollback brings back what was there before"))
}

fn key_of(repository: &Repository) -> Result<RepositoryKey, String> {
    repository.key().cloned().ok_or_else(|| "the repository has no key".into())
}

/// What was saved goes back; the repository is needed only where it holds that.
fn rollback(
    context: &Context,
    open: OpenJournal,
    repository: Result<Arc<Repository>, Failure>,
) -> Result<Job, Failure> {
    let goal = open.journal.before;
    let (goals, repository) = if open.journal.has_undo {
        match repository {
            Ok(repository) => {
                let undo = undo_of(&open, &repository)?;
                (Arc::new(undo.over(Arc::clone(&repository))), Some(repository))
            }
            Err(_) => (Arc::new(open_undo(&open.place, &open.id, &mut context.unlock())?), None),
        }
    } else {
        let repository = repository?;
        (Arc::clone(&repository), Some(repository))
    };
    let gone = |error| refuse::by_gone(error, goal.stamp, "--resume finishes the restore instead");
    let manifest = goals.read_manifest(&goal.manifest).map_err(gone)?;
    let mut items: Vec<RestoreItem> = Vec::new();
    let mut seen: Vec<(&str, &[u8])> = Vec::new();
    for item in &open.journal.items {
        // A safety snapshot holds the whole source; only what was restored of it goes back.
        let part = if open.journal.has_undo { &item.saved_part } else { &item.part };
        if seen.contains(&(&item.saved_as, part)) {
            continue;
        }
        seen.push((&item.saved_as, part));
        items.push(if open.journal.has_undo {
            from_undo(&goals, &manifest, item)?
        } else {
            let record = record_of(&manifest, &item.saved_as)?;
            let target = Target { base: path_of(&item.base), part: path_of(part) };
            RestoreItem::saved(&goals, record, manifest.is_safety(), &path_of(part), target)?
        });
    }
    let told = Told::of(context, goal.stamp, &manifest);
    // Owners are as they were.
    let owner = Owner::AsRecorded;
    let goes_back = open.is_open();
    let (earlier, undone) = if goes_back { (Some(open), None) } else { (None, Some(open)) };
    let ends_as = if goes_back { RestoreState::RolledBack } else { RestoreState::Finished };
    Ok(Job { goals, repository, items, owner, goal, told, earlier, undone, ends_as })
}

/// An undo holds no more than the part that was overwritten, as a source of its own.
fn from_undo(goals: &Repository, manifest: &Manifest, item: &JournalItem) -> Result<RestoreItem, Failure> {
    let record = record_of(manifest, &item.saved_as)?;
    let part = path_of(&item.saved_part);
    let target = Target { base: path_of(&item.base), part: part.clone() };
    let found = RestoreItem::of(goals, record, manifest.is_safety(), Path::new(""), target)?;
    let mut restored = found.ok_or_else(|| not_held(manifest, &item.saved_as))?;
    restored.part = part;
    restored.source.clone_from(&item.source);
    Ok(restored)
}

fn record_of<'m>(manifest: &'m Manifest, source: &str) -> Result<&'m SourceRecord, Failure> {
    manifest.source(source).ok_or_else(|| not_held(manifest, source))
}

fn not_held(manifest: &Manifest, source: &str) -> Failure {
    let message = format!("snapshot {} doesn't hold {source} any more", manifest.stamp);
    Failure::new(ExitCode::Damaged, "repository_damaged", message).hint("nothing was changed")
}
