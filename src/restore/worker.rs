//! Carries out the plan of one target, pass by pass.

use super::attributes::set_attributes;
use super::content::Contents;
use super::database::{Overwritten, SECTOR_BYTES, Unnamed, fill, mark, unmark};
use super::durable::Durable;
use super::error::RestoreError;
use super::make::{create_file, create_special, link, make_directory, sync};
use super::place::Order;
use super::plan::{Action, DatabaseChange, Main, Step};
use super::remove::remove;
use super::report::Placed;
use super::sidecars::goal_is_database;
use super::target::{Way, join, split};
use crate::format::{Captured, Entry, EntryKind};
use crate::progress::Progress;
use crate::repository::{Finder, RepositoryError};
use nix::errno::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Works on one target.
pub struct Worker<'w> {
    order: &'w Order<'w>,
    progress: &'w dyn Progress,
    finder: Option<Finder<'w>>,
    way: Way,
    /// Directories that gained or lost names, or get attributes; `None` is the one above the target.
    touched: BTreeSet<Option<Vec<u8>>>,
    /// Databases that are being overwritten: whoever wants to open one waits until it is whole.
    held: HashMap<Vec<u8>, Overwritten>,
    /// Databases that have no name yet.
    made: Vec<(Vec<u8>, Entry, Unnamed)>,
    made_paths: BTreeSet<Vec<u8>>,
}

/// So many databases are held from the first pass to the last; others in each pass by itself.
const HELD_MOST: usize = 256;

impl<'w> Worker<'w> {
    /// Opens the way to the target; directories above it are made.
    pub fn new(order: &'w Order<'w>, progress: &'w dyn Progress) -> Result<Self, RestoreError> {
        let finder = order.goal.root.clone().map(|root| Finder::new(order.repository, root));
        let way = Way::make(order.target)?;
        let (touched, held) = (BTreeSet::new(), HashMap::new());
        let (made, made_paths) = (Vec::new(), BTreeSet::new());
        Ok(Self { order, progress, finder, way, touched, held, made, made_paths })
    }

    /// The directory above the target.
    pub fn above(&self) -> BorrowedFd<'_> {
        self.way.above()
    }

    fn steps(&self) -> &'w [Step] {
        &self.order.plan.steps
    }

    fn check(&self) -> Result<(), RestoreError> {
        if self.progress.interrupted() { Err(RestoreError::Interrupted) } else { Ok(()) }
    }

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

    /// What the snapshot doesn't have goes, so that its room can be used.
    pub fn remove_old(&mut self, placed: &mut Placed) -> Result<(), RestoreError> {
        for step in self.steps() {
            if matches!(step.action, Action::Delete | Action::Replace | Action::Link { .. }) {
                self.check()?;
                self.touch_above(&step.path);
                let shown = self.way.shown(&step.path);
                let (directory, name) = self.way.to(&step.path)?;
                remove(directory, &name, &shown, placed)?;
            }
        }
        Ok(())
    }

    /// Content, and the attributes of what isn't a directory.
    pub fn write_all(&mut self, placed: &mut Placed, durable: &mut Durable) -> Result<(), RestoreError> {
        for step in self.steps() {
            self.check()?;
            match &step.action {
                Action::Keep | Action::Delete | Action::Link { .. } => {}
                Action::Create | Action::Replace => {
                    let entry = self.entry(&step.path)?;
                    self.touch_above(&step.path);
                    durable.watch(self.way.to(&step.path)?.0)?;
                    self.create(&step.path, &entry, placed, durable)?;
                }
                Action::Write { differing } => self.overwrite(&step.path, differing, placed)?,
                Action::Database(change) => self.fill_database(&step.path, change, placed)?,
                Action::Attributes => {
                    let entry = self.entry(&step.path)?;
                    if entry.kind == EntryKind::Directory {
                        self.touched.insert(Some(step.path.clone()));
                    } else {
                        self.set_attributes(&step.path, &entry, placed)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn overwrite(&mut self, path: &[u8], differing: &[u32], placed: &mut Placed) -> Result<(), RestoreError> {
        let (shown, entry) = (self.way.shown(path), self.entry(path)?);
        let contents = Contents::open(self.order.repository, &entry)?;
        let (directory, name) = self.way.to(path)?;
        let over = Overwritten::open(directory, &name, &shown, false)?;
        placed.written_bytes += contents.put(&over.file, differing, &shown, self.progress)?;
        over.file.sync_all().map_err(|error| RestoreError::io("sync", &shown, error))?;
        placed.written_files += 1;
        self.set_attributes(path, &entry, placed)
    }

    /// A database that is being overwritten, kept open since the pass before or opened now.
    fn database(&mut self, path: &[u8]) -> Result<Overwritten, RestoreError> {
        if let Some(held) = self.held.remove(path) {
            return Ok(held);
        }
        let shown = self.way.shown(path);
        let (directory, name) = self.way.to(path)?;
        Overwritten::open(directory, &name, &shown, true)
    }

    fn hold(&mut self, path: &[u8], database: Overwritten) {
        if self.held.len() < HELD_MOST {
            self.held.insert(path.to_owned(), database);
        }
    }

    fn fill_database(
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
                placed.written_bytes += fill(&contents, &over.file, differing, &shown, self.progress)?;
                self.hold(path, over);
                Ok(())
            }
        }
    }

    /// Makes an entry where nothing is, with all that is below it.
    fn create(
        &mut self,
        path: &[u8],
        entry: &Entry,
        placed: &mut Placed,
        durable: &mut Durable,
    ) -> Result<(), RestoreError> {
        self.check()?;
        let shown = self.way.shown(path);
        match entry.kind {
            EntryKind::Directory => {
                let (above, name) = self.way.to(path)?;
                make_directory(above, &name, &shown)?;
                self.touched.insert(Some(path.to_owned()));
                durable.watch(self.way.directory(path)?)?;
                for below in self.order.repository.entries(&entry.content)? {
                    let path = join(path, &below.name);
                    if self.order.plan.inner_links.contains_key(&path) {
                        continue;
                    }
                    if self.is_database(&below)? {
                        self.make_database(&path, &below, placed)?;
                    } else {
                        self.create(&path, &below, placed, durable)?;
                    }
                }
                return Ok(());
            }
            EntryKind::File => {
                let contents = Contents::open(self.order.repository, entry)?;
                let (directory, name) = self.way.to(path)?;
                let file = create_file(directory, &name, &shown)?;
                placed.written_bytes += contents.put(&file, &contents.all(), &shown, self.progress)?;
                placed.written_files += 1;
            }
            EntryKind::Socket => return Ok(()),
            _ => {
                let (directory, name) = self.way.to(path)?;
                if let Err(errno) = create_special(directory, &name, entry) {
                    placed.problem(&shown, format!("it could not be made: {errno}"));
                    return Ok(());
                }
            }
        }
        self.set_attributes(path, entry, placed)
    }

    fn is_database(&self, entry: &Entry) -> Result<bool, RestoreError> {
        let is_file = entry.kind == EntryKind::File;
        let is_raw = self.order.goal.is_raw;
        Ok(is_file
            && (entry.captured == Captured::Sqlite
                || (is_raw && goal_is_database(self.order.repository, entry)?)))
    }

    /// Writes a database that isn't there yet; it gets its name when all is written.
    fn make_database(&mut self, path: &[u8], entry: &Entry, placed: &mut Placed) -> Result<(), RestoreError> {
        let shown = self.way.shown(path);
        let contents = Contents::open(self.order.repository, entry)?;
        let (directory, name) = self.way.to(path)?;
        let made = Unnamed::create(directory, &name, &shown)?;
        placed.written_bytes += fill(&contents, &made.file, &contents.all(), &shown, self.progress)?;
        self.made_paths.insert(path.to_owned());
        self.made.push((path.to_owned(), entry.clone(), made));
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
            placed.written_bytes += unmark(&contents, &made.file, &shown)?;
            let (directory, name) = self.way.to(&path)?;
            made.publish(directory, &name, &shown)?;
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
            placed.written_bytes += fill(&contents, &file, &contents.all(), &shown, self.progress)?;
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

    /// Files get their further names, those of databases that were made after these have their first.
    pub fn link_all(&mut self, of_made: bool, placed: &mut Placed) -> Result<(), RestoreError> {
        let named = self.steps().iter().filter_map(|step| match &step.action {
            Action::Link { to } => Some((&step.path, to)),
            _ => None,
        });
        for (path, to) in named.chain(&self.order.plan.inner_links) {
            if self.made_paths.contains(to) == of_made {
                self.link(path, to, placed)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], to: &[u8], placed: &mut Placed) -> Result<(), RestoreError> {
        self.touch_above(path);
        let fail = |error| RestoreError::io("open", Path::new("."), error);
        let (first, first_name) = self.way.to(to)?;
        let first = first.try_clone_to_owned().map_err(fail)?;
        let (directory, name) = self.way.to(path)?;
        match link(&first, &first_name, directory, &name) {
            Ok(()) => Ok(()),
            Err(Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => {
                // Another file system below the target, or one without links: it becomes a file of its own.
                let (shown, entry) = (self.way.shown(path), self.entry(path)?);
                placed.problem(&shown, "it could not be linked, and is a file of its own");
                self.create(path, &entry, placed, &mut Durable::default())
            }
            Err(errno) => Err(RestoreError::io("link", &self.way.shown(path), errno)),
        }
    }

    /// Directories get their attributes, deepest first, and are made durable.
    pub fn close(&mut self, placed: &mut Placed) -> Result<(), RestoreError> {
        self.way.forget();
        for path in std::mem::take(&mut self.touched).into_iter().rev() {
            let Some(path) = path else {
                sync(self.way.above(), &self.way.shown(b""))?;
                continue;
            };
            let shown = self.way.shown(&path);
            sync(self.way.directory(&path)?, &shown)?;
            let found = self.finder.as_mut().map_or(Ok(None), |finder| finder.find(&path))?;
            if let Some(entry) = found.filter(|entry| entry.kind == EntryKind::Directory) {
                self.set_attributes(&path, &entry, placed)?;
            }
        }
        Ok(())
    }

    fn set_attributes(
        &mut self,
        path: &[u8],
        entry: &Entry,
        placed: &mut Placed,
    ) -> Result<(), RestoreError> {
        let shown = self.way.shown(path);
        let owner = self.order.owner;
        let (directory, name) = self.way.to(path)?;
        set_attributes(directory, &Entry { name, ..entry.clone() }, owner, &shown, placed);
        Ok(())
    }

    fn touch_above(&mut self, path: &[u8]) {
        self.touched.insert((!path.is_empty()).then(|| split(path).0.to_owned()));
    }

    /// What shall be at a path.
    fn entry(&mut self, path: &[u8]) -> Result<Entry, RestoreError> {
        let found = self.finder.as_mut().map_or(Ok(None), |finder| finder.find(path))?;
        let gone = || RepositoryError::damaged("an entry tree", "it reads differently the second time");
        Ok(found.ok_or_else(gone)?)
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
