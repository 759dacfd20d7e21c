//! What of the index may be relied on: what other processes have pruned or condemned meanwhile doesn't count.

use super::chunk_index::{ChunkIndex, listing_of_packs};
use super::condemned::read_doomed;
use super::error::RepositoryError;
use super::location::Location;
use super::memory_table::IdMap;
use crate::backend::ErrorKind;
use crate::format::DoomedKind;
use crate::id::Id;
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// What a second look at the packs found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// Packs are gone that were there at the look before.
    pub is_any_gone: bool,
    pub is_any_condemned: bool,
}

impl Refreshed {
    /// Not everything that was there can be relied on.
    pub fn is_less(self) -> bool {
        self.is_any_gone || self.is_any_condemned
    }
}

impl ChunkIndex {
    /// Lists the packs again: those that another process has pruned since count no longer, and what is condemned by now
    /// counts as that.
    pub fn refresh(&self) -> Result<Refreshed, RepositoryError> {
        // What a prune deletes it has condemned before, so the listing of packs comes last.
        let condemned = read_doomed(&*self.backend, &self.seals)?.list.into_iter();
        let condemned: HashSet<Id> =
            condemned.filter(|doomed| doomed.kind == DoomedKind::Pack).map(|doomed| doomed.id).collect();
        let now: IdMap<u64> = listing_of_packs(&*self.backend)?.into_iter().collect();
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        let before = packs.len();
        packs.retain(|pack, size| now.get(pack) == Some(size));
        // What this run found wrong counts, also where it couldn't condemn it.
        let is_any_distrusted = !self.distrusted.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        let refreshed = Refreshed {
            is_any_gone: packs.len() < before,
            is_any_condemned: is_any_distrusted || !condemned.is_empty(),
        };
        drop(packs);
        *self.doomed.write().unwrap_or_else(PoisonError::into_inner) = condemned;
        Ok(refreshed)
    }

    /// The chunk is in a pack that is there to stay, by that pack's trailer. One whose trailer can't be read doesn't count.
    pub fn holds(&self, id: &Id) -> Result<bool, RepositoryError> {
        Ok(self.keepers(id)?.is_some())
    }

    /// The packs that such a chunk and its bases lie in; if that can be, only such as an index file lists.
    pub(super) fn keepers(&self, id: &Id) -> Result<Option<Vec<Id>>, RepositoryError> {
        let mut doubtful = None;
        for location in self.find_all(id.prefix()) {
            let Some(packs) = self.lasting_packs(&location) else { continue };
            let Some(len) = self.pack_len(&location.pack) else { continue };
            match self.trailers.holds(&*self.backend, (location.pack, len), location.offset, id) {
                Ok(true) if packs.iter().any(|pack| self.is_unlisted(pack)) => {
                    doubtful.get_or_insert(packs);
                }
                Ok(true) => return Ok(Some(packs)),
                Ok(false) => {}
                Err(RepositoryError::Damaged { file, detail }) => {
                    self.warn(format!("{file} is damaged and left aside: {detail}"));
                }
                Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(doubtful)
    }

    /// The pack was found by its trailer, and nobody has read it back since.
    pub fn is_unlisted(&self, pack: &Id) -> bool {
        self.unlisted.read().unwrap_or_else(PoisonError::into_inner).contains(pack)
    }

    /// There are such packs.
    pub(super) fn has_unlisted(&self) -> bool {
        !self.unlisted.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// It was read back, and will be listed, or doesn't count any more.
    pub(super) fn note_listed(&self, pack: &Id) {
        self.unlisted.write().unwrap_or_else(PoisonError::into_inner).remove(pack);
    }

    /// Nothing new may rely on the pack.
    pub(super) fn distrust(&self, pack: Id) {
        self.distrusted.write().unwrap_or_else(PoisonError::into_inner).insert(pack);
    }

    /// The pack is gone.
    pub(super) fn forget(&self, pack: &Id) {
        self.packs.write().unwrap_or_else(PoisonError::into_inner).remove(pack);
    }

    /// Where a chunk lies in a pack that is there to stay, the bases of a delta too; what it is that it relies on.
    pub fn lasting(&self, prefix: u64) -> Option<Vec<Id>> {
        self.find_all(prefix).iter().find_map(|location| self.lasting_packs(location))
    }

    fn lasting_packs(&self, location: &Location) -> Option<Vec<Id>> {
        let mut packs = vec![self.is_lasting(location).then_some(location.pack)?];
        for base in &location.bases {
            let whole = self.find_all(*base).into_iter();
            let mut whole = whole.filter(|base| !base.encoding.is_difference() && self.is_lasting(base));
            packs.push(whole.next()?.pack);
        }
        Some(packs)
    }

    /// The pack is there, and nobody has condemned it.
    pub fn is_lasting_pack(&self, pack: &Id) -> bool {
        self.has_pack(pack) && !self.is_doomed(pack)
    }

    /// A pack of this name is condemned.
    pub fn is_doomed(&self, pack: &Id) -> bool {
        let is_in =
            |packs: &RwLock<HashSet<Id>>| packs.read().unwrap_or_else(PoisonError::into_inner).contains(pack);
        is_in(&self.doomed) || is_in(&self.distrusted)
    }

    fn is_lasting(&self, location: &Location) -> bool {
        self.is_lasting_pack(&location.pack) && self.fits(location)
    }
}
