//! A file's content in the repository against what a file holds: which chunks and blocks differ, and writing those.

use super::error::RestoreError;
use super::holes::{dig, filled_holes};
use super::output::write_early;
use crate::chunking::{Recorded, compare_at_boundaries, read_up_to};
use crate::cores::on_all_cores;
use crate::format::{ChunkRef, Entry, Segment};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{FileReader, Repository, RepositoryError};
use crate::source::{Patch, Patches};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is written at once where bytes differ: what file systems and page caches work in.
const BLOCK_BYTES: u64 = 4096;

/// What one thread reads and writes at a time.
const RUN_BYTES: u64 = 1 << 20;

/// Takes a run of bytes and its place in the file.
type TakeBlocks<'t, E> = &'t mut dyn FnMut(&[u8], u64) -> Result<(), E>;

/// Bytes that are to be written, one behind another.
#[derive(Default)]
struct Gathered {
    offset: u64,
    bytes: Vec<u8>,
}

impl Gathered {
    fn goes_on_at(&self, offset: u64) -> bool {
        !self.bytes.is_empty() && self.offset + self.bytes.len() as u64 == offset
    }
}

/// A file as the snapshot has it.
pub struct Contents<'r> {
    repository: &'r Repository,
    reader: FileReader<'r>,
    /// Chunks, and where each begins in the content; a sparse file's segments come one after another there.
    pieces: Vec<(u64, ChunkRef)>,
    segments: Option<Vec<Segment>>,
    size: u64,
}

impl<'r> Contents<'r> {
    /// Reads the file's chunk list.
    pub fn open(repository: &'r Repository, entry: &Entry) -> Result<Self, RepositoryError> {
        let reader = FileReader::open(repository, entry)?;
        let pieces = reader.chunks().collect();
        Ok(Self { repository, reader, pieces, segments: entry.segments.clone(), size: entry.size })
    }

    /// Each chunk is in a pack that is there, so that none is found missing midway.
    pub fn prove_presence(&self, numbers: &[u32]) -> Result<(), RepositoryError> {
        let needed = || numbers.iter().filter_map(|number| self.pieces.get(*number as usize));
        let prefixes = needed().map(|(_, chunk)| chunk.id.prefix()).collect();
        let lacking: HashSet<u64> = self.repository.lacking(prefixes)?.into_iter().collect();
        match needed().find(|(_, chunk)| lacking.contains(&chunk.id.prefix())) {
            Some((_, chunk)) => Err(RepositoryError::MissingChunk { id: chunk.id }),
            None => Ok(()),
        }
    }

    /// Bytes of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The numbers of all chunks.
    pub fn all(&self) -> Box<[u32]> {
        (0..self.pieces.len() as u32).collect()
    }

    /// The first bytes, as many as fit and as there are.
    pub fn start(&self, buffer: &mut [u8]) -> Result<usize, RepositoryError> {
        let count = (buffer.len() as u64).min(self.size) as usize;
        self.reader.read_exact_at(buffer.get_mut(..count).unwrap_or_default(), 0)?;
        Ok(count)
    }

    /// The numbers of the chunks that the file doesn't have, ascending: each chunk's place is read and hashed, on all
    /// cores. What can't be read differs.
    pub fn differing(&self, file: &File, progress: &dyn Progress) -> Result<Arc<[u32]>, RestoreError> {
        let recorded: Vec<Recorded> =
            self.pieces.iter().map(|(_, chunk)| Recorded { id: chunk.id, len: chunk.len }).collect();
        let read = |buffer: &mut [u8], offset: u64| {
            if progress.interrupted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut filled = 0;
            for range in self.reader.ranges(offset, buffer.len() as u64) {
                let part = buffer.get_mut(filled..filled + range.len as usize).unwrap_or_default();
                let count = read_up_to(file, part, range.offset).unwrap_or(0);
                filled += count;
                if count < part.len() {
                    break;
                }
            }
            progress.advance(filled as u64);
            Ok(filled)
        };
        let found: Mutex<Vec<u32>> = Mutex::default();
        compare_at_boundaries(self.repository.naming(), &recorded, &read, &|number, _, _, same| {
            if !same {
                found.lock().unwrap_or_else(PoisonError::into_inner).push(number as u32);
            }
            Ok(())
        })
        .map_err(|_| RestoreError::Interrupted)?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable();
        Ok(found.into())
    }

    /// Bytes of these chunks.
    pub fn bytes_of(&self, numbers: &[u32]) -> u64 {
        numbers
            .iter()
            .filter_map(|number| self.pieces.get(*number as usize))
            .map(|(_, chunk)| u64::from(chunk.len))
            .sum()
    }

    /// How many bytes `write` would write.
    pub fn count(&self, file: &File, numbers: &[u32]) -> Result<u64, RepositoryError> {
        let total = AtomicU64::new(0);
        let runs = self.runs(numbers);
        on_all_cores(runs.len(), |at| {
            let run = runs.get(at).copied().unwrap_or_default();
            self.each_difference(file, present_len(file), run, 0, &mut |bytes, _| {
                total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok::<_, RepositoryError>(())
            })
        })?;
        Ok(total.into_inner())
    }

    /// Writes the blocks of these chunks that differ, on all cores, but none before `from`. Chunks that there are `patches` for
    /// aren't read from the repository. Returns the bytes written. The file's length isn't cut.
    pub fn write(
        &self,
        file: &File,
        numbers: &[u32],
        from: u64,
        patches: Option<&Patches>,
        shown: &Path,
        progress: &dyn Progress,
    ) -> Result<u64, RestoreError> {
        let (runs, present_len) = (self.runs(numbers), present_len(file));
        let fail = |action| move |error| RestoreError::io(action, shown, error);
        write_early(file, self.bytes_of(numbers), fail("sync"), |output| {
            on_all_cores(runs.len(), |at| {
                if progress.interrupted() {
                    return Err(RestoreError::Interrupted);
                }
                let run = runs.get(at).copied().unwrap_or_default();
                let mut gathered = Gathered::default();
                let mut take = |bytes: &[u8], offset: u64| {
                    if !gathered.goes_on_at(offset) {
                        output.write(&gathered.bytes, gathered.offset).map_err(fail("write"))?;
                        gathered.bytes.clear();
                        gathered.offset = offset;
                    }
                    gathered.bytes.extend_from_slice(bytes);
                    Ok::<_, RestoreError>(())
                };
                let patched = self.each_patched(file, run, from, patches, &mut take)?;
                let rest: Vec<u32> =
                    run.iter().copied().filter(|number| patched.binary_search(number).is_err()).collect();
                self.each_difference(file, present_len, &rest, from, &mut take)?;
                output.write(&gathered.bytes, gathered.offset).map_err(fail("write"))?;
                progress.advance(self.bytes_of(run));
                Ok(())
            })
        })
    }

    /// Makes the file what it shall be: holes, these chunks, the length. Not durable yet. Returns the bytes written.
    pub fn put(
        &self,
        file: &File,
        numbers: &[u32],
        patches: Option<&Patches>,
        shown: &Path,
        progress: &dyn Progress,
    ) -> Result<u64, RestoreError> {
        let fail = |error| RestoreError::io("write", shown, error);
        let dug = dig(file, &self.filled_holes(file)).map_err(fail)?;
        let written = self.write(file, numbers, 0, patches, shown, progress)?;
        if file.metadata().map_err(fail)?.len() != self.size {
            file.set_len(self.size).map_err(fail)?;
        }
        Ok(dug + written)
    }

    /// Chunks that follow each other, some of these numbers at a time: what one thread works on.
    fn runs<'n>(&self, mut numbers: &'n [u32]) -> Vec<&'n [u32]> {
        let mut runs = Vec::new();
        while !numbers.is_empty() {
            let mut bytes = 0;
            let fits = |number: &&u32| {
                bytes += self.bytes_of(&[**number]);
                bytes <= RUN_BYTES
            };
            let count = numbers.iter().take_while(fits).count().clamp(1, numbers.len());
            let (run, after) = numbers.split_at(count);
            runs.push(run);
            numbers = after;
        }
        runs
    }

    /// Calls `take` with each run of differing blocks of these chunks and its place in the file, of which `present_len` bytes
    /// are to be compared with.
    fn each_difference<E: From<RepositoryError>>(
        &self,
        file: &File,
        present_len: u64,
        numbers: &[u32],
        from: u64,
        take: TakeBlocks<'_, E>,
    ) -> Result<(), E> {
        let pieces: Vec<(u64, ChunkRef)> =
            numbers.iter().filter_map(|number| self.pieces.get(*number as usize)).copied().collect();
        let ids: Vec<Id> = pieces.iter().map(|(_, chunk)| chunk.id).collect();
        let mut present = Vec::new();
        self.repository.read_chunks(&ids, &mut |number, bytes| {
            let (bytes, Some((start, chunk))) = (bytes?, pieces.get(number)) else { return Ok(()) };
            if bytes.len() != chunk.len as usize {
                let detail = format!("chunk {} has another length", chunk.id);
                return Err(RepositoryError::damaged("a chunk list", detail).into());
            }
            let mut rest = &*bytes;
            for range in self.reader.ranges(*start, u64::from(chunk.len)) {
                let (part, after) = rest.split_at_checked(range.len as usize).unwrap_or((rest, &[]));
                rest = after;
                let skipped = from.saturating_sub(range.offset).min(part.len() as u64);
                let (part, offset) =
                    (part.get(skipped as usize..).unwrap_or_default(), range.offset + skipped);
                // Where nothing was, nothing needs comparing.
                if present_len <= offset {
                    take(part, offset)?;
                    continue;
                }
                present.resize(part.len(), 0);
                let count = read_up_to(file, &mut present, offset).unwrap_or(0);
                let present = present.get(..count).unwrap_or_default();
                for (at, len) in differing_blocks(part, present, offset) {
                    take(part.get(at..at + len).unwrap_or_default(), offset + at as u64)?;
                }
            }
            Ok(())
        })
    }

    /// Calls `take` with each run of blocks that a patch changes, as they shall be, and with its place in the file. Returns the
    /// numbers of the chunks that this was done for, ascending.
    fn each_patched<E>(
        &self,
        file: &File,
        numbers: &[u32],
        from: u64,
        patches: Option<&Patches>,
        take: TakeBlocks<'_, E>,
    ) -> Result<Vec<u32>, E> {
        let Some(patches) = patches.filter(|_| self.segments.is_none()) else { return Ok(Vec::new()) };
        let mut patched = Vec::with_capacity(numbers.len());
        let mut bytes = Vec::new();
        for number in numbers {
            let (Some(patch), Some((start, chunk))) =
                (patches.get(*number), self.pieces.get(*number as usize))
            else {
                continue;
            };
            let Ok(runs) = patched_blocks(&patch, file, *start, u64::from(chunk.len), &mut bytes) else {
                continue;
            };
            let mut rest = bytes.as_slice();
            for (offset, len) in runs {
                let (run, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                rest = after;
                let skipped = from.saturating_sub(offset).min(len as u64);
                take(run.get(skipped as usize..).unwrap_or_default(), offset + skipped)?;
            }
            patched.push(*number);
        }
        Ok(patched)
    }

    /// The parts of the file that shall be holes and aren't.
    pub fn filled_holes(&self, file: &File) -> Vec<Segment> {
        self.segments.as_ref().map_or_else(Vec::new, |segments| filled_holes(file, segments, self.size))
    }
}

/// How much there is to compare with.
fn present_len(file: &File) -> u64 {
    file.metadata().map_or(u64::MAX, |metadata| metadata.len())
}

/// The runs of blocks, aligned in the file and cut by the chunk, that a patch changes: where each lies in the file and its length;
/// `bytes` becomes what they shall be, one behind another.
fn patched_blocks(
    patch: &Patch,
    file: &File,
    start: u64,
    len: u64,
    bytes: &mut Vec<u8>,
) -> io::Result<Vec<(u64, usize)>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (at, put) in patch.runs() {
        let (first, behind) = (start + at as u64, start + (at + put.len()) as u64);
        let (first, behind) = (first / BLOCK_BYTES * BLOCK_BYTES, behind.next_multiple_of(BLOCK_BYTES));
        let (first, behind) = (first.max(start), behind.min(start + len));
        match runs.last_mut() {
            Some(run) if first <= run.end => run.end = behind,
            _ => runs.push(first..behind),
        }
    }
    let runs: Vec<(u64, usize)> =
        runs.into_iter().map(|run| (run.start, (run.end - run.start) as usize)).collect();
    bytes.clear();
    bytes.resize(runs.iter().map(|(_, len)| len).sum(), 0);
    let mut rest = bytes.as_mut_slice();
    let mut waiting = patch.runs().peekable();
    for (offset, len) in &runs {
        let (run, after) = std::mem::take(&mut rest).split_at_mut_checked(*len).unwrap_or_default();
        rest = after;
        file.read_exact_at(run, *offset)?;
        while let Some((at, put)) = waiting.next_if(|(at, _)| start + (*at as u64) < offset + *len as u64) {
            let at = (start + at as u64 - offset) as usize;
            let room = run.get_mut(at..at + put.len()).ok_or(io::ErrorKind::InvalidData)?;
            room.copy_from_slice(put);
        }
    }
    if waiting.peek().is_none() { Ok(runs) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The runs of blocks, aligned in the file, in which `wanted` isn't `present`; both begin at `offset`.
fn differing_blocks(wanted: &[u8], present: &[u8], offset: u64) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < wanted.len() {
        let to_boundary = BLOCK_BYTES - (offset + at as u64) % BLOCK_BYTES;
        let len = (to_boundary as usize).min(wanted.len() - at);
        if wanted.get(at..at + len) != present.get(at..at + len) {
            match runs.last_mut() {
                Some((start, run)) if *start + *run == at => *run += len,
                _ => runs.push((at, len)),
            }
        }
        at += len;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::{differing_blocks, patched_blocks};
    use crate::source::Patch;
    use proptest::prelude::{prop, proptest};
    use std::os::unix::fs::FileExt;

    proptest! {
        /// A patch gives the same blocks as comparing does, wherever the chunk lies in the file.
        #[test]
        fn a_patch_knows_the_blocks_that_differ(
            start in 0u64..10_000, len in 1usize..60_000, changes in prop::collection::vec(0usize..60_000, 0..12),
        ) {
            let wanted: Vec<u8> = (0..len).map(|at| (at / 5) as u8).collect();
            let mut now = wanted.clone();
            changes.iter().for_each(|at| now[at % len] ^= 1);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&now, start).unwrap();
            let Some(patch) = Patch::between(&now, &wanted) else { return Ok(()) };
            let mut bytes = vec![7; 5];
            let runs = patched_blocks(&patch, &file, start, len as u64, &mut bytes).unwrap();
            let compared = differing_blocks(&wanted, &now, start);
            let expected: Vec<u8> = compared.iter().flat_map(|(at, len)| wanted[*at..at + len].to_vec()).collect();
            let compared = compared.into_iter().map(|(at, len)| (start + at as u64, len));
            assert_eq!(runs, compared.collect::<Vec<_>>());
            assert!(bytes == expected);
            file.set_len(start + len as u64 - 1).unwrap();
            let touches_end = runs.last().is_some_and(|(at, run)| at + *run as u64 == start + len as u64);
            assert_eq!(patched_blocks(&patch, &file, start, len as u64, &mut bytes).is_err(), touches_end);
        }

        /// Writing the runs makes the file what it should be, and no run has a block that was right already.
        #[test]
        fn exactly_the_blocks_that_differ(
            offset in 0u64..10_000, len in 0usize..40_000, present in 0usize..50_000,
            changes in prop::collection::vec(0usize..40_000, 0..12),
        ) {
            let wanted: Vec<u8> = (0..len).map(|at| (at / 5) as u8).collect();
            let mut now: Vec<u8> = (0..present).map(|at| (at / 5) as u8).collect();
            for at in changes {
                if let Some(byte) = now.get_mut(at) {
                    *byte ^= 1;
                }
            }
            now.truncate(len);
            let runs = differing_blocks(&wanted, &now, offset);
            let mut after = now.clone();
            after.resize(len, 0);
            for (at, count) in runs {
                let mut block = at;
                while block < at + count {
                    let end = (block + 4096 - (offset as usize + block) % 4096).min(at + count);
                    assert_ne!(wanted.get(block..end), now.get(block..end));
                    block = end;
                }
                after[at..at + count].copy_from_slice(&wanted[at..at + count]);
            }
            assert!(after == wanted);
        }
    }
}
