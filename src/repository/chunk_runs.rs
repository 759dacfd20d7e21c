//! Reads many chunks: those that lie one behind another in a pack with a single read.

use super::error::RepositoryError;
use super::location::Location;
use super::open::Repository;
use crate::id::Id;
use std::borrow::Cow;
use std::collections::VecDeque;

/// What is read at once.
const RUN_BYTES: u64 = 1 << 20;

/// Takes the number of a chunk, and its proven bytes or why they can't be had.
pub type TakeChunk<'t, E> = &'t mut dyn FnMut(usize, Result<Cow<'_, [u8]>, RepositoryError>) -> Result<(), E>;

impl Repository {
    /// Hands over each of these chunks, in order, as `read_chunk` would: proven by its id, from another copy if the first is
    /// damaged. An error of `take` ends it.
    pub fn read_chunks<E>(&self, ids: &[Id], take: TakeChunk<'_, E>) -> Result<(), E> {
        let place = |id: &Id| self.index().ok()?.find(id.prefix()).filter(|_| self.bases().get(id).is_none());
        let mut waiting: VecDeque<(usize, &Id, Location)> = VecDeque::new();
        for (number, id) in ids.iter().enumerate() {
            let place = place(id);
            let goes_on = match (waiting.front(), waiting.back(), &place) {
                (Some((_, _, first)), Some((_, _, last)), Some(next)) => {
                    let end = last.offset + u64::from(last.stored_len);
                    let len = next.offset.saturating_sub(first.offset) + u64::from(next.stored_len);
                    next.pack == last.pack && next.offset == end && len <= RUN_BYTES
                }
                _ => false,
            };
            if !goes_on {
                self.read_run(&mut waiting, take)?;
            }
            match place {
                Some(place) => waiting.push_back((number, id, place)),
                None => take(number, self.read_chunk(id).map(Cow::Owned))?,
            }
        }
        self.read_run(&mut waiting, take)
    }

    /// Reads neighbours at once; whatever is wrong with one of them is told as when it is read alone.
    fn read_run<E>(
        &self,
        run: &mut VecDeque<(usize, &Id, Location)>,
        take: TakeChunk<'_, E>,
    ) -> Result<(), E> {
        let len: u64 = run.iter().map(|(_, _, place)| u64::from(place.stored_len)).sum();
        let stored = match run.front() {
            Some((_, _, first)) if run.len() > 1 => self.read_stored_at(&first.pack, first.offset, len).ok(),
            _ => None,
        };
        let mut rest = stored.as_deref().unwrap_or_default();
        for (number, id, place) in run.drain(..) {
            let split = rest.split_at_checked(place.stored_len as usize);
            let (own, after) = split.map_or((None, rest), |(own, after)| (Some(own), after));
            rest = after;
            let found = own.and_then(|own| self.decode_at(id, &place, own.into()).ok());
            take(number, found.map_or_else(|| self.read_chunk(id).map(Cow::Owned), Ok))?;
        }
        Ok(())
    }
}
