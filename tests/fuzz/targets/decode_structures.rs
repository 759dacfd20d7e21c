//! No stored structure's decoder panics on any bytes, and what decodes encodes to something that decodes again.
#![no_main]

use icecore::format::{DoomedFile, IndexFile, Key, Manifest, Node, Pack, ProofFile, RepositoryConfig, Root};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = RepositoryConfig::decode(bytes);
    let _ = Pack::decode(bytes);
    let _ = Pack::decode_trailer(bytes, bytes.len() as u64, bytes.len() as u64);
    let _ = Node::decode(bytes);
    let _ = ProofFile::decode(bytes);
    let _ = DoomedFile::decode(bytes);
    let _ = Key::parse(&String::from_utf8_lossy(bytes));
    if let Ok(root) = Root::decode(bytes) {
        assert_eq!(root.encode(), bytes);
    }
    if let Ok(index) = IndexFile::decode(bytes) {
        assert_eq!(index.encode(), bytes);
    }
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert!(Manifest::decode(&manifest.encode()).is_ok());
    }
});
