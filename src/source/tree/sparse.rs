//! Which parts of a file are data and which are holes.

use crate::format::Segment;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

/// More segments than this aren't worth listing: the smallest holes are then read as zeros.
const MAX_SEGMENTS: usize = 1024;

/// The data segments of a sparse file below `size`; `None` for a file without holes worth speaking of.
pub fn segments(file: &File, metadata: &Metadata, size: u64) -> io::Result<Option<Vec<Segment>>> {
    if metadata.blocks() * 512 >= size || size == 0 {
        return Ok(None);
    }
    let mut found: Vec<Segment> = Vec::new();
    let mut at = 0u64;
    while at < size {
        let start = match lseek(file, at as i64, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break,
            // The file system cannot tell; then all is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if start >= size {
            break;
        }
        let end = (lseek(file, start as i64, Whence::SeekHole)? as u64).min(size);
        if end <= start {
            break;
        }
        found.push(Segment { offset: start, len: end - start });
        at = end;
    }
    let whole = found.as_slice() == [Segment { offset: 0, len: size }];
    Ok((!whole).then(|| merge_small_holes(found)))
}

fn merge_small_holes(mut segments: Vec<Segment>) -> Vec<Segment> {
    let mut smallest = 4096;
    while segments.len() > MAX_SEGMENTS {
        smallest *= 2;
        let mut merged: Vec<Segment> = Vec::new();
        for segment in segments {
            match merged.last_mut() {
                Some(last) if segment.offset - (last.offset + last.len) < smallest => {
                    last.len = segment.offset + segment.len - last.offset;
                }
                _ => merged.push(segment),
            }
        }
        segments = merged;
    }
    segments
}

/// Reads given ranges of a file one after another; a file that ends early gives less.
pub struct Ranges<'f> {
    file: &'f File,
    rest: std::vec::IntoIter<Segment>,
    now: Segment,
}

impl<'f> Ranges<'f> {
    pub fn new(file: &'f File, segments: Vec<Segment>) -> Self {
        Self { file, rest: segments.into_iter(), now: Segment { offset: 0, len: 0 } }
    }
}

impl Read for Ranges<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.len == 0 {
            match self.rest.next() {
                Some(next) => self.now = next,
                None => return Ok(0),
            }
        }
        let count = usize::try_from(self.now.len).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..count).unwrap_or_default(), self.now.offset)?;
        if read == 0 {
            // The file shrank: nothing more comes from here on, and the caller sees that bytes are missing.
            self.rest = Vec::new().into_iter();
        }
        self.now.offset += read as u64;
        self.now.len = if read == 0 { 0 } else { self.now.len - read as u64 };
        Ok(read)
    }
}
