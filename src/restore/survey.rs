//! Looks at a target and plans what has to happen there. Nothing is changed.

use super::attributes::attributes_differ;
use super::content::Contents;
use super::error::RestoreError;
use super::extras::Extras;
use super::links::{HardLinks, Inode, names_of_links};
use super::plan::{Action, DatabaseChange, Goal, Main, Plan, Step};
use super::present::{Present, stat_at};
use super::remove::{is_mount_point, names, open_below};
use super::report::Owner;
use super::sidecars::{Groups, Siblings, goal_is_database, sidecar_names};
use super::target::{Target, Way, changeable, join};
use crate::format::{Captured, Entry, EntryKind};
use crate::progress::Progress;
use crate::repository::Repository;
use nix::sys::stat::FileStat;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How to plan.
#[derive(Debug, Clone)]
pub struct SurveyOptions {
    pub owner: Owner,
    pub extras: Extras,
    /// List also what stays as it is, and count bytes exactly, for which chunks have to be read.
    pub lists_all: bool,
    /// The database without which nobody can open the files around it, by its path: if any of them changes, it is
    /// unreadable meanwhile.
    pub keystone: Option<Vec<u8>>,
}

/// One look at one target.
pub struct Surveyor<'s> {
    pub(super) repository: &'s Repository,
    pub(super) options: &'s SurveyOptions,
    pub(super) progress: &'s dyn Progress,
    pub(super) plan: Plan,
    pub(super) present: Present,
    links: HardLinks,
    /// Where all names of each hard-linked file shall be, once asked for.
    names_of_links: Option<HashMap<Inode, Vec<Vec<u8>>>>,
    goal: Option<Entry>,
    is_raw: bool,
    root: PathBuf,
}

/// Plans how the target, whose base is resolved, becomes what it shall be.
pub fn survey(
    repository: &Repository,
    goal: &Goal,
    target: &Target,
    options: &SurveyOptions,
    progress: &dyn Progress,
) -> Result<Plan, RestoreError> {
    let (plan, present, links) = (Plan::default(), Present::default(), HardLinks::default());
    let (is_raw, root) = (goal.is_raw, target.path());
    let (names_of_links, goal_root) = (None, goal.root.clone());
    let mut surveyor = Surveyor {
        repository,
        options,
        progress,
        plan,
        present,
        links,
        names_of_links,
        goal: goal_root,
        is_raw,
        root,
    };
    match (Way::open(target)?, &goal.root) {
        (Some(mut way), _) => {
            let (above, name) = way.to(b"")?;
            surveyor.target(above, &name, goal)?;
            surveyor.guard_by_keystone(&mut way)?;
            if surveyor.plan.steps.iter().any(Step::changes_names_at_target) {
                changeable(way.above(), &target.path().with_file_name(""))?;
            }
        }
        (None, Some(root)) => {
            let siblings = Siblings { present: Vec::new(), goal: goal.sidecars.clone() };
            surveyor.make(root, b"", Action::Create, siblings)?;
            target.can_be_made()?;
        }
        (None, None) => {}
    }
    let Surveyor { mut plan, present, .. } = surveyor;
    let left = "it is a mount point that the snapshot doesn't have; left alone";
    plan.problems.extend(present.mount_points.iter().map(|path| format!("{}: {left}", path.display())));
    Ok(Plan {
        present: present.files,
        databases: present.databases,
        freed_bytes: present.freed_bytes,
        ..plan
    })
}

impl Surveyor<'_> {
    fn target(&mut self, above: BorrowedFd<'_>, name: &[u8], goal: &Goal) -> Result<(), RestoreError> {
        let mut beside = Vec::new();
        for name in sidecar_names(name) {
            beside.extend(stat_at(above, &name, &self.root)?.map(|_| name));
        }
        let mut siblings = Siblings { present: beside, goal: goal.sidecars.clone() };
        if let Some(root) = &goal.root {
            let is_database = root.kind == EntryKind::File
                && (root.captured == Captured::Sqlite || (self.is_raw && !siblings.is_empty()));
            if !is_database {
                siblings = Siblings::default();
            }
            return self
                .entry(above, &Entry { name: name.to_owned(), ..root.clone() }, b"", siblings)
                .map(drop);
        }
        let shown = self.root.clone();
        let stat = stat_at(above, name, &shown)?;
        if stat.is_some() && is_mount_point(above, name) {
            return Err(RestoreError::MountPoint { path: shown, wanted: "name that is gone" });
        }
        let is_file =
            stat.as_ref().is_none_or(|stat| EntryKind::of_mode(stat.st_mode) == Some(EntryKind::File));
        let changes = stat.is_some() || siblings.present != siblings.names();
        if let (Some(stat), false) = (&stat, is_file) {
            self.leave(above, name, b"", stat)?;
        } else if changes {
            if let Some(stat) = &stat {
                self.present.note_one(stat, &shown);
            }
            self.note_beside(above, b"", &siblings)?;
            let beside = siblings.names();
            let change = DatabaseChange { main: Main::Remove, stale: siblings.present, beside };
            self.step(b"", Action::Database(change), 0);
        }
        Ok(())
    }

    /// Plans one name of an open directory. True if the directory gains or loses names.
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        path: &[u8],
        siblings: Siblings,
    ) -> Result<bool, RestoreError> {
        if self.progress.interrupted() {
            return Err(RestoreError::Interrupted);
        }
        let shown = self.shown(path);
        self.note_beside(directory, path, &siblings)?;
        let Some(stat) = stat_at(directory, &entry.name, &shown)? else {
            return self.make(entry, path, Action::Create, siblings);
        };
        let is_device =
            matches!(EntryKind::of_mode(stat.st_mode), Some(EntryKind::CharDevice | EntryKind::BlockDevice));
        if is_device && path.is_empty() && EntryKind::of_mode(stat.st_mode) != Some(entry.kind) {
            return Err(RestoreError::Device { path: shown });
        }
        if self.options.extras.is_noted(path) {
            self.keep(path);
            return Ok(false);
        }
        if EntryKind::of_mode(stat.st_mode) != Some(entry.kind) {
            if is_mount_point(directory, &entry.name) {
                return Err(RestoreError::MountPoint { path: shown, wanted: "file of another kind" });
            }
            self.give_way(directory, &entry.name, path, &stat, "file of another kind")?;
            return self.make(entry, path, Action::Replace, siblings);
        }
        match entry.kind {
            EntryKind::Directory => {
                let changes = self.directory(directory, entry, path)?;
                if changes || attributes_differ(directory, entry, self.options.owner) {
                    self.step(path, Action::Attributes, 0);
                }
                Ok(false)
            }
            EntryKind::File => self.linked_file(directory, entry, path, &stat, siblings),
            _ => self.special(directory, entry, path, &stat),
        }
    }

    /// Plans something new at a name, with all that is below it.
    pub(super) fn make(
        &mut self,
        entry: &Entry,
        path: &[u8],
        action: Action,
        siblings: Siblings,
    ) -> Result<bool, RestoreError> {
        if let Some(to) = self.links.first_of(entry, path, None) {
            self.step(path, Action::Link { to }, 0);
            return Ok(true);
        }
        // A socket is made by the program that listens on it.
        if entry.kind == EntryKind::Socket {
            let is_taken = action == Action::Replace;
            if is_taken {
                self.step(path, Action::Delete, 0);
            }
            return Ok(is_taken);
        }
        let bytes = self.tree_bytes(entry, path)?;
        self.plan.needed_bytes += bytes;
        let is_database = entry.kind == EntryKind::File
            && (entry.captured == Captured::Sqlite
                || !siblings.is_empty()
                || (self.is_raw && goal_is_database(self.repository, entry)?));
        if is_database {
            if action == Action::Replace {
                self.step(path, Action::Delete, 0);
            }
            let beside = siblings.names();
            let change = DatabaseChange { main: Main::Make, stale: siblings.present, beside };
            self.step(path, Action::Database(change), bytes);
        } else {
            self.step(path, action, bytes);
        }
        Ok(true)
    }

    /// A regular file where one is: another name of one that was placed, one that has names elsewhere, or one by itself.
    fn linked_file(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        path: &[u8],
        stat: &FileStat,
        siblings: Siblings,
    ) -> Result<bool, RestoreError> {
        let shown = self.shown(path);
        let is_mount = is_mount_point(directory, &entry.name);
        if !is_mount && self.has_other_names(stat, entry)? {
            // Written in place it would change under its other names too, which may lie outside the source.
            self.present.note_leaving(directory, &entry.name, stat, &shown)?;
            return self.make(entry, path, Action::Replace, siblings);
        }
        let inode = (stat.st_dev, stat.st_ino);
        let is_first_itself = self.links.inode_of_first(entry) == Some(inode);
        let first = self.links.first_of(entry, path, Some(inode));
        if first.is_some() && is_first_itself {
            self.keep(path);
            return Ok(false);
        }
        if let (Some(to), false) = (first, is_mount) {
            self.present.note_leaving(directory, &entry.name, stat, &shown)?;
            self.step(path, Action::Link { to }, 0);
            return Ok(true);
        }
        self.present.files.push(shown);
        self.existing_file(directory, entry, path, stat, siblings)
    }

    /// Plans everything in a directory that is there. True if it gains or loses names.
    fn directory(&mut self, above: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<bool, RestoreError> {
        let shown = self.shown(path);
        if is_mount_point(above, &entry.name) {
            self.plan.mounts.push(shown.clone());
        }
        let opened = open_below(above, &entry.name, &shown)?;
        let directory = opened.as_fd();
        let entries = self.repository.entries(&entry.content)?;
        let present = names(directory, &shown)?;
        let extras = &self.options.extras;
        let is_directory = |name: &[u8]| {
            let stat = stat_at(directory, name, Path::new("")).ok().flatten();
            stat.is_some_and(|stat| EntryKind::of_mode(stat.st_mode) == Some(EntryKind::Directory))
        };
        let goes = |name: &[u8]| !extras.stays(path, name, is_directory(name));
        let mut groups = Groups::of(self.repository, directory, &entries, &present, &goes)?;
        let wanted: HashSet<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        let extra = |name: &&Vec<u8>| !wanted.contains(name.as_slice()) && !groups.holds(name) && goes(name);
        let mut changes = false;
        for name in present.iter().filter(extra) {
            let path = join(path, name);
            let shown = self.shown(&path);
            let Some(stat) = stat_at(directory, name, &shown)? else { continue };
            changes |= self.leave(directory, name, &path, &stat)?;
        }
        for below in &entries {
            if !groups.holds(&below.name) {
                let siblings = groups.take(&below.name);
                changes |= self.entry(directory, below, &join(path, &below.name), siblings)?;
            }
        }
        if changes {
            changeable(directory, &shown)?;
        }
        Ok(changes)
    }

    /// The file has names that are none of the snapshot's for the same file: written in place it would change under these
    /// too, wherever they are.
    fn has_other_names(&mut self, present: &FileStat, entry: &Entry) -> Result<bool, RestoreError> {
        let inode = (present.st_dev, present.st_ino);
        if present.st_nlink < 2 || self.links.inode_of_first(entry) == Some(inode) {
            return Ok(false);
        }
        let Some(link) = entry.link else { return Ok(true) };
        if self.names_of_links.is_none() {
            let names = self.goal.clone().map(|root| names_of_links(self.repository, &root)).transpose()?;
            self.names_of_links = Some(names.unwrap_or_default());
        }
        let names = self.names_of_links.as_ref().and_then(|links| links.get(&(link.dev, link.ino)));
        let is_here = |path: &&Vec<u8>| {
            let found = self.shown(path).symlink_metadata();
            found.is_ok_and(|found| (found.dev(), found.ino()) == inode)
        };
        let here = names.into_iter().flatten().filter(is_here).count() as u64;
        Ok(present.st_nlink > here)
    }

    /// What lies beside a database that will be overwritten goes, or is made anew.
    fn note_beside(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        siblings: &Siblings,
    ) -> Result<(), RestoreError> {
        let shown = self.shown(path);
        for name in &siblings.present {
            let beside = shown.with_file_name(OsStr::from_bytes(name));
            if let Some(stat) = stat_at(directory, name, &beside)? {
                self.present.note_leaving(directory, name, &stat, &beside)?;
            }
        }
        for entry in &siblings.goal {
            self.plan.needed_bytes += self.tree_bytes(entry, path)?;
        }
        Ok(())
    }

    /// Bytes of all files at and below an entry that will be made, all of which are there in the repository.
    fn tree_bytes(&mut self, entry: &Entry, path: &[u8]) -> Result<u64, RestoreError> {
        match entry.kind {
            EntryKind::File => {
                let contents = Contents::open(self.repository, entry)?;
                contents.prove_presence(&contents.all())?;
                Ok(entry.content_bytes())
            }
            EntryKind::Directory => {
                let mut sum = 0;
                for below in self.repository.entries(&entry.content)? {
                    let path = join(path, &below.name);
                    match self.links.first_of(&below, &path, None) {
                        Some(to) => drop(self.plan.inner_links.insert(path, to)),
                        None => sum += self.tree_bytes(&below, &path)?,
                    }
                }
                Ok(sum)
            }
            _ => Ok(0),
        }
    }

    pub(super) fn step(&mut self, path: &[u8], action: Action, bytes: u64) {
        self.plan.steps.push(Step { path: path.to_owned(), action, bytes });
    }

    pub(super) fn keep(&mut self, path: &[u8]) {
        self.plan.kept_files += 1;
        if self.options.lists_all {
            self.step(path, Action::Keep, 0);
        }
    }

    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }
}
