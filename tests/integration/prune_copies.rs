//! Prunes of repositories in which chunks lie in several packs, whole and as differences to each other, as two writers beside
//! each other may leave them: whatever goes, everything that a snapshot needs can still be read.

use crate::support::{Scratch, cases, document, noise, put, settle};
use icecore::backend::{Backend, LocalBackend};
use icecore::format::{ChunkRecord, ChunkRef, Content, Encoding, Key, Manifest, Method, Pack, PackKind};
use icecore::id::Id;
use icecore::repository::{IndexOptions, Repository};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const CHUNKS: usize = 8;

/// A chunk in a pack: whole, or as a difference to another one.
#[derive(Debug, Clone, Copy)]
struct Copy {
    chunk: usize,
    base: Option<usize>,
}

#[derive(Debug, Clone)]
struct Case {
    packs: Vec<Vec<Copy>>,
    /// The chunks that the snapshot needs.
    needed: Vec<usize>,
    /// How long the prunes wait: nothing, or no time at all.
    now: Vec<bool>,
}

fn case() -> impl Strategy<Value = Case> {
    let copy = (0..CHUNKS, proptest::option::of(0..CHUNKS))
        .prop_map(|(chunk, base)| Copy { chunk, base: base.filter(|base| *base != chunk) });
    let packs = proptest::collection::vec(proptest::collection::vec(copy, 1..6), 2..7);
    let needed = proptest::collection::vec(0..CHUNKS, 0..5);
    let now = proptest::collection::vec(any::<bool>(), 2..5);
    (packs, needed, now).prop_map(|(mut packs, needed, now)| {
        // Every base lies whole somewhere, and what is needed lies somewhere at all.
        let bases: Vec<usize> = packs.iter().flatten().filter_map(|copy| copy.base).collect();
        for chunk in bases.iter().chain(&needed) {
            let is_base = bases.contains(chunk);
            let serves = |copy: &Copy| copy.chunk == *chunk && (copy.base.is_none() || !is_base);
            if !packs.iter().flatten().any(serves) {
                let place = chunk % packs.len();
                packs[place].push(Copy { chunk: *chunk, base: None });
            }
        }
        Case { packs, needed, now }
    })
}

fn plain(chunk: usize) -> Vec<u8> {
    let mut bytes = noise(3000, 77);
    bytes[chunk * 100..chunk * 100 + 40].copy_from_slice(&noise(40, chunk as u64));
    bytes
}

fn write_pack(backend: &LocalBackend, copies: &[Copy]) {
    let (mut bytes, mut records) = (Pack::begin(), Vec::new());
    for copy in copies {
        let plain = plain(copy.chunk);
        let id = Id::of(&plain);
        let (encoding, stored, bases) = match copy.base {
            None => (Encoding::RAW, plain.clone(), Vec::new()),
            Some(base) => {
                let base = self::plain(base);
                let mixed: Vec<u8> = plain.iter().zip(&base).map(|(one, other)| one ^ other).collect();
                let stored = zstd::bulk::compress(&mixed, 1).unwrap();
                (Encoding::difference(Method::Xor, 1).unwrap(), stored, vec![Id::of(&base).prefix()])
            }
        };
        bytes.extend_from_slice(&stored);
        let (stored_len, plain_len) = (stored.len() as u32, plain.len() as u32);
        records.push(ChunkRecord { id, stored_len, plain_len, encoding, bases: bases.into() });
    }
    Pack { kind: PackKind::Data, records }.end(&mut bytes);
    backend.put(&Key::Pack(Id::of(&bytes)).path(), &bytes).unwrap();
}

/// The repository's only snapshot holds one file, which is these chunks from now on.
fn rewrite_manifest(repo: &Path, stamp: &str, needed: &[usize]) {
    set_content(
        repo,
        stamp,
        needed.iter().map(|chunk| ChunkRef { id: Id::of(&plain(*chunk)), len: 3000 }).collect(),
    );
}

fn set_content(repo: &Path, stamp: &str, chunks: Vec<ChunkRef>) {
    let name = repo.join("snapshots").join(stamp);
    let line = std::fs::read_to_string(&name).unwrap();
    let old = repo.join("manifests").join(line.trim());
    let mut manifest = Manifest::decode(&std::fs::read(&old).unwrap()).unwrap();
    let root = manifest.sources[0].root.as_mut().unwrap();
    root.size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    root.content = if chunks.is_empty() { Content::Empty } else { Content::Chunks(chunks) };
    let bytes = manifest.encode();
    std::fs::remove_file(old).unwrap();
    put(&repo.join("manifests").join(Id::of(&bytes).hex()), &bytes);
    put(&name, format!("{}\n", Id::of(&bytes)));
}

/// A repository with a snapshot of one file.
fn one_file() -> (Scratch, String) {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("one", "x");
    settle();
    let stamp = scratch.backup(&["file=one", "--kind", "file=tree"]);
    (scratch, stamp)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_is_needed_goes(case in case()) {
        let (scratch, stamp) = one_file();
        let repo = scratch.path("repo");
        let backend = LocalBackend::new(&repo);
        case.packs.iter().for_each(|copies| write_pack(&backend, copies));
        rewrite_manifest(&repo, &stamp, &case.needed);
        scratch.ok(["check", "--read-data"]);
        for now in &case.now {
            let last: &[&str] = if *now { &["--now"] } else { &["--grace", "0s"] };
            scratch.ok(["prune", "--keep-last", "9"].iter().chain(last));
            let (code, checked) = document(scratch.icecore().args(["--json", "check", "--read-data"]));
            prop_assert_eq!(code, 0, "{:#}", checked);
            prop_assert!(checked["affected"].as_array().unwrap().is_empty());
        }
        scratch.ok(["restore", &stamp, "-t", "out"]);
        let expected: Vec<u8> = case.needed.iter().flat_map(|chunk| plain(*chunk)).collect();
        prop_assert!(std::fs::read(scratch.path("out/file/one")).unwrap() == expected);
        // In the end each pack has something that is needed, or that a copy of it is told against which still lies there: should
        // the better copy be damaged that one will do. A base of such a base is no reason to stay.
        // Each prune frees what the copies that went with the one before were told against.
        let mut packs = scratch.repository_files("packs");
        let mut prunes = 0;
        loop {
            scratch.ok(["prune", "--keep-last", "9", "--now"]);
            let now = scratch.repository_files("packs");
            if std::mem::replace(&mut packs, now) == packs {
                break;
            }
            prunes += 1;
            prop_assert!(prunes <= case.packs.len());
        }
        let checked = scratch.ok(["check"]);
        prop_assert_eq!(&checked["unreferenced_packs"], 0);
        let repository = Repository::open(Arc::new(backend), IndexOptions::default()).unwrap();
        let names = packs.iter().map(|path| Id::from_hex(path.file_name().unwrap().to_str().unwrap()).unwrap());
        let packs: Vec<_> = names.map(|pack| repository.read_trailer(pack).unwrap()).collect();
        let needed: Vec<Id> = case.needed.iter().map(|chunk| Id::of(&plain(*chunk))).collect();
        let copies = packs.iter().flat_map(|pack| &pack.records).filter(|record| needed.contains(&record.id));
        let bases: Vec<u64> = copies.flat_map(|record| record.bases.iter().copied()).collect();
        for pack in packs.iter().filter(|pack| pack.kind == PackKind::Data) {
            let is_needed =
                |record: &ChunkRecord| needed.contains(&record.id) || bases.contains(&record.id.prefix());
            prop_assert!(pack.records.iter().any(is_needed), "{:?}", pack);
        }
    }
}

/// A base is read from its whole copy: another copy of it, in a pack that stays, keeps nothing.
#[test]
fn a_base_of_a_base_goes_at_once() {
    for garbage in [2, 4, 5, 6, 7] {
        let (scratch, stamp) = one_file();
        let repo = scratch.path("repo");
        let backend = LocalBackend::new(&repo);
        let (whole, delta) =
            (|chunk| Copy { chunk, base: None }, |chunk, base| Copy { chunk, base: Some(base) });
        write_pack(&backend, &[delta(0, 1)]);
        write_pack(&backend, &[whole(1)]);
        write_pack(&backend, &[whole(3), delta(1, garbage)]);
        let before: std::collections::BTreeSet<_> = scratch.repository_files("packs").into_iter().collect();
        write_pack(&backend, &[whole(garbage)]);
        let packs = scratch.repository_files("packs");
        let added = packs.into_iter().find(|path| !before.contains(path)).unwrap();
        rewrite_manifest(&repo, &stamp, &[0, 3]);
        scratch.ok(["prune", "--keep-last", "9", "--now"]);
        assert!(!added.exists());
        scratch.ok(["validate", &stamp]);
    }
}

/// Chunks 0 and 1, each twice over, in two packs of which the first would stay.
fn twins(scratch: &Scratch, backend: &LocalBackend) -> Vec<std::path::PathBuf> {
    let before: std::collections::BTreeSet<_> = scratch.repository_files("packs").into_iter().collect();
    let whole = |chunk| Copy { chunk, base: None };
    write_pack(backend, &[whole(0), whole(1)]);
    write_pack(backend, &[whole(1), whole(0)]);
    scratch.repository_files("packs").into_iter().filter(|pack| !before.contains(pack)).collect()
}

/// Both chunks of a twin read badly from now on.
fn spoil(twin: &Path) {
    let mut bytes = std::fs::read(twin).unwrap();
    bytes[1500] ^= 1;
    bytes[4500] ^= 1;
    put(twin, bytes);
}

/// Two writers have left a chunk twice, and the copy that would stay is damaged: the other one stays too.
#[test]
fn the_only_copy_that_reads_well_stays() {
    let (scratch, stamp) = one_file();
    let repo = scratch.path("repo");
    let backend = LocalBackend::new(&repo);
    let twins = twins(&scratch, &backend);
    rewrite_manifest(&repo, &stamp, &[0, 1]);
    spoil(&twins[0]);
    let pruned = scratch.ok(["prune", "--keep-last", "9", "--now"]);
    assert!(pruned["warnings"].to_string().contains("no other copy"), "{pruned:#}");
    assert!(twins.iter().all(|pack| pack.is_file()));
    scratch.ok(["restore", &stamp, "-t", "out"]);
    assert!(std::fs::read(scratch.path("out/file/one")).unwrap() == [plain(0), plain(1)].concat());
    let (code, checked) = scratch.json(["check", "--read-data"]);
    assert_eq!((code, checked["affected"].as_array().unwrap().len()), (14, 0), "{checked:#}");
    // Repaired, one copy is enough.
    scratch.ok(["repair"]);
    scratch.ok(["prune", "--keep-last", "9", "--now"]);
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["restore", &stamp, "-t", "again"]);
}

/// A difference reads well, but is no base: the last whole copy that does stays for the sake of what is made to it.
#[test]
fn a_difference_does_not_stand_in_for_a_base() {
    let (scratch, stamp) = one_file();
    let repo = scratch.path("repo");
    let backend = LocalBackend::new(&repo);
    let whole = |chunk| Copy { chunk, base: None };
    let twins = twins(&scratch, &backend);
    write_pack(&backend, &[Copy { chunk: 0, base: Some(2) }, Copy { chunk: 1, base: Some(2) }, whole(2)]);
    write_pack(&backend, &[Copy { chunk: 3, base: Some(0) }, Copy { chunk: 4, base: Some(1) }]);
    rewrite_manifest(&repo, &stamp, &[0, 1, 3, 4]);
    spoil(&twins[0]);
    scratch.ok(["prune", "--keep-last", "9", "--now"]);
    scratch.ok(["restore", &stamp, "-t", "out"]);
    let expected: Vec<u8> = [0, 1, 3, 4].into_iter().flat_map(plain).collect();
    assert!(std::fs::read(scratch.path("out/file/one")).unwrap() == expected);
}

/// Of two bases each has a damaged copy and a good one, the good ones in different packs.
#[test]
fn each_base_is_read_where_it_reads_well() {
    let (scratch, stamp) = one_file();
    let repo = scratch.path("repo");
    let backend = LocalBackend::new(&repo);
    let whole = |chunk| Copy { chunk, base: None };
    let packs = |scratch: &Scratch| -> std::collections::BTreeSet<_> {
        scratch.repository_files("packs").into_iter().collect()
    };
    let damage = |before: &std::collections::BTreeSet<std::path::PathBuf>, at: usize| {
        let pack = packs(&scratch).difference(before).next().unwrap().clone();
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[at] ^= 1;
        // Under the name that it has now.
        put(&pack, bytes);
    };
    for (one, other, bad) in [(0, 1, 1500), (1, 0, 1500)] {
        let before = packs(&scratch);
        write_pack(&backend, &[whole(one), whole(other)]);
        damage(&before, bad);
    }
    // 6,000 bytes as a difference to both, one behind the other.
    let both = [plain(2), plain(3)].concat();
    let bases = [plain(0), plain(1)].concat();
    let mixed: Vec<u8> = both.iter().zip(&bases).map(|(one, other)| one ^ other).collect();
    let stored = zstd::bulk::compress(&mixed, 1).unwrap();
    let record = ChunkRecord {
        id: Id::of(&both),
        stored_len: stored.len() as u32,
        plain_len: both.len() as u32,
        encoding: Encoding::difference(Method::Xor, 2).unwrap(),
        bases: [Id::of(&plain(0)).prefix(), Id::of(&plain(1)).prefix()].into(),
    };
    let mut bytes = [Pack::begin(), stored].concat();
    Pack { kind: PackKind::Data, records: vec![record] }.end(&mut bytes);
    backend.put(&Key::Pack(Id::of(&bytes)).path(), &bytes).unwrap();
    set_content(&repo, &stamp, vec![ChunkRef { id: Id::of(&both), len: both.len() as u32 }]);
    scratch.ok(["restore", &stamp, "-t", "out"]);
    assert!(std::fs::read(scratch.path("out/file/one")).unwrap() == both);
}
