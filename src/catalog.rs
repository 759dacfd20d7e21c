//! Finds snapshots and looks into them.

use crate::format::{Entry, EntryKind, SnapshotKind};
use crate::repository::{Repository, RepositoryError, Snapshot, Snapshots};
use crate::stamp::Stamp;

/// Why no snapshot fits what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    #[error("{text:?} is neither a stamp (YYYYMMDDTHHMMSSZ) nor `latest`")]
    NotAStamp { text: String },
    #[error("there is no snapshot {stamp}")]
    NoSuchStamp { stamp: Stamp, known: Vec<Stamp> },
    #[error("there is no valid snapshot of profile {profile:?}{}", having.as_ref().map(|name| format!(" that holds {name:?}")).unwrap_or_default())]
    NoLatest { profile: String, having: Option<String>, known: Vec<Stamp> },
    #[error("snapshot {stamp} has no source {name:?}; it has {}", has.join(", "))]
    NoSource { stamp: Stamp, name: String, has: Vec<String> },
    #[error("snapshot {stamp} has nothing at {path}")]
    NoPath { stamp: Stamp, path: String },
}

/// The snapshot that `text` means: a stamp, or `latest`, the newest valid one of the profile that is no safety snapshot
/// (and, if asked for, holds a source).
pub fn find<'s>(
    snapshots: &'s Snapshots,
    text: &str,
    profile: &str,
    having: Option<&str>,
) -> Result<&'s Snapshot, NotFound> {
    let known = || snapshots.list.iter().map(|snapshot| snapshot.stamp).collect();
    if text != "latest" {
        let stamp = Stamp::parse(text).ok_or_else(|| NotFound::NotAStamp { text: text.to_owned() })?;
        return snapshots.get(stamp).ok_or_else(|| NotFound::NoSuchStamp { stamp, known: known() });
    }
    latest(snapshots, profile, having).ok_or_else(|| NotFound::NoLatest {
        profile: profile.to_owned(),
        having: having.map(str::to_owned),
        known: known(),
    })
}

/// The newest valid snapshot of a profile that is no safety snapshot.
pub fn latest<'s>(snapshots: &'s Snapshots, profile: &str, having: Option<&str>) -> Option<&'s Snapshot> {
    snapshots.list.iter().rev().find(|snapshot| {
        let holds = |name: &str| snapshot.manifest.source(name).is_some_and(|source| source.root.is_some());
        snapshot.manifest.profile == profile
            && snapshot.manifest.kind == SnapshotKind::Backup
            && snapshot.is_valid()
            && having.is_none_or(holds)
    })
}

/// The root entry of a source that the snapshot holds.
pub fn source_root<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s Entry, NotFound> {
    let found = snapshot.manifest.source(name).and_then(|source| source.root.as_ref());
    found.ok_or_else(|| NotFound::NoSource {
        stamp: snapshot.stamp,
        name: name.to_owned(),
        has: snapshot
            .manifest
            .sources
            .iter()
            .filter(|source| source.root.is_some())
            .map(|source| source.name.clone())
            .collect(),
    })
}

/// What became of one path between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
    /// The content differs.
    Modified,
    /// Mode, owner, times or attributes differ, the content doesn't.
    Metadata,
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Difference {
    pub change: Change,
    pub path: Vec<u8>,
    pub kind: EntryKind,
    pub old_size: Option<u64>,
    pub new_size: Option<u64>,
}

/// What differs between two versions of a source, in the order of paths. Directories with the same id aren't opened.
pub fn differences(
    repository: &Repository,
    old: Option<&Entry>,
    new: Option<&Entry>,
) -> Result<Vec<Difference>, RepositoryError> {
    let mut found = Vec::new();
    compare(repository, Vec::new(), old, new, &mut found)?;
    Ok(found)
}

fn compare(
    repository: &Repository,
    path: Vec<u8>,
    old: Option<&Entry>,
    new: Option<&Entry>,
    found: &mut Vec<Difference>,
) -> Result<(), RepositoryError> {
    let Some(kind) = new.or(old).map(|entry| entry.kind) else { return Ok(()) };
    let same_kind = old.zip(new).is_none_or(|(old, new)| old.kind == new.kind);
    if !same_kind {
        compare(repository, path.clone(), old, None, found)?;
        return compare(repository, path, None, new, found);
    }
    let change = match (old, new) {
        (None, _) => Some(Change::Added),
        (_, None) => Some(Change::Removed),
        (Some(old), Some(new)) => changed(old, new),
    };
    if let Some(change) = change {
        let (old_size, new_size) = (old.map(|entry| entry.size), new.map(|entry| entry.size));
        found.push(Difference { change, path: path.clone(), kind, old_size, new_size });
    }
    if kind == EntryKind::Directory && old.map(|entry| &entry.content) != new.map(|entry| &entry.content) {
        let before = below(repository, old)?;
        let after = below(repository, new)?;
        let mut names: Vec<&[u8]> = before.iter().chain(&after).map(|entry| entry.name.as_slice()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let find = |entries: &[Entry]| {
                let place = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
                place.ok().and_then(|place| entries.get(place).cloned())
            };
            compare(
                repository,
                [&path, slash, name].concat(),
                find(&before).as_ref(),
                find(&after).as_ref(),
                found,
            )?;
        }
    }
    Ok(())
}

fn below(repository: &Repository, entry: Option<&Entry>) -> Result<Vec<Entry>, RepositoryError> {
    entry.map_or(Ok(Vec::new()), |entry| repository.entries(&entry.content))
}

fn changed(old: &Entry, new: &Entry) -> Option<Change> {
    let is_directory = new.kind == EntryKind::Directory;
    let content = !is_directory
        && (old.content != new.content
            || old.size != new.size
            || old.target != new.target
            || old.rdev != new.rdev
            || old.segments != new.segments);
    if content {
        return Some(Change::Modified);
    }
    // Where a directory's time alone differs, something inside it says why.
    let times = !is_directory && old.mtime_ns != new.mtime_ns;
    let metadata =
        times || old.mode != new.mode || (old.uid, old.gid) != (new.uid, new.gid) || old.xattrs != new.xattrs;
    metadata.then_some(Change::Metadata)
}
