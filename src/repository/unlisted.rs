//! Packs that no index file lists yet. One is listed once it was read back, so that nobody takes for stored what only seems to be.

use super::error::RepositoryError;
use super::index_writer::FULL_CHUNKS;
use super::pack_writer::{ChunkWriter, lock};
use crate::backend::ErrorKind;
use crate::cores::on_all_cores;
use crate::format::{ChunkRef, ListedPack};
use crate::id::Id;
use crate::progress::Progress;
use std::time::{Duration, Instant};

/// An index file is written after this many packs or this long, so that a killed first backup goes on where it was.
const CHECKPOINT_PACKS: usize = 32;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(300);

/// Packs of this run, and packs that others have left and this run relies on.
pub(super) struct Unlisted {
    /// To be read back, by whoever has time.
    unread: Vec<Id>,
    /// To be listed.
    proven: Vec<ListedPack>,
    /// When packs were listed last.
    since: Instant,
}

impl Default for Unlisted {
    fn default() -> Self {
        Self { unread: Vec::new(), proven: Vec::new(), since: Instant::now() }
    }
}

impl Unlisted {
    fn is_due(&self) -> bool {
        self.proven.len() >= CHECKPOINT_PACKS
            || self.proven.iter().map(|pack| pack.chunks.len()).sum::<usize>() >= FULL_CHUNKS
            || self.since.elapsed() >= CHECKPOINT_AFTER
    }
}

impl ChunkWriter<'_> {
    /// Notes a pack that was written.
    pub(super) fn note_written(&self, pack: Id) {
        lock(&self.unlisted).unread.push(pack);
        self.to_lane.wake();
    }

    /// A pack that is to be read back; whoever takes it does that.
    pub(super) fn next_unread(&self) -> Option<Id> {
        lock(&self.unlisted).unread.pop()
    }

    /// Reads back a pack as it lies there, and lists it with others when there are many; returns its length.
    pub(super) fn read_back(&self, pack: Id) -> Result<u64, RepositoryError> {
        let (len, listed) = self.repository.prove_written(&pack)?;
        self.note_proven(listed)?;
        Ok(len)
    }

    fn note_proven(&self, pack: ListedPack) -> Result<(), RepositoryError> {
        let mut unlisted = lock(&self.unlisted);
        unlisted.proven.push(pack);
        let due = if unlisted.is_due() { std::mem::take(&mut unlisted.proven) } else { Vec::new() };
        drop(unlisted);
        self.list(due)
    }

    /// Reads back all that nobody has read back yet, on all cores, and lists it.
    pub(super) fn prove_and_list(&self, progress: &dyn Progress) -> Result<(), RepositoryError> {
        let waiting = lock(&self.unlisted).unread.len();
        if waiting > 0 {
            progress.begin("proving what was written", None);
        }
        on_all_cores(waiting, |_| {
            RepositoryError::stop(progress)?;
            progress.advance(self.next_unread().map_or(Ok(0), |pack| self.read_back(pack))?);
            Ok::<_, RepositoryError>(())
        })?;
        let proven = std::mem::take(&mut lock(&self.unlisted).proven);
        self.list(proven)
    }

    fn list(&self, packs: Vec<ListedPack>) -> Result<(), RepositoryError> {
        if packs.is_empty() {
            return Ok(());
        }
        lock(&self.unlisted).since = Instant::now();
        let (_, len) = self.repository.put_index(packs)?;
        lock(&self.written).metadata_bytes += len;
        Ok(())
    }

    /// Where the chunk and its bases are, if that is in packs that are there to stay. One that no index file lists, which a killed
    /// run has left or another one is about to list, is read back first: what isn't what its name says is condemned, and doesn't
    /// count.
    pub fn kept_in(&self, id: &Id) -> Result<Option<Vec<Id>>, RepositoryError> {
        let index = self.repository.index()?;
        while let Some(packs) = index.keepers(id)? {
            match packs.iter().find(|pack| index.is_unlisted(pack)) {
                Some(doubtful) => self.adopt(*doubtful)?,
                // Somebody else may just have found out that one isn't what its name says.
                None if packs.iter().all(|pack| index.is_lasting_pack(pack)) => return Ok(Some(packs)),
                None => {}
            }
        }
        Ok(None)
    }

    /// As `kept_in`, for chunks that a difference is about to be made to.
    pub(super) fn adopt_bases(&self, old: &[ChunkRef]) -> Result<(), RepositoryError> {
        let index = self.repository.index()?;
        if !index.has_unlisted() {
            return Ok(());
        }
        for chunk in old {
            if index.find(chunk.id.prefix()).is_some_and(|location| index.is_unlisted(&location.pack)) {
                self.kept_in(&chunk.id)?;
            }
        }
        Ok(())
    }

    /// Reads an unlisted pack back. Afterwards it is to be listed, or nothing relies on it.
    fn adopt(&self, pack: Id) -> Result<(), RepositoryError> {
        let index = self.repository.index()?;
        let _one_at_a_time = lock(&self.adopting);
        if !index.is_unlisted(&pack) {
            return Ok(());
        }
        match self.repository.prove_written(&pack) {
            Ok((_, listed)) => self.note_proven(listed)?,
            Err(RepositoryError::Damaged { file, detail }) => {
                index.warn(format!(
                    "{file}, which no index file lists, is damaged, and what is needed of it is stored again: {detail}"
                ));
                index.distrust(pack);
            }
            Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => index.forget(&pack),
            Err(error) => return Err(error),
        }
        index.note_listed(&pack);
        Ok(())
    }
}
