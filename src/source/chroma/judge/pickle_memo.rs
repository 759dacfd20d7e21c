//! A pickle's memo, bounded in memory: strings are kept as places in the file.

use super::trouble::{Outcome, Trouble};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const RECORD_BYTES: usize = 12;
/// Records kept in memory (3 MiB); those beyond go to a scratch file.
const IN_MEMORY: usize = 1 << 18;
/// Records written or read at once.
const BLOCK: usize = 1 << 13;

/// What a memo number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// A string: where its bytes lie in the pickle.
    Text {
        offset: u64,
        len: u32,
    },
    Int(i64),
    None,
    /// The class `PersistentData`.
    Class,
    /// Anything that must not be used twice.
    Other,
}

impl Remembered {
    fn encode(self) -> [u8; RECORD_BYTES] {
        // Lengths of strings are bounded far below these marks.
        let (offset, mark) = match self {
            Self::Text { offset, len } => (offset, len),
            Self::Int(value) => (value as u64, u32::MAX),
            Self::None => (0, u32::MAX - 1),
            Self::Class => (0, u32::MAX - 2),
            Self::Other => (0, u32::MAX - 3),
        };
        let mut record = [0u8; RECORD_BYTES];
        let bytes = offset.to_le_bytes().into_iter().chain(mark.to_le_bytes());
        record.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        record
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let offset = u64::from_le_bytes(*record.first_chunk()?);
        let mark = u32::from_le_bytes(*record.get(8..)?.first_chunk()?);
        Some(match mark {
            u32::MAX => Self::Int(offset as i64),
            mark if mark == u32::MAX - 1 => Self::None,
            mark if mark == u32::MAX - 2 => Self::Class,
            mark if mark == u32::MAX - 3 => Self::Other,
            len => Self::Text { offset, len },
        })
    }
}

/// Records by number, dense from 0.
pub struct Memo {
    scratch: PathBuf,
    first: Vec<u8>,
    file: Option<File>,
    /// Records that are not yet in the file.
    tail: Vec<u8>,
    /// A block read back, by its number.
    block: Option<(usize, Vec<u8>)>,
    count: usize,
}

impl Memo {
    pub fn new(scratch: &Path) -> Self {
        Self {
            scratch: scratch.to_owned(),
            first: Vec::new(),
            file: None,
            tail: Vec::new(),
            block: None,
            count: 0,
        }
    }

    /// The next free number.
    pub fn len(&self) -> u64 {
        self.count as u64
    }

    pub fn push(&mut self, value: Remembered) -> Outcome<()> {
        if self.count < IN_MEMORY {
            self.first.extend_from_slice(&value.encode());
        } else {
            self.tail.extend_from_slice(&value.encode());
            if self.tail.len() == BLOCK * RECORD_BYTES {
                if self.file.is_none() {
                    self.file = Some(tempfile::tempfile_in(&self.scratch)?);
                }
                let blocks = (self.count - IN_MEMORY) / BLOCK;
                if let Some(file) = &self.file {
                    file.write_all_at(&self.tail, (blocks * BLOCK * RECORD_BYTES) as u64)?;
                }
                self.tail.clear();
            }
        }
        self.count += 1;
        Ok(())
    }

    pub fn get(&mut self, number: u64) -> Outcome<Remembered> {
        let unknown = || Trouble::malformed(format!("memo {number} was never set"));
        let number =
            usize::try_from(number).ok().filter(|number| *number < self.count).ok_or_else(unknown)?;
        let record = |bytes: &[u8], at: usize| bytes.get(at * RECORD_BYTES..).and_then(Remembered::decode);
        let Some(beyond) = number.checked_sub(IN_MEMORY) else {
            return record(&self.first, number).ok_or_else(unknown);
        };
        let (block, within) = (beyond / BLOCK, beyond % BLOCK);
        if block == (self.count - IN_MEMORY) / BLOCK {
            return record(&self.tail, within).ok_or_else(unknown);
        }
        let mut bytes = match self.block.take() {
            Some((cached, bytes)) if cached == block => bytes,
            other => {
                let mut bytes = other.map(|(_, bytes)| bytes).unwrap_or_default();
                bytes.resize(BLOCK * RECORD_BYTES, 0);
                if let Some(file) = &self.file {
                    file.read_exact_at(&mut bytes, (block * BLOCK * RECORD_BYTES) as u64)?;
                }
                bytes
            }
        };
        let found = record(&bytes, within).ok_or_else(unknown);
        bytes.truncate(BLOCK * RECORD_BYTES);
        self.block = Some((block, bytes));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_memory_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut memo = Memo::new(directory.path());
        let value = |number: u64| match number % 3 {
            0 => Remembered::Text { offset: number * 7, len: 5 },
            1 => Remembered::Int(-(number as i64)),
            _ => Remembered::Other,
        };
        let count = (IN_MEMORY + 3 * BLOCK + 10) as u64;
        for number in 0..count {
            assert_eq!(memo.len(), number);
            memo.push(value(number)).unwrap();
        }
        let steps = (0..count).step_by(997).chain([IN_MEMORY as u64 - 1, IN_MEMORY as u64, count - 1]);
        for number in steps.chain([5, IN_MEMORY as u64 + BLOCK as u64]) {
            assert_eq!(memo.get(number).unwrap(), value(number), "{number}");
        }
        assert!(memo.get(count).is_err());
    }
}
