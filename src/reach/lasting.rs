//! Before a snapshot is published: everything that it refers to is in packs that are there to stay.

use super::walk::{Reached, Walk, roots};
use crate::format::{Manifest, PackKind};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{ChunkWriter, Repository, RepositoryError};
use std::collections::HashSet;

/// What a snapshot relies on.
pub struct Rescued {
    /// The packs that its chunks lie in.
    pub packs: HashSet<Id>,
    /// Chunks that lay in condemned packs only, and were stored once more.
    pub stored_again: u64,
}

/// Stores again what a draft refers to and what lies only in packs that are condemned; `None` if there are none such.
/// What is gone already is an error: the source has to be read again. `is_doubtful`: something was gone at an earlier look.
pub fn rescue(
    repository: &Repository,
    draft: &Manifest,
    writer: &ChunkWriter<'_>,
    is_doubtful: bool,
    progress: &dyn Progress,
) -> Result<Option<Rescued>, RepositoryError> {
    let index = repository.index()?;
    let seen = index.refresh()?;
    if !seen.is_less() && !is_doubtful {
        return Ok(None);
    }
    // A quick proof asks only whether it is there.
    let is_condemned =
        |id: &Id| index.find_all(id.prefix()).iter().any(|location| index.is_doomed(&location.pack));
    let mut rescued = Rescued { packs: HashSet::new(), stored_again: 0 };
    let mut is_any_adopted = false;
    let mut walk = Walk::new(repository, progress);
    for root in roots(draft) {
        let mut lost = walk.below(root, &mut |reached| {
            let (id, kind) = match reached {
                Reached::Node(id) => (id, PackKind::Tree),
                Reached::Chunk(chunk) => (chunk.id, PackKind::Data),
            };
            let mut packs = index.lasting(id.prefix());
            if packs.iter().flatten().any(|pack| index.is_unlisted(pack)) {
                packs = writer.kept_in(&id)?;
                is_any_adopted = true;
            }
            if let Some(packs) = packs {
                rescued.packs.extend(packs);
                return Ok(());
            }
            match repository.read_chunk(&id) {
                Ok(plain) => {
                    writer.put(kind, &plain)?;
                    rescued.stored_again += 1;
                }
                Err(RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. })
                    if seen.is_any_gone || is_doubtful =>
                {
                    return Err(RepositoryError::PrunedMeanwhile { id });
                }
                Err(error @ RepositoryError::Damaged { .. }) if is_condemned(&id) => return Err(error),
                // It was lost before: the proof that comes says where.
                Err(RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        if let Some(lost) = lost.pop().filter(|_| seen.is_any_gone || is_doubtful) {
            return Err(RepositoryError::PrunedMeanwhile { id: lost.node });
        }
    }
    if rescued.stored_again > 0 || is_any_adopted {
        rescued.packs.extend(writer.finish(progress)?.packs);
    }
    Ok(Some(rescued))
}

/// None of the packs that a draft relies on was condemned or removed meanwhile. `None`: nothing was when they were looked at.
pub fn is_still_lasting(
    repository: &Repository,
    packs: &Option<HashSet<Id>>,
) -> Result<bool, RepositoryError> {
    let index = repository.index()?;
    let is_less = index.refresh()?.is_less();
    Ok(match packs {
        None => !is_less,
        Some(packs) => packs.iter().all(|pack| index.is_lasting_pack(pack)),
    })
}
