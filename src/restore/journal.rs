//! Keeps the journals of in-place restores: in a repository, or where that can't be written, in a state directory.
//!
//! A journal lies at `restores/<id>/journal`, the state before, if a repository of its own holds it, at `restores/<id>/undo`.

use crate::backend::{Backend, BackendError, ErrorKind, LocalBackend};
use crate::crypto::Seals;
use crate::format::{Journal, RestoreState};
use crate::stamp::{Stamp, now_nanos};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `RAMFS_MAGIC` of the kernel's `magic.h`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58F6);
/// A finished restore can be undone for this long.
pub const KEPT_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Where journals are kept.
#[derive(Debug, Clone)]
pub struct JournalPlace {
    root: PathBuf,
}

/// A journal and where it is.
#[derive(Debug, Clone)]
pub struct OpenJournal {
    pub place: JournalPlace,
    pub id: String,
    pub journal: Journal,
    /// What it is authenticated by, once that is known.
    seals: Seals,
}

/// The journals of a place, oldest first, and files that are no whole journals.
#[derive(Debug, Default)]
pub struct Journals {
    pub list: Vec<OpenJournal>,
    pub damaged: Vec<PathBuf>,
}

impl JournalPlace {
    /// In a directory that survives a crash of the machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// It lies in memory, or in a layer that goes with its container: an undo kept there would be gone when it is needed.
    pub fn is_fleeting(&self) -> bool {
        let nearest = self.root.ancestors().find_map(|path| statfs(path).ok());
        nearest.is_some_and(|stat| {
            [TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC, RAMFS_MAGIC].contains(&stat.filesystem_type())
        })
    }

    /// Makes sure that journals can be written there.
    pub fn prepare(&self) -> Result<(), BackendError> {
        let backend = self.backend();
        backend.create_directory("restores")?;
        let probe = "restores/.probe";
        backend.put(probe, b"")?;
        backend.delete(probe)
    }

    /// A new journal's id: when it began, and what makes it unique.
    pub fn new_id(&self) -> String {
        let now = now_nanos();
        let stamp = Stamp::from_nanos(now);
        let id = |number: u32| format!("{stamp}-{:09}-{number}", now.rem_euclid(1_000_000_000));
        (0..).map(id).find(|id| !self.directory(id).exists()).unwrap_or_else(|| id(0))
    }

    /// Where a journal and its undo lie.
    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join("restores").join(id)
    }

    /// Where the state before lies, if it has a repository of its own.
    pub fn undo(&self, id: &str) -> PathBuf {
        self.directory(id).join("undo")
    }

    /// All journals here. A place that isn't there has none.
    pub fn list(&self) -> Result<Journals, BackendError> {
        let mut found = Journals::default();
        let listing = match std::fs::read_dir(self.root.join("restores")) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(found);
            }
            other => other.map_err(|error| self.fail("list", error))?,
        };
        for item in listing {
            let item = item.map_err(|error| self.fail("list", error))?;
            let Ok(id) = item.file_name().into_string() else { continue };
            let bytes = match self.backend().get(&key(&id)) {
                // One that was begun and never written: nothing was changed by it.
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                // What this user may not read, or nobody can, hides no other.
                Err(error) if matches!(error.kind, ErrorKind::Lost | ErrorKind::Denied) => {
                    found.damaged.push(self.directory(&id).join("journal"));
                    continue;
                }
                other => other?,
            };
            match Journal::decode(&bytes) {
                Ok(journal) => found.list.push(OpenJournal::new(self.clone(), id, journal, Seals::default())),
                Err(_) => found.damaged.push(self.directory(&id).join("journal")),
            }
        }
        found.list.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(found)
    }

    /// Removes a journal and its undo: the journal first, so that what is left is nobody's.
    pub fn remove(&self, id: &str) -> Result<(), BackendError> {
        self.backend().delete(&key(id))?;
        match std::fs::remove_dir_all(self.directory(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.fail("remove", error)),
            _ => Ok(()),
        }
    }

    /// Removes journals of restores that ended too long ago to be undone, and what killed runs left without one.
    pub fn remove_old(&self) {
        let Ok(found) = self.list() else { return };
        let oldest = now_nanos().saturating_sub(KEPT_NS);
        for open in found.list {
            if !open.is_open() && open.journal.begun_ns < oldest {
                drop(self.remove(&open.id));
            }
        }
        self.remove_abandoned();
    }

    /// What runs have left that were killed or refused before they wrote a journal: nothing was changed by them. A young one
    /// may still be at work.
    fn remove_abandoned(&self) {
        let day_ago = Stamp::from_nanos(now_nanos()).unix().saturating_sub(24 * 3600);
        let is_abandoned = |id: &str| {
            let begun = id.split('-').next().and_then(Stamp::parse);
            begun.is_some_and(|begun| begun.unix() < day_ago) && !self.directory(id).join("journal").exists()
        };
        for item in std::fs::read_dir(self.root.join("restores")).into_iter().flatten().flatten() {
            if let Some(id) = item.file_name().to_str().filter(|id| is_abandoned(id)) {
                drop(std::fs::remove_dir_all(self.directory(id)));
            }
        }
    }

    fn backend(&self) -> LocalBackend {
        LocalBackend::new(&self.root)
    }

    fn fail(&self, action: &'static str, error: io::Error) -> BackendError {
        BackendError::new(action, self.root.join("restores").display().to_string(), error)
    }
}

fn key(id: &str) -> String {
    format!("restores/{id}/journal")
}

impl OpenJournal {
    /// A journal that lies, or will lie, at a place, of a repository with these seals.
    pub fn new(place: JournalPlace, id: String, journal: Journal, seals: Seals) -> Self {
        Self { place, id, journal, seals }
    }

    /// It was written with the key of the repository that has these seals; or that has none.
    pub fn is_authentic(&self, seals: &Seals) -> bool {
        let code = seals.journal_code(&self.journal.authenticated(&self.id));
        code.is_none_or(|code| self.journal.code.as_ref().is_some_and(|own| own.as_slice() == code))
    }

    /// The same, to be gone on with under these seals.
    pub fn under(self, seals: Seals) -> Self {
        Self { seals, ..self }
    }

    /// Writes it; durable when this returns.
    pub fn write(&mut self) -> Result<(), BackendError> {
        let code = self.seals.journal_code(&self.journal.authenticated(&self.id));
        self.journal.code = code.map(|code| code.to_vec().into());
        self.place.backend().put(&key(&self.id), &self.journal.encode())
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.place.directory(&self.id).join("journal")
    }

    /// Nobody has gone on with it since it was read.
    pub fn is_as_read(&self) -> bool {
        let now = self.place.backend().get(&key(&self.id)).ok();
        now.is_some_and(|bytes| bytes == self.journal.encode())
    }

    /// It has neither come to its end nor back to its beginning.
    pub fn is_open(&self) -> bool {
        matches!(self.journal.state, RestoreState::Begun | RestoreState::Placed)
    }

    /// The target may be a mix of old and new.
    pub fn is_unfinished(&self) -> bool {
        self.journal.state == RestoreState::Begun
    }

    /// The places that it is about.
    pub fn targets(&self) -> Vec<PathBuf> {
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        self.journal
            .items
            .iter()
            .map(|item| {
                if item.part.is_empty() { path(&item.base) } else { path(&item.base).join(path(&item.part)) }
            })
            .collect()
    }

    /// Directories above the targets that it made, outermost first.
    pub fn made(&self) -> Vec<PathBuf> {
        self.journal.made.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
    }

    /// It is about something at, above or below this place.
    pub fn concerns(&self, place: &Path) -> bool {
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        self.targets().iter().any(|target| target.starts_with(&place) || place.starts_with(target))
    }

    /// Notes how far it has come; durable when this returns.
    pub fn set_state(&mut self, state: RestoreState) -> Result<(), BackendError> {
        self.journal.state = state;
        self.write()
    }
}
