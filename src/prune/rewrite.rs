//! Moves live chunks, byte for byte as they are stored, from packs that go to new ones.

use crate::backend::ErrorKind;
use crate::format::{IndexedPack, Key, Pack};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::Survey;
use crate::repository::{ChunkWriter, Repository, RepositoryError, Trust, Written, well_read};
use std::collections::HashSet;

/// What was moved.
#[derive(Default)]
pub struct Moved {
    /// Packs that nothing is needed of any more.
    pub emptied: HashSet<Id>,
    pub written: Written,
    /// Packs that can't be emptied, with the reason; they stay.
    pub left: Vec<(Id, String)>,
    /// There was no room for all of it.
    pub is_short_of_space: bool,
}

/// Moves what is live in these packs. When it returns, what was moved is durable and was read back.
pub fn rewrite(
    repository: &Repository,
    survey: &Survey,
    packs: &[Id],
    progress: &dyn Progress,
) -> Result<Moved, RepositoryError> {
    let mut moved = Moved::default();
    if packs.is_empty() {
        return Ok(moved);
    }
    progress.begin("moving what is needed out of packs that go", None);
    let writer = ChunkWriter::new(repository, Trust::Index);
    match move_all(repository, survey, packs, &writer, &mut moved, progress) {
        Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NoSpace => {
            // What was moved is a second copy of what stays where it is.
            let (emptied, is_short_of_space) = (HashSet::new(), true);
            return Ok(Moved { emptied, is_short_of_space, ..moved });
        }
        other => other?,
    }
    for pack in &moved.written.packs {
        // The same chunks in the same order are the same pack.
        moved.emptied.remove(pack);
    }
    Ok(moved)
}

fn move_all(
    repository: &Repository,
    survey: &Survey,
    packs: &[Id],
    writer: &ChunkWriter<'_>,
    moved: &mut Moved,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    for pack in packs {
        RepositoryError::stop(progress)?;
        match move_one(repository, survey, *pack, writer, progress) {
            Ok(()) => drop(moved.emptied.insert(*pack)),
            Err(RepositoryError::Damaged { file, detail }) => {
                moved.left.push((*pack, format!("{file}: {detail}")));
            }
            Err(error) => return Err(error),
        }
    }
    moved.written = writer.finish(progress)?;
    Ok(())
}

/// A pack that doesn't prove itself is evidence, and is left as it is.
fn move_one(
    repository: &Repository,
    survey: &Survey,
    pack: Id,
    writer: &ChunkWriter<'_>,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    let key = Key::Pack(pack).path();
    let bytes = well_read(&key, repository.backend().get(&key))?;
    if Id::of(&bytes) != pack {
        return Err(RepositoryError::damaged(key, "its content does not match its name"));
    }
    let IndexedPack { kind, records, .. } = repository.read_trailer(pack)?;
    let mut offset = Pack::FIRST_OFFSET;
    for record in &records {
        let end = offset + u64::from(record.stored_len);
        let stored = bytes.get(offset as usize..end as usize).unwrap_or_default();
        if survey.is_live(&pack, offset, record.id.prefix()) {
            writer.put_stored(kind, record, stored)?;
        }
        offset = end;
    }
    progress.advance(bytes.len() as u64);
    Ok(())
}
