//! A second reading under a hold: compared with the first on all cores, with what differs kept aside.

use crate::format::ChunkRef;
use crate::id::Id;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tempfile::SpooledTempFile;

/// What one thread reads and compares at a time.
const BATCH_BYTES: u64 = 1 << 20;
/// A smaller file isn't worth a second thread.
const PARALLEL_BYTES: u64 = 4 << 20;

/// A part of the file, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// As it was.
    Same(ChunkRef),
    /// New bytes, at this place among those set aside.
    New { offset: u64, len: u64 },
}

/// The result of a second reading.
pub struct Retake {
    pub pieces: Vec<Piece>,
    /// The lengths of the chunks that it was compared with.
    pub lengths_before: Vec<u32>,
    aside: SpooledTempFile,
}

/// Bytes of a file and the chunks that were there.
struct Batch<'c> {
    offset: u64,
    len: u64,
    chunks: &'c [ChunkRef],
}

impl Retake {
    /// Reads the file and compares it with the chunks that it consisted of. What differs is kept in memory up to
    /// `memory` bytes, beyond that in a scratch file below `directory`. `TimedOut` once `go_on` says no.
    pub fn read(
        chunks: &[ChunkRef],
        file: &File,
        memory: usize,
        directory: &Path,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Self> {
        let size = file.metadata()?.len();
        // Behind a file that grew, its last chunk was cut by the end that it had.
        let listed: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let stable =
            if size > listed { chunks.split_last().map_or(chunks, |(_, before)| before) } else { chunks };
        let batches = batches(stable, size);
        let aside = Mutex::new(tempfile::spooled_tempfile_in(memory, directory));
        let found: Mutex<Vec<(usize, Vec<Piece>)>> = Mutex::default();
        let failed: Mutex<Option<io::Error>> = Mutex::default();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffer = Vec::new();
            while let number = next.fetch_add(1, Ordering::Relaxed)
                && let Some(batch) = batches.get(number)
                && lock(&failed).is_none()
            {
                let compared = if go_on() {
                    batch.compare(file, &mut buffer, &aside)
                } else {
                    Err(io::ErrorKind::TimedOut.into())
                };
                match compared {
                    Ok(pieces) => lock(&found).push((number, pieces)),
                    Err(error) => *lock(&failed) = Some(error),
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        if size < PARALLEL_BYTES {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..cores {
                    scope.spawn(work);
                }
            });
        }
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable_by_key(|(number, _)| *number);
        let pieces = found.into_iter().flat_map(|(_, pieces)| pieces).collect();
        let lengths_before = chunks.iter().map(|chunk| chunk.len).collect();
        let aside = aside.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { pieces, lengths_before, aside })
    }

    /// What it keeps in memory.
    pub fn memory_bytes(&self) -> usize {
        if self.aside.is_rolled() { 0 } else { self.pieces.iter().map(Piece::aside_bytes).sum() }
    }

    /// Reads neighbouring new pieces as one.
    pub fn run<'r>(&'r mut self, parts: &'r [Piece]) -> impl Read + 'r {
        Run { aside: &mut self.aside, parts, read: 0 }
    }
}

impl Piece {
    fn aside_bytes(&self) -> usize {
        if let Self::New { len, .. } = self { *len as usize } else { 0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Neighbouring chunks of about a batch's size; behind the last chunk whatever the file has more.
fn batches(chunks: &[ChunkRef], size: u64) -> Vec<Batch<'_>> {
    let mut batches = Vec::new();
    let mut offset = 0;
    let mut rest = chunks;
    while !rest.is_empty() {
        let mut len = 0;
        let fits = |chunk: &&ChunkRef| {
            len += u64::from(chunk.len);
            len <= BATCH_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (chunks, after) = rest.split_at(count.min(rest.len()));
        let len = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        batches.push(Batch { offset, len, chunks });
        offset += len;
        rest = after;
    }
    while offset < size {
        let len = (size - offset).min(BATCH_BYTES);
        batches.push(Batch { offset, len, chunks: &[] });
        offset += len;
    }
    batches
}

impl Batch<'_> {
    fn compare(
        &self,
        file: &File,
        buffer: &mut Vec<u8>,
        aside: &Mutex<SpooledTempFile>,
    ) -> io::Result<Vec<Piece>> {
        buffer.resize(self.len as usize, 0);
        let read = read_up_to(file, buffer, self.offset)?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        let mut pieces = Vec::with_capacity(self.chunks.len());
        let new = |bytes: &[u8], pieces: &mut Vec<Piece>| -> io::Result<()> {
            if !bytes.is_empty() {
                let mut aside = lock(aside);
                let offset = aside.stream_position()?;
                aside.write_all(bytes)?;
                pieces.push(Piece::New { offset, len: bytes.len() as u64 });
            }
            Ok(())
        };
        for chunk in self.chunks {
            let (bytes, after) = rest.split_at_checked(chunk.len as usize).unwrap_or((rest, &[]));
            if bytes.len() == chunk.len as usize && Id::of(bytes) == chunk.id {
                pieces.push(Piece::Same(*chunk));
            } else {
                new(bytes, &mut pieces)?;
            }
            rest = after;
        }
        new(rest, &mut pieces)?;
        Ok(pieces)
    }
}

/// Fills the buffer, or as much of it as the file has.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

struct Run<'r> {
    aside: &'r mut SpooledTempFile,
    parts: &'r [Piece],
    read: u64,
}

impl Read for Run<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((Piece::New { offset, len }, after)) = self.parts.split_first() {
            let left = len - self.read;
            if left == 0 {
                (self.parts, self.read) = (after, 0);
                continue;
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.aside.seek(SeekFrom::Start(offset + self.read))?;
            let count = self.aside.read(buffer.get_mut(..wanted).unwrap_or_default())?;
            if count == 0 && wanted > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, Retake};
    use crate::format::ChunkRef;
    use crate::id::Id;
    use proptest::prelude::{ProptestConfig, prop, proptest};
    use std::io::{Read, Write};

    fn chunks_of(bytes: &[u8], len: usize) -> Vec<ChunkRef> {
        bytes.chunks(len).map(|part| ChunkRef { id: Id::of(part), len: part.len() as u32 }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever changed, and wherever the memory ends: the pieces together are the file as it is now.
        #[test]
        fn pieces_together_are_the_file(
            before in 0usize..9_000_000, after in 0usize..9_000_000, chunk in 1usize..200_000,
            changes in prop::collection::vec(0usize..9_000_000, 0..20), memory in 0usize..3_000_000,
        ) {
            let chunk = chunk.max(before / 2000 + 1);
            let old: Vec<u8> = (0..before).map(|at| (at / 7) as u8).collect();
            let mut new: Vec<u8> = (0..after).map(|at| (at / 7) as u8).collect();
            for at in changes {
                if let Some(byte) = new.get_mut(at) {
                    *byte ^= 1;
                }
            }
            let chunks = chunks_of(&old, chunk);
            let directory = tempfile::tempdir().unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&new).unwrap();
            let mut retake = Retake::read(&chunks, &file, memory, directory.path(), &|| true).unwrap();
            let mut found = Vec::new();
            for piece in retake.pieces.clone() {
                match piece {
                    Piece::Same(chunk) => {
                        let part = &new[found.len()..found.len() + chunk.len as usize];
                        assert_eq!(Id::of(part), chunk.id);
                        found.extend_from_slice(part);
                    }
                    part @ Piece::New { .. } => {
                        retake.run(&[part]).read_to_end(&mut found).unwrap();
                    }
                }
            }
            assert!(found == new);
            let same = retake.pieces.iter().filter(|piece| matches!(piece, Piece::Same(_))).count();
            assert!(!new.eq(&old) || same == chunks.len());
        }
    }

    #[test]
    fn it_stops_when_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 10 << 20]).unwrap();
        let stopped = Retake::read(&[], &file, 0, directory.path(), &|| false);
        assert_eq!(stopped.err().map(|error| error.kind()), Some(std::io::ErrorKind::TimedOut));
    }
}
