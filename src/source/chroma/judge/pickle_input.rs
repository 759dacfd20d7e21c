//! Takes a pickle's bytes in order: numbers, strings, lines.

use super::trouble::{Outcome, Trouble};
use super::window::Window;
use crate::source::interface::ReadAt;

/// The bytes of one file, first to last.
pub struct Input<'f> {
    file: &'f dyn ReadAt,
    window: Window,
    at: u64,
}

impl<'f> Input<'f> {
    pub fn new(file: &'f dyn ReadAt) -> Self {
        Self { file, window: Window::new(), at: 0 }
    }

    pub fn file(&self) -> &'f dyn ReadAt {
        self.file
    }

    /// Where reading goes on.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.file.size().saturating_sub(self.at)
    }

    pub fn byte(&mut self) -> Outcome<u8> {
        if self.left() == 0 {
            return Err(Trouble::malformed("it ends early"));
        }
        let byte = self.window.byte(self.file, self.at)?;
        self.at += 1;
        Ok(byte)
    }

    /// A little-endian number of `LEN` bytes, at most eight.
    pub fn number<const LEN: usize>(&mut self) -> Outcome<u64> {
        let mut bytes = [0u8; 8];
        for byte in bytes.iter_mut().take(LEN) {
            *byte = self.byte()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Replaces `out` by the next `len` bytes. The caller has bounded `len`.
    pub fn bytes(&mut self, len: u64, out: &mut Vec<u8>) -> Outcome<()> {
        if len > self.left() {
            return Err(Trouble::malformed(format!("{len} bytes are announced, {} are left", self.left())));
        }
        out.clear();
        self.window.append(self.file, self.at, len, out)?;
        self.at += len;
        Ok(())
    }

    /// A line without its end, as `GLOBAL` has them; at most `limit` bytes.
    pub fn line(&mut self, limit: usize, out: &mut Vec<u8>) -> Outcome<()> {
        out.clear();
        loop {
            match self.byte()? {
                b'\n' => return Ok(()),
                byte if out.len() < limit => out.push(byte),
                _ => return Err(Trouble::malformed("a name is too long")),
            }
        }
    }
}
