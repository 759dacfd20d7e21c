//! The databases of one target, pass by pass.

use super::attributes::set_attributes;
use super::content::Contents;
use super::database::{Overwritten, SECTOR_BYTES, Unnamed, fill, mark, unmark};
use super::error::RestoreError;
use super::make::{create_file, sync};
use super::plan::{Action, DatabaseChange, Main};
use super::remove::remove;
use super::report::Placed;
use super::sidecars::goal_is_database;
use super::target::{join, split};
use super::worker::Worker;
use crate::format::{Captured, Entry, EntryKind};
use crate::repository::RepositoryError;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many databases are held from the first pass to the last; others in each pass by itself.
const HELD_MOST: usize = 256;

impl Worker<'_> {
    /// Databases that change become unreadable, and what lies beside them goes.
    pub fn mark_databases(&mut self, placed: &mut Placed) -> Result<(), RestoreError> {
        for step in self.steps() {
            let Action::Database(change) = &step.action else { continue };
            self.check()?;
            self.touch_above(&step.path);
            let shown = self.way.shown(&step.path);
            match change.main {
                Main::Overwrite { .. } => {
                    let over = self.database(&step.path)?;
                    mark(&over.file, &shown)?;
                    placed.written_bytes += SECTOR_BYTES;
                    self.hold(&step.path, over);
                }
                Main::Remove => {
                    let (directory, name) = self.way.to(&step.path)?;
                    remove(directory, &name, &shown, placed)?;
                    sync(directory, &shown)?;
                }
                Main::Make => {}
            }
            let (directory, _) = self.way.to(&step.path)?;
            for name in &change.stale {
                remove(directory, name, &beside(&shown, name), placed)?;
            }
            if !change.stale.is_empty() {
                sync(directory, &shown)?;
            }
        }
        Ok(())
    }

    /// A database that is being overwritten, kept open since the pass before or opened now.
    fn database(&mut self, path: &[u8]) -> Result<Overwritten, RestoreError> {
        if let Some(held) = self.held.remove(path) {
            return Ok(held);
        }
        let shown = self.way.shown(path);
        let (directory, name) = self.way.to(path)?;
        Overwritten::open(directory, &name, &shown, true, self.order.plan.compared.get(path))
    }

    fn hold(&mut self, path: &[u8], database: Overwritten) {
        if self.held.len() < HELD_MOST {
            self.held.insert(path.to_owned(), database);
        }
    }

    pub(super) fn fill_database(
        &mut self,
        path: &[u8],
        change: &DatabaseChange,
        placed: &mut Placed,
    ) -> Result<(), RestoreError> {
        match &change.main {
            Main::Remove => Ok(()),
            Main::Make => {
                let entry = self.entry(path)?;
                self.touch_above(path);
                self.make_database(path, &entry, placed)
            }
            Main::Overwrite { differing } => {
                let (shown, entry) = (self.way.shown(path), self.entry(path)?);
                let contents = Contents::open(self.order.repository, &entry)?;
                let over = self.database(path)?;
                placed.written_bytes +=
                    fill(&contents, &over.file, differing, over.patches.as_deref(), &shown, self.progress)?;
                self.hold(path, over);
                Ok(())
            }
        }
    }

    pub(super) fn is_database(&self, entry: &Entry) -> Result<bool, RestoreError> {
        let is_file = entry.kind == EntryKind::File;
        let is_raw = self.order.goal.is_raw;
        Ok(is_file
            && (entry.captured == Captured::Sqlite
                || (is_raw && goal_is_database(self.order.repository, entry)?)))
    }

    /// Writes a database that isn't there yet; it gets its name when all is written.
    pub(super) fn make_database(
        &mut self,
        path: &[u8],
        entry: &Entry,
        placed: &mut Placed,
    ) -> Result<(), RestoreError> {
        let shown = self.way.shown(path);
        let contents = Contents::open(self.order.repository, entry)?;
        let (directory, name) = self.way.to(path)?;
        // Nameless files live as long as they are open, and so many can't be.
        let is_kept_open = self.made.len() < HELD_MOST;
        let made = if is_kept_open {
            Unnamed::create(directory, &name, &shown)?
        } else {
            Unnamed::create_marked(directory, &name, &shown)?
        };
        placed.written_bytes += fill(&contents, &made.file, &contents.all(), None, &shown, self.progress)?;
        self.made_paths.insert(path.to_owned());
        self.made.push((path.to_owned(), entry.clone(), Some(made).filter(|_| is_kept_open)));
        Ok(())
    }

    /// What belongs beside databases comes, then they become readable.
    pub fn finish_databases(&mut self, placed: &mut Placed) -> Result<(), RestoreError> {
        for step in self.steps() {
            let Action::Database(change) = &step.action else { continue };
            self.check()?;
            self.put_beside(&step.path, &change.beside, placed)?;
            if let Main::Overwrite { .. } = change.main {
                let (shown, entry) = (self.way.shown(&step.path), self.entry(&step.path)?);
                let contents = Contents::open(self.order.repository, &entry)?;
                let over = self.database(&step.path)?;
                placed.written_bytes += unmark(&contents, &over.file, &shown)?;
                placed.written_files += 1;
                self.set_attributes(&step.path, &entry, placed)?;
            }
        }
        for (path, entry, made) in std::mem::take(&mut self.made) {
            let shown = self.way.shown(&path);
            let contents = Contents::open(self.order.repository, &entry)?;
            let (directory, name) = self.way.to(&path)?;
            match made {
                Some(made) => {
                    placed.written_bytes += unmark(&contents, &made.file, &shown)?;
                    made.publish(directory, &name, &shown)?;
                }
                None => {
                    let over = Overwritten::open(directory, &name, &shown, true, None)?;
                    placed.written_bytes += unmark(&contents, &over.file, &shown)?;
                }
            }
            placed.written_files += 1;
            self.set_attributes(&path, &entry, placed)?;
        }
        Ok(())
    }

    /// Makes what lies beside a database, each file with its first sector last: without it SQLite takes no notice of it.
    fn put_beside(
        &mut self,
        path: &[u8],
        names: &[Vec<u8>],
        placed: &mut Placed,
    ) -> Result<(), RestoreError> {
        let mut files = Vec::new();
        for name in names {
            let (shown, entry) = (beside(&self.way.shown(path), name), self.entry_beside(path, name)?);
            let contents = Contents::open(self.order.repository, &entry)?;
            let (directory, _) = self.way.to(path)?;
            let file = create_file(directory, name, &shown)?;
            placed.written_bytes += fill(&contents, &file, &contents.all(), None, &shown, self.progress)?;
            files.push((name.clone(), entry, contents, file));
        }
        if files.is_empty() {
            return Ok(());
        }
        let shown = self.way.shown(path);
        sync(self.way.to(path)?.0, &shown)?;
        for (name, entry, contents, file) in files {
            placed.written_bytes += unmark(&contents, &file, &shown)?;
            placed.written_files += 1;
            let (directory, _) = self.way.to(path)?;
            set_attributes(directory, &Entry { name, ..entry }, self.order.owner, &shown, placed);
        }
        Ok(())
    }

    /// What shall be beside a database.
    fn entry_beside(&mut self, path: &[u8], name: &[u8]) -> Result<Entry, RestoreError> {
        if path.is_empty() {
            let mut sidecars = self.order.goal.sidecars.iter();
            let gone = || RepositoryError::damaged("a manifest", "it reads differently the second time");
            return Ok(sidecars.find(|entry| entry.name == name).cloned().ok_or_else(gone)?);
        }
        self.entry(&join(split(path).0, name))
    }
}

fn beside(shown: &Path, name: &[u8]) -> PathBuf {
    shown.with_file_name(OsStr::from_bytes(name))
}
