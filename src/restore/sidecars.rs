//! Databases and what SQLite keeps beside them belong together: they are overwritten as one.

use super::content::Contents;
use super::database::looks_like_database;
use super::error::RestoreError;
use crate::format::{Captured, Entry, EntryKind};
use crate::hold::open_file_at;
use crate::repository::Repository;
use crate::source::sidecars_of;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What lies beside a database, and what shall.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Siblings {
    /// Names that are there now.
    pub present: Vec<Vec<u8>>,
    /// What shall be there.
    pub goal: Vec<Entry>,
}

impl Siblings {
    /// There is nothing beside it, and shall be nothing.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty() && self.goal.is_empty()
    }

    /// Names that shall be there.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.goal.iter().map(|entry| entry.name.clone()).collect()
    }
}

/// The names that SQLite gives to what it keeps beside a database of this name.
pub fn sidecar_names(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    sidecars_of(Path::new(OsStr::from_bytes(name)))
        .into_iter()
        .map(|path| path.as_os_str().as_bytes().to_vec())
}

/// The databases of one directory that have something beside them, by their names.
#[derive(Default)]
pub struct Groups {
    groups: BTreeMap<Vec<u8>, Siblings>,
    members: BTreeSet<Vec<u8>>,
}

impl Groups {
    /// Groups the names of a directory. `goes` tells of a name that the snapshot doesn't have whether it will be removed.
    pub fn of(
        repository: &Repository,
        directory: BorrowedFd<'_>,
        entries: &[Entry],
        present: &[Vec<u8>],
        goes: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Self, RestoreError> {
        let find = |name: &[u8]| {
            let place = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
            place.ok().and_then(|place| entries.get(place)).filter(|entry| entry.kind == EntryKind::File)
        };
        let mut found = Self::default();
        for main in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            let is_settled = main.captured == Captured::Sqlite;
            let mut siblings = Siblings::default();
            for name in sidecar_names(&main.name) {
                let goal = find(&name).filter(|_| !is_settled);
                let is_there = present.binary_search(&name).is_ok();
                // A settled database has nothing beside it, whatever the snapshot left out.
                if is_there && (goal.is_some() || is_settled || goes(&name)) {
                    siblings.present.push(name);
                }
                siblings.goal.extend(goal.cloned());
            }
            let is_database =
                !siblings.is_empty() && (is_settled || is_database(repository, directory, main)?);
            if is_database {
                found.members.extend(siblings.present.iter().cloned().chain(siblings.names()));
                found.groups.insert(main.name.clone(), siblings);
            }
        }
        Ok(found)
    }

    /// The name lies beside a database, and is dealt with together with it.
    pub fn holds(&self, name: &[u8]) -> bool {
        self.members.contains(name)
    }

    /// What lies beside the file of this name.
    pub fn take(&mut self, name: &[u8]) -> Siblings {
        self.groups.remove(name).unwrap_or_default()
    }
}

/// What is there now, or what shall be there, begins as a database does.
fn is_database(
    repository: &Repository,
    directory: BorrowedFd<'_>,
    entry: &Entry,
) -> Result<bool, RestoreError> {
    let mut start = [0u8; 16];
    let present = open_file_at(directory, &entry.name, false).map(File::from);
    if present.is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok()) && looks_like_database(&start) {
        return Ok(true);
    }
    goal_is_database(repository, entry)
}

/// What shall be there begins as a database does.
pub fn goal_is_database(repository: &Repository, entry: &Entry) -> Result<bool, RestoreError> {
    let mut start = [0u8; 16];
    let contents = Contents::open(repository, entry)?;
    let count = contents.start(&mut start)?;
    Ok(count == start.len() && looks_like_database(&start))
}
