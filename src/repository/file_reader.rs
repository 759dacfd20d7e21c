//! Random access to a stored file, holes included.

use super::error::RepositoryError;
use super::open::Repository;
use crate::cores::on_all_cores;
use crate::format::{ChunkRef, Entry, Segment};
use crate::id::Id;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one thread reads at a time.
const RUN_BYTES: u64 = 1 << 20;

/// A stored file, readable by position. Each chunk read is proven by its id.
pub struct FileReader<'r> {
    repository: &'r Repository,
    chunks: Vec<ChunkRef>,
    /// Where each chunk begins in the content.
    starts: Vec<u64>,
    segments: Option<Vec<Segment>>,
    size: u64,
    content_bytes: u64,
    /// The chunk in which the last reading ended: neighbours are often read one after another.
    last: Mutex<Option<(usize, Vec<u8>)>>,
    /// Which chunks were read, and so proven.
    read: Vec<AtomicBool>,
}

impl<'r> FileReader<'r> {
    /// Opens the content of a file's entry.
    pub fn open(repository: &'r Repository, entry: &Entry) -> Result<Self, RepositoryError> {
        let chunks = repository.chunk_list(&entry.content)?;
        let mut starts = Vec::with_capacity(chunks.len());
        let mut at = 0u64;
        for chunk in &chunks {
            starts.push(at);
            at += u64::from(chunk.len);
        }
        let (segments, size) = (entry.segments.clone(), entry.size);
        let read = chunks.iter().map(|_| AtomicBool::new(false)).collect();
        let (content_bytes, last) = (entry.content_bytes(), Mutex::new(None));
        Ok(Self { repository, chunks, starts, segments, size, content_bytes, last, read })
    }

    /// Bytes of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its chunks with the place of each in the content.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, ChunkRef)> + '_ {
        self.starts.iter().copied().zip(self.chunks.iter().copied())
    }

    /// The chunks that were read so far, and so proven.
    pub fn chunks_read(&self) -> impl Iterator<Item = Id> + '_ {
        let read = self.chunks.iter().zip(&self.read).filter(|(_, read)| read.load(Ordering::Relaxed));
        read.map(|(chunk, _)| chunk.id)
    }

    /// Fills `buffer` from `offset`; the caller stays inside `size`. What lies in no segment reads as zeros.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), RepositoryError> {
        let Some(segments) = &self.segments else { return self.read_content(buffer, offset) };
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        let mut content_at = 0u64;
        for segment in segments {
            let (from, to) = (segment.offset.max(offset), (segment.offset + segment.len).min(end));
            if from < to
                && let Some(part) = buffer.get_mut((from - offset) as usize..(to - offset) as usize)
            {
                self.read_content(part, content_at + (from - segment.offset))?;
            }
            content_at += segment.len;
        }
        Ok(())
    }

    /// Hands over all that the file holds, by its place there, in no order and on all cores; holes are left out.
    pub fn each_part<E: From<RepositoryError> + Send>(
        &self,
        take: &(impl Fn(&[u8], u64) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        let held: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        if held != self.content_bytes {
            return Err(RepositoryError::damaged("a stored file", "its chunks don't fill it").into());
        }
        let runs = self.runs();
        on_all_cores(runs.len(), |at| {
            let run = runs.get(at).cloned().unwrap_or_default();
            let ids: Vec<Id> =
                self.chunks.get(run.clone()).into_iter().flatten().map(|chunk| chunk.id).collect();
            let mut content = Vec::new();
            self.repository.read_chunks(&ids, &mut |number, bytes| {
                let bytes = bytes?;
                self.note(run.start + number, &bytes)?;
                content.extend_from_slice(&bytes);
                Ok::<_, RepositoryError>(())
            })?;
            let start = self.starts.get(run.start).copied().unwrap_or(0);
            let mut rest = content.as_slice();
            for range in self.ranges(start, content.len() as u64) {
                let (part, after) = rest.split_at_checked(range.len as usize).unwrap_or((rest, &[]));
                rest = after;
                take(part, range.offset)?;
            }
            Ok(())
        })
    }

    /// Chunks that follow each other, by their numbers: what one thread reads at a time.
    fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut begun = 0;
        for (number, start) in self.starts.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if start - begun < RUN_BYTES => run.end = number + 1,
                _ => {
                    runs.push(number..number + 1);
                    begun = *start;
                }
            }
        }
        runs
    }

    /// The ranges of the file that a range of the content fills.
    pub fn ranges(&self, start: u64, len: u64) -> Vec<Segment> {
        let Some(segments) = &self.segments else { return vec![Segment { offset: start, len }] };
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

    /// A chunk was read, and so proven; it has the length that the list says.
    fn note(&self, number: usize, bytes: &[u8]) -> Result<(), RepositoryError> {
        if self.chunks.get(number).is_none_or(|chunk| chunk.len as usize != bytes.len()) {
            return Err(RepositoryError::damaged("a chunk list", "a chunk has another length"));
        }
        if let Some(read) = self.read.get(number) {
            read.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read_content(&self, buffer: &mut [u8], offset: u64) -> Result<(), RepositoryError> {
        let end = offset + buffer.len() as u64;
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let behind = self.starts.partition_point(|start| *start < end).max(first);
        let mut rest = buffer;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fill = |number: usize, bytes: &[u8]| {
            let start = self.starts.get(number).copied().unwrap_or(0);
            let part = bytes.get(offset.saturating_sub(start) as usize..).unwrap_or_default();
            let count = part.len().min(rest.len());
            let (filled, after) = std::mem::take(&mut rest).split_at_mut(count);
            filled.copy_from_slice(part.get(..count).unwrap_or_default());
            rest = after;
        };
        let mut numbers = first..behind;
        if let Some((cached, bytes)) = &*last
            && *cached == first
        {
            fill(first, bytes);
            numbers.start = behind.min(first + 1);
        }
        let begin = numbers.start;
        let chunks = self.chunks.get(numbers).unwrap_or_default();
        let ids: Vec<Id> = chunks.iter().map(|chunk| chunk.id).collect();
        self.repository.read_chunks(&ids, &mut |number, bytes| {
            let (bytes, number) = (bytes?, begin + number);
            self.note(number, &bytes)?;
            fill(number, &bytes);
            // The chunk in which this ends is where the next reading begins.
            if number + 1 == behind
                && self.starts.get(number).is_some_and(|start| start + bytes.len() as u64 > end)
            {
                *last = Some((number, bytes.into_owned()));
            }
            Ok::<_, RepositoryError>(())
        })?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err(RepositoryError::damaged("a stored file", "it is shorter than its size"))
        }
    }
}
