//! A place to restore to, and the way to the names below it: opened one by one, no symlink followed.

use super::error::RestoreError;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{AccessFlags, faccessat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A place below a directory that the caller names; only the former may be a symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the source is, or goes. A symlink here means what it points at: the mount point must stay where it is.
    pub base: PathBuf,
    /// The part of the source below it; empty for the whole. No symlink on this way is followed.
    pub part: PathBuf,
}

impl Target {
    /// The same place with the symlinks of its base resolved, as far as it exists. A link that leads nowhere is an error:
    /// what is to become of it isn't clear.
    pub fn resolve(&self) -> Result<Self, RestoreError> {
        let base = match std::fs::canonicalize(&self.base) {
            Ok(base) => base,
            Err(_) if self.base.is_symlink() => {
                return Err(RestoreError::DanglingLink { path: self.base.clone() });
            }
            Err(_) => {
                let there = self.base.ancestors().find(|above| above.symlink_metadata().is_ok());
                let there = there.unwrap_or(Path::new("/"));
                let real = there.canonicalize();
                if real.is_err() && there.is_symlink() {
                    return Err(RestoreError::DanglingLink { path: there.to_owned() });
                }
                let missing = self.base.strip_prefix(there).unwrap_or(Path::new(""));
                real.map_or_else(|_| self.base.clone(), |real| real.join(missing))
            }
        };
        Ok(Self { base, part: self.part.clone() })
    }

    /// The directories above that don't exist can be made.
    pub fn can_be_made(&self) -> Result<(), RestoreError> {
        let path = self.path();
        let there = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok());
        let there = there.unwrap_or(Path::new("/"));
        let directory = open(there, DIRECTORY.difference(OFlag::O_NOFOLLOW), Mode::empty())
            .map_err(|errno| RestoreError::io("open", there, errno))?;
        changeable(directory.as_fd(), there)
    }

    /// The place as a path.
    pub fn path(&self) -> PathBuf {
        if self.part.as_os_str().is_empty() { self.base.clone() } else { self.base.join(&self.part) }
    }

    /// Directories above the place that don't exist, outermost first.
    pub fn missing_above(&self) -> Vec<PathBuf> {
        let path = self.path();
        let above = path.ancestors().skip(1).take_while(|above| above.symlink_metadata().is_err());
        let mut missing: Vec<PathBuf> = above.map(Path::to_owned).collect();
        missing.retain(|path| !path.as_os_str().is_empty());
        missing.reverse();
        missing
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// The way to what lies at and below a target, whose base is resolved. The directories on the way to the last place that
/// was asked for stay open.
pub struct Way {
    above: OwnedFd,
    name: Vec<u8>,
    path: PathBuf,
    /// Paths below the target (empty: itself), outermost first.
    open: Vec<(Vec<u8>, OwnedFd)>,
}

impl Way {
    /// Opens the directory above the target; `None` if it doesn't exist.
    pub fn open(target: &Target) -> Result<Option<Self>, RestoreError> {
        let path = target.path();
        let below_base = target.part.iter().count();
        let start = path.ancestors().nth(below_base.max(1)).unwrap_or(Path::new("/"));
        let mut shown = start.to_owned();
        let fail = |shown: &Path, errno| RestoreError::io("open", shown, errno);
        // What lies above the source may be reached by symlinks; from there on no link is followed.
        let mut above = match open(start, DIRECTORY.difference(OFlag::O_NOFOLLOW), Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(|errno| fail(start, errno))?,
        };
        for name in target.part.parent().into_iter().flat_map(Path::iter) {
            shown.push(name);
            above = match openat(&above, name, DIRECTORY, Mode::empty()) {
                Err(Errno::ENOENT) => return Ok(None),
                other => other.map_err(|errno| fail(&shown, errno))?,
            };
        }
        let name = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes).to_owned();
        Ok(Some(Self { above, name, path, open: Vec::new() }))
    }

    /// As `open`, with the directories made that `missing_above` names.
    pub fn make(target: &Target) -> Result<Self, RestoreError> {
        for missing in target.missing_above() {
            let fail = |errno| RestoreError::io("create", &missing, errno);
            let above = missing.parent().unwrap_or(Path::new("/"));
            let directory =
                open(above, DIRECTORY.difference(OFlag::O_NOFOLLOW), Mode::empty()).map_err(fail)?;
            let name = missing.file_name().unwrap_or_default();
            match mkdirat(&directory, name, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => {}
                other => other.map_err(fail)?,
            }
            nix::unistd::fsync(&directory).map_err(fail)?;
        }
        let gone = || RestoreError::io("open", &target.path(), Errno::ENOENT);
        Self::open(target)?.ok_or_else(gone)
    }

    /// The open directory that holds `path` (empty: the target itself), and its name there.
    pub fn to(&mut self, path: &[u8]) -> Result<(BorrowedFd<'_>, Vec<u8>), RestoreError> {
        if path.is_empty() {
            return Ok((self.above.as_fd(), self.name.clone()));
        }
        let (directory, name) = split(path);
        Ok((self.directory(directory)?, name.to_owned()))
    }

    /// The open directory at `path` (empty: the target itself).
    pub fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, RestoreError> {
        while let Some((open, _)) = self.open.last() {
            let is_above = open.is_empty() || open == path || path.starts_with(&[open, &b"/"[..]].concat());
            if is_above {
                break;
            }
            self.open.pop();
        }
        if self.open.last().is_none_or(|(open, _)| open != path) {
            let shown = self.shown(path);
            let (above, name) = self.to(path)?;
            let opened = openat(above, OsStr::from_bytes(&name), DIRECTORY, Mode::empty())
                .map_err(|errno| RestoreError::io("open", &shown, errno))?;
            self.open.push((path.to_owned(), opened));
        }
        Ok(self.open.last().map_or(self.above.as_fd(), |(_, directory)| directory.as_fd()))
    }

    /// The directory above the target.
    pub fn above(&self) -> BorrowedFd<'_> {
        self.above.as_fd()
    }

    /// Forgets which directories are open: they may be others now.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// As a person knows the place.
    pub fn shown(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(path)) }
    }
}

/// A directory that can't gain or lose names is better found before anything is changed.
pub fn changeable(directory: BorrowedFd<'_>, shown: &Path) -> Result<(), RestoreError> {
    faccessat(directory, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
        .map_err(|errno| RestoreError::Unwritable { path: shown.to_owned(), source: errno.into() })
}

/// A path below a target.
pub fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_owned() } else { [above, b"/", name].concat() }
}

/// The directory and the last name of a path below a target.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}
