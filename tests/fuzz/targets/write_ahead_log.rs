//! Any bytes as a write-ahead log: reading them never panics, and merging ends, with pages or with an error.
#![no_main]

use icecore::source::{CommittedPages, Merged};
use libfuzzer_sys::fuzz_target;
use std::io::{Read, Write};

fuzz_target!(|bytes: &[u8]| {
    let (mut log, mut database) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    log.write_all(bytes).unwrap();
    database.write_all(&[0; 4096]).unwrap();
    let pages = CommittedPages::read(&log, u32::MAX).unwrap();
    if !pages.is_empty() {
        let _ = Merged::new(&database, &log, &pages).take(1 << 20).read_to_end(&mut Vec::new());
    }
});
