//! A reader that takes bytes back.

use super::buffers::{Buffer, Buffers};
use std::io::{self, Read};

/// Reads on, beginning with what was given back.
pub struct Stream<'r> {
    reader: &'r mut dyn Read,
    buffers: &'r Buffers,
    back: Vec<u8>,
}

impl<'r> Stream<'r> {
    /// Begins where the reader is.
    pub fn new(reader: &'r mut dyn Read, buffers: &'r Buffers) -> Self {
        Self { reader, buffers, back: Vec::new() }
    }

    /// The next `wanted` bytes; fewer at the end only.
    pub fn next(&mut self, wanted: usize) -> io::Result<Buffer> {
        let mut bytes = self.buffers.get();
        let rest = self.back.split_off(self.back.len().min(wanted));
        bytes.extend(&std::mem::replace(&mut self.back, rest));
        bytes.fill(self.reader, wanted)?;
        Ok(bytes)
    }

    /// These come next again, before what is to come.
    pub fn give_back(&mut self, bytes: &[u8]) {
        self.back = [bytes, &self.back].concat();
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.back.is_empty() {
            return self.reader.read(buffer);
        }
        let rest = self.back.split_off(buffer.len().min(self.back.len()));
        let count = self.back.len();
        buffer.iter_mut().zip(&self.back).for_each(|(to, from)| *to = *from);
        self.back = rest;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffers, Stream};

    #[test]
    fn what_is_given_back_comes_again() {
        let mut reader = &b"0123456789"[..];
        let buffers = Buffers::default();
        let mut stream = Stream::new(&mut reader, &buffers);
        assert_eq!(&*stream.next(4).unwrap(), b"0123");
        stream.give_back(b"23");
        assert_eq!(&*stream.next(1).unwrap(), b"2");
        stream.give_back(b"12");
        assert_eq!(&*stream.next(20).unwrap(), b"123456789");
        assert_eq!(&*stream.next(5).unwrap(), b"");
    }
}
