//! Append-only logs of lines: where a file that is being appended to can be cut.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK_BYTES: u64 = 64 << 10;
/// A last line longer than this is taken for a record that is still being written.
const LAST_LINE_BYTES: u64 = 16 << 20;

/// The name says that each line is a record of its own.
pub fn is_line_log(name: &[u8]) -> bool {
    name.ends_with(b".jsonl") || name.ends_with(b".ndjson")
}

/// The length at which a log of `size` bytes ends with a whole record: all of it, if it ends with a newline or its last
/// line is a whole JSON value; else up to the last newline.
pub fn whole_records(file: &File, size: u64) -> io::Result<u64> {
    let mut last_line: Vec<u8> = Vec::new();
    let mut end = size;
    while end > 0 && size - end <= LAST_LINE_BYTES {
        let start = end.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; (end - start) as usize];
        file.read_exact_at(&mut block, start)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            let mut line = block.split_off(newline + 1);
            line.append(&mut last_line);
            return Ok(if is_whole(&line) { size } else { start + newline as u64 + 1 });
        }
        block.append(&mut last_line);
        last_line = block;
        end = start;
    }
    // One line and nothing else: there is no better place to cut.
    Ok(size)
}

fn is_whole(line: &[u8]) -> bool {
    line.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

#[cfg(test)]
mod tests {
    use super::whole_records;
    use std::io::Write;

    fn cut(text: &[u8]) -> u64 {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        whole_records(&file, text.len() as u64).unwrap()
    }

    #[test]
    fn a_record_that_is_being_written_is_left_out() {
        assert_eq!(cut(b"{\"a\":1}\n{\"b\":"), 8);
        assert_eq!(cut(b"{\"a\":1}\n"), 8);
        assert_eq!(cut(b"{\"a\":1}\n{\"b\":2}"), 15);
        assert_eq!(cut(b""), 0);
        assert_eq!(cut(b"{\"a\""), 4);
        let long = [b"{}\n".as_slice(), b"[", &[b'1'; 200_000]].concat();
        assert_eq!(cut(&long), 3);
    }
}
