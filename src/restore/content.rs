//! Writes a file's content where it differs from what is there already.

use super::error::RestoreError;
use crate::format::{ChunkRef, Entry, Segment};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{FileReader, Repository, RepositoryError};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Makes `file` hold what the entry says, and makes it durable. Chunks that are there already aren't read from the
/// repository, nor written. Returns the bytes written.
pub fn write_content(
    repository: &Repository,
    entry: &Entry,
    file: &File,
    shown: &Path,
    progress: &dyn Progress,
) -> Result<u64, RestoreError> {
    let fail = |error| RestoreError::io("write", shown, error);
    let before = file.metadata().map_err(fail)?.len();
    let reader = FileReader::open(repository, entry)?;
    // Places in the content, not in the file: a sparse file's segments come one after another.
    let pieces: Vec<(u64, ChunkRef)> = reader.chunks().collect();
    if before > entry.size {
        file.set_len(entry.size).map_err(fail)?;
    }
    dig_holes(file, entry, before.min(entry.size)).map_err(fail)?;
    let written = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<RestoreError>> = Mutex::new(None);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((offset, chunk)) = pieces.get(number) else { return };
            let done = if progress.interrupted() {
                Err(RestoreError::Interrupted)
            } else {
                write_chunk(repository, entry, file, before, *offset, chunk, shown)
            };
            progress.advance(u64::from(chunk.len));
            match done {
                Ok(bytes) => {
                    written.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(error) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                    return;
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    if pieces.len() < 16 || cores < 2 {
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
    let written = written.into_inner();
    if file.metadata().map_err(fail)?.len() != entry.size {
        file.set_len(entry.size).map_err(fail)?;
    }
    file.sync_all().map_err(fail)?;
    Ok(written)
}

/// The ranges of the file that a range of the content fills.
fn ranges(entry: &Entry, start: u64, len: u64) -> Vec<Segment> {
    let Some(segments) = &entry.segments else { return vec![Segment { offset: start, len }] };
    let mut found = Vec::new();
    let mut content_at = 0u64;
    for segment in segments {
        let (from, to) = (start.max(content_at), (start + len).min(content_at + segment.len));
        if from < to {
            found.push(Segment { offset: segment.offset + (from - content_at), len: to - from });
        }
        content_at += segment.len;
    }
    found
}

fn write_chunk(
    repository: &Repository,
    entry: &Entry,
    file: &File,
    before: u64,
    offset: u64,
    chunk: &ChunkRef,
    shown: &Path,
) -> Result<u64, RestoreError> {
    let fail = |error| RestoreError::io("write", shown, error);
    let ranges = ranges(entry, offset, u64::from(chunk.len));
    let there = ranges.iter().all(|range| range.offset + range.len <= before);
    if there && holds(file, &ranges, chunk).map_err(fail)? {
        return Ok(0);
    }
    let bytes = repository.read_chunk(&chunk.id)?;
    if bytes.len() != chunk.len as usize {
        return Err(RepositoryError::damaged(
            "a chunk list",
            format!("chunk {} has another length", chunk.id),
        )
        .into());
    }
    let mut rest = bytes.as_slice();
    for range in ranges {
        let (part, after) = rest.split_at_checked(range.len as usize).unwrap_or((rest, &[]));
        file.write_all_at(part, range.offset).map_err(fail)?;
        rest = after;
    }
    Ok(bytes.len() as u64)
}

fn holds(file: &File, ranges: &[Segment], chunk: &ChunkRef) -> io::Result<bool> {
    let mut present = Vec::with_capacity(chunk.len as usize);
    for range in ranges {
        let start = present.len();
        present.resize(start + range.len as usize, 0);
        file.read_exact_at(present.get_mut(start..).unwrap_or_default(), range.offset)?;
    }
    Ok(Id::of(&present) == chunk.id)
}

/// In a file that was there before, holes must really be holes again.
fn dig_holes(file: &File, entry: &Entry, before: u64) -> io::Result<()> {
    let Some(segments) = &entry.segments else { return Ok(()) };
    let mut at = 0u64;
    let ends = segments
        .iter()
        .map(|segment| (segment.offset, segment.offset + segment.len))
        .chain([(before, before)]);
    for (start, end) in ends {
        let stop = start.min(before);
        if at < stop {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(file, flags, at as i64, (stop - at) as i64) {
                Ok(()) => {}
                Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => zero(file, at, stop)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        at = at.max(end);
    }
    Ok(())
}

fn zero(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0u8; 64 << 10];
    while from < to {
        let count = (to - from).min(zeros.len() as u64) as usize;
        file.write_all_at(zeros.get(..count).unwrap_or_default(), from)?;
        from += count as u64;
    }
    Ok(())
}
