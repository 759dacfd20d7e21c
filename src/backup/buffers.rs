//! Buffers that are used again: new ones would have to be given by the system, page by page, and cleared.

use std::io::{self, ErrorKind, Read};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// What is handed over at a time.
pub const BUFFER_BYTES: usize = 4 << 20;
/// So many bytes wait for their next use at most.
const MOST_BYTES: usize = 16 << 20;

/// Where buffers wait for their next use.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// Some bytes, in memory that goes back when they are dropped.
pub struct Buffer {
    /// Longer than what is in use of it.
    bytes: Vec<u8>,
    len: usize,
    home: Buffers,
}

impl Buffers {
    /// An empty buffer.
    pub fn get(&self) -> Buffer {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Buffer { bytes, len: 0, home: self.clone() }
    }
}

impl Buffer {
    /// Appends what `reader` gives until there are `wanted` bytes in all; fewer at its end only. Returns how many came.
    pub fn fill(&mut self, reader: &mut dyn Read, wanted: usize) -> io::Result<usize> {
        self.reserve(wanted);
        let before = self.len;
        while let Some(room) = self.bytes.get_mut(self.len..wanted).filter(|room| !room.is_empty()) {
            match reader.read(room) {
                Ok(0) => break,
                Ok(count) => self.len += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.len - before)
    }

    /// Appends these.
    pub fn extend(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        self.reserve(end);
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
            self.len = end;
        }
    }

    /// Leaves the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for so many bytes in all.
    pub fn reserve(&mut self, len: usize) {
        if self.bytes.len() >= len {
            return;
        }
        if self.len == 0 {
            // What is cleared by the system at its first use isn't cleared twice.
            self.bytes = vec![0; len];
        } else {
            self.bytes.resize(len, 0);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let mut waiting = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.iter().map(Vec::len).sum::<usize>() + self.bytes.len() <= MOST_BYTES {
            waiting.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Buffers;

    #[test]
    fn what_was_there_before_is_never_seen() {
        let buffers = Buffers::default();
        let mut first = buffers.get();
        assert_eq!(first.fill(&mut &b"0123456789"[..], 8).unwrap(), 8);
        drop(first);
        let mut second = buffers.get();
        assert_eq!(second.len(), 0);
        second.extend(b"ab");
        assert_eq!(second.fill(&mut &b"cde"[..], 6).unwrap(), 3);
        assert_eq!(&*second, b"abcde");
        second.truncate(4);
        second.extend(b"0123456789");
        assert_eq!(&*second, b"abcd0123456789");
    }
}
