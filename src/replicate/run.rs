//! One run: what is missing there, in the order that leaves a sound repository at every moment.

use super::choose::{Wanted, choose, sound};
use super::done::Replicated;
use super::error::ReplicateError;
use super::needed::needed_packs;
use super::publish::{copy_missing, names, pins, publish, publish_all};
use super::send::{Ends, send_packs};
use crate::backend::{Backend, Limit};
use crate::format::{Encryption, Key};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{IndexOptions, Repository, RepositoryError, lock_for_use};
use crate::stamp::Stamp;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Where it comes from.
pub struct Source<'s> {
    pub backend: &'s dyn Backend,
    /// The same, opened; without its key files can still be copied.
    pub repository: Option<&'s Repository>,
}

/// How it is done.
pub struct Terms<'t> {
    pub wanted: Wanted,
    /// How the replica's index is kept.
    pub options: IndexOptions,
    /// How long to wait for others.
    pub patience: Duration,
    /// How fast packs are written to a place that doesn't limit that itself.
    pub pace: &'t Limit,
}

/// Sends what is missing. Interrupted anywhere, the place holds complete snapshots only, and another run goes on there.
pub fn replicate(
    source: &Source<'_>,
    target: &Arc<dyn Backend>,
    terms: &Terms<'_>,
    done: &mut Replicated,
    progress: &dyn Progress,
) -> Result<(), ReplicateError> {
    prepare(source, &**target, done)?;
    let opened = source.repository.map(|here| open_alike(here, target, &terms.options)).transpose()?;
    // Neither side is pruned with `--now` meanwhile.
    let _here = lock_for_use(source.backend, terms.patience).map_err(ReplicateError::source)?;
    let _there = lock_for_use(&**target, terms.patience).map_err(ReplicateError::target)?;
    let ends = Ends {
        source: source.backend,
        target: &**target,
        opened: source.repository.zip(opened.as_ref()),
        pace: terms.pace,
    };
    match ends.opened {
        Some((here, there)) => by_snapshots(&ends, here, there, terms.wanted, done, progress)?,
        None => by_files(&ends, done, progress)?,
    }
    pins(&ends, done)?;
    done.newest_here = stamps(source.backend).map_err(ReplicateError::source)?.into_iter().max();
    done.newest_there = stamps(&**target).map_err(ReplicateError::target)?.into_iter().max();
    Ok(())
}

/// The place holds this repository, or nothing; then it is made one, without snapshots.
fn prepare(source: &Source<'_>, target: &dyn Backend, done: &mut Replicated) -> Result<(), ReplicateError> {
    let unlimited = Limit::none();
    let carrying = Ends { source: source.backend, target, opened: None, pace: &unlimited };
    let location = target.location();
    if location == source.backend.location() {
        return Err(ReplicateError::Itself { location });
    }
    let read = |key: &Key| source.backend.get(&key.path()).map_err(ReplicateError::source);
    let is_new = !target.has(&Key::Config.path()).map_err(ReplicateError::target)?;
    if !is_new {
        prove_alike(source.backend, target)?;
    } else if !target.list("packs").map_err(ReplicateError::target)?.is_empty() {
        return Err(ReplicateError::NotEmpty { location });
    }
    copy_missing(&carrying, "keys", done)?;
    if is_new {
        // Nobody needs it but who finds the place one day.
        if let Ok(readme) = read(&Key::Readme) {
            target.put(&Key::Readme.path(), &readme).map_err(ReplicateError::target)?;
        }
        let config = read(&Key::Config)?;
        target.put(&Key::Config.path(), &config).map_err(ReplicateError::target)?;
    }
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
    let theirs = there.snapshots().map_err(ReplicateError::target)?;
    for (file, detail) in &own.damaged {
        done.warnings.push(format!("{file} is damaged, and not sent: {detail}"));
    }
    let chosen = choose(&own, &theirs, wanted, done);
    progress.begin("looking whether what is to be sent is whole", None);
    let (sound, lost) = sound(here, chosen, progress)?;
    if !sound.is_empty() {
        let packs = whole_packs(here, there)?;
        let target = Some(there).filter(|_| !packs.is_empty());
        let needed = needed_packs(here, target, &packs, &sound, progress)?;
        send_packs(ends, &needed, done, progress)?;
        progress.begin("publishing snapshots there", None);
        publish_all(ends, (here, there), &sound, &theirs, done, progress)?;
    }
    match lost.first() {
        None => Ok(()),
        Some((stamp, chunk)) => {
            let detail = format!(
                "{} snapshot(s) were not sent: chunk {chunk} is lost here (`icecore check` tells what that concerns)",
                lost.len()
            );
            Err(ReplicateError::source(RepositoryError::damaged(format!("snapshot {stamp}"), detail)))
        }
    }
}

/// The packs that are there as they are here, or that are there alone; not those that are cut short or damaged.
fn whole_packs(here: &Repository, there: &Repository) -> Result<HashSet<Id>, ReplicateError> {
    let (ours, theirs) =
        (here.index().map_err(ReplicateError::source)?, there.index().map_err(ReplicateError::target)?);
    let damaged: HashSet<String> = theirs.damaged_files().into_iter().collect();
    let is_whole = |(pack, len): &(Id, u64)| {
        ours.pack_len(pack).is_none_or(|own| own == *len) && !damaged.contains(&Key::Pack(*pack).path())
    };
    Ok(theirs.packs().into_iter().filter(is_whole).map(|(pack, _)| pack).collect())
}

/// Without a key nobody can tell what a snapshot needs: everything is sent that isn't there.
fn by_files(ends: &Ends<'_>, done: &mut Replicated, progress: &dyn Progress) -> Result<(), ReplicateError> {
    // Names first: what is published meanwhile is left to the next run.
    let stamps = stamps(ends.source).map_err(ReplicateError::source)?;
    let packs = ends.source.list("packs").map_err(ReplicateError::source)?;
    let missing = || -> Result<Vec<(Id, u64)>, ReplicateError> {
        let there: HashSet<(String, u64)> =
            ends.target.list("packs").map_err(ReplicateError::target)?.into_iter().collect();
        let missing = packs.iter().filter(|pack| !there.contains(*pack));
        let pack = |(path, size): &(String, u64)| match Key::parse(path) {
            Some(Key::Pack(id)) => Some((id, *size)),
            _ => None,
        };
        Ok(missing.filter_map(pack).collect())
    };
    send_packs(ends, &missing()?, done, progress)?;
    copy_missing(ends, "index", done)?;
    let known = self::stamps(ends.target).map_err(ReplicateError::target)?;
    let known: HashSet<Stamp> = known.into_iter().collect();
    for stamp in stamps.into_iter().filter(|stamp| !known.contains(stamp)) {
        if let Some((pack, _)) = missing()?.first() {
            let detail = "a prune there has removed it meanwhile; the next run sends it again";
            return Err(ReplicateError::target(RepositoryError::damaged(Key::Pack(*pack).path(), detail)));
        }
        publish(ends, stamp, done)?;
    }
    Ok(())
}

/// The stamps of a repository's names, ascending.
pub fn stamps(backend: &dyn Backend) -> Result<Vec<Stamp>, RepositoryError> {
    let listed = backend.list("snapshots")?;
    let stamp = |(path, _): (String, u64)| {
        if let Some(Key::Snapshot(stamp)) = Key::parse(&path) { Some(stamp) } else { None }
    };
    let mut stamps: Vec<Stamp> = listed.into_iter().filter_map(stamp).collect();
    stamps.sort_unstable();
    Ok(stamps)
}
