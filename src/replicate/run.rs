//! One run: what is missing there, in the order that leaves a sound repository at every moment.

use super::error::ReplicateError;
use super::needed::needed_packs;
use super::send::{Ends, send_packs};
use crate::backend::{Backend, ErrorKind, Limit};
use crate::format::{Encryption, Key, PackKind};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{Reached, Walk, roots};
use crate::repository::{
    ChunkWriter, IndexOptions, Repository, RepositoryError, Snapshot, Snapshots, Trust, lock_for_use,
};
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
    /// Snapshots that aren't there, and weren't sent because they are older than what is there.
    pub left_out: u64,
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
        self.left_out = other.left_out;
        self.newest_here = other.newest_here.or(self.newest_here);
        self.newest_there = other.newest_there.or(self.newest_there);
        self.warnings.extend(
            other.warnings.into_iter().filter(|warning| !self.warnings.contains(warning)).collect::<Vec<_>>(),
        );
    }
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
    if target.has(&Key::Config.path()).map_err(ReplicateError::target)? {
        prove_alike(source.backend, target)?;
    } else {
        let packs = target.list("packs").map_err(ReplicateError::target)?;
        if !packs.is_empty() {
            return Err(ReplicateError::NotEmpty { location });
        }
        done.is_new = true;
        copy_missing(&carrying, "keys", done)?;
        // Nobody needs it but who finds the place one day.
        if let Ok(readme) = read(&Key::Readme) {
            target.put(&Key::Readme.path(), &readme).map_err(ReplicateError::target)?;
        }
        let config = read(&Key::Config)?;
        target.put(&Key::Config.path(), &config).map_err(ReplicateError::target)?;
    }
    copy_missing(&carrying, "keys", done)?;
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

/// Those that aren't there and are newer, in their profile, than the newest that is at both places; or all.
fn choose<'s>(
    own: &'s Snapshots,
    theirs: &Snapshots,
    wanted: Wanted,
    done: &mut Replicated,
) -> Vec<&'s Snapshot> {
    if wanted == Wanted::All {
        return own.list.iter().collect();
    }
    let newest = |list: &[Snapshot], counts: &dyn Fn(&Snapshot) -> bool| {
        let mut newest: HashMap<String, Stamp> = HashMap::new();
        for snapshot in list.iter().filter(|snapshot| counts(snapshot)) {
            let newest = newest.entry(snapshot.manifest.profile.clone()).or_insert(snapshot.stamp);
            *newest = snapshot.stamp.max(*newest);
        }
        newest
    };
    let common = newest(&own.list, &|snapshot| theirs.get(snapshot.stamp).is_some());
    let (of_ours, of_theirs) = (newest(&own.list, &|_| true), newest(&theirs.list, &|_| true));
    let is_newer = |snapshot: &Snapshot| {
        let profile = snapshot.manifest.profile.as_str();
        // Where all that was common is forgotten on either side, the newest there is, unless nobody here knows of such times.
        let known = common.get(profile).or_else(|| {
            of_theirs.get(profile).filter(|theirs| of_ours.get(profile).is_some_and(|ours| *theirs <= ours))
        });
        known.is_none_or(|known| snapshot.stamp > *known)
    };
    let missing = own.list.iter().filter(|snapshot| theirs.get(snapshot.stamp).is_none());
    let (chosen, older): (Vec<&Snapshot>, Vec<&Snapshot>) = missing.partition(|snapshot| is_newer(snapshot));
    done.left_out = older.len() as u64;
    chosen
}

/// The snapshots of which everything is in packs that are there, and those of which a chunk isn't.
type Sorted<'s> = (Vec<&'s Snapshot>, Vec<(Stamp, Id)>);

fn sound<'s>(
    here: &Repository,
    snapshots: Vec<&'s Snapshot>,
    progress: &dyn Progress,
) -> Result<Sorted<'s>, ReplicateError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(here, progress);
    for snapshot in snapshots {
        let mut lost = None;
        for root in roots(&snapshot.manifest) {
            let unread = walk.below(root, &mut |reached| {
                let (id, _) = of(reached);
                if lost.is_none() && !here.has_chunk(&id)? {
                    lost = Some(id);
                }
                Ok(())
            });
            let unread = unread.map_err(ReplicateError::source)?;
            lost = lost.or(unread.first().map(|lost| lost.node));
        }
        match lost {
            None => good.push(snapshot),
            Some(id) => {
                bad.push((snapshot.stamp, id));
                // Another one may share it.
                walk = Walk::new(here, progress);
            }
        }
    }
    Ok((good, bad))
}

fn of(reached: Reached) -> (Id, PackKind) {
    match reached {
        Reached::Node(id) => (id, PackKind::Tree),
        Reached::Chunk(chunk) => (chunk.id, PackKind::Data),
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

/// Gives snapshots their names there, each once everything that it needs is there to stay: what isn't, since a prune there has
/// condemned or removed it meanwhile, is stored there once more.
fn publish_all(
    ends: &Ends<'_>,
    (here, there): (&Repository, &Repository),
    snapshots: &[&Snapshot],
    theirs: &Snapshots,
    done: &mut Replicated,
    progress: &dyn Progress,
) -> Result<(), ReplicateError> {
    let index = there.index().map_err(ReplicateError::target)?;
    let (mut walk, mut relied) = (Walk::new(here, progress), HashSet::new());
    for snapshot in snapshots {
        loop {
            let lasts = |relied: &HashSet<Id>| relied.iter().all(|pack| index.is_lasting_pack(pack));
            index.refresh().map_err(ReplicateError::target)?;
            if !lasts(&relied) {
                (walk, relied) = (Walk::new(here, progress), HashSet::new());
            }
            let writer = ChunkWriter::new(there, Trust::Index);
            for root in roots(&snapshot.manifest) {
                let walked = walk.below(root, &mut |reached| {
                    let (id, kind) = of(reached);
                    match lasting_there(here, there, &id)? {
                        Some(packs) => relied.extend(packs),
                        None => drop(writer.put(kind, &here.read_chunk(&id)?)?),
                    }
                    Ok(())
                });
                if let Some(lost) = walked.map_err(ReplicateError::target)?.pop() {
                    return Err(ReplicateError::source(lost.error));
                }
            }
            let written = writer.finish().map_err(ReplicateError::target)?;
            done.sent_bytes += written.stored_bytes + written.metadata_bytes;
            relied.extend(written.packs);
            index.refresh().map_err(ReplicateError::target)?;
            if lasts(&relied) {
                break;
            }
        }
        if theirs.get(snapshot.stamp).is_none() {
            publish(ends, snapshot.stamp, done)?;
        }
    }
    Ok(())
}

/// Where a chunk lies there, in packs that stay. A pack that is here too holds what the trailer here says; of others the trailer
/// there is asked.
fn lasting_there(here: &Repository, there: &Repository, id: &Id) -> Result<Option<Vec<Id>>, RepositoryError> {
    let (ours, theirs) = (here.index()?, there.index()?);
    let Some(packs) = theirs.lasting(id.prefix()) else { return Ok(None) };
    let is_common = packs.first().is_some_and(|pack| ours.pack_len(pack) == theirs.pack_len(pack));
    Ok((is_common || theirs.holds(id)?).then_some(packs))
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
            Key::Index(id) => Id::of(&bytes) == *id,
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
