//! Cut, store, find, read back: the bytes are the same, after any edits, whatever the index lives in.

use crate::support::{Scratch, cases, noise, put, run};
use icecore::backend::LocalBackend;
use icecore::repository::{FileReader, IndexOptions, Repository};
use icecore::stamp::Stamp;
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use proptest::strategy::Strategy;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Edit {
    Insert(prop::sample::Index, usize, u64),
    Delete(prop::sample::Index, usize),
    Overwrite(prop::sample::Index, usize, u64),
    Repeat(prop::sample::Index, usize),
}

fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    proptest::prop_oneof![
        (at(), 1usize..50_000, any::<u64>()).prop_map(|(at, len, seed)| Edit::Insert(at, len, seed)),
        (at(), 1usize..50_000).prop_map(|(at, len)| Edit::Delete(at, len)),
        (at(), 1usize..50_000, any::<u64>()).prop_map(|(at, len, seed)| Edit::Overwrite(at, len, seed)),
        (at(), 1usize..300_000).prop_map(|(at, len)| Edit::Repeat(at, len)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let place =
        |at: &prop::sample::Index, bytes: &Vec<u8>| if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
    match edit {
        Edit::Insert(at, len, seed) => {
            let at = place(at, bytes);
            bytes.splice(at..at, noise(*len, *seed));
        }
        Edit::Delete(at, len) => {
            let at = place(at, bytes);
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
        }
        Edit::Overwrite(at, len, seed) => {
            let at = place(at, bytes);
            let end = (at + len).min(bytes.len());
            bytes.splice(at..end, noise(end - at, *seed));
        }
        Edit::Repeat(at, len) => {
            let at = place(at, bytes);
            bytes.splice(at..at, std::iter::repeat_n(b'r', *len));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn any_edits_read_back(len in 0usize..1_500_000, seed in any::<u64>(), edits in prop::collection::vec(edits(), 0..5), large in any::<bool>()) {
        let scratch = Scratch::new();
        scratch.init();
        // An index limit of 0 MiB makes every lookup go through RocksDB.
        let memory = if large { "0" } else { "128" };
        let mut bytes = noise(len, seed);
        let mut states = Vec::new();
        for edit in std::iter::once(None).chain(edits.iter().map(Some)) {
            if let Some(edit) = edit {
                apply(&mut bytes, edit);
            }
            put(&scratch.path("file"), &bytes);
            states.push((scratch.backup(&["file", "--index-memory", memory]), bytes.clone()));
        }
        for (stamp, bytes) in states {
            let output = run(scratch.icecore().args(["--index-memory", memory, "cat", &stamp, "file"]));
            assert!(output.stdout == bytes, "{stamp}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), max_shrink_iters: 20, ..ProptestConfig::default() })]
    /// Reads of any size at any places, one after another: each gives the bytes that are there.
    #[test]
    fn any_parts_read_back(
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200_000, any::<bool>()), 1..40),
        edits in prop::collection::vec(edits(), 0..3), hole in any::<bool>(),
    ) {
        let scratch = Scratch::new();
        scratch.init();
        let mut bytes = noise(600_000, 3);
        put(&scratch.path("file"), &bytes);
        scratch.backup(&["file"]);
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        put(&scratch.path("file"), &bytes);
        if hole {
            let file = std::fs::OpenOptions::new().write(true).open(scratch.path("file")).unwrap();
            file.set_len(bytes.len() as u64 + 300_000).unwrap();
            file.write_all_at(b"end", bytes.len() as u64 + 299_997).unwrap();
            bytes.resize(bytes.len() + 299_997, 0);
            bytes.extend_from_slice(b"end");
        }
        let stamp = Stamp::parse(&scratch.backup(&["file"])).unwrap();
        let backend = Arc::new(LocalBackend::new(scratch.path("repo")));
        let repository = Repository::open(backend, IndexOptions::default()).unwrap();
        let snapshots = repository.snapshots().unwrap();
        let root = snapshots.get(stamp).unwrap().manifest.sources[0].root.clone().unwrap();
        let reader = FileReader::open(&repository, &root).unwrap();
        assert_eq!(reader.size(), bytes.len() as u64);
        let mut at = 0;
        for (place, len, goes_on) in reads {
            if !goes_on {
                at = place.index(bytes.len() + 1);
            }
            let len = len.min(bytes.len() - at);
            let mut found = vec![1; len];
            reader.read_exact_at(&mut found, at as u64).unwrap();
            assert!(found == bytes[at..at + len], "{len} at {at}");
            at += len;
        }
    }
}
