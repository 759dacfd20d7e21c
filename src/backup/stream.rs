//! A reader that takes bytes back.

use std::io::{self, Read};

/// Reads on, beginning with what was given back.
pub struct Stream<'r> {
    reader: &'r mut dyn Read,
    back: Vec<u8>,
}

impl<'r> Stream<'r> {
    /// Begins where the reader is.
    pub fn new(reader: &'r mut dyn Read) -> Self {
        Self { reader, back: Vec::new() }
    }

    /// The next `wanted` bytes; fewer at the end only.
    pub fn next(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.back);
        if bytes.len() > wanted {
            self.back = bytes.split_off(wanted);
            return Ok(bytes);
        }
        let missing = wanted - bytes.len();
        bytes.reserve_exact(missing);
        self.reader.take(missing as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// These come next again, before what is to come.
    pub fn give_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.back);
        self.back = bytes;
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
    use super::Stream;

    #[test]
    fn what_is_given_back_comes_again() {
        let mut reader = &b"0123456789"[..];
        let mut stream = Stream::new(&mut reader);
        assert_eq!(stream.next(4).unwrap(), b"0123");
        stream.give_back(b"23".to_vec());
        assert_eq!(stream.next(1).unwrap(), b"2");
        stream.give_back(b"12".to_vec());
        assert_eq!(stream.next(20).unwrap(), b"123456789");
        assert_eq!(stream.next(5).unwrap(), b"");
    }
}
