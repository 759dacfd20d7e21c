//! What is restored where, by a snapshot's records: the same for a first run, for one that goes on, and for one that goes back.

use crate::format::{Entry, EntryKind, Note, NoteReason, SourceKind, SourceRecord};
use crate::hooks::HookCommand;
use crate::repository::{Repository, RepositoryError};
use crate::restore::{Extras, Goal, Owner, SurveyOptions, Target};
use crate::source::{Excludes, keystone_of, sidecars_of};
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One thing to restore.
pub struct RestoreItem {
    pub source: String,
    /// What of the source; empty for all.
    pub part: PathBuf,
    pub kind: SourceKind,
    pub goal: Goal,
    pub target: Target,
    pub extras: Extras,
    /// The patterns by which the snapshot left paths out.
    pub exclude: Vec<String>,
    /// A command of the user's that says whether the result is good.
    pub verify: Option<HookCommand>,
}

impl RestoreItem {
    /// What a source's record says about `part` of it, to be put at `target`; `None` if it has nothing there. What
    /// was missing when a safety snapshot was taken shall be missing again.
    pub fn of(
        repository: &Repository,
        record: &SourceRecord,
        is_safety: bool,
        part: &Path,
        target: Target,
    ) -> Result<Option<Self>, RepositoryError> {
        let item = Self::saved(repository, record, is_safety, part, target)?;
        let is_held = item.goal.root.is_some() || (is_safety && record.root.is_none());
        Ok(is_held.then_some(item))
    }

    /// As `of`; what the record doesn't hold shall not be there.
    pub fn saved(
        repository: &Repository,
        record: &SourceRecord,
        is_safety: bool,
        part: &Path,
        target: Target,
    ) -> Result<Self, RepositoryError> {
        let found = |path: &[u8]| match &record.root {
            Some(root) => repository.entry_at(root, path),
            None => Ok(None),
        };
        let root = found(part.as_os_str().as_bytes())?;
        let mut beside = record.sidecars.clone();
        if is_safety && !part.as_os_str().is_empty() {
            for sidecar in sidecars_of(part) {
                beside.extend(found(sidecar.as_os_str().as_bytes())?);
            }
        }
        let sidecars = renamed(&beside, &target);
        Ok(Self {
            source: record.name.clone(),
            part: part.to_owned(),
            kind: record.kind,
            goal: Goal { root, sidecars, is_raw: is_safety },
            target,
            extras: left_out(record, part),
            exclude: record.exclude.clone(),
            verify: None,
        })
    }

    /// `NAME`, or `NAME/PATH`.
    pub fn name(&self) -> String {
        if self.is_whole() { self.source.clone() } else { format!("{}/{}", self.source, self.part.display()) }
    }

    /// All of the source.
    pub fn is_whole(&self) -> bool {
        self.part.as_os_str().is_empty()
    }

    /// How to plan it.
    pub fn survey_options(&self, owner: Owner, lists_all: bool) -> SurveyOptions {
        let keystone = keystone_of(self.kind).filter(|_| self.is_whole());
        let extras = self.extras.clone();
        SurveyOptions { owner, extras, lists_all, keystone: keystone.map(|name| name.as_bytes().to_owned()) }
    }

    /// It says nothing about this path below it, which stays as it is.
    pub fn leaves_out(&self, below: &Path) -> bool {
        let path = below.as_os_str().as_bytes();
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        let extras = |above: &[u8], name: &[u8], is_directory| {
            !matches!(self.extras, Extras::Keep) && self.extras.stays(above, name, is_directory)
        };
        let mut parents = above.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut parent = Vec::new();
        let by_parent = parents.any(|name| {
            let is_out = extras(&parent, name, true);
            parent = if parent.is_empty() { name.to_vec() } else { [&parent[..], b"/", name].concat() };
            is_out
        });
        !name.is_empty() && (by_parent || extras(above, name, false) || extras(above, name, true))
    }

    /// It is one database, beside which SQLite keeps what belongs to it.
    pub fn is_database(&self) -> bool {
        let is_directory = self.goal.root.as_ref().is_some_and(|root| root.kind == EntryKind::Directory);
        self.kind == SourceKind::Sqlite && self.is_whole() && !is_directory
    }
}

/// What belongs beside a database, with the names that it gets beside the target.
fn renamed(sidecars: &[Entry], target: &Target) -> Vec<Entry> {
    let path = target.resolve().unwrap_or_else(|_| target.clone()).path();
    let main = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let renamed = |entry: &Entry| {
        let suffix = entry.name.iter().rposition(|byte| *byte == b'-')?;
        Some(Entry { name: [main, entry.name.get(suffix..)?].concat(), ..entry.clone() })
    };
    sidecars.iter().filter_map(renamed).collect()
}

/// What a source's snapshot left out, excluded or unreadable, stays as it is when `part` of it is restored.
fn left_out(source: &SourceRecord, part: &Path) -> Extras {
    let Ok(patterns) = Excludes::new(&source.exclude) else { return Extras::Keep };
    if source.more_notes > 0 {
        return Extras::Keep;
    }
    let of_reason = |note: &&Note| matches!(note.reason, NoteReason::Excluded | NoteReason::Unreadable);
    let left_out: HashSet<Vec<u8>> =
        source.notes.iter().filter(of_reason).map(|note| note.path.clone()).collect();
    let part = part.as_os_str().as_bytes();
    let part = if part.is_empty() { Vec::new() } else { [part, b"/"].concat() };
    Extras::RemoveExcept { left_out, patterns, part }
}
