//! Walks a directory by descriptors, so that no path is too long and no symlink is followed.

use super::excludes::Excludes;
use super::regular::{Recorded, Regular};
use super::snapshot::snapshot_place;
use super::stat_at::stat_at;
use crate::format::{Consistency, Entry, EntryKind, NoteReason};
use crate::hold::{SNAPSHOT_PREFIX, Sidecars, open_directory, open_file_at};
use crate::source::attributes::{bare_entry, directory_entry, own_attributes_of};
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, HoldMode, Recorder, SourceSpec, SqliteInTree,
};
use crate::source::stat::Stat;
use crate::stamp::now_nanos;
use nix::dir::Dir;
use nix::fcntl::readlinkat;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A walk over one directory tree.
pub struct Walk<'a> {
    recorder: &'a mut dyn Recorder,
    options: &'a CaptureOptions,
    excludes: Excludes,
    databases: bool,
    relative: Vec<u8>,
    capture: Capture,
}

/// Captures a source that is a directory tree, or a single file of no particular kind.
pub fn capture(
    spec: &SourceSpec,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let path = spec.read_path();
    let metadata = fs::metadata(path).map_err(|error| CaptureError::io("stat", path, error))?;
    let real = path.canonicalize().map_err(|error| CaptureError::io("resolve", path, error))?;
    if metadata.is_dir()
        && let Some(place) = snapshot_place(&real, options)?
    {
        match place.take(&real) {
            // Made and removed a subvolume may be, but not a snapshot of another user's.
            Err(_) if options.hold == HoldMode::Auto => {}
            other => {
                other.map_err(|error| CaptureError::io("snapshot", &real, error))?;
                let point_ns = now_nanos();
                let cold = CaptureOptions { cold: true, ..options.clone() };
                let capture = directory(spec, &place.snapshot(), &cold, recorder)?;
                return Ok(Capture { consistency: Consistency::FsSnapshot, point_ns, ..capture });
            }
        }
    }
    if metadata.is_dir() {
        return directory(spec, path, options, recorder);
    }
    if metadata.is_file() {
        // All of the source: there is nothing else whose sake it could be left out for.
        drop(fs::File::open(&real).map_err(|error| CaptureError::io("open", path, error))?);
    }
    let mut walk = Walk::new(spec, options, recorder)?;
    let parent = real.parent().unwrap_or(Path::new("/"));
    let directory = open_directory(parent).map_err(|error| CaptureError::io("open", parent, error))?;
    let name = real.file_name().map_or_else(|| spec.entry_name(), |name| name.as_bytes().to_owned());
    walk.entry(&directory, &name, &mut HashSet::new())?;
    Ok(walk.finish())
}

/// Captures a directory from where it can be read.
fn directory(
    spec: &SourceSpec,
    path: &Path,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let fail = |error| CaptureError::io("open", path, error);
    let metadata = fs::metadata(path).map_err(fail)?;
    let opened = open_directory(path).map_err(fail)?;
    let name = spec.entry_name();
    let mut walk = Walk::new(spec, options, recorder)?;
    walk.recorder.enter(&name)?;
    walk.contents(&opened)?;
    walk.recorder.leave(directory_entry(&name, &Stat::from(&metadata), path))?;
    Ok(walk.finish())
}

impl<'a> Walk<'a> {
    /// A walk with the source's excludes.
    pub fn new(
        spec: &SourceSpec,
        options: &'a CaptureOptions,
        recorder: &'a mut dyn Recorder,
    ) -> Result<Self, CaptureError> {
        let excludes = Excludes::new(&spec.exclude)?;
        // Files are compared before and after they are read; only databases on the way are held.
        let consistency = if options.cold { Consistency::Cold } else { Consistency::Optimistic };
        Ok(Self {
            recorder,
            options,
            excludes,
            databases: spec.sqlite == SqliteInTree::Hold && !options.raw,
            relative: Vec::new(),
            capture: Capture::unheld(consistency),
        })
    }

    /// How it went, databases on the way included.
    pub fn finish(self) -> Capture {
        Capture { point_ns: now_nanos(), ..self.capture }
    }

    /// Records everything that an open directory holds.
    fn contents(&mut self, directory: &OwnedFd) -> Result<(), CaptureError> {
        let mut databases = HashSet::new();
        for name in self.names(directory)? {
            self.below(directory, &name, &mut databases)?;
        }
        Ok(())
    }

    /// Records one name below the present place.
    pub fn below(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        databases: &mut HashSet<Vec<u8>>,
    ) -> Result<(), CaptureError> {
        let before = self.relative.len();
        if before > 0 {
            self.relative.push(b'/');
        }
        self.relative.extend_from_slice(name);
        let done = self.entry(directory, name, databases);
        self.relative.truncate(before);
        done
    }

    fn names(&mut self, directory: &OwnedFd) -> Result<Vec<Vec<u8>>, CaptureError> {
        let read = || -> io::Result<Vec<Vec<u8>>> {
            let mut listing = Dir::from_fd(directory.try_clone()?)?;
            let mut names = Vec::new();
            for item in listing.iter() {
                let name = item?.file_name().to_bytes().to_owned();
                if name != b"." && name != b".." {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        match read() {
            Ok(names) => Ok(names),
            Err(error) => {
                self.recorder.note(
                    &self.relative,
                    NoteReason::Unreadable,
                    format!("cannot list it: {error}"),
                );
                Ok(Vec::new())
            }
        }
    }

    /// Records one name of an open directory. What can't be read becomes a note; only what would leave the rest
    /// unsound is an error.
    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        databases: &mut HashSet<Vec<u8>>,
    ) -> Result<(), CaptureError> {
        let (stat, kind) = match stat_at(directory, name) {
            Ok(found) => found,
            Err(error) => {
                self.note_failure("stat", &error);
                return Ok(());
            }
        };
        if self.is_excluded(name, kind == EntryKind::Directory, databases) {
            return Ok(());
        }
        match kind {
            EntryKind::Directory => self.directory(directory, name, &stat),
            EntryKind::File => self.file(directory, name, &stat, databases),
            kind => self.special(directory, name, &stat, kind),
        }
    }

    fn is_excluded(&mut self, name: &[u8], is_directory: bool, databases: &HashSet<Vec<u8>>) -> bool {
        let belongs = Sidecars::SUFFIXES.iter().find(|suffix| {
            name.strip_suffix(suffix.as_bytes()).is_some_and(|database| databases.contains(database))
        });
        if belongs.is_some() {
            let detail = "part of the database beside it, whose settled image is kept";
            self.recorder.note(&self.relative, NoteReason::Excluded, detail.into());
            return true;
        }
        if is_directory && name.starts_with(SNAPSHOT_PREFIX.as_bytes()) {
            let detail = "a snapshot that another backup is reading, or has left behind";
            self.recorder.note(&self.relative, NoteReason::Excluded, detail.into());
            return true;
        }
        let Some(pattern) = self.excludes.pattern_for(&self.relative, is_directory) else { return false };
        let detail = format!("by the pattern {pattern:?}");
        self.recorder.note(&self.relative, NoteReason::Excluded, detail);
        true
    }

    fn directory(&mut self, above: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), CaptureError> {
        self.recorder.enter(name)?;
        match open_file_at(above, name, true) {
            Ok(directory) => self.contents(&directory)?,
            Err(error) => self.note_failure("open", &error),
        }
        self.recorder.leave(directory_entry(name, stat, &descriptor_path(above, name)))
    }

    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        databases: &mut HashSet<Vec<u8>>,
    ) -> Result<(), CaptureError> {
        // Attributes aren't asked for again: whoever changes one changes the change time.
        if self.recorder.keep(&self.relative, name, stat)? {
            return Ok(());
        }
        let file = match open_file_at(directory, name, false) {
            Ok(file) => File::from(file),
            Err(error) => {
                self.note_failure("open", &error);
                return Ok(());
            }
        };
        // Between the two looks a FIFO may have taken its place: reading it could block for ever.
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            self.recorder.note(
                &self.relative,
                NoteReason::Vanished,
                "it was replaced while being opened".into(),
            );
            return Ok(());
        }
        let relative = self.relative.clone();
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let regular = Regular { name, relative: &relative, path: &descriptor, file };
        match regular.record(self.databases, self.options, self.recorder) {
            Ok(Recorded::Database(capture)) => {
                databases.insert(name.to_owned());
                self.capture = self.capture.and(&capture);
            }
            Ok(Recorded::Plain | Recorded::Changing) => {}
            Err(CaptureError::Missing { .. }) => {
                self.recorder.note(
                    &self.relative,
                    NoteReason::Vanished,
                    "it went away while being read".into(),
                );
            }
            Err(CaptureError::Io { action, source, .. }) => {
                let detail = format!("cannot {action} it: {source}");
                self.recorder.note(&self.relative, NoteReason::Unreadable, detail);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn special(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        kind: EntryKind,
    ) -> Result<(), CaptureError> {
        let mut target = Vec::new();
        if kind == EntryKind::Symlink {
            match readlinkat(directory, OsStr::from_bytes(name)) {
                Ok(read) => target = read.into_vec(),
                Err(errno) => {
                    self.note_failure("read the link", &errno.into());
                    return Ok(());
                }
            }
        }
        let entry = Entry {
            size: target.len() as u64,
            xattrs: own_attributes_of(&descriptor_path(directory, name)),
            target,
            rdev: if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) { stat.rdev } else { 0 },
            ..bare_entry(name, stat, kind)
        };
        self.recorder.add(entry, None)
    }

    fn note_failure(&mut self, action: &str, error: &io::Error) {
        let (reason, detail) = if error.kind() == io::ErrorKind::NotFound {
            (NoteReason::Vanished, "it went away meanwhile".to_owned())
        } else {
            (NoteReason::Unreadable, format!("cannot {action} it: {error}"))
        };
        self.recorder.note(&self.relative, reason, detail);
    }
}

/// For calls that take paths only. Works however long the real path is.
fn descriptor_path(directory: &OwnedFd, name: &[u8]) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(OsStr::from_bytes(name))
}
