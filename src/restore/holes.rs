//! Holes of sparse files: those that are filled, and making them holes again.

use crate::format::Segment;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A smaller run is only zeroed: a block that is half inside can't become a hole.
const BLOCK_BYTES: u64 = 4096;

/// The parts of a file of `size` bytes outside of its `segments` that hold data.
pub fn filled_holes(file: &File, segments: &[Segment], size: u64) -> Vec<Segment> {
    let ends = segments.iter().map(|segment| (segment.offset, segment.offset + segment.len));
    let mut filled = Vec::new();
    let mut at = 0u64;
    for (start, end) in ends.chain([(size, size)]) {
        filled.extend(data_in(file, at, start));
        at = at.max(end);
    }
    filled
}

/// Makes these parts holes, or zeros where there are none. Returns the bytes written for that.
pub fn dig(file: &File, holes: &[Segment]) -> io::Result<u64> {
    let mut written = 0;
    for hole in holes {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(file, flags, hole.offset as i64, hole.len as i64) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => written += zero(file, hole)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(written)
}

/// The runs of data between two places of a file. Where the file system can't tell, what isn't zero.
fn data_in(file: &File, from: u64, to: u64) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        let Ok(start) = lseek(file, at as i64, Whence::SeekData) else { break };
        let start = start as u64;
        if start >= to {
            break;
        }
        let end = lseek(file, start as i64, Whence::SeekHole).map_or(to, |end| (end as u64).min(to));
        found.push(Segment { offset: start, len: end - start });
        at = end.max(start + 1);
    }
    // A block that is half inside can't become a hole: it only has to read as zeros.
    found.retain(|run| {
        let is_whole_block = run.len >= BLOCK_BYTES;
        is_whole_block || !reads_as_zeros(file, run)
    });
    found
}

fn reads_as_zeros(file: &File, run: &Segment) -> bool {
    let mut bytes = vec![1; run.len as usize];
    file.read_exact_at(&mut bytes, run.offset).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// Writes zeros where there are none. Returns the bytes written.
fn zero(file: &File, run: &Segment) -> io::Result<u64> {
    let zeros = vec![0u8; 64 << 10];
    let (mut at, mut written) = (run.offset, 0);
    while at < run.offset + run.len {
        let part = Segment { offset: at, len: (run.offset + run.len - at).min(zeros.len() as u64) };
        if !reads_as_zeros(file, &part) {
            file.write_all_at(zeros.get(..part.len as usize).unwrap_or_default(), at)?;
            written += part.len;
        }
        at += part.len;
    }
    Ok(written)
}
