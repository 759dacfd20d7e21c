//! A second reading under a hold: compared with the first on all cores, with what differs kept aside.

use crate::chunking::{Recorded, compare_at_boundaries, read_up_to};
use crate::format::ChunkRef;
use crate::id::Naming;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tempfile::SpooledTempFile;

/// What is read at a time where nothing was before.
const PART_BYTES: u64 = 1 << 20;

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

impl Retake {
    /// Reads the file and compares it with the chunks that it consisted of. What differs is kept in memory up to
    /// `memory` bytes, beyond that in a scratch file below `directory`. `TimedOut` once `go_on` says no.
    pub fn read(
        naming: Naming,
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
        let recorded: Vec<Recorded> =
            stable.iter().map(|chunk| Recorded { id: chunk.id, len: chunk.len }).collect();
        let aside = Mutex::new(tempfile::spooled_tempfile_in(memory, directory));
        let mut pieces = vec![None; recorded.len()];
        let found = Mutex::new(&mut pieces);
        let read = |buffer: &mut [u8], offset| {
            if go_on() { read_up_to(file, buffer, offset) } else { Err(io::ErrorKind::TimedOut.into()) }
        };
        compare_at_boundaries(naming, &recorded, &read, &|number, _, bytes, same| {
            let piece = match stable.get(number).filter(|_| same) {
                Some(chunk) => Some(Piece::Same(*chunk)),
                None => set_aside(&mut lock(&aside), bytes)?,
            };
            if let Some(slot) = lock(&found).get_mut(number) {
                *slot = piece;
            }
            Ok(())
        })?;
        let mut pieces: Vec<Piece> = pieces.into_iter().flatten().collect();
        let mut aside = aside.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut at = recorded.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        let mut part = Vec::new();
        while at < size {
            part.resize((size - at).min(PART_BYTES) as usize, 0);
            let count = read(&mut part, at)?;
            pieces.extend(set_aside(&mut aside, part.get(..count).unwrap_or_default())?);
            at += count as u64;
            if count == 0 {
                break;
            }
        }
        let lengths_before = chunks.iter().map(|chunk| chunk.len).collect();
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

/// Keeps new bytes; `None` if there are none.
fn set_aside(aside: &mut SpooledTempFile, bytes: &[u8]) -> io::Result<Option<Piece>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let offset = aside.stream_position()?;
    aside.write_all(bytes)?;
    Ok(Some(Piece::New { offset, len: bytes.len() as u64 }))
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
    use super::{Naming, Piece, Retake};
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
            let mut retake = Retake::read(Naming::PLAIN, &chunks, &file, memory, directory.path(), &|| true).unwrap();
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
        let stopped = Retake::read(Naming::PLAIN, &[], &file, 0, directory.path(), &|| false);
        assert_eq!(stopped.err().map(|error| error.kind()), Some(std::io::ErrorKind::TimedOut));
    }
}
