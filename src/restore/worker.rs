//! Carries out the plan of one target, pass by pass.

use super::attributes::set_attributes;
use super::content::Contents;
use super::database::{Overwritten, Unnamed};
use super::durable::Durable;
use super::error::RestoreError;
use super::make::{create_file, create_special, link, make_directory, sync};
use super::plan::{Action, Goal, Plan, Step};
use super::remove::remove;
use super::report::{Owner, Placed};
use super::target::{Target, Way, join, split};
use crate::format::{Entry, EntryKind};
use crate::progress::Progress;
use crate::repository::{Finder, Repository, RepositoryError};
use nix::errno::Errno;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What is to be carried out at one target, whose base is resolved.
pub struct Order<'o> {
    pub repository: &'o Repository,
    pub goal: &'o Goal,
    pub target: &'o Target,
    pub owner: Owner,
    pub plan: &'o Plan,
}

/// Works on one target.
pub struct Worker<'w> {
    pub(super) order: &'w Order<'w>,
    pub(super) progress: &'w dyn Progress,
    finder: Option<Finder<'w>>,
    pub(super) way: Way,
    /// Directories that gained or lost names, or get attributes; `None` is the one above the target.
    touched: BTreeSet<Option<Vec<u8>>>,
    /// Databases that are being overwritten: whoever wants to open one waits until it is whole.
    pub(super) held: HashMap<Vec<u8>, Overwritten>,
    /// Databases that have no name yet.
    pub(super) made: Vec<(Vec<u8>, Entry, Option<Unnamed>)>,
    pub(super) made_paths: BTreeSet<Vec<u8>>,
}

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

    pub(super) fn steps(&self) -> &'w [Step] {
        &self.order.plan.steps
    }

    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.progress.interrupted() { Err(RestoreError::Interrupted) } else { Ok(()) }
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
                Action::Write { differing, .. } => self.overwrite(&step.path, differing, placed)?,
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
        let over = Overwritten::open(directory, &name, &shown, false, self.order.plan.compared.get(path))?;
        placed.written_bytes +=
            contents.put(&over.file, differing, over.patches.as_deref(), &shown, self.progress)?;
        over.file.sync_all().map_err(|error| RestoreError::io("sync", &shown, error))?;
        placed.written_files += 1;
        self.set_attributes(path, &entry, placed)
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
                placed.written_bytes += contents.put(&file, &contents.all(), None, &shown, self.progress)?;
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
            let found = found.filter(|entry| entry.kind == EntryKind::Directory).cloned();
            if let Some(entry) = found {
                self.set_attributes(&path, &entry, placed)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_attributes(
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

    pub(super) fn touch_above(&mut self, path: &[u8]) {
        self.touched.insert((!path.is_empty()).then(|| split(path).0.to_owned()));
    }

    /// What shall be at a path.
    pub(super) fn entry(&mut self, path: &[u8]) -> Result<Entry, RestoreError> {
        let found = self.finder.as_mut().map_or(Ok(None), |finder| finder.find(path))?;
        let gone = || RepositoryError::damaged("an entry tree", "it reads differently the second time");
        Ok(found.cloned().ok_or_else(gone)?)
    }
}
