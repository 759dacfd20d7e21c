//! Sends packs: read and proven here, whole or as a recipe there, listed in index files there.

use super::done::Replicated;
use super::error::ReplicateError;
use super::needed::{Recipe, recipe};
use crate::backend::{Backend, ErrorKind, Limit};
use crate::format::{IndexedPack, Key, ListedPack};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{IndexWriter, Repository, RepositoryError, well_read};
use std::sync::mpsc::sync_channel;

/// An index file is written after so many packs, so that a break costs no more than their trailers.
const INDEX_AFTER: usize = 32;

/// Both ends, as far as they could be opened.
pub struct Ends<'e> {
    pub source: &'e dyn Backend,
    pub target: &'e dyn Backend,
    pub opened: Option<(&'e Repository, &'e Repository)>,
    pub pace: &'e Limit,
}

/// Sends packs, one after another, while the next is read.
pub fn send_packs(
    ends: &Ends<'_>,
    packs: &[(Id, u64)],
    done: &mut Replicated,
    progress: &dyn Progress,
) -> Result<(), ReplicateError> {
    let total = packs.iter().map(|(_, size)| size).sum();
    progress.begin(&format!("sending {} pack(s)", packs.len()), Some(total));
    let mut listed = Vec::new();
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(0);
        let source = ends.source;
        scope.spawn(move || {
            for (pack, _) in packs {
                if sender.send((*pack, read_pack(source, *pack))).is_err() {
                    break;
                }
            }
        });
        for (pack, bytes) in receiver {
            if progress.interrupted() {
                return Err(ReplicateError::Interrupted);
            }
            let bytes = bytes?;
            ends.pace.wait(bytes.len() as u64);
            send_pack(ends, pack, &bytes, &mut listed, done)?;
            done.packs += 1;
            progress.advance(bytes.len() as u64);
            if listed.len() >= INDEX_AFTER {
                list(ends, std::mem::take(&mut listed))?;
            }
        }
        Ok(())
    })?;
    list(ends, listed)
}

fn read_pack(source: &dyn Backend, pack: Id) -> Result<Vec<u8>, ReplicateError> {
    let key = Key::Pack(pack).path();
    match source.get(&key) {
        Ok(bytes) if Id::of(&bytes) == pack => Ok(bytes),
        Ok(_) => {
            Err(ReplicateError::source(RepositoryError::damaged(key, "its content does not match its name")))
        }
        Err(error) if error.kind == ErrorKind::NotFound => {
            let detail =
                "a prune has removed it while it was to be sent; the next run finds its chunks elsewhere";
            Err(ReplicateError::source(RepositoryError::damaged(key, detail)))
        }
        other => well_read(&key, other).map_err(ReplicateError::source),
    }
}

fn send_pack(
    ends: &Ends<'_>,
    pack: Id,
    bytes: &[u8],
    listed: &mut Vec<ListedPack>,
    done: &mut Replicated,
) -> Result<(), ReplicateError> {
    let key = Key::Pack(pack).path();
    let Some((source, target)) = ends.opened else {
        done.sent_bytes += bytes.len() as u64;
        return ends.target.put(&key, bytes).map_err(ReplicateError::target);
    };
    let indexed = source.read_trailer(pack).map_err(ReplicateError::source)?;
    if !is_assembled(ends.target, target, &indexed, bytes, done)? {
        ends.target.put(&key, bytes).map_err(ReplicateError::target)?;
        done.sent_bytes += bytes.len() as u64;
    }
    listed.push(ListedPack::from(&indexed));
    target.index().map_err(ReplicateError::target)?.add(&indexed, bytes.len() as u64);
    Ok(())
}

/// The far side has put the pack together from what it has.
fn is_assembled(
    place: &dyn Backend,
    target: &Repository,
    pack: &IndexedPack,
    bytes: &[u8],
    done: &mut Replicated,
) -> Result<bool, ReplicateError> {
    if !place.can_compose() {
        return Ok(false);
    }
    let Some(Recipe { pieces, sent }) = recipe(target, pack, bytes)? else { return Ok(false) };
    let is_done =
        place.compose(&Key::Pack(pack.pack).path(), &pieces, &sent).map_err(ReplicateError::target)?;
    done.sent_bytes += sent.len() as u64;
    if is_done {
        done.assembled_packs += 1;
        done.reused_bytes += (bytes.len() - sent.len()) as u64;
    }
    Ok(is_done)
}

fn list(ends: &Ends<'_>, packs: Vec<ListedPack>) -> Result<(), ReplicateError> {
    let Some((_, target)) = ends.opened else { return Ok(()) };
    let mut writer = IndexWriter::new(target);
    packs.into_iter().try_for_each(|pack| writer.add(pack)).map_err(ReplicateError::target)?;
    writer.finish().map(drop).map_err(ReplicateError::target)
}
