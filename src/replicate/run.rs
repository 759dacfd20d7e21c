//! One run: what is missing there, in the order that leaves a sound repository at every moment.

use super::error::ReplicateError;
use super::needed::needed_packs;
use super::send::{Ends, send_packs};
use crate::backend::{Backend, ErrorKind};
use crate::format::{Encryption, Key};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::rescue;
use crate::repository::{ChunkWriter, IndexOptions, Repository, RepositoryError, Snapshot, Trust};
use crate::stamp::Stamp;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Where it comes from.
pub struct Source<'s> {
    pub backend: &'s dyn Backend,
    /// The same, opened; without its key files can still be copied.
    pub repository: Option<&'s Repository>,
}

/// Which snapshots are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those of each profile that are newer than the newest one there: what was forgotten there isn't sent again.
    Newer,
    /// All that aren't there.
    All,
}

/// What one run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicated {
    /// The place held no repository before.
    pub is_new: bool,
    pub snapshots: Vec<Stamp>,
    pub packs: u64,
    /// Of these, put together there from what was there already.
    pub assembled_packs: u64,
    /// Bytes of files that were sent.
    pub sent_bytes: u64,
    /// Bytes of packs that weren't sent, because they were there in others.
    pub reused_bytes: u64,
    /// The newest snapshot here and there, afterwards.
    pub newest_here: Option<Stamp>,
    pub newest_there: Option<Stamp>,
    /// Snapshots that aren't there, where only that was asked for.
    pub missing: Option<u64>,
    pub warnings: Vec<String>,
}

impl Replicated {
    /// Adds what another attempt did.
    pub fn add(&mut self, other: Self) {
        self.is_new |= other.is_new;
        self.snapshots.extend(other.snapshots);
        self.packs += other.packs;
        self.assembled_packs += other.assembled_packs;
        self.sent_bytes += other.sent_bytes;
        self.reused_bytes += other.reused_bytes;
        self.newest_here = other.newest_here.or(self.newest_here);
        self.newest_there = other.newest_there.or(self.newest_there);
        self.warnings.extend(
            other.warnings.into_iter().filter(|warning| !self.warnings.contains(warning)).collect::<Vec<_>>(),
        );
    }
}

/// Sends what is missing. Interrupted anywhere, the place holds complete snapshots only, and another run goes on there.
pub fn replicate(
    source: &Source<'_>,
    target: &Arc<dyn Backend>,
    options: &IndexOptions,
    wanted: Wanted,
    patience: Duration,
    done: &mut Replicated,
    progress: &dyn Progress,
) -> Result<(), ReplicateError> {
    prepare(source, &**target, done)?;
    let opened = source.repository.map(|repository| open_alike(repository, target, options)).transpose()?;
    // Neither side is pruned with `--now` meanwhile.
    let _here = source.repository.map(|here| here.lock_for_use(patience)).transpose();
    let _here = _here.map_err(ReplicateError::source)?;
    let _there = opened.as_ref().map(|there| there.lock_for_use(patience)).transpose();
    let _there = _there.map_err(ReplicateError::target)?;
    let ends =
        Ends { source: source.backend, target: &**target, opened: source.repository.zip(opened.as_ref()) };
    match ends.opened {
        Some((here, there)) => by_snapshots(&ends, here, there, wanted, done, progress)?,
        None => by_files(&ends, done, progress)?,
    }
    copy_missing(&ends, "proofs", done)?;
    pins(&ends, done)?;
    done.newest_here = stamps(source.backend).map_err(ReplicateError::source)?.into_iter().max();
    done.newest_there = stamps(&**target).map_err(ReplicateError::target)?.into_iter().max();
    Ok(())
}

/// The place holds this repository, or nothing; then it is made one, without snapshots.
fn prepare(source: &Source<'_>, target: &dyn Backend, done: &mut Replicated) -> Result<(), ReplicateError> {
    let location = target.location();
    if location == source.backend.location() {
        return Err(ReplicateError::Itself { location });
    }
    let read = |key: &Key| source.backend.get(&key.path()).map_err(ReplicateError::source);
    if target.has(&Key::Config.path()).map_err(ReplicateError::target)? {
        prove_alike(source.backend, target)?;
    } else {
        let packs = target.list("packs").map_err(ReplicateError::target)?;
        if !packs.is_empty() {
            return Err(ReplicateError::NotEmpty { location });
        }
        done.is_new = true;
        copy_missing(&Ends { source: source.backend, target, opened: None }, "keys", done)?;
        for key in [Key::Readme, Key::Config] {
            target.put(&key.path(), &read(&key)?).map_err(ReplicateError::target)?;
        }
    }
    let ends = Ends { source: source.backend, target, opened: None };
    copy_missing(&ends, "keys", done)?;
    let here: HashSet<String> = names(source.backend, "keys").map_err(ReplicateError::source)?;
    let there = names(target, "keys").map_err(ReplicateError::target)?;
    for key in there.difference(&here) {
        done.warnings.push(format!(
            "{location}/{key} opens the replica, and not the repository: was it removed here? `icecore -r {location} key remove` removes it there"
        ));
    }
    Ok(())
}

/// Both places hold the same repository, encrypted with the same key or not at all.
pub fn prove_alike(source: &dyn Backend, target: &dyn Backend) -> Result<(), ReplicateError> {
    let (wanted, own) = Repository::identify(source).map_err(ReplicateError::source)?;
    let (found, theirs) = Repository::identify(target).map_err(ReplicateError::target)?;
    let location = target.location();
    if found != wanted {
        return Err(ReplicateError::AnotherRepository { location, found, wanted });
    }
    let key = |encryption: Option<Encryption>| encryption.map(|encryption| encryption.key);
    if key(own) == key(theirs) { Ok(()) } else { Err(ReplicateError::NotAlike { location }) }
}

/// Opens the replica with the repository's key.
fn open_alike(
    repository: &Repository,
    target: &Arc<dyn Backend>,
    options: &IndexOptions,
) -> Result<Repository, ReplicateError> {
    let key = || repository.key().cloned().ok_or_else(|| "the repository itself is not".to_owned());
    Repository::open_locked(Arc::clone(target), options.clone(), &mut |_, _| key())
        .map_err(ReplicateError::target)
}

/// Sends what the missing snapshots need, and nothing else.
fn by_snapshots(
    ends: &Ends<'_>,
    here: &Repository,
    there: &Repository,
    wanted: Wanted,
    done: &mut Replicated,
    progress: &dyn Progress,
) -> Result<(), ReplicateError> {
    let own = here.snapshots().map_err(ReplicateError::source)?;
    if let Some((file, detail)) = own.damaged.first() {
        let message = format!("{file} is damaged, and not sent: {detail}");
        done.warnings.push(message);
    }
    let theirs = there.snapshots().map_err(ReplicateError::target)?;
    let mut newest: HashMap<&str, Stamp> = HashMap::new();
    for snapshot in &theirs.list {
        let newest = newest.entry(snapshot.manifest.profile.as_str()).or_insert(snapshot.stamp);
        *newest = snapshot.stamp.max(*newest);
    }
    let is_wanted = |snapshot: &&Snapshot| {
        let is_newer =
            newest.get(snapshot.manifest.profile.as_str()).is_none_or(|newest| snapshot.stamp > *newest);
        theirs.get(snapshot.stamp).is_none() && (wanted == Wanted::All || is_newer)
    };
    let missing: Vec<&Snapshot> = own.list.iter().filter(is_wanted).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packs = there.index().map_err(ReplicateError::target)?.packs();
    let packs: HashSet<Id> = packs.into_keys().collect();
    let target = Some(there).filter(|_| !packs.is_empty());
    let needed = needed_packs(here, target, &packs, &missing, progress)?;
    send_packs(ends, &needed, done, progress)?;
    progress.begin("publishing snapshots there", None);
    for snapshot in missing {
        let writer = ChunkWriter::new(there, Trust::Index);
        // What a prune there has condemned meanwhile is stored there again.
        while let Some(rescued) =
            rescue(there, &snapshot.manifest, &writer, false, progress).map_err(ReplicateError::target)?
        {
            if rescued.stored_again == 0 {
                break;
            }
        }
        publish(ends, snapshot.stamp, done)?;
    }
    Ok(())
}

/// Without a key nobody can tell what a snapshot needs: everything is sent that isn't there.
fn by_files(ends: &Ends<'_>, done: &mut Replicated, progress: &dyn Progress) -> Result<(), ReplicateError> {
    // Names first: what is published meanwhile is left to the next run.
    let stamps = stamps(ends.source).map_err(ReplicateError::source)?;
    let there: HashSet<String> = names(ends.target, "packs").map_err(ReplicateError::target)?;
    let packs = ends.source.list("packs").map_err(ReplicateError::source)?;
    let missing: Vec<(Id, u64)> = packs
        .into_iter()
        .filter(|(path, _)| !there.contains(path))
        .filter_map(
            |(path, size)| if let Some(Key::Pack(id)) = Key::parse(&path) { Some((id, size)) } else { None },
        )
        .collect();
    send_packs(ends, &missing, done, progress)?;
    copy_missing(ends, "index", done)?;
    let known = self::stamps(ends.target).map_err(ReplicateError::target)?;
    let known: HashSet<Stamp> = known.into_iter().collect();
    for stamp in stamps.into_iter().filter(|stamp| !known.contains(stamp)) {
        publish(ends, stamp, done)?;
    }
    Ok(())
}

/// A snapshot's manifest, then its name.
fn publish(ends: &Ends<'_>, stamp: Stamp, done: &mut Replicated) -> Result<(), ReplicateError> {
    let name = Key::Snapshot(stamp).path();
    let line = match ends.source.get(&name) {
        // It was forgotten meanwhile.
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(ReplicateError::source)?,
    };
    let hex = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n'));
    let Some(manifest) = hex.and_then(Id::from_hex) else {
        done.warnings.push(format!("{name} is damaged, and not sent"));
        return Ok(());
    };
    let key = Key::Manifest(manifest);
    let bytes = match ends.source.get(&key.path()) {
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(ReplicateError::source)?,
    };
    if Id::of(&bytes) != manifest {
        done.warnings.push(format!("{} is damaged, and snapshot {stamp} is not sent", key.path()));
        return Ok(());
    }
    ends.target.put(&key.path(), &bytes).map_err(ReplicateError::target)?;
    match ends.target.put_new(&name, &line) {
        Err(error) if error.kind == ErrorKind::Exists => {
            if ends.target.get(&name).map_err(ReplicateError::target)? != line {
                let message = format!(
                    "there is another snapshot {stamp} already: somebody else writes to that replica"
                );
                return Err(ReplicateError::target(RepositoryError::damaged(name, message)));
            }
        }
        other => other.map_err(ReplicateError::target)?,
    }
    done.sent_bytes += (bytes.len() + line.len()) as u64;
    done.snapshots.push(stamp);
    Ok(())
}

/// Copies the files of a directory that aren't there, if they prove themselves.
fn copy_missing(ends: &Ends<'_>, directory: &str, done: &mut Replicated) -> Result<(), ReplicateError> {
    let there = names(ends.target, directory).map_err(ReplicateError::target)?;
    for path in names(ends.source, directory).map_err(ReplicateError::source)? {
        let Some(key) = Key::parse(&path).filter(|_| !there.contains(&path)) else { continue };
        let bytes = match ends.source.get(&path) {
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            other => other.map_err(ReplicateError::source)?,
        };
        let is_right = match &key {
            Key::Index(id) | Key::Proof(id) => Id::of(&bytes) == *id,
            Key::WrappedKey(name) => name.proves(&bytes),
            _ => false,
        };
        if is_right {
            ends.target.put(&path, &bytes).map_err(ReplicateError::target)?;
            done.sent_bytes += bytes.len() as u64;
        }
    }
    Ok(())
}

/// Pins of snapshots that are there.
fn pins(ends: &Ends<'_>, done: &mut Replicated) -> Result<(), ReplicateError> {
    let there = names(ends.target, "pins").map_err(ReplicateError::target)?;
    for path in names(ends.source, "pins").map_err(ReplicateError::source)? {
        let Some(Key::Pin(stamp)) = Key::parse(&path).filter(|_| !there.contains(&path)) else { continue };
        if ends.target.has(&Key::Snapshot(stamp).path()).map_err(ReplicateError::target)? {
            ends.target.put(&path, b"").map_err(ReplicateError::target)?;
            done.sent_bytes += path.len() as u64;
        }
    }
    Ok(())
}

fn names(backend: &dyn Backend, directory: &str) -> Result<HashSet<String>, RepositoryError> {
    Ok(backend.list(directory)?.into_iter().map(|(path, _)| path).collect())
}

/// The stamps of a repository's names, ascending.
fn stamps(backend: &dyn Backend) -> Result<Vec<Stamp>, RepositoryError> {
    let listed = backend.list("snapshots")?;
    let stamp = |(path, _): (String, u64)| {
        if let Some(Key::Snapshot(stamp)) = Key::parse(&path) { Some(stamp) } else { None }
    };
    let mut stamps: Vec<Stamp> = listed.into_iter().filter_map(stamp).collect();
    stamps.sort_unstable();
    Ok(stamps)
}
