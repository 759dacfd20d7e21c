//! Large files past the page cache: what is written once and proven once would push out of memory what a service needs.
//!
//! Linux wants file offsets, lengths and addresses in memory aligned to the blocks of the device (open(2), O_DIRECT); 4096 is
//! enough for all disks. Not every file system can: then everything goes the usual way.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

const ALIGNMENT: usize = 4096;
/// What goes to the device at once.
const PIECE_BYTES: usize = 1 << 20;

thread_local! {
    /// What goes through memory at another address. Made anew for each piece it would cost as much as the piece.
    static PIECE: RefCell<Aligned> = RefCell::new(Aligned::zeroed(PIECE_BYTES));
}

/// Bytes that begin at an aligned address, as long as they fit in the room that they were made with: they can be written to a
/// device where they lie. More than that is right too, and only costs a copy.
#[derive(Debug)]
pub struct Aligned {
    bytes: Vec<u8>,
    skipped: usize,
}

impl Aligned {
    /// Empty, with room for so many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT);
        let skipped = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(skipped, 0);
        Self { bytes, skipped }
    }

    fn zeroed(len: usize) -> Self {
        let mut zeroed = Self::with_capacity(len);
        zeroed.bytes.resize(zeroed.skipped + len, 0);
        zeroed
    }

    fn first_mut(&mut self, len: usize) -> &mut [u8] {
        self.bytes.get_mut(self.skipped..self.skipped + len).unwrap_or_default()
    }

    /// Appends.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.skipped + len);
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.skipped..).unwrap_or_default()
    }
}

/// Appends the first bytes to a file that is empty; returns how many. The rest, fewer than a piece or all of them, is left.
pub fn write_first(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    if bytes.len() < PIECE_BYTES || set_direct(file, true).is_err() {
        return Ok(0);
    }
    let done = write_pieces(file, bytes);
    // Without this the rest couldn't be written.
    set_direct(file, false)?;
    done
}

fn write_pieces(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    for piece in bytes.as_chunks::<PIECE_BYTES>().0 {
        let written = if piece.as_ptr().align_offset(ALIGNMENT) == 0 {
            file.write(piece)
        } else {
            PIECE.with_borrow_mut(|aligned| {
                let room = aligned.first_mut(PIECE_BYTES);
                room.copy_from_slice(piece);
                file.write(room)
            })
        };
        match written {
            Ok(PIECE_BYTES) => done += PIECE_BYTES,
            // What hinders it comes again on the usual way.
            Ok(less) => return Ok(done + less),
            Err(error) if is_declined(&error) => return Ok(done),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads exactly so many bytes from an offset; `None` where that can't be had past the page cache.
pub fn read(file: &File, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
    if !offset.is_multiple_of(ALIGNMENT as u64) || len > PIECE_BYTES || set_direct(file, true).is_err() {
        return Ok(None);
    }
    PIECE.with_borrow_mut(|aligned| {
        // At its end a file may be read beyond it: fewer bytes come.
        match file.read_at(aligned.first_mut(len.next_multiple_of(ALIGNMENT)), offset) {
            Ok(count) if count >= len => Ok(aligned.get(..len).map(<[u8]>::to_vec)),
            Ok(_) => Ok(None),
            Err(error) if is_declined(&error) => Ok(None),
            Err(error) => Err(error),
        }
    })
}

fn set_direct(file: &File, is_direct: bool) -> nix::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_DIRECT, is_direct);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags)).map(drop)
}

/// The file system or the device has no such way, or is interrupted.
fn is_declined(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::{Aligned, PIECE_BYTES, read, write_first};
    use proptest::prelude::{ProptestConfig, proptest};
    use std::fs::File;
    use std::io::{Seek, Write};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whichever way each part goes, on a disk and in memory.
        #[test]
        fn what_was_written_is_read(
            len in 0usize..4 * PIECE_BYTES, from in 0usize..4 * PIECE_BYTES, room in 0usize..6 * PIECE_BYTES,
        ) {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 3) as u8 ^ (at >> 12) as u8).collect();
            for directory in [std::env::temp_dir().as_path(), "/dev/shm".as_ref()] {
                let path = tempfile::NamedTempFile::new_in(directory).unwrap();
                let mut file = File::options().read(true).write(true).open(path.path()).unwrap();
                // Where it may lie as it is, and where it outgrew that.
                let mut aligned = Aligned::with_capacity(room);
                aligned.extend_from_slice(&bytes);
                for bytes in [&bytes[..], &aligned] {
                    file.set_len(0).unwrap();
                    file.rewind().unwrap();
                    let done = write_first(&mut file, bytes).unwrap();
                    file.write_all(&bytes[done..]).unwrap();
                    assert!(std::fs::read(path.path()).unwrap() == bytes);
                }
                aligned.truncate(len / 2);
                assert!(aligned[..] == bytes[..len / 2]);
                for at in [from / PIECE_BYTES * PIECE_BYTES, from / 4096 * 4096, from] {
                    let wanted = len.saturating_sub(at).min(PIECE_BYTES);
                    if let Some(found) = read(&file, at as u64, wanted).unwrap() {
                        assert!(found == bytes[at.min(len)..][..wanted]);
                    }
                }
                assert_eq!(read(&file, 0, len + 1).unwrap(), None);
            }
        }
    }
}
