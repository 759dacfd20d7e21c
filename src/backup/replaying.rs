//! Reads a content that was there before: hashed where it was cut, cut anew where it changed, found again where it moved.

use super::buffers::Buffer;
use super::error::record;
use super::old::Old;
use super::pool::{Handed, Pool, Promise, Work};
use super::stream::Stream;
use crate::chunking::{Cuts, Cutter, LOOKAHEAD_BYTES};
use crate::progress::Progress;
use crate::source::CaptureError;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What is compared at a time.
const BATCH_BYTES: u64 = 2 << 20;
/// After a place where the content had moved; doubled as long as all goes well.
const FIRST_BATCH_BYTES: u64 = 128 << 10;
/// Batches that are read ahead.
const AHEAD: usize = 4;
/// What is searched at a time for a chunk that is known.
const SEARCH_BYTES: usize = 4 << 20;

/// A batch that a worker has.
struct Sent {
    bytes: Arc<Buffer>,
    /// Without what was only looked at.
    len: usize,
    range: Range<usize>,
    last: bool,
    promise: Promise,
}

/// Takes one content.
pub struct Replaying<'r> {
    pub pool: &'r Pool,
    pub cutter: Cutter,
    pub cuts: Cuts,
    pub old: Arc<Old>,
    pub progress: &'r dyn Progress,
}

impl Replaying<'_> {
    /// Hands everything over that `stream` gives, as far as what was there before goes. What is left in the stream comes
    /// behind that, at the offset that is returned.
    pub fn run(&self, stream: &mut Stream<'_>, handed: &mut Vec<Handed>) -> Result<u64, CaptureError> {
        let (mut next, mut at, mut batch_bytes) = (0, 0u64, BATCH_BYTES);
        let mut sent: VecDeque<Sent> = VecDeque::new();
        let mut may_send = true;
        loop {
            while may_send && sent.len() < AHEAD {
                if self.progress.interrupted() {
                    return Err(CaptureError::Interrupted);
                }
                let Some(batch) = self.send(stream, next, batch_bytes)? else {
                    may_send = false;
                    break;
                };
                (next, may_send) = (batch.range.end, !batch.last);
                sent.push_back(batch);
            }
            let Some(batch) = sent.pop_front() else { return Ok(at) };
            if batch.last && sent.is_empty() {
                // Nothing can be left of it, so nobody has to wait.
                at += batch.len as u64;
                handed.push(Handed::Promised(batch.promise));
                continue;
            }
            let done = batch.promise.wait().map_err(record)?;
            handed.extend(done.chunks.into_iter().map(Handed::Known));
            at += done.resolved as u64;
            if done.resolved >= batch.len {
                batch_bytes = (batch_bytes * 2).min(BATCH_BYTES);
                continue;
            }
            // What was read ahead begins elsewhere than it was taken to.
            let mut back = batch.bytes.get(done.resolved..batch.len).unwrap_or_default().to_vec();
            for later in sent.drain(..) {
                back.extend_from_slice(later.bytes.get(..later.len).unwrap_or_default());
                drop(later.promise.wait().map_err(record)?);
            }
            stream.give_back(&back);
            let moved = self.old.start(batch.range.end).wrapping_sub(at + (batch.len - done.resolved) as u64);
            match self.search(stream, &mut at, moved, handed)? {
                Some(found) => (next, may_send, batch_bytes) = (found, true, FIRST_BATCH_BYTES),
                None => may_send = false,
            }
        }
    }

    /// Sends the chunks from `first` on to a worker; `None` behind the last that can be compared.
    fn send(&self, stream: &mut Stream<'_>, first: usize, bytes: u64) -> Result<Option<Sent>, CaptureError> {
        let mut range = self.old.batch(first, bytes);
        let size = |range: &Range<usize>| (self.old.start(range.end) - self.old.start(range.start)) as usize;
        if range.is_empty() {
            return Ok(None);
        }
        let wanted = size(&range) + LOOKAHEAD_BYTES;
        let mut read = stream.next(wanted).map_err(CaptureError::Reading)?;
        let last = read.len() < wanted && (read.len() <= size(&range) || range.end < self.old.count());
        // Before, the last chunk was cut by the end; now it goes on.
        if range.end == self.old.count() && read.len() > size(&range) {
            range.end -= 1;
        }
        let len = if last { read.len() } else { size(&range) };
        if range.is_empty() || len == 0 {
            stream.give_back(&read);
            return Ok(None);
        }
        self.progress.advance(len as u64);
        let looked_at = if last { len } else { (len + LOOKAHEAD_BYTES).min(read.len()) };
        stream.give_back(read.get(len..).unwrap_or_default());
        read.truncate(looked_at);
        let bytes = Arc::new(read);
        let (old, cutter, cuts) = (Arc::clone(&self.old), self.cutter.clone(), self.cuts);
        let work = Work::Replay { range: range.clone(), old, cutter, cuts, last };
        let promise = self.pool.submit(Arc::clone(&bytes), work);
        Ok(Some(Sent { bytes, len, range, last, promise }))
    }

    /// Cuts until something is known again: a chunk that is there twice over, or a cut where there was one, `moved` bytes
    /// further back or on. Returns the number of the chunk that follows; `None` at the end of the content.
    fn search(
        &self,
        stream: &mut Stream<'_>,
        at: &mut u64,
        moved: u64,
        handed: &mut Vec<Handed>,
    ) -> Result<Option<usize>, CaptureError> {
        loop {
            if self.progress.interrupted() {
                return Err(CaptureError::Interrupted);
            }
            let wanted = SEARCH_BYTES.max(2 * self.cutter.longest());
            let mut bytes = stream.next(wanted).map_err(CaptureError::Reading)?;
            let last = bytes.len() < wanted;
            let (mut lengths, mut cut, mut found, mut known) = (Vec::new(), 0, None, None);
            while let Some(len) = self.cutter.next(self.cuts, bytes.get(cut..).unwrap_or_default(), last) {
                let number =
                    self.old.find(&self.cutter.naming().id_of(bytes.get(cut..cut + len).unwrap_or_default()));
                lengths.push(len);
                cut += len;
                // One chunk may be known by chance, zeros for example; with its neighbour it is a place.
                if number.is_some() && known.map(|known: usize| known + 1) == number {
                    found = number.map(|number| number + 1);
                    break;
                }
                known = number;
                if let Some(number) = self.old.at((*at + cut as u64).wrapping_add(moved)) {
                    found = Some(number);
                    break;
                }
            }
            stream.give_back(bytes.get(cut..).unwrap_or_default());
            bytes.truncate(cut);
            let grown = moved.wrapping_neg();
            let grown = if grown > u64::MAX / 2 { 0 } else { grown };
            if !lengths.is_empty() {
                self.keep(bytes, lengths, *at, grown, handed);
            }
            *at += cut as u64;
            self.progress.advance(cut as u64);
            if found.is_some() || last {
                return Ok(found);
            }
        }
    }

    /// Has chunks kept that begin at `offset`.
    fn keep(&self, bytes: Buffer, lengths: Vec<usize>, offset: u64, grown: u64, handed: &mut Vec<Handed>) {
        let near = near(&self.old, &lengths, offset, grown);
        let work = Work::Keep { lengths, near, old: Some(Arc::clone(&self.old)) };
        handed.push(Handed::Promised(self.pool.submit(Arc::new(bytes), work)));
    }
}

/// What was about where each of these chunks is.
pub fn near(old: &Old, lengths: &[usize], offset: u64, grown: u64) -> Vec<Range<usize>> {
    let places = lengths.iter().scan(offset, |at, len| {
        let start = *at;
        *at += *len as u64;
        Some((start, *len as u64))
    });
    places.map(|(start, len)| old.near(start, len, grown)).collect()
}
