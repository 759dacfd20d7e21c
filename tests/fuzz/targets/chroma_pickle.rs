//! Any bytes as Chroma's index metadata: reading them never panics, and uses no more memory than its bounds.
#![no_main]

use icecore::source::{ReadAt, count_pickle_entries};
use libfuzzer_sys::fuzz_target;
use std::io;

struct Bytes<'b>(&'b [u8]);

impl ReadAt for Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let counted = count_pickle_entries(&Bytes(bytes), &std::env::temp_dir()).unwrap();
    // An entry takes a key and a value: two opcodes at least.
    assert!(counted.is_none_or(|entries| entries <= bytes.len() as u64 / 2));
});
