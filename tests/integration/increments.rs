//! Increments cost what changed, and every snapshot of a long row of them comes back.

use crate::support::{Scratch, cases, files_below, has, noise, put, python, run, settle};
use icecore::format::RepositoryConfig;
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file shaped like an index of vectors: records of 1,676 bytes, links first, then floats.
fn vectors(records: usize) -> Vec<u8> {
    let mut bytes = noise(records * 1676, 11);
    for record in bytes.chunks_exact_mut(1676) {
        for float in record[132..1668].chunks_exact_mut(4) {
            let value = (f32::from(float[0]) - 127.5) / 2000.0;
            float.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Vectors among other things, each where it happens to lie, as in rows of a table.
fn rows(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, record) in vectors(count).chunks_exact(1676).enumerate() {
        bytes.extend_from_slice(
            format!("row {number}: the vector of document-{}", number * number).as_bytes(),
        );
        bytes.extend_from_slice(&record[132..1668]);
        bytes.extend_from_slice(b"and the text that belongs to it, which is longer. ".repeat(12).as_slice());
    }
    bytes
}

/// The chunks and their encodings, by the trailers of the packs that hold data.
fn encodings(scratch: &Scratch) -> Vec<(u8, u32, u32)> {
    let mut found = Vec::new();
    for pack in scratch.repository_files("packs") {
        let pack = icecore::format::Pack::decode(&std::fs::read(pack).unwrap()).unwrap();
        if pack.kind == icecore::format::PackKind::Data {
            let of = |record: &icecore::format::ChunkRecord| {
                (record.encoding.byte(), record.stored_len, record.plain_len)
            };
            found.extend(pack.records.iter().map(of));
        }
    }
    found
}

#[test]
fn links_changed_in_place_cost_their_bytes_and_little_else() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = vectors(12_000);
    let path = scratch.file("live/data_level0.bin", &bytes);
    settle();
    scratch.backup(&["d=live"]);
    let before = encodings(&scratch).len();
    for turn in 0..4usize {
        // 1–4 links of 3 % of the records, and 0.5 % more records.
        for record in (turn..bytes.len() / 1676).step_by(33) {
            let at = record * 1676 + 4 + record % 8 * 4;
            bytes[at..at + 4].copy_from_slice(&(record as u32 * 7 + turn as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&vectors(60 + turn)[turn * 1676..]);
        put(&path, &bytes);
        settle();
        let told = scratch.ok(["backup", "d=live", "--validate", "full"]);
        let stored = told["stored_bytes"].as_u64().unwrap();
        assert!(stored < 160_000, "turn {turn}: {stored} bytes stored for 100,000 of news");
        let metadata = told["metadata_bytes"].as_u64().unwrap();
        let chunks = (encodings(&scratch).len() - before) as u64 / (turn as u64 + 1);
        assert!(
            metadata < 120 * chunks + 5000,
            "turn {turn}: {metadata} bytes of metadata for {chunks} chunks"
        );
    }
    let differences = encodings(&scratch).iter().filter(|(encoding, ..)| encoding >> 4 > 0).count();
    assert!(differences > 300, "{differences}");
    // Cut as if it had never been anything else: another source finds everything.
    put(&scratch.mkdir("other").join("copy"), &bytes);
    let told = scratch.ok(["backup", "o=other"]);
    assert_eq!(told["new_bytes"], 0, "{told:#}");
}

#[test]
fn what_is_put_in_or_taken_out_in_the_middle_is_found_again() {
    let scratch = Scratch::new();
    scratch.init();
    let bytes = noise(24_000_000, 3);
    let path = scratch.file("live/file", &bytes);
    settle();
    scratch.backup(&["d=live"]);
    let mut now = bytes.clone();
    now.splice(5_000_000..5_000_000, b"put in".iter().copied());
    now.drain(11_000_000..11_100_000);
    now.splice(17_000_000..17_000_100, noise(300_000, 4));
    put(&path, &now);
    settle();
    let told = scratch.ok(["backup", "d=live"]);
    let new = told["new_bytes"].as_u64().unwrap();
    assert!((300_000..1_200_000).contains(&new), "{new}");
    scratch.ok(["restore", "latest", "--target", "out"]);
    assert!(std::fs::read(scratch.path("out/d/file")).unwrap() == now);
    put(&scratch.mkdir("other").join("copy"), &now);
    assert_eq!(scratch.ok(["backup", "o=other"])["new_bytes"], 0);
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Change {
    Patch(prop::sample::Index, usize, u64),
    Insert(prop::sample::Index, usize, u64),
    Remove(prop::sample::Index, usize),
    Append(usize, u64),
    Replace(usize, u64),
    Zero(prop::sample::Index, usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let place =
        |at: &prop::sample::Index, bytes: &[u8]| if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
    match change {
        Change::Patch(at, len, seed) => {
            let at = place(at, bytes);
            let end = (at + len).min(bytes.len());
            bytes[at..end].copy_from_slice(&noise(len + 8, *seed)[..end - at]);
        }
        Change::Insert(at, len, seed) => {
            drop(bytes.splice(place(at, bytes)..place(at, bytes), noise(*len, *seed)))
        }
        Change::Remove(at, len) => {
            let at = place(at, bytes);
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Change::Append(len, seed) => bytes.extend(noise(*len, *seed)),
        Change::Replace(len, seed) => *bytes = noise(*len, *seed),
        Change::Zero(at, len) => {
            let at = place(at, bytes);
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(0);
        }
    }
}

fn change() -> impl prop::strategy::Strategy<Value = Change> {
    use proptest::strategy::Strategy;
    let index = || any::<prop::sample::Index>();
    proptest::prop_oneof![
        4 => (index(), 1usize..3000, any::<u64>()).prop_map(|(at, len, seed)| Change::Patch(at, len, seed)),
        2 => (index(), 1usize..200_000, any::<u64>()).prop_map(|(at, len, seed)| Change::Insert(at, len, seed)),
        2 => (index(), 1usize..400_000).prop_map(|(at, len)| Change::Remove(at, len)),
        2 => (1usize..300_000, any::<u64>()).prop_map(|(len, seed)| Change::Append(len, seed)),
        1 => (0usize..2_000_000, any::<u64>()).prop_map(|(len, seed)| Change::Replace(len, seed)),
        2 => (index(), 1usize..1_000_000).prop_map(|(at, len)| Change::Zero(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 30, ..ProptestConfig::with_cases(cases(4)) })]
    /// Whatever a file goes through, each of its snapshots comes back, is valid in full, and holds the chunks that a fresh
    /// cutting finds.
    #[test]
    fn each_snapshot_of_a_row_comes_back(
        first in 0usize..3_000_000,
        turns in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..6),
    ) {
        let scratch = Scratch::new();
        scratch.init();
        let mut bytes = noise(first, 1);
        let path = scratch.file("live/file", &bytes);
        let mut states = Vec::new();
        for turn in std::iter::once(&Vec::new()).chain(&turns) {
            turn.iter().for_each(|change| apply(&mut bytes, change));
            put(&path, &bytes);
            settle();
            scratch.ok(["backup", "d=live", "--cold", "--kind", "d=tree", "--validate", "quick"]);
            states.push(bytes.clone());
        }
        let listed = scratch.ok(["list"]);
        for (number, state) in states.iter().enumerate() {
            let stamp = listed["backups"][number]["stamp"].as_str().unwrap();
            let out = format!("out{number}");
            scratch.json(["restore", stamp, "--target", &out]);
            assert!(std::fs::read(scratch.path(&format!("{out}/d/file"))).unwrap() == *state, "state {number}");
        }
        put(&scratch.mkdir("other").join("copy"), &bytes);
        let told = scratch.ok(["backup", "o=other", "--cold"]);
        assert_eq!(told["new_bytes"], 0);
    }
}

fn damage(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn data_packs(scratch: &Scratch) -> Vec<PathBuf> {
    let is_data = |path: &PathBuf| {
        let pack = icecore::format::Pack::decode(&std::fs::read(path).unwrap());
        pack.is_ok_and(|pack| pack.kind == icecore::format::PackKind::Data)
    };
    files_below(&scratch.path("repo/packs")).into_iter().filter(is_data).collect()
}

#[test]
fn a_damaged_base_is_told_and_nothing_new_is_told_as_a_difference_to_it() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(100_000, 5);
    let path = scratch.file("live/file", &bytes);
    settle();
    scratch.backup(&["d=live"]);
    let base = data_packs(&scratch).remove(0);
    bytes[50_000] ^= 1;
    put(&path, &bytes);
    settle();
    let second = scratch.backup(&["d=live"]);
    damage(&base, 50_100);
    let (code, document) = scratch.json(["validate", &second]);
    assert_eq!(code, 14, "{document:#}");
    assert_eq!(scratch.json(["restore", &second, "--target", "out", "--accept-invalid"]).0, 14);
    // The failed validation makes a backup read and prove everything; what is damaged is stored again, whole.
    bytes[50_001] ^= 1;
    put(&path, &bytes);
    settle();
    let third = scratch.backup(&["d=live"]);
    scratch.ok(["validate", &third]);
    std::fs::remove_dir_all(scratch.path("out")).ok();
    scratch.ok(["restore", &third, "--target", "out"]);
    assert!(std::fs::read(scratch.path("out/d/file")).unwrap() == bytes);
}

#[test]
fn a_base_that_is_damaged_unnoticed_is_not_built_upon() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(100_000, 6);
    let path = scratch.file("live/file", &bytes);
    settle();
    scratch.backup(&["d=live"]);
    for pack in data_packs(&scratch) {
        for at in (1000..100_000).step_by(4000) {
            damage(&pack, at);
        }
    }
    for at in (500..100_000).step_by(9_000) {
        bytes[at] ^= 1;
    }
    put(&path, &bytes);
    settle();
    let second = scratch.backup(&["d=live", "--validate", "full"]);
    assert!(encodings(&scratch).iter().all(|(encoding, ..)| encoding >> 4 == 0));
    scratch.ok(["restore", &second, "--target", "out"]);
    assert!(std::fs::read(scratch.path("out/d/file")).unwrap() == bytes);
}

#[test]
fn the_script_reads_differences_and_planes() {
    let Some(python) = python() else { return };
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = vectors(3000);
    let path = scratch.file("live/vectors", &bytes);
    let text: Vec<u8> =
        noise(600_000, 8).iter().map(|byte| b"etaoin shrdlu\n"[usize::from(*byte) % 14]).collect();
    let other = scratch.file("live/text", &text);
    settle();
    scratch.backup(&["d=live"]);
    bytes.iter_mut().step_by(70_001).for_each(|byte| *byte ^= 1);
    // A patch so long that it is compressed.
    bytes[200_000..200_600].fill(7);
    put(&path, &bytes);
    scratch.file("live/rows", rows(400));
    put(&other, [b"moved on".as_slice(), &text[..400_000], &text[401_000..]].concat());
    settle();
    let second = scratch.backup(&["d=live"]);
    let kinds: std::collections::BTreeSet<u8> =
        encodings(&scratch).iter().map(|(encoding, ..)| encoding & 15).collect();
    assert!([1, 2, 3, 5, 6].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/extract.py");
    run(Command::new(python).arg(script).arg(scratch.path("repo")).arg(&second).arg(scratch.path("out")));
    for name in ["vectors", "text", "rows"] {
        assert!(
            std::fs::read(scratch.path(&format!("out/d/{name}"))).unwrap()
                == std::fs::read(scratch.path(&format!("live/{name}"))).unwrap()
        );
    }
}

/// Chunks may be longer than what is read at a time.
#[test]
fn very_long_chunks_come_back() {
    let scratch = Scratch::new();
    scratch.init();
    let config = scratch.path("repo/config");
    let mut changed = RepositoryConfig::decode(&std::fs::read(&config).unwrap()).unwrap();
    let chunking = &mut changed.chunking;
    (chunking.min_bytes, chunking.average_bytes, chunking.max_bytes) = (1 << 20, 4 << 20, 12 << 20);
    put(&config, changed.encode());
    // Zeros have no place for a cut.
    let mut bytes = vec![0; 30 << 20];
    let path = scratch.file("live/file", &bytes);
    settle();
    scratch.backup(&["d=live"]);
    bytes.insert(100, 1);
    put(&path, &bytes);
    settle();
    let second = scratch.backup(&["d=live"]);
    scratch.ok(["restore", &second, "--target", "out"]);
    assert!(std::fs::read(scratch.path("out/d/file")).unwrap() == bytes);
}

#[test]
fn a_safety_snapshot_costs_the_difference() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let bytes = vectors(6000);
    let path = scratch.file("live/data_level0.bin", &bytes);
    settle();
    let stamp = scratch.backup(&["d=live"]);
    let mut now = bytes.clone();
    now.iter_mut().step_by(30_000).for_each(|byte| *byte ^= 1);
    put(&path, &now);
    settle();
    scratch.ok(["restore", &stamp, "--confirm-service-stopped"]);
    let safety = &scratch.ok(["list"])["backups"][1];
    assert!(safety["stored_bytes"].as_u64().unwrap() < 40_000, "{safety:#}");
    scratch.ok(["restore", "--rollback", "--confirm-service-stopped"]);
    assert!(std::fs::read(&path).unwrap() == now);
}
