//! A part of a file in memory, for reading small pieces in order.

use super::trouble::Outcome;
use crate::source::interface::ReadAt;

const WINDOW_BYTES: u64 = 128 << 10;

/// A part of a file that is kept in memory; it moves to where reading goes on.
pub struct Window {
    bytes: Vec<u8>,
    start: u64,
}

impl Window {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    /// Appends `len` bytes from `offset` to `out`; what reaches beyond the file is an I/O error.
    pub fn append(&mut self, file: &dyn ReadAt, mut offset: u64, len: u64, out: &mut Vec<u8>) -> Outcome<()> {
        let mut left = len;
        while left > 0 {
            let within = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
            let found = within.and_then(|at| self.bytes.get(at..)).unwrap_or_default();
            if found.is_empty() {
                self.start = offset;
                self.bytes.resize(file.size().saturating_sub(offset).clamp(1, WINDOW_BYTES) as usize, 0);
                if let Err(error) = file.read_exact_at(&mut self.bytes, offset) {
                    self.bytes.clear();
                    return Err(error.into());
                }
                continue;
            }
            let part = found.get(..(found.len() as u64).min(left) as usize).unwrap_or_default();
            out.extend_from_slice(part);
            offset += part.len() as u64;
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// The byte at `offset`.
    pub fn byte(&mut self, file: &dyn ReadAt, offset: u64) -> Outcome<u8> {
        let within = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = within.and_then(|at| self.bytes.get(at)) {
            return Ok(*byte);
        }
        let mut one = Vec::new();
        self.append(file, offset, 1, &mut one)?;
        Ok(one.first().copied().unwrap_or(0))
    }
}
