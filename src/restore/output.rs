//! A file that several threads write, and the disk meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// After so many bytes the disk is given what was written so far. By itself the kernel begins when a good part of all memory
/// waits, and whoever makes the file durable in the end waits for everything.
const EARLY_BYTES: u64 = 64 << 20;

/// A file that is open for writing.
pub struct Output<'f> {
    /// The kernel lets one thread at a time write to a file, and has the others turn round and round until it is their turn.
    file: Mutex<&'f File>,
    written: AtomicU64,
    wake: SyncSender<()>,
}

impl Output<'_> {
    /// Writes all of the bytes at a place of the file.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all_at(bytes, offset)?;
        let len = bytes.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / EARLY_BYTES < (before + len) / EARLY_BYTES {
            // Where the disk is behind already it isn't told again.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }
}

/// Lets `work` write up to `most` bytes. Returns how many it wrote; what of them is durable isn't said, but an error of the disk
/// is told (as the error of `sync`), and only here.
pub fn write_early<E>(
    file: &File,
    most: u64,
    sync: impl FnOnce(io::Error) -> E,
    work: impl FnOnce(&Output<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let (wake, woken) = sync_channel(1);
    let output = Output { file: Mutex::new(file), written: AtomicU64::new(0), wake };
    let (done, synced, written) = thread::scope(|scope| {
        let give = move || woken.iter().try_for_each(|()| file.sync_data());
        let early = (most >= EARLY_BYTES).then(|| scope.spawn(give));
        let done = work(&output);
        let written = output.written.load(Ordering::Relaxed);
        // Nobody wakes the other thread any more: it ends.
        drop(output);
        let synced = early.map_or(Ok(Ok(())), thread::ScopedJoinHandle::join);
        (done, synced.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())), written)
    });
    // Also where the work was given up: the kernel doesn't tell this error of the disk a second time.
    synced.map_err(sync)?;
    done.map(|()| written)
}

#[cfg(test)]
mod tests {
    use super::{EARLY_BYTES, write_early};
    use crate::cores::on_all_cores;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    const PART: u64 = 1 << 20;

    fn parts(file: &File, count: u64) -> io::Result<u64> {
        write_early(file, count * PART, io::Error::other, |output| {
            on_all_cores(count as usize, |at| output.write(&[at as u8; PART as usize], at as u64 * PART))
        })
    }

    #[test]
    fn all_threads_write_all() {
        let file = tempfile::tempfile().unwrap();
        let count = 2 * EARLY_BYTES / PART + 1;
        assert_eq!(parts(&file, count).unwrap(), count * PART);
        let mut byte = [0];
        for at in 0..count {
            file.read_exact_at(&mut byte, at * PART + PART / 2).unwrap();
            assert_eq!(byte, [at as u8]);
        }
    }

    /// A null device takes all bytes, but can't be told to make them durable.
    #[test]
    fn an_error_of_the_disk_is_told() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(parts(&null, 2).unwrap(), 2 * PART);
        assert!(parts(&null, EARLY_BYTES / PART).is_err());
    }
}
