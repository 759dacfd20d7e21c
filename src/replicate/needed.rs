//! Which packs of a repository another place needs.

use super::error::ReplicateError;
use crate::backend::Piece;
use crate::format::{ChunkRecord, IndexedPack, Key, Pack};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::Survey;
use crate::repository::{Repository, Snapshot};
use std::collections::HashSet;

/// The packs that these snapshots need and that aren't there, with their sizes.
pub fn needed_packs(
    source: &Repository,
    target: Option<&Repository>,
    there: &HashSet<Id>,
    snapshots: &[&Snapshot],
    progress: &dyn Progress,
) -> Result<Vec<(Id, u64)>, ReplicateError> {
    let condemned = source.condemned().map_err(ReplicateError::source)?;
    let mut survey = Survey::new(source, snapshots, &condemned, &mut |_, _| Ok(()), progress)
        .map_err(ReplicateError::source)?;
    if let Some((_, lost)) = survey.lost.pop() {
        return Err(ReplicateError::source(lost.error));
    }
    let mut needed = Vec::new();
    for pack in survey.packs.iter().filter(|pack| pack.live > 0 && !there.contains(&pack.id)) {
        if let Some(target) = target
            && has_all(source, target, &survey, pack.id)?
        {
            continue;
        }
        needed.push((pack.id, pack.size));
    }
    Ok(needed)
}

/// Everything of a pack that is needed lies there too, byte for byte, in packs that stay: a prune there has moved it.
fn has_all(
    source: &Repository,
    target: &Repository,
    survey: &Survey,
    pack: Id,
) -> Result<bool, ReplicateError> {
    let IndexedPack { records, .. } = source.read_trailer(pack).map_err(ReplicateError::source)?;
    let mut offset = Pack::FIRST_OFFSET;
    for record in &records {
        let is_live = survey.is_live(&pack, offset, record.id.prefix());
        offset += u64::from(record.stored_len);
        let index = target.index().map_err(ReplicateError::target)?;
        let is_there = !is_live
            || (copy_of(target, record, true)?.is_some()
                && index.holds(&record.id).map_err(ReplicateError::target)?);
        if !is_there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the same stored bytes may lie in a repository: a chunk that begins alike, as long, encoded alike.
fn copy_of(
    target: &Repository,
    record: &ChunkRecord,
    lasting: bool,
) -> Result<Option<Piece>, ReplicateError> {
    let index = target.index().map_err(ReplicateError::target)?;
    let same = index.find_all(record.id.prefix()).into_iter().find(|location| {
        location.stored_len == record.stored_len
            && location.plain_len == record.plain_len
            && location.encoding == record.encoding
            && location.bases == record.bases
            && (!lasting || index.is_lasting_pack(&location.pack))
    });
    Ok(same.map(|location| Piece::Copy {
        key: Key::Pack(location.pack).path(),
        offset: location.offset,
        len: u64::from(location.stored_len),
    }))
}

/// A recipe of more pieces is longer than what it saves is worth.
const MOST_PIECES: usize = 4000;

/// How a pack is put together over there: from pieces, and from what has to be sent between them.
pub struct Recipe {
    pub pieces: Vec<Piece>,
    pub sent: Vec<u8>,
}

/// How to put a pack together from what is there. `None` if less than a quarter is.
pub fn recipe(
    target: &Repository,
    pack: &IndexedPack,
    bytes: &[u8],
) -> Result<Option<Recipe>, ReplicateError> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut sent = Vec::new();
    let mut send = |pieces: &mut Vec<Piece>, part: &[u8]| {
        sent.extend_from_slice(part);
        match pieces.last_mut() {
            Some(Piece::Sent { len }) => *len += part.len() as u64,
            _ => pieces.push(Piece::Sent { len: part.len() as u64 }),
        }
    };
    let mut at = Pack::FIRST_OFFSET;
    send(&mut pieces, bytes.get(..at as usize).unwrap_or_default());
    for record in &pack.records {
        let end = at + u64::from(record.stored_len);
        match (copy_of(target, record, false)?, pieces.last_mut()) {
            // Neighbours there are one piece.
            (
                Some(Piece::Copy { key, offset, len }),
                Some(Piece::Copy { key: before, offset: from, len: so_far }),
            ) if key == *before && *from + *so_far == offset => {
                *so_far += len;
            }
            (Some(piece), _) => pieces.push(piece),
            (None, _) => send(&mut pieces, bytes.get(at as usize..end as usize).unwrap_or_default()),
        }
        at = end;
    }
    send(&mut pieces, bytes.get(at as usize..).unwrap_or_default());
    Ok((sent.len() <= bytes.len() / 4 * 3 && pieces.len() <= MOST_PIECES).then_some(Recipe { pieces, sent }))
}
