//! Puts index files together that are small or speak of packs that are gone.

use crate::id::Id;
use crate::repository::{IndexWriter, Repository, RepositoryError};
use std::collections::HashSet;

/// Smaller files are put together when there are many.
const SMALL_BYTES: u64 = 256 << 10;
const MANY: usize = 8;

/// Writes files that say what is still true of those that go, and returns these.
pub fn merge(repository: &Repository) -> Result<Vec<Id>, RepositoryError> {
    let index = repository.index()?;
    let (mut gone, mut small) = (Vec::new(), Vec::new());
    for (name, size) in index.files() {
        let Ok(file) = index.read_file(name)? else { continue };
        let void = file.packs.iter().filter(|pack| !index.has_pack(&pack.pack)).count();
        if void * 2 >= file.packs.len() {
            gone.push(*name);
        } else if *size < SMALL_BYTES {
            small.push(*name);
        }
    }
    if small.len() + gone.len() >= MANY {
        gone.append(&mut small);
    }
    let mut writer = IndexWriter::new(repository);
    let mut listed = HashSet::new();
    for name in &gone {
        let Ok(file) = index.read_file(name)? else { continue };
        for pack in file.packs {
            if index.has_pack(&pack.pack) && listed.insert(pack.pack) {
                writer.add(pack)?;
            }
        }
    }
    let written = writer.finish()?;
    gone.retain(|name| !written.contains(name));
    Ok(gone)
}
