//! Saves what an in-place restore is about to overwrite, and writes its journal, before the first byte is changed.

use super::restore_items::RestoreItem;
use crate::backend::LocalBackend;
use crate::backup::{Author, BackupError, RawSource, save_raw};
use crate::format::{
    FORMAT_VERSION, Journal, JournalItem, Level, NoteReason, Proof, RestoreState, SnapshotRef,
};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::rescue;
use crate::repository::{ChunkWriter, IndexOptions, Repository, RepositoryError, Snapshots, Trust, Unlock};
use crate::restore::{Action, JournalPlace, OpenJournal, Owner, Plan, Target};
use crate::source::VALIDATOR_VERSION;
use crate::stamp::now_nanos;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the state before goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveTo {
    /// A safety snapshot in the repository: whole sources.
    Repository,
    /// A small repository of its own beside the journal: what is overwritten.
    Undo,
}

/// What is saved, and for whom.
pub struct Saving<'s> {
    /// Where the goals are read from.
    pub goals: &'s Repository,
    /// Where a safety snapshot goes.
    pub repository: &'s Repository,
    pub to: SaveTo,
    pub place: &'s JournalPlace,
    pub author: &'s Author,
    pub goal: SnapshotRef,
    pub undoes: Option<String>,
    pub owner: Owner,
    pub temporary_directory: &'s Path,
}

/// The state before is durable, and so is the journal.
pub struct Saved {
    pub journal: OpenJournal,
    /// Paths that could not be read, so that they can't be brought back.
    pub unsaved: Vec<String>,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Journal(#[from] crate::backend::BackendError),
}

/// Saves the state of every target. The targets are resolved.
pub fn save_before(
    saving: &Saving<'_>,
    items: &[RestoreItem],
    targets: &[Target],
    plans: &mut [Plan],
    progress: &dyn Progress,
) -> Result<Saved, SaveError> {
    let id = saving.place.new_id();
    let made: Vec<PathBuf> = targets.iter().flat_map(Target::missing_above).collect();
    let undo = match saving.to {
        SaveTo::Repository => None,
        SaveTo::Undo => Some(undo_repository(saving.place, &id, saving.repository)?),
    };
    // A safety snapshot may refer to the goal's chunks only where it lies beside them.
    let is_beside_goals = saving.to == SaveTo::Undo || std::ptr::eq(saving.goals, saving.repository);
    if !is_beside_goals {
        plans.iter_mut().for_each(|plan| plan.compared.clear());
    }
    let (sources, journal_items) = sources(saving.to, items, targets, plans);
    let repository = undo.as_ref().unwrap_or(saving.repository);
    let snapshots = match saving.to {
        SaveTo::Repository => repository.snapshots()?,
        SaveTo::Undo => Snapshots::default(),
    };
    let _writing = repository.lock_for_use(Duration::ZERO)?;
    let writer = ChunkWriter::new(repository, Trust::Index);
    let (author, scratch) = (saving.author, saving.temporary_directory);
    let draft = save_raw(&writer, saving.goals, &snapshots, sources, author, scratch, progress)?;
    let mut manifest = draft.manifest;
    let mut unsaved = Vec::new();
    for source in &mut manifest.sources {
        let unread = source.notes.iter().filter(|note| note.reason == NoteReason::Unreadable);
        unsaved.extend(
            unread.map(|note| {
                format!("{}/{}: {}", source.name, String::from_utf8_lossy(&note.path), note.detail)
            }),
        );
        let (validator, time_ns) = (VALIDATOR_VERSION, now_nanos());
        // That its bytes are stored well is proven; what they are worth is nobody's question here.
        let findings = Vec::new();
        source.proof =
            Some(Proof { level: Level::Quick, validator, time_ns, inherited_from: None, findings });
    }
    let rescue_again = || rescue(repository, &manifest, &writer, false, progress);
    while rescue_again()?.is_some_and(|rescued| rescued.stored_again > 0) {}
    let manifest_id = repository.publish(&mut manifest)?;
    let journal = Journal {
        format: FORMAT_VERSION,
        state: RestoreState::Begun,
        begun_ns: now_nanos(),
        profile: author.profile.clone(),
        host: author.host.clone(),
        tool: author.tool.clone(),
        repository: saving.repository.id(),
        goal: saving.goal,
        before: SnapshotRef { stamp: manifest.stamp, manifest: manifest_id },
        has_undo: saving.to == SaveTo::Undo,
        owner: match saving.owner {
            Owner::AsRecorded => None,
            Owner::Fixed { uid, gid } => Some((uid, gid)),
        },
        items: journal_items,
        undoes: saving.undoes.clone(),
        made: made.iter().map(|path| path.as_os_str().as_bytes().to_vec().into()).collect(),
        code: None,
    };
    let seals = saving.repository.seals().clone();
    Ok(Saved { journal: OpenJournal::new(saving.place.clone(), id, journal, seals), unsaved })
}

/// A repository for what is overwritten, beside the journal.
fn undo_repository(place: &JournalPlace, id: &str, of: &Repository) -> Result<Repository, SaveError> {
    let path = place.undo(id);
    let backend = LocalBackend::new(&path);
    backend.create_directory("")?;
    let unique = Id::of(format!("undo {id} {}", now_nanos()).as_bytes());
    of.create_beside(Arc::new(backend), *unique.as_bytes())?;
    let key = || of.key().cloned().ok_or_else(|| "the repository has no key".to_owned());
    Ok(open_undo(place, id, &mut |_, _| key())?)
}

/// Opens the repository that holds the state before. Whether it is encrypted as it should be is for whoever knows that.
pub fn open_undo(place: &JournalPlace, id: &str, unlock: Unlock<'_>) -> Result<Repository, RepositoryError> {
    Repository::open_locked(Arc::new(LocalBackend::new(place.undo(id))), IndexOptions::default(), unlock)
}

/// A safety snapshot holds whole sources, so that it can be restored like any other; an undo what is overwritten.
fn sources(
    to: SaveTo,
    items: &[RestoreItem],
    targets: &[Target],
    plans: &mut [Plan],
) -> (Vec<RawSource>, Vec<JournalItem>) {
    let mut sources: Vec<RawSource> = Vec::new();
    let mut journal_items = Vec::new();
    let stale = stale_beside(items, plans);
    for (number, ((item, target), plan)) in items.iter().zip(targets).zip(plans).enumerate() {
        let is_part = !item.is_whole() && to == SaveTo::Undo;
        let saved_as = if is_part { format!("{}_part{number}", item.source) } else { item.source.clone() };
        let saved_part = if is_part { target.part.clone() } else { PathBuf::new() };
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        journal_items.push(JournalItem {
            source: item.source.clone(),
            part: bytes(&item.part),
            base: bytes(&target.base),
            saved_as: saved_as.clone(),
            saved_part: bytes(&saved_part),
        });
        if sources.iter().any(|source| source.name == saved_as) {
            continue;
        }
        let is_compared = item.is_whole() || is_part;
        let is_file = item.goal.root.as_ref().is_some_and(|root| root.kind == crate::format::EntryKind::File);
        sources.push(RawSource {
            name: saved_as,
            kind: item.kind,
            path: if is_part { target.path() } else { target.base.clone() },
            exclude: if is_part { Vec::new() } else { but(&item.exclude, stale.get(&item.source)) },
            with_sidecars: item.is_database() || (is_part && is_file),
            goal: item.goal.root.clone().filter(|_| is_compared),
            compared: if is_compared { plan.compared.clone() } else { HashMap::new() },
        });
    }
    (sources, journal_items)
}

/// Files beside databases that will be removed, by source and path below it.
fn stale_beside(items: &[RestoreItem], plans: &[Plan]) -> HashMap<String, Vec<Vec<u8>>> {
    let mut found: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    for (item, plan) in items.iter().zip(plans) {
        for step in &plan.steps {
            let Action::Database(change) = &step.action else { continue };
            let path = item.part.join(OsStr::from_bytes(&step.path));
            let beside = change.stale.iter().map(|name| path.with_file_name(OsStr::from_bytes(name)));
            let beside = beside.map(|path| path.into_os_string().into_vec());
            found.entry(item.source.clone()).or_default().extend(beside);
        }
    }
    found
}

/// The patterns, but for these files: what is removed is saved, whatever they say.
fn but(patterns: &[String], files: Option<&Vec<Vec<u8>>>) -> Vec<String> {
    let mut patterns = patterns.to_vec();
    if patterns.is_empty() {
        return patterns;
    }
    for file in files.into_iter().flatten() {
        let mut pattern = "!/".to_owned();
        for character in String::from_utf8_lossy(file).chars() {
            match character {
                char::REPLACEMENT_CHARACTER => pattern.push('*'),
                '\\' | '*' | '?' | '[' | ']' | '{' | '}' | '!' | '#' | ' ' => {
                    pattern.extend(['\\', character])
                }
                _ => pattern.push(character),
            }
        }
        patterns.push(pattern);
    }
    patterns
}
