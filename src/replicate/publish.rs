//! Gives snapshots their names there, once everything that they need is there.

use super::choose::of;
use super::done::Replicated;
use super::error::ReplicateError;
use super::send::Ends;
use crate::backend::{Backend, ErrorKind};
use crate::format::Key;
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{Walk, roots};
use crate::repository::{ChunkWriter, Repository, RepositoryError, Snapshot, Snapshots, Trust};
use crate::stamp::Stamp;
use std::collections::HashSet;

/// So often is stored again what a prune there takes away.
const MOST_ROUNDS: usize = 5;

/// Gives snapshots their names there, each once everything that it needs is there to stay: what isn't, since a prune there has
/// condemned or removed it meanwhile, is stored there once more.
pub fn publish_all(
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
        let mut rounds = 0;
        loop {
            if progress.interrupted() {
                return Err(ReplicateError::Interrupted);
            }
            rounds += 1;
            if rounds > MOST_ROUNDS {
                let detail = "what is stored there doesn't stay: is somebody pruning it all the time?".into();
                let file = Key::Snapshot(snapshot.stamp).path();
                return Err(ReplicateError::target(RepositoryError::Damaged { file, detail }));
            }
            let lasts = |relied: &HashSet<Id>| relied.iter().all(|pack| index.is_lasting_pack(pack));
            index.refresh().map_err(ReplicateError::target)?;
            if !lasts(&relied) {
                (walk, relied) = (Walk::new(here, progress), HashSet::new());
            }
            let writer = ChunkWriter::new(there, Trust::Index);
            for root in roots(&snapshot.manifest) {
                let mut unread = None;
                let walked = walk.below(root, &mut |reached| {
                    let (id, kind) = of(reached);
                    match lasting_there(here, there, &id)? {
                        Some(packs) => relied.extend(packs),
                        None => match here.read_chunk(&id) {
                            Ok(plain) => drop(writer.put(kind, &plain)?),
                            Err(error) => unread = unread.take().or(Some(error)),
                        },
                    }
                    Ok(())
                });
                let mut walked = walked.map_err(ReplicateError::target)?;
                if let Some(error) = unread {
                    return Err(ReplicateError::source(error));
                }
                if let Some(lost) = walked.pop() {
                    return Err(ReplicateError::source(lost.error));
                }
            }
            let written = writer.finish(progress).map_err(ReplicateError::target)?;
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

/// A small file of the source, which has to prove itself; `None` if it is gone. What the disk has lost proves nothing: it has no bytes.
fn as_it_lies(ends: &Ends<'_>, path: &str) -> Result<Option<Vec<u8>>, ReplicateError> {
    match ends.source.get(path) {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind == ErrorKind::Lost => Ok(Some(Vec::new())),
        other => other.map(Some).map_err(ReplicateError::source),
    }
}

/// A snapshot's manifest, then its name.
pub fn publish(ends: &Ends<'_>, stamp: Stamp, done: &mut Replicated) -> Result<(), ReplicateError> {
    let name = Key::Snapshot(stamp).path();
    // It was forgotten meanwhile.
    let Some(line) = as_it_lies(ends, &name)? else { return Ok(()) };
    let hex = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n'));
    let Some(manifest) = hex.and_then(Id::from_hex) else {
        done.warnings.push(format!("{name} is damaged, and not sent"));
        return Ok(());
    };
    let key = Key::Manifest(manifest);
    let Some(bytes) = as_it_lies(ends, &key.path())? else { return Ok(()) };
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
pub fn copy_missing(ends: &Ends<'_>, directory: &str, done: &mut Replicated) -> Result<(), ReplicateError> {
    let there = names(ends.target, directory).map_err(ReplicateError::target)?;
    for path in names(ends.source, directory).map_err(ReplicateError::source)? {
        let Some(key) = Key::parse(&path).filter(|_| !there.contains(&path)) else { continue };
        let Some(bytes) = as_it_lies(ends, &path)? else { continue };
        if key.proves(&bytes) {
            ends.target.put(&path, &bytes).map_err(ReplicateError::target)?;
            done.sent_bytes += bytes.len() as u64;
        }
    }
    Ok(())
}

/// Pins of snapshots that are there.
pub fn pins(ends: &Ends<'_>, done: &mut Replicated) -> Result<(), ReplicateError> {
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

pub fn names(backend: &dyn Backend, directory: &str) -> Result<HashSet<String>, RepositoryError> {
    Ok(backend.list(directory)?.into_iter().map(|(path, _)| path).collect())
}
