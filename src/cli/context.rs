//! Where things are: config, repository, cache and scratch directories.

use super::args::Global;
use super::failure::Failure;
use super::place::Place;
use crate::backend::{Backend, BackendError, ErrorKind};
use crate::backup::Author;
use crate::config::{Config, ConfiguredSource, GRACE, check_profile, parse_duration};
use crate::crypto::RepositoryKey;
use crate::format::KeyName;
use crate::id::Id;
use crate::repository::{IndexOptions, Repository, RepositoryError};
use crate::restore::{JournalPlace, OpenJournal};
use crate::retention::Policy;
use crate::stamp::Stamp;
use std::collections::HashSet;
use std::env;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Everything that flags, environment and config say, put together.
pub struct Context {
    pub global: Global,
    pub config: Option<Config>,
    pub profile: String,
    /// Said with the verb's own warnings.
    pub warnings: Vec<String>,
    /// The key of the repository that was opened, so that nobody is asked twice.
    pub(super) key: Mutex<Option<(RepositoryKey, KeyName)>>,
    backend: OnceLock<Arc<dyn Backend>>,
    /// Nothing that was kept near at another time may stand in for what a far repository holds.
    pub reads_anew: bool,
    /// Not zero once a signal asked for an end.
    pub stop: Arc<AtomicUsize>,
}

impl Context {
    /// Finds and reads the config.
    pub fn new(global: Global) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let config_path = find_config(&global, &mut warnings);
        let config = config_path.as_deref().map(Config::read).transpose()?;
        let of_config = || config.as_ref().map(|config| config.profile.clone());
        let profile = global.profile.clone().or_else(of_config).unwrap_or_else(|| "default".into());
        check_profile(&profile).map_err(Failure::usage)?;
        let (key, backend) = (Mutex::default(), OnceLock::new());
        Ok(Self { global, config, profile, warnings, key, backend, reads_anew: false, stop: Arc::default() })
    }

    /// Where the repository is.
    pub fn place(&self) -> Result<Place, Failure> {
        let of_config = || self.config.as_ref().and_then(|config| config.repository.clone());
        let location = self.global.repo.clone().or_else(of_config).ok_or_else(|| {
            Failure::usage("which repository?")
                .hint("name it with -r PATH, in ICECORE_REPOSITORY, or as `repository` in icecore.toml")
        })?;
        Place::parse(&location)
    }

    /// The repository's directory, if it is here.
    pub fn local_path(&self) -> Option<PathBuf> {
        self.place().ok()?.local().map(Path::to_owned)
    }

    /// Where the repository's files are; a connection is made once.
    pub fn backend(&self) -> Result<Arc<dyn Backend>, Failure> {
        if let Some(known) = self.backend.get() {
            return Ok(Arc::clone(known));
        }
        let made = self.backend_of(&self.place()?)?;
        Ok(Arc::clone(self.backend.get_or_init(|| made)))
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Repository, Failure> {
        Ok(self.open_on(self.backend()?)?)
    }

    /// Opens the repository that lies there. One that isn't encrypted as the config says is not used: somebody has put it in the
    /// other one's place.
    pub fn open_on(&self, backend: Arc<dyn Backend>) -> Result<Repository, RepositoryError> {
        let repository = Repository::open_locked(backend, self.index_options(), &mut self.unlock())?;
        self.hold_to_pin(&repository)?;
        Ok(repository)
    }

    /// The repository has the key that was named, by its fingerprint. Where none was named, but something to open an encrypted one
    /// with, it must be encrypted.
    pub fn hold_to_pin(&self, repository: &Repository) -> Result<(), RepositoryError> {
        let of_config = || self.config.as_ref().and_then(|config| config.encryption.key.clone());
        let expected = self.global.repository_key.clone().or_else(of_config);
        let fingerprint = repository.key().map(RepositoryKey::fingerprint);
        let detail = match (expected.as_deref(), fingerprint) {
            (Some("any"), _) => return Ok(()),
            (Some(expected), Some(found)) if expected == found => return Ok(()),
            (Some(expected), Some(found)) => format!("its key is {found}, not {expected}"),
            (Some(expected), None) => format!("it is not encrypted, and its key should be {expected}"),
            (None, None) if self.has_key_source() => {
                "it is not encrypted, though an identity or a passphrase is given for it".into()
            }
            (None, _) => return Ok(()),
        };
        Err(RepositoryError::Another { location: repository.backend().location(), detail })
    }

    /// How indexes are kept.
    pub fn index_options(&self) -> IndexOptions {
        IndexOptions {
            cache_directory: self.cache_directory(),
            memory_limit_bytes: self.global.index_memory.saturating_mul(1 << 20),
        }
    }

    /// The first of these that is set: flag or environment, XDG, HOME, and for root without HOME (cron) the system's.
    pub(super) fn cache_directory(&self) -> Option<PathBuf> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.global
            .cache_dir
            .clone()
            .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("icecore")))
            .or_else(|| absolute("HOME").map(|path| path.join(".cache/icecore")))
            .or_else(|| (effective_user() == Some(0)).then(|| PathBuf::from("/var/cache/icecore")))
    }

    /// Where journals of restores are kept if not in the repository.
    fn state_directory(&self) -> Option<PathBuf> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let named = self.global.state_dir.as_ref().and_then(|path| std::path::absolute(path).ok());
        named
            .or_else(|| absolute("XDG_STATE_HOME").map(|path| path.join("icecore")))
            .or_else(|| absolute("HOME").map(|path| path.join(".local/state/icecore")))
            .or_else(|| (effective_user() == Some(0)).then(|| PathBuf::from("/var/lib/icecore")))
    }

    /// Where the journal of a restore goes, and whether that is the repository: there if it can be written. With an undo, a
    /// state directory that was named comes first.
    pub fn journal_place(&self, has_undo: bool) -> Result<(JournalPlace, bool), Failure> {
        let repository = self.place()?.local().map(JournalPlace::new);
        let is_elsewhere = has_undo && self.global.state_dir.is_some();
        if let Some(repository) = repository.filter(|_| !is_elsewhere) {
            match repository.prepare() {
                Ok(()) => return Ok((repository, true)),
                Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::NoSpace) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let nowhere = || {
            Failure::usage(
                "the repository can't be written, and there is no place for the journal of a restore",
            )
            .hint("name one with --state-dir: a directory that survives a crash; nothing was changed")
        };
        let place = JournalPlace::new(self.state_directory().ok_or_else(nowhere)?);
        if place.is_fleeting() {
            let message = format!(
                "{} lies in memory or in a container's own layer: a journal there would be gone when it is needed",
                place.root().display()
            );
            return Err(Failure::usage(message)
                .at(place.root())
                .hint("name a directory on disk with --state-dir, or mount one; nothing was changed"));
        }
        place.prepare().map_err(|error| {
            let message = format!("no journal can be kept in {}: {error}", place.root().display());
            Failure::usage(message)
                .at(place.root())
                .hint("--state-dir names a directory that can be written, and survives a crash; nothing was changed")
        })?;
        Ok((place, false))
    }

    /// The journals of restores, oldest first, in the repository and in the state directory, and what is wrong with them.
    pub fn journals(&self) -> (Vec<OpenJournal>, Vec<String>) {
        let (found, mut warnings, failure) = self.read_journals();
        warnings.extend(failure.map(|error| format!("journals of restores could not be read: {error}")));
        (found, warnings)
    }

    /// As `journals`, for whoever decides by them: an error where some may be lacking, but for those that this user may not read.
    pub fn all_journals(&self) -> Result<Vec<OpenJournal>, Failure> {
        match self.read_journals() {
            (_, _, Some(error)) if error.kind != ErrorKind::Denied => {
                let message = format!("it can't be told which restores are unfinished: {error}");
                Err(Failure { message, ..Failure::from(error) })
            }
            (found, _, _) => Ok(found),
        }
    }

    /// The journals, which of them are damaged, and why some may be lacking.
    fn read_journals(&self) -> (Vec<OpenJournal>, Vec<String>, Option<BackendError>) {
        let places = self.local_path().into_iter().chain(self.state_directory());
        let (mut found, mut damaged, mut failure) = (Vec::new(), Vec::new(), None);
        for place in places {
            match JournalPlace::new(place).list() {
                Ok(journals) => {
                    found.extend(journals.list);
                    damaged.extend(journals.damaged.iter().map(|path| {
                        format!(
                            "{} is damaged or can't be read: it can't be told which restore it is about",
                            path.display()
                        )
                    }));
                }
                // A place that this user may not look into says less than any other error.
                Err(error) if failure.is_none() || error.kind != ErrorKind::Denied => failure = Some(error),
                Err(_) => {}
            }
        }
        found.sort_by(|one, other| one.id.cmp(&other.id));
        (found, damaged, failure)
    }

    /// The snapshots of a repository that restores need which aren't closed.
    pub fn needed_by_restores(&self, repository: Id) -> Result<HashSet<Stamp>, Failure> {
        let journals = self.all_journals()?;
        let of_repository = journals.iter().filter(|open| open.journal.repository == repository);
        // What an undo doesn't hold itself it takes from the goal, also when the restore is finished.
        let is_needed = |open: &&OpenJournal| open.is_open() || open.journal.has_undo;
        Ok(of_repository.filter(is_needed).flat_map(needed_by).collect())
    }

    /// The restore that was interrupted at, above or below one of these places.
    pub fn unfinished_at<'p>(
        &self,
        places: impl Iterator<Item = &'p Path>,
    ) -> Result<Option<OpenJournal>, Failure> {
        let journals = self.all_journals()?;
        let places: Vec<&Path> = places.collect();
        let concerned = |open: &OpenJournal| places.iter().any(|place| open.concerns(place));
        Ok(journals.into_iter().rev().find(|open| open.is_unfinished() && concerned(open)))
    }

    /// A writable place for scratch copies: what was asked for, else the first of the usual ones, else the repository's
    /// own `tmp/` (a one-shot container may have nothing else), unless that is encrypted.
    pub fn temporary_directory(&self) -> Result<PathBuf, Failure> {
        if let Some(asked) = &self.global.temp_dir {
            return if is_writable(asked) {
                Ok(asked.clone())
            } else {
                Err(Failure::usage(format!("cannot write into {}", asked.display()))
                    .at(asked)
                    .hint("--temp-dir (or ICECORE_TEMP_DIR) must name an existing, writable directory"))
            };
        }
        let usual = [env::var_os("TMPDIR").map(PathBuf::from), Some("/tmp".into()), Some("/var/tmp".into())];
        // What is encrypted there must not lie beside it in the clear.
        let is_encrypted = || {
            let identified = self.backend().ok().and_then(|backend| Repository::identify(&*backend).ok());
            identified.is_some_and(|(_, encryption)| encryption.is_some())
        };
        let own = self.local_path().filter(|_| !is_encrypted()).map(|path| path.join("tmp"));
        let found = usual.into_iter().chain([own]).flatten().find(|path| is_writable(path));
        found.ok_or_else(|| {
            Failure::usage("there is no writable directory for scratch copies")
                .hint("name one with --temp-dir")
        })
    }

    /// Which snapshots `prune` keeps.
    pub fn retention(&self) -> Policy {
        self.config.as_ref().map_or_else(Policy::usual, |config| config.retention.clone())
    }

    /// How long condemned files stay.
    pub fn grace(&self) -> Duration {
        self.config.as_ref().map_or(GRACE, |config| config.grace)
    }

    /// What the config says about a source.
    pub fn configured(&self, name: &str) -> Option<&ConfiguredSource> {
        self.config.as_ref()?.sources.iter().find(|source| source.spec.name == name)
    }

    /// Whose snapshots are made here.
    pub fn author(&self, tags: Vec<String>) -> Author {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Author {
            profile: self.profile.clone(),
            host: host.trim().to_owned(),
            tool: format!("icecore {}", env!("CARGO_PKG_VERSION")),
            tags,
        }
    }

    /// The command that finishes or undoes a restore, as it has to be typed beside what was typed now.
    pub fn again(&self, verb: &str) -> String {
        format!("{} restore {verb}", self.invocation())
    }

    /// `icecore` with the options that say where things are, quoted for a shell.
    fn invocation(&self) -> String {
        let Global { repo, config, profile, state_dir, identity, passphrase_file, repository_key, .. } =
            &self.global;
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let text = |path: PathBuf| path.display().to_string();
        let repo = repo.as_ref().map(|repo| {
            let is_path = !repo.contains("://");
            if is_path { text(absolute(&PathBuf::from(repo))) } else { repo.clone() }
        });
        let options = [
            ("-r", repo),
            ("-c", config.as_ref().map(|path| text(absolute(path)))),
            ("--profile", profile.clone()),
            ("--state-dir", state_dir.as_ref().map(|path| text(absolute(path)))),
            ("--identity", identity.as_ref().map(|path| text(absolute(path)))),
            ("--passphrase-file", passphrase_file.as_ref().map(|path| text(absolute(path)))),
            ("--repository-key", repository_key.clone()),
        ];
        let given = options.into_iter().filter_map(|(option, value)| Some((option, value?)));
        given
            .fold("icecore".to_owned(), |line, (option, value)| format!("{line} {option} {}", quoted(&value)))
    }

    /// `--retry-lock`.
    pub fn patience(&self) -> Result<Duration, Failure> {
        parse_duration(&self.global.retry_lock).map_err(Failure::usage)
    }
}

/// The snapshots without which an open restore can't be finished or undone.
pub fn needed_by(open: &OpenJournal) -> Vec<Stamp> {
    let before = Some(open.journal.before.stamp).filter(|_| !open.journal.has_undo);
    [Some(open.journal.goal.stamp), before].into_iter().flatten().collect()
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+=:@%,".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn is_writable(path: &Path) -> bool {
    tempfile::Builder::new().prefix("icecore-").tempfile_in(path).is_ok()
}

fn find_config(global: &Global, warnings: &mut Vec<String>) -> Option<PathBuf> {
    if let Some(named) = &global.config {
        return Some(named.clone());
    }
    let here = PathBuf::from("icecore.toml");
    if here.is_file() {
        if is_safely_owned(&here) {
            return Some(here);
        }
        warnings.push(
            "./icecore.toml is ignored: it belongs to another user, or others may write it; name it with -c"
                .into(),
        );
    }
    let home = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let places = home.map(|home| home.join("icecore/icecore.toml")).into_iter();
    places.chain([PathBuf::from("/etc/icecore/icecore.toml")]).find(|path| path.is_file())
}

/// Who this process acts as: the owner of its own entry in /proc.
fn effective_user() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
}

/// A config decides what is read as this user: only this user or root may have written it.
fn is_safely_owned(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        let owner = metadata.uid();
        let trusted = owner == 0 || Some(owner) == effective_user();
        trusted && metadata.permissions().mode() & 0o022 == 0
    })
}
