//! Any bytes as Chroma's index metadata: reading them never panics, and uses no more memory than its bounds.
#![no_main]

use icecore::source::count_pickle_entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let counted = count_pickle_entries(&bytes, &std::env::temp_dir()).unwrap();
    // An entry takes a key and a value: two opcodes at least.
    assert!(counted.is_none_or(|entries| entries <= bytes.len() as u64 / 2));
});
