//! Content of which a comparison has told before what is as in the parent, and what has to be read.

use super::buffers::BUFFER_BYTES;
use super::old::Old;
use super::pool::{Handed, Pool, Work};
use super::stream::Stream;
use crate::format::ChunkRef;
use crate::progress::Progress;
use crate::source::{CaptureError, Patches};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A part of a file, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// As in the parent.
    Same(ChunkRef),
    /// To be read. It begins with the places of these whole chunks of the parent's.
    Differing { offset: u64, len: u64, numbers: Numbers },
}

/// Some chunks that follow each other, by the numbers of the first and of the one behind.
pub type Numbers = (usize, usize);

/// The parts of a file of `size` bytes, which has all of the parent's chunks at their places but the `differing` ones.
pub fn parts(chunks: &[ChunkRef], differing: &[u32], size: u64) -> Vec<Part> {
    let mut parts = Vec::with_capacity(chunks.len());
    let mut at = 0u64;
    let mut waiting = differing.iter().copied().peekable();
    let read = |offset: u64, len: u64, numbers: Numbers, parts: &mut Vec<Part>| match parts.last_mut() {
        _ if len == 0 => {}
        Some(Part::Differing { len: before, numbers: (_, behind), .. }) => {
            *before += len;
            if *behind == numbers.0 {
                *behind = numbers.1;
            }
        }
        _ => parts.push(Part::Differing { offset, len, numbers }),
    };
    for (number, chunk) in (0u32..).zip(chunks) {
        let end = at + u64::from(chunk.len);
        let differs = waiting.next_if_eq(&number).is_some();
        // Behind a file that grew, the last chunk was cut by the end that it had.
        let is_last_of_less = number as usize + 1 == chunks.len() && end < size;
        if differs || end > size || is_last_of_less {
            let stop = end.min(size);
            let first = number as usize;
            let behind = if end > size || is_last_of_less { first } else { first + 1 };
            read(at.min(stop), stop - at.min(stop), (first, behind), &mut parts);
        } else {
            parts.push(Part::Same(*chunk));
        }
        at = end;
    }
    let listed = at.min(size);
    read(listed, size - listed, (chunks.len(), chunks.len()), &mut parts);
    parts
}

/// Takes what differs.
pub struct Keeping<'r> {
    pub pool: &'r Pool,
    pub progress: &'r dyn Progress,
    pub old: Arc<Old>,
    /// Where it is noted what would make the file the parent's again.
    pub patches: Arc<Patches>,
}

impl Keeping<'_> {
    /// Submits what lies in the place of these chunks, cut where they were: what is saved once needs no cuts of its own, and each
    /// chunk has the one to which it is a difference. Returns the bytes; fewer where the content ends before.
    pub fn run(
        &self,
        stream: &mut Stream<'_>,
        (mut first, behind): Numbers,
        handed: &mut Vec<Handed>,
    ) -> Result<u64, CaptureError> {
        let begin = self.old.start(first);
        while first < behind {
            if self.progress.interrupted() {
                return Err(CaptureError::Interrupted);
            }
            let batch = self.old.batch(first, BUFFER_BYTES as u64);
            let numbers = first..batch.end.min(behind);
            let wanted = (self.old.start(numbers.end) - self.old.start(first)) as usize;
            let read = stream.next(wanted).map_err(CaptureError::Reading)?;
            if read.len() < wanted {
                stream.give_back(&read);
                break;
            }
            self.progress.advance(wanted as u64);
            first = numbers.end;
            let (old, patches) = (Arc::clone(&self.old), Arc::clone(&self.patches));
            handed.push(Handed::Promised(
                self.pool.submit(Arc::new(read), Work::InPlace { numbers, old, patches }),
            ));
        }
        Ok(self.old.start(first) - begin)
    }
}

/// Reads a range of a file.
pub struct Range<'f> {
    pub file: &'f File,
    pub offset: u64,
    pub len: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.len).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        self.offset += count as u64;
        self.len -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, parts};
    use crate::format::ChunkRef;
    use crate::id::Id;

    fn chunk(len: u32) -> ChunkRef {
        ChunkRef { id: Id::of(&len.to_le_bytes()), len }
    }

    #[test]
    fn equal_chunks_are_kept_and_the_rest_is_read() {
        let chunks = [chunk(10), chunk(20), chunk(30), chunk(40)];
        let read = |offset, len, numbers| Part::Differing { offset, len, numbers };
        let same = |number: usize| Part::Same(chunks[number]);
        assert_eq!(parts(&chunks, &[], 100), [same(0), same(1), same(2), same(3)]);
        assert_eq!(parts(&chunks, &[1, 2], 100), [same(0), read(10, 50, (1, 3)), same(3)]);
        // Longer: the last chunk is read with what follows. Shorter: what is left of the chunk that was cut.
        let grown = [read(0, 10, (0, 1)), same(1), same(2), read(60, 90, (3, 3))];
        assert_eq!(parts(&chunks, &[0], 150), grown);
        assert_eq!(parts(&chunks, &[2, 3], 150), [same(0), same(1), read(30, 120, (2, 3))]);
        assert_eq!(parts(&chunks, &[2, 3], 35), [same(0), same(1), read(30, 5, (2, 2))]);
        assert_eq!(parts(&chunks, &[], 35), [same(0), same(1), read(30, 5, (2, 2))]);
        assert_eq!(parts(&chunks, &[0, 1, 2, 3], 0), []);
        assert_eq!(parts(&[], &[], 7), [read(0, 7, (0, 0))]);
    }
}
