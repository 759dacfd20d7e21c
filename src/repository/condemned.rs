//! What prunes have condemned, as the files in `doomed/` say.

use super::error::RepositoryError;
use crate::backend::{Backend, ErrorKind};
use crate::crypto::{SealedFile, Seals};
use crate::format::{Doomed, DoomedFile, Key};
use crate::id::Id;

/// All that is condemned, and the files that say so.
#[derive(Default)]
pub struct Condemned {
    /// Each file once, with the time when it was condemned first.
    pub list: Vec<Doomed>,
    pub(super) files: Vec<Id>,
    /// Files that don't prove themselves: what they condemned isn't.
    pub damaged: Vec<String>,
}

/// Reads `doomed/`.
pub fn read_doomed(backend: &dyn Backend, seals: &Seals) -> Result<Condemned, RepositoryError> {
    let mut condemned = Condemned::default();
    for (path, _) in backend.list("doomed")? {
        let Some(Key::Doomed(id)) = Key::parse(&path) else { continue };
        let bytes = match backend.get(&path) {
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            // It doesn't prove itself.
            Err(error) if error.kind == ErrorKind::Lost => Vec::new(),
            other => other?,
        };
        let is_right = Id::of(&bytes) == id;
        let opened = seals.open_file(SealedFile::Doomed, bytes).ok().filter(|_| is_right);
        match opened.and_then(|bytes| DoomedFile::decode(&bytes).ok()) {
            Some(file) => {
                condemned.files.push(id);
                condemned.list.extend(file.doomed);
            }
            None => condemned.damaged.push(path),
        }
    }
    condemned.list.sort_unstable();
    condemned.list.dedup_by_key(|doomed| (doomed.kind, doomed.id));
    Ok(condemned)
}
