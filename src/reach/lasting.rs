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

/// Stores again what a draft refers to and what lies only in packs that a prune has condemned; `None` if there are none such.
/// What is gone already is an error: the source has to be read again.
pub fn rescue(
    repository: &Repository,
    draft: &Manifest,
    writer: &ChunkWriter<'_>,
    progress: &dyn Progress,
) -> Result<Option<Rescued>, RepositoryError> {
    let index = repository.index()?;
    if !index.refresh()? {
        return Ok(None);
    }
    let mut rescued = Rescued { packs: HashSet::new(), stored_again: 0 };
    let mut walk = Walk::new(repository, progress);
    for root in roots(draft) {
        let mut lost = walk.below(root, &mut |reached| {
            let (id, kind) = match reached {
                Reached::Node(id) => (id, PackKind::Tree),
                Reached::Chunk(chunk) => (chunk.id, PackKind::Data),
            };
            if let Some(packs) = index.lasting(id.prefix()) {
                rescued.packs.extend(packs);
                return Ok(());
            }
            writer.put(kind, &repository.read_chunk(&id)?)?;
            rescued.stored_again += 1;
            Ok(())
        })?;
        if let Some(lost) = lost.pop() {
            return Err(lost.error);
        }
    }
    if rescued.stored_again > 0 {
        rescued.packs.extend(writer.finish()?.packs);
    }
    Ok(Some(rescued))
}

/// None of the packs that a draft relies on was condemned or removed meanwhile. `None`: nothing was when they were looked at.
pub fn is_still_lasting(
    repository: &Repository,
    packs: &Option<HashSet<Id>>,
) -> Result<bool, RepositoryError> {
    let index = repository.index()?;
    let is_less = index.refresh()?;
    Ok(match packs {
        None => !is_less,
        Some(packs) => packs.iter().all(|pack| index.is_lasting_pack(pack)),
    })
}
