//! Places one source's entries at a target, through descriptors: no symlink in the target is followed, nothing outside
//! it is touched, and what exists with the right type keeps its inode.

use super::attributes::set_attributes;
use super::content::write_content;
use super::error::RestoreError;
use super::remove::{is_mount_point, names, remove};
use super::report::{Owner, Placed};
use crate::format::{Captured, Entry, EntryKind, Link};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::source::Excludes;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How to place.
#[derive(Debug, Clone)]
pub struct PlaceOptions {
    pub owner: Owner,
    pub extras: Extras,
}

/// What happens to entries in the target that the snapshot doesn't have.
#[derive(Debug, Clone)]
pub enum Extras {
    /// They go, but for what the snapshot left out, about which it says nothing: these paths below the source, and what
    /// its patterns match. `part` is where the target lies in the source, with a `/` behind it unless it is the source.
    RemoveExcept { left_out: HashSet<Vec<u8>>, patterns: Excludes, part: Vec<u8> },
    /// All stay: what the snapshot left out isn't fully known.
    Keep,
}

struct Placer<'a> {
    repository: &'a Repository,
    options: PlaceOptions,
    progress: &'a dyn Progress,
    placed: Placed,
    /// Where the first name of each hard-linked file was placed.
    links: HashMap<(u64, u64), PathBuf>,
    /// The target itself, from which paths below the source are told.
    root: PathBuf,
}

/// A place below a directory that the caller names; only the former may be a symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the source is, or goes. A symlink here means what it points at: the mount point must stay where it is.
    pub base: PathBuf,
    /// The part of the source below it; empty for the whole. No symlink on this way is followed.
    pub part: PathBuf,
}

impl Target {
    /// The place as a path.
    pub fn path(&self) -> PathBuf {
        if self.part.as_os_str().is_empty() { self.base.clone() } else { self.base.join(&self.part) }
    }
}

/// Makes `target` what `entry` is: a directory gains, loses and changes entries until it equals the snapshot's, a file
/// its bytes. The directory above `target.base` must exist. Each file and directory is durable when this returns.
pub fn place(
    repository: &Repository,
    entry: &Entry,
    target: &Target,
    options: PlaceOptions,
    progress: &dyn Progress,
) -> Result<Placed, RestoreError> {
    let base = std::fs::canonicalize(&target.base).unwrap_or_else(|_| target.base.clone());
    let real = Target { base, part: target.part.clone() }.path();
    let above = real.parent().unwrap_or(Path::new("/"));
    let directory = open_above(&target.part, &real)?;
    let name = real.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
    let (placed, links, root) = (Placed::default(), HashMap::new(), real.clone());
    let mut placer = Placer { repository, options, progress, placed, links, root };
    let entry = Entry { name: name.to_owned(), ..entry.clone() };
    if entry.captured == Captured::Sqlite {
        placer.remove_sidecars(directory.as_fd(), &entry.name, &real)?;
    }
    placer.entry(directory.as_fd(), &entry, &real)?;
    sync(directory.as_fd(), above)?;
    Ok(placer.placed)
}

/// Opens the directory above the place. From the base on each directory is opened by its name, made where it is missing;
/// a symlink on the way is an error, for it may lead anywhere.
fn open_above(part: &Path, real: &Path) -> Result<OwnedFd, RestoreError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let between: Vec<&OsStr> = part.parent().into_iter().flat_map(Path::iter).collect();
    let below_base = if part.as_os_str().is_empty() { 0 } else { between.len() + 1 };
    let start = real.ancestors().nth(below_base.max(1)).unwrap_or(Path::new("/"));
    let mut directory =
        open(start, flags, Mode::empty()).map_err(|errno| RestoreError::io("open", start, errno))?;
    let mut shown = start.to_owned();
    for name in between {
        shown.push(name);
        let fail = |errno| RestoreError::io("open", &shown, errno);
        let opened = openat(&directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
        directory = match opened {
            Err(Errno::ENOENT) => {
                mkdirat(&directory, name, Mode::from_bits_truncate(0o755)).map_err(fail)?;
                openat(&directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty()).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
    }
    Ok(directory)
}

fn sync(directory: BorrowedFd<'_>, shown: &Path) -> Result<(), RestoreError> {
    nix::unistd::fsync(directory).map_err(|errno| RestoreError::io("sync", shown, errno))
}

fn kind_of(stat: &FileStat) -> Option<EntryKind> {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Some(EntryKind::File),
        SFlag::S_IFDIR => Some(EntryKind::Directory),
        SFlag::S_IFLNK => Some(EntryKind::Symlink),
        SFlag::S_IFIFO => Some(EntryKind::Fifo),
        SFlag::S_IFSOCK => Some(EntryKind::Socket),
        SFlag::S_IFCHR => Some(EntryKind::CharDevice),
        SFlag::S_IFBLK => Some(EntryKind::BlockDevice),
        _ => None,
    }
}

impl Placer<'_> {
    fn entry(&mut self, directory: BorrowedFd<'_>, entry: &Entry, shown: &Path) -> Result<(), RestoreError> {
        if self.progress.interrupted() {
            return Err(RestoreError::Interrupted);
        }
        let name = OsStr::from_bytes(&entry.name);
        let present = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(RestoreError::io("stat", shown, errno)),
        };
        let mut same_kind = present.is_some_and(|stat| kind_of(&stat) == Some(entry.kind));
        if present.is_some() && !same_kind {
            if is_mount_point(directory, &entry.name) {
                return Err(RestoreError::MountPoint {
                    path: shown.to_owned(),
                    wanted: "file of another kind",
                });
            }
            remove(directory, &entry.name, shown, &mut self.placed)?;
            same_kind = false;
        }
        if let Some(stat) = present.filter(|_| same_kind)
            && self.has_other_names(&stat, entry)
            && !is_mount_point(directory, &entry.name)
        {
            // Written in place it would change under its other names too, which may lie outside the source.
            remove(directory, &entry.name, shown, &mut self.placed)?;
            same_kind = false;
        }
        if let Some(link) = entry.link
            && self.link(directory, entry, link, present.filter(|_| same_kind), shown)?
        {
            return Ok(());
        }
        // Making a link may have taken an old file away.
        let now = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        let present = now.filter(|stat| kind_of(stat) == Some(entry.kind));
        let same_kind = present.is_some();
        match entry.kind {
            EntryKind::Directory => self.directory(directory, entry, same_kind, shown)?,
            EntryKind::File => self.file(directory, entry, same_kind, shown)?,
            EntryKind::Symlink => self.symlink(directory, entry, same_kind, shown)?,
            _ => self.special(directory, entry, present, shown)?,
        }
        Ok(())
    }

    /// The file has more names than the snapshot's, or shares them with another group of it.
    fn has_other_names(&self, present: &FileStat, entry: &Entry) -> bool {
        if entry.kind != EntryKind::File || present.st_nlink < 2 {
            return false;
        }
        let Some(link) = entry.link else { return true };
        let first = self.links.get(&(link.dev, link.ino)).and_then(|path| nix::sys::stat::lstat(path).ok());
        let is_first =
            first.is_some_and(|first| (first.st_dev, first.st_ino) == (present.st_dev, present.st_ino));
        !is_first && present.st_nlink > link.count
    }

    /// True if the name is now another name of a file that was placed already.
    fn link(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        link: Link,
        present: Option<FileStat>,
        shown: &Path,
    ) -> Result<bool, RestoreError> {
        let Some(first) = self.links.get(&(link.dev, link.ino)).cloned() else {
            self.links.insert((link.dev, link.ino), shown.to_owned());
            return Ok(false);
        };
        let name = OsStr::from_bytes(&entry.name);
        if let (Some(present), Ok(first)) = (present, nix::sys::stat::lstat(&first))
            && (present.st_dev, present.st_ino) == (first.st_dev, first.st_ino)
        {
            return Ok(true);
        }
        if present.is_some() {
            if is_mount_point(directory, &entry.name) {
                return Ok(false);
            }
            remove(directory, &entry.name, shown, &mut self.placed)?;
        }
        // Where it can't be linked (another file system below the target) it becomes a file of its own.
        Ok(linkat(nix::fcntl::AT_FDCWD, &first, directory, name, AtFlags::empty()).is_ok())
    }

    fn directory(
        &mut self,
        above: BorrowedFd<'_>,
        entry: &Entry,
        exists: bool,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let name = OsStr::from_bytes(&entry.name);
        if !exists {
            mkdirat(above, name, Mode::S_IRWXU).map_err(|errno| RestoreError::io("create", shown, errno))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory: OwnedFd = openat(above, name, flags, Mode::empty())
            .map_err(|errno| RestoreError::io("open", shown, errno))?;
        let entries = self.repository.entries(&entry.content)?;
        self.remove_extras(directory.as_fd(), &entries, shown)?;
        for below in &entries {
            self.entry(directory.as_fd(), below, &shown.join(OsStr::from_bytes(&below.name)))?;
        }
        sync(directory.as_fd(), shown)?;
        set_attributes(above, entry, self.options.owner, shown, &mut self.placed);
        self.placed.directories += 1;
        Ok(())
    }

    /// Removes what the snapshot doesn't have, before anything is placed: a stale journal must not meet a restored
    /// database. What the snapshot left out stays, and so do the contents of a directory that could not be listed.
    fn remove_extras(
        &mut self,
        directory: BorrowedFd<'_>,
        entries: &[Entry],
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let is_left_out = |path: &Path| match &self.options.extras {
            Extras::Keep => true,
            Extras::RemoveExcept { left_out, patterns, part } => {
                let below = path.strip_prefix(&self.root).unwrap_or(path).as_os_str().as_bytes();
                let place = [part.as_slice(), below].concat();
                let place = place.strip_suffix(b"/").unwrap_or(&place);
                let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
                let matched = !place.is_empty() && patterns.pattern_for(place, is_directory).is_some();
                left_out.contains(place) || matched
            }
        };
        let wanted: HashSet<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        let databases = entries.iter().filter(|entry| entry.captured == Captured::Sqlite);
        let sidecars: HashSet<Vec<u8>> = databases
            .flat_map(|entry| crate::source::sidecars_to_remove(Path::new(OsStr::from_bytes(&entry.name))))
            .map(|path| path.as_os_str().as_bytes().to_vec())
            .collect();
        let all_stay = is_left_out(shown);
        let mut going = Vec::new();
        for name in names(directory, shown)? {
            let path = shown.join(OsStr::from_bytes(&name));
            let stays = !sidecars.contains(&name) && (all_stay || is_left_out(&path));
            if !wanted.contains(name.as_slice()) && !stays {
                going.push((name, path));
            }
        }
        for (name, path) in going {
            remove(directory, &name, &path, &mut self.placed)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        exists: bool,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let name = OsStr::from_bytes(&entry.name);
        let create = if exists { OFlag::empty() } else { OFlag::O_CREAT | OFlag::O_EXCL };
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | create;
        let file = openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| RestoreError::io("open", shown, errno))?;
        self.placed.written_bytes +=
            write_content(self.repository, entry, &File::from(file), shown, self.progress)?;
        set_attributes(directory, entry, self.options.owner, shown, &mut self.placed);
        self.placed.files += 1;
        Ok(())
    }

    fn symlink(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        exists: bool,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let name = OsStr::from_bytes(&entry.name);
        if exists {
            let target = nix::fcntl::readlinkat(directory, name)
                .map_err(|errno| RestoreError::io("read", shown, errno))?;
            if target.as_bytes() != entry.target.as_slice() {
                remove(directory, &entry.name, shown, &mut self.placed)?;
                self.new_symlink(directory, entry, shown)?;
            }
        } else {
            self.new_symlink(directory, entry, shown)?;
        }
        set_attributes(directory, entry, self.options.owner, shown, &mut self.placed);
        Ok(())
    }

    fn new_symlink(
        &self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let name = OsStr::from_bytes(&entry.name);
        symlinkat(OsStr::from_bytes(&entry.target), directory, name)
            .map_err(|errno| RestoreError::io("create", shown, errno))
    }

    /// FIFOs and devices are made; a socket is made by the program that listens on it.
    fn special(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        present: Option<FileStat>,
        shown: &Path,
    ) -> Result<(), RestoreError> {
        let kind = match entry.kind {
            EntryKind::Fifo => SFlag::S_IFIFO,
            EntryKind::CharDevice => SFlag::S_IFCHR,
            EntryKind::BlockDevice => SFlag::S_IFBLK,
            _ => return Ok(()),
        };
        let name = OsStr::from_bytes(&entry.name);
        let is_same = present.is_some_and(|stat| entry.kind == EntryKind::Fifo || stat.st_rdev == entry.rdev);
        if !is_same {
            if present.is_some() {
                remove(directory, &entry.name, shown, &mut self.placed)?;
            }
            if let Err(errno) = mknodat(directory, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, entry.rdev) {
                self.placed.problem(shown, format!("it could not be made: {errno}"));
                return Ok(());
            }
        }
        set_attributes(directory, entry, self.options.owner, shown, &mut self.placed);
        Ok(())
    }

    /// A journal or log of the database that was there before would be applied to the restored one.
    fn remove_sidecars(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        shown: &Path,
    ) -> Result<(), RestoreError> {
        for path in crate::source::sidecars_to_remove(shown) {
            let Some(suffix) = path.as_os_str().as_bytes().strip_prefix(shown.as_os_str().as_bytes()) else {
                continue;
            };
            let sidecar = [name, suffix].concat();
            match fstatat(directory, OsStr::from_bytes(&sidecar), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                _ => {
                    remove(directory, &sidecar, &path, &mut self.placed)?;
                }
            }
        }
        sync(directory, shown)
    }
}
