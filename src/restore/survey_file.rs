//! Plans one file that is there: what of it differs, and whether it is a database.

use super::attributes::attributes_differ;
use super::content::Contents;
use super::database::looks_like_database;
use super::error::RestoreError;
use super::plan::{Action, DatabaseChange, Main};
use super::sidecars::{Siblings, goal_is_database};
use super::survey::Surveyor;
use super::target::Way;
use crate::format::{Captured, Entry, EntryKind};
use crate::hold::open_file_at;
use crate::source::{Compared, Stat};
use crate::stamp::now_nanos;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A smaller file is read again rather than remembered.
const WORTH_REMEMBERING: u64 = 64 << 10;
/// As in git: a file that was touched this recently may change again without showing it.
const TICK_NS: i64 = 20_000_000;

impl Surveyor<'_> {
    /// A file that will keep its inode.
    pub(super) fn existing_file(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        path: &[u8],
        stat: &FileStat,
        siblings: Siblings,
    ) -> Result<bool, RestoreError> {
        let shown = self.shown(path);
        let contents = Contents::open(self.repository, entry)?;
        let begun_ns = now_nanos();
        let opened = open_file_at(directory, &entry.name, false).map(File::from);
        let file = opened.map_err(|error| RestoreError::io("open", &shown, error))?;
        let differing = contents.differing(&file, self.progress)?;
        let holes = contents.filled_holes(&file);
        let is_equal = differing.is_empty() && holes.is_empty() && stat.st_size as u64 == entry.size;
        let is_database = self.note_if_database(&file, entry, &siblings, is_equal, &shown)?;
        let beside_is_right = self.beside_is_right(directory, &siblings)?;
        if is_equal && beside_is_right {
            if attributes_differ(directory, entry, self.options.owner) {
                self.plan.kept_files += 1;
                self.step(path, Action::Attributes, 0);
            } else {
                self.keep(path);
            }
            return Ok(false);
        }
        writable(directory, &entry.name, &shown)?;
        contents.prove_presence(&differing)?;
        if entry.segments.is_none() {
            self.remember(path, stat, begun_ns, &differing);
        }
        let allocated = (stat.st_blocks as u64).saturating_mul(512);
        self.plan.needed_bytes += entry.content_bytes().saturating_sub(allocated);
        let bytes = if self.options.lists_all {
            contents.count(&file, &differing)?
        } else {
            contents.bytes_of(&differing)
        };
        if !is_database {
            let resizes = stat.st_size as u64 != entry.size;
            self.step(path, Action::Write { differing, resizes }, bytes);
            return Ok(false);
        }
        let beside = siblings.names();
        let bytes = bytes + siblings.goal.iter().map(Entry::content_bytes).sum::<u64>();
        let changes_names = !siblings.goal.is_empty() || !siblings.present.is_empty();
        let change = DatabaseChange { main: Main::Overwrite { differing }, stale: siblings.present, beside };
        self.step(path, Action::Database(change), bytes);
        Ok(changes_names)
    }

    /// Whether the file is to be overwritten in a database's order. Whoever holds locks on it is looked for.
    fn note_if_database(
        &mut self,
        file: &File,
        entry: &Entry,
        siblings: &Siblings,
        is_equal: bool,
        shown: &Path,
    ) -> Result<bool, RestoreError> {
        let mut start = [0u8; 16];
        let is_now = file.read_exact_at(&mut start, 0).is_ok() && looks_like_database(&start);
        let shall_be = entry.captured == Captured::Sqlite || !siblings.is_empty();
        if is_now || shall_be {
            self.present.databases.push(shown.to_owned());
            return Ok(true);
        }
        Ok(!is_equal && entry.size > 0 && goal_is_database(self.repository, entry)?)
    }

    /// What lies beside the database is what shall: the same names with the same bytes and attributes.
    fn beside_is_right(&self, directory: BorrowedFd<'_>, siblings: &Siblings) -> Result<bool, RestoreError> {
        if siblings.present != siblings.names() {
            return Ok(false);
        }
        for entry in &siblings.goal {
            let contents = Contents::open(self.repository, entry)?;
            let Ok(file) = open_file_at(directory, &entry.name, false).map(File::from) else {
                return Ok(false);
            };
            let same_size = file.metadata().is_ok_and(|metadata| metadata.len() == entry.size);
            if !same_size
                || !contents.differing(&file, self.progress)?.is_empty()
                || attributes_differ(directory, entry, self.options.owner)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Remembers the comparison for whoever saves the state before, so that equal parts needn't be read again.
    fn remember(&mut self, path: &[u8], stat: &FileStat, begun_ns: i64, differing: &Arc<[u32]>) {
        let allocated = (stat.st_blocks as u64).saturating_mul(512);
        let stat = Stat::from(stat);
        let Stat { mtime_ns, ctime_ns, size, .. } = stat;
        let is_racy = mtime_ns.max(ctime_ns) >= begun_ns.saturating_sub(TICK_NS);
        if size >= WORTH_REMEMBERING && allocated >= size && !is_racy {
            let compared = Compared {
                state: stat.state(),
                mtime_ns,
                differing: Arc::clone(differing),
                patches: Arc::default(),
            };
            self.plan.compared.insert(path.to_owned(), compared);
        }
    }

    /// A symlink, FIFO or device where one of its kind is.
    pub(super) fn special(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        path: &[u8],
        stat: &FileStat,
    ) -> Result<bool, RestoreError> {
        let shown = self.shown(path);
        let is_same = match entry.kind {
            EntryKind::Symlink => {
                let target = nix::fcntl::readlinkat(directory, OsStr::from_bytes(&entry.name))
                    .map_err(|errno| RestoreError::io("read", &shown, errno))?;
                target.as_bytes() == entry.target.as_slice()
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => stat.st_rdev == entry.rdev,
            _ => true,
        };
        if !is_same {
            self.step(path, Action::Replace, 0);
            return Ok(true);
        }
        if entry.kind != EntryKind::Socket && attributes_differ(directory, entry, self.options.owner) {
            self.step(path, Action::Attributes, 0);
        }
        Ok(false)
    }

    /// Where anything around the keystone changes, it is made unreadable meanwhile.
    pub(super) fn guard_by_keystone(&mut self, way: &mut Way) -> Result<(), RestoreError> {
        let Some(keystone) = &self.options.keystone else { return Ok(()) };
        let is_planned =
            self.plan.steps.iter().any(|step| {
                step.path == *keystone && !matches!(step.action, Action::Keep | Action::Attributes)
            });
        let is_there = self.present.databases.contains(&self.shown(keystone));
        if self.plan.is_settled() || is_planned || !is_there {
            return Ok(());
        }
        let shown = self.shown(keystone);
        let (directory, name) = way.to(keystone)?;
        writable(directory, &name, &shown)?;
        self.plan.steps.retain(|step| step.path != *keystone);
        let main = Main::Overwrite { differing: Arc::default() };
        let change = DatabaseChange { main, stale: Vec::new(), beside: Vec::new() };
        self.step(&keystone.clone(), Action::Database(change), 0);
        Ok(())
    }
}

/// A file that can't be written is better found now than midway. Opening tells more than permissions do: a file may be
/// immutable, take only appends, or be a program that runs.
fn writable(directory: BorrowedFd<'_>, name: &[u8], shown: &Path) -> Result<(), RestoreError> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(directory, OsStr::from_bytes(name), flags, Mode::empty()) {
        // Somebody holds a lease: whether the file is in use is asked later.
        Ok(_) | Err(Errno::EWOULDBLOCK) => Ok(()),
        Err(errno) => Err(RestoreError::Unwritable { path: shown.to_owned(), source: errno.into() }),
    }
}
