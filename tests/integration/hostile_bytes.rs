//! No decoder panics, hangs or allocates by what hostile bytes claim.

use icecore::format::{
    DoomedFile, Entry, EntryKind, IndexFile, Key, Manifest, Node, Pack, PackKind, ProofFile,
    RepositoryConfig, Root,
};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use proptest::strategy::Strategy;

fn decode_everything(bytes: &[u8]) {
    drop(RepositoryConfig::decode(bytes));
    drop(Pack::decode(bytes));
    drop(Pack::decode_trailer(bytes, bytes.len() as u64, bytes.len() as u64));
    drop(Pack::trailer_len(bytes));
    drop(IndexFile::decode(bytes));
    drop(Manifest::decode(bytes));
    drop(ProofFile::decode(bytes));
    drop(DoomedFile::decode(bytes));
    drop(Node::decode(bytes));
    drop(Root::decode(bytes));
    let _ = Key::parse(&String::from_utf8_lossy(bytes));
}

/// Bytes that begin like something real.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let starts: Vec<&[u8]> = vec![
        b"",
        b"ICEPACK0",
        b"ICEINDX0\xff\xff\xff\xff",
        b"\x00\x00",
        b"\x01\x00\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x02\x05",
        b"\xbf",
        b"\xa9\x66format\x00",
        b"\x01\x00\x81\xa6\x61n",
    ];
    (prop::sample::select(starts), prop::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(start, rest)| [start, &rest].concat())
}

fn entries() -> Vec<Entry> {
    let bare = |name: &str, kind| Entry {
        mode: 0o644,
        mtime_ns: -5,
        xattrs: vec![(b"user.a".to_vec(), vec![0, 255])],
        ..Entry::bare(name.into(), kind)
    };
    vec![
        bare("a", EntryKind::File),
        bare("b", EntryKind::Directory),
        Entry { target: b"x".to_vec(), size: 1, ..bare("c", EntryKind::Symlink) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn arbitrary_bytes(bytes in plausible()) {
        decode_everything(&bytes);
    }

    #[test]
    fn real_structures_with_a_change(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let leaf = <Entry as icecore::format::Item>::leaf(&entries());
        let mut pack = Pack::begin();
        pack.extend_from_slice(b"chunk");
        let record = icecore::format::ChunkRecord { id: icecore::id::Id::of(b"chunk"), stored_len: 5, plain_len: 5, encoding: icecore::format::Encoding::RAW, bases: Box::default() };
        Pack { kind: PackKind::Data, records: vec![record] }.end(&mut pack);
        let config = RepositoryConfig::new(icecore::id::Id::of(b"")).encode();
        for whole in [leaf, pack, config] {
            let mut bytes = whole.clone();
            let at = at.index(bytes.len());
            bytes[at] = value;
            decode_everything(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            decode_everything(&bytes);
        }
    }
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    for name in ["", ".", "..", "a/b", "/", "a\0b"] {
        let mut entry = entries().remove(0);
        entry.name = name.into();
        let leaf = <Entry as icecore::format::Item>::leaf(&[entry]);
        assert!(Node::decode(&leaf).is_err(), "{name:?}");
    }
    let twice = vec![entries().remove(0), entries().remove(0)];
    assert!(Node::decode(&<Entry as icecore::format::Item>::leaf(&twice)).is_err(), "the same name twice");
    assert!(Node::decode(&<Entry as icecore::format::Item>::leaf(&entries())).is_ok());
}

#[test]
fn keys_of_other_places_are_no_keys() {
    for path in [
        "snapshots/../config",
        "packs/ab/cd",
        "packs/0000",
        "index/",
        "tmp/x",
        "snapshots/20260230T000000Z",
        ".git/config",
    ] {
        assert_eq!(Key::parse(path), None, "{path}");
    }
    let id = icecore::id::Id::of(b"x");
    for key in [
        Key::Config,
        Key::Readme,
        Key::Pack(id),
        Key::Index(id),
        Key::Manifest(id),
        Key::Proof(id),
        Key::Doomed(id),
    ] {
        assert_eq!(Key::parse(&key.path()), Some(key));
    }
}

#[test]
fn source_names_that_are_paths_are_refused() {
    let manifest = |names: &[&str]| {
        let source = |name: &&str| icecore::format::SourceRecord {
            name: (*name).to_owned(),
            kind: icecore::format::SourceKind::Tree,
            path: b"/x".to_vec(),
            exclude: Vec::new(),
            parent: None,
            consistency: icecore::format::Consistency::Cold,
            captured_ns: 0,
            point_ns: 0,
            moment: 0,
            writer_pause_ms: 0,
            counts: icecore::format::Counts::default(),
            sidecars: Vec::new(),
            root: None,
            proof: None,
            notes: Vec::new(),
            more_notes: 0,
            collections: Vec::new(),
            written_by: None,
        };
        let made = Manifest {
            format: 0,
            stamp: icecore::stamp::Stamp::from_unix(0),
            repository: icecore::id::Id::of(b""),
            clock_ns: 0,
            profile: "p".into(),
            host: "h".into(),
            kind: icecore::format::SnapshotKind::Backup,
            tool: "t".into(),
            tags: Vec::new(),
            sources: names.iter().map(source).collect(),
            new_bytes: 0,
            stored_bytes: 0,
            metadata_bytes: 0,
            duration_ms: 0,
        };
        Manifest::decode(&made.encode()).is_ok()
    };
    assert!(manifest(&["a", "b_2"]));
    for names in [&["../x"][..], &["/etc"], &[""], &["a/b"], &["a", "a"], &["A"]] {
        assert!(!manifest(names), "{names:?}");
    }
}
