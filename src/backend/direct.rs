//! Large files past the page cache: what is written once and proven once would push out of memory what a service needs.
//!
//! Linux wants file offsets, lengths and addresses in memory aligned to the blocks of the device (open(2), O_DIRECT); 4096 is
//! enough for all disks. Not every file system can: then everything goes the usual way.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

const ALIGNMENT: usize = 4096;
/// What goes to the device at once.
const PIECE_BYTES: usize = 1 << 20;

/// Memory at an aligned address.
struct Aligned {
    bytes: Vec<u8>,
    skipped: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0; PIECE_BYTES + ALIGNMENT];
        let skipped = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, skipped }
    }

    fn slice(&mut self, len: usize) -> &mut [u8] {
        self.bytes.get_mut(self.skipped..self.skipped + len).unwrap_or_default()
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
    let (mut aligned, mut done) = (Aligned::new(), 0);
    for piece in bytes.as_chunks::<PIECE_BYTES>().0 {
        let room = aligned.slice(PIECE_BYTES);
        room.copy_from_slice(piece);
        match file.write(room) {
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
    let mut aligned = Aligned::new();
    // At its end a file may be read beyond it: fewer bytes come.
    match file.read_at(aligned.slice(len.next_multiple_of(ALIGNMENT)), offset) {
        Ok(count) if count >= len => {}
        Ok(_) => return Ok(None),
        Err(error) if is_declined(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    let Aligned { mut bytes, skipped } = aligned;
    bytes.truncate(skipped + len);
    bytes.drain(..skipped);
    Ok(Some(bytes))
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
    use super::{PIECE_BYTES, read, write_first};
    use proptest::prelude::{ProptestConfig, proptest};
    use std::fs::File;
    use std::io::Write;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whichever way each part goes, on a disk and in memory.
        #[test]
        fn what_was_written_is_read(len in 0usize..4 * PIECE_BYTES, from in 0usize..4 * PIECE_BYTES) {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 3) as u8 ^ (at >> 12) as u8).collect();
            for directory in [std::env::temp_dir().as_path(), "/dev/shm".as_ref()] {
                let path = tempfile::NamedTempFile::new_in(directory).unwrap();
                let mut file = File::options().read(true).write(true).open(path.path()).unwrap();
                let done = write_first(&mut file, &bytes).unwrap();
                file.write_all(&bytes[done..]).unwrap();
                assert!(std::fs::read(path.path()).unwrap() == bytes);
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
