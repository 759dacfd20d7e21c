//! What a repair saves, and from where.

use crate::support::{Scratch, describe, noise, put, settle};
use icecore::format::{Pack, PackKind};
use std::path::{Path, PathBuf};

struct Kept {
    scratch: Scratch,
    stamps: Vec<String>,
    states: Vec<Vec<String>>,
}

/// Three snapshots of a tree; what the first alone needs isn't in the live source any more.
fn kept() -> Kept {
    let scratch = Scratch::new();
    scratch.init();
    let (mut stamps, mut states) = (Vec::new(), Vec::new());
    for round in 0..3u64 {
        scratch.file("tree/always", noise(300_000, 500));
        scratch.file("tree/sub/changing", noise(300_000, round));
        settle();
        stamps.push(scratch.backup(&["tree"]));
        states.push(describe(&scratch.path("tree"), true));
    }
    Kept { scratch, stamps, states }
}

/// Packs of a kind, the oldest first.
fn packs(scratch: &Scratch, kind: PackKind) -> Vec<PathBuf> {
    let mut packs = scratch.repository_files("packs");
    packs.retain(|path| Pack::decode(&std::fs::read(path).unwrap()).unwrap().kind == kind);
    packs.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    packs
}

fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> std::io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a test's own scratch file needs no durability")]
    std::fs::rename(from, to)
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    put(path, bytes);
}

/// The snapshots that come back as they were.
fn whole(kept: &Kept) -> Vec<bool> {
    let restored = |(stamp, state): (&String, &Vec<String>)| {
        let out = kept.scratch.path("out");
        drop(std::fs::remove_dir_all(&out));
        let (code, _) = kept.scratch.json(["restore", stamp, "-t", "out", "--accept-invalid"]);
        let is_whole = code == 0;
        assert!(!is_whole || describe(&out.join("tree"), true) == *state, "{stamp}: wrong bytes");
        is_whole
    };
    kept.stamps.iter().zip(&kept.states).map(restored).collect()
}

#[test]
fn what_the_live_source_still_has_comes_back() {
    let kept = kept();
    let scratch = &kept.scratch;
    let first = &packs(scratch, PackKind::Data)[0];
    std::fs::remove_file(first).unwrap();
    let (code, checked) = scratch.json(["check"]);
    assert_eq!(code, 14);
    let affected = checked["affected"].to_string();
    assert!(affected.contains("sub/changing") && affected.contains(&kept.stamps[0]), "{checked:#}");
    let before = describe(&scratch.path("tree"), true);
    let (code, repaired) = scratch.json(["repair"]);
    // The file that never changed is read from the live source; what only the first snapshot had is lost with it.
    assert_eq!((code, repaired["error"]["code"].as_str()), (14, Some("data_lost")), "{repaired:#}");
    assert!(repaired["replaced_chunks"].as_u64().unwrap() > 0);
    assert_eq!(repaired["lost"], serde_json::json!([kept.stamps[0]]));
    assert_eq!(describe(&scratch.path("tree"), true), before, "a source is only read");
    assert_eq!(whole(&kept), [false, true, true]);
    let list = scratch.ok(["list"]);
    assert_eq!(list["backups"][0]["valid"], false);
    scratch.ok(["forget", &kept.stamps[0]]);
    scratch.ok(["check", "--read-data"]);
}

/// A bit of a trailer is damaged, the chunk beside it isn't: the index knows where it lies.
#[test]
fn a_chunk_whose_record_is_damaged_is_saved_by_the_index() {
    for kind in [PackKind::Data, PackKind::Tree] {
        let kept = kept();
        let pack = packs(&kept.scratch, kind).swap_remove(0);
        let trailer = Pack::decode(&std::fs::read(&pack).unwrap()).unwrap();
        // Into the first record's id: kind, number, then records, then the foot.
        let records: usize = trailer.records.iter().map(|record| 39 + 8 * record.bases.len()).sum();
        flip(&pack, |len| len - 12 - records + 12);
        // Nothing is in the live source: what comes back was saved from the pack.
        rename(kept.scratch.path("tree"), kept.scratch.path("away")).unwrap();
        assert_eq!(whole(&kept), [true, true, true]);
        let (code, checked) = kept.scratch.json(["check", "--read-data"]);
        assert_eq!((code, checked["affected"].as_array().unwrap().len()), (14, 0), "{checked:#}");
        kept.scratch.ok(["repair"]);
        assert_eq!(whole(&kept), [true, true, true]);
        kept.scratch.ok(["check", "--read-data"]);
    }
}

/// Two packs hold the same chunks, and each is damaged somewhere else.
#[test]
fn what_two_damaged_packs_hold_is_saved_from_one_of_them() {
    let kept = kept();
    let scratch = &kept.scratch;
    let twin = packs(scratch, PackKind::Data).swap_remove(0);
    let bytes = std::fs::read(&twin).unwrap();
    let Pack { kind, mut records } = Pack::decode(&bytes).unwrap();
    // The same chunks in the opposite order.
    let (mut other, mut at, mut parts) = (Pack::begin(), 8, Vec::new());
    for record in &records {
        parts.push(bytes[at..at + record.stored_len as usize].to_vec());
        at += record.stored_len as usize;
    }
    parts.reverse();
    records.reverse();
    other.extend(parts.concat());
    Pack { kind, records }.end(&mut other);
    let name = icecore::id::Id::of(&other).hex();
    let path = scratch.path("repo/packs").join(&name[..2]).join(&name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    put(&path, &other);
    scratch.ok(["check", "--read-data"]);
    // The first chunk of each.
    flip(&twin, |_| 100);
    flip(&path, |_| 100);
    rename(scratch.path("tree"), scratch.path("away")).unwrap();
    let repaired = scratch.ok(["repair"]);
    assert_eq!(repaired["quarantined"].as_array().unwrap().len(), 2, "{repaired:#}");
    assert_eq!(whole(&kept), [true, true, true]);
    scratch.ok(["check", "--read-data"]);
}

/// A lost list of chunks, a damaged index and a name that leads nowhere at once.
#[test]
fn several_damages_are_told_and_mended_together() {
    let kept = kept();
    let scratch = &kept.scratch;
    for index in scratch.repository_files("index") {
        flip(&index, |len| len / 2);
    }
    let name = scratch.path("repo/snapshots").join(&kept.stamps[1]);
    flip(&name, |_| 5);
    let told = scratch.json(["check"]).1;
    assert_eq!(told["errors"].as_array().unwrap().len(), 4, "{told:#}");
    assert_eq!(scratch.json(["prune"]).0, 14);
    let repaired = scratch.ok(["repair"]);
    assert_eq!(repaired["quarantined"].as_array().unwrap().len(), 4, "{repaired:#}");
    assert_eq!(whole(&kept), [true, true, true]);
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["prune", "--keep-last", "1", "--now"]);
    scratch.ok(["check", "--read-data"]);
}

/// Where something that stays can't be followed, nothing is forgotten either.
#[test]
fn a_prune_forgets_nothing_that_it_may_be_all_there_is() {
    let kept = kept();
    let scratch = &kept.scratch;
    let newest = packs(scratch, PackKind::Tree).pop().unwrap();
    flip(&newest, |_| 20);
    let (code, refused) = scratch.json(["prune", "--keep-last", "1"]);
    assert_eq!(code, 14, "{refused:#}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("nothing was forgotten"), "{refused:#}");
    assert_eq!(whole(&kept), [true, true, false]);
    assert_eq!(scratch.json(["prune", "--keep-last", "1", "-n"]).0, 14);
    // A directory of names that is empty by mistake costs nothing.
    rename(scratch.path("repo/snapshots"), scratch.path("names")).unwrap();
    assert_eq!(scratch.json(["prune", "--now"]).0, 14);
    rename(scratch.path("names"), scratch.path("repo/snapshots")).unwrap();
    assert_eq!(whole(&kept), [true, true, false]);
}

/// What failed a validation stays as long as it would if it were valid: it may be mended.
#[test]
fn invalid_snapshots_stay_where_the_policy_would_keep_them() {
    let kept = kept();
    let scratch = &kept.scratch;
    let pack = packs(scratch, PackKind::Data).swap_remove(0);
    let bytes = std::fs::read(&pack).unwrap();
    flip(&pack, |len| len / 2);
    assert_eq!(scratch.json(["validate", "--all"]).0, 14);
    scratch.file("tree/sub/changing", noise(300_000, 9));
    scratch.ok(["backup", "tree"]);
    let told = scratch.ok(["prune", "-n", "--keep-last", "4"]);
    assert_eq!(told["kept"], 4, "{told:#}");
    put(&pack, bytes);
    scratch.ok(["validate", "--all"]);
    scratch.ok(["prune", "--keep-last", "4", "--now"]);
    assert_eq!(whole(&kept), [true, true, true]);
}

/// A name file that was renamed leads to a manifest that says whose it is.
#[test]
fn a_snapshot_under_a_wrong_name_gets_its_own_back() {
    let Kept { scratch, stamps, states } = kept();
    let names = scratch.path("repo/snapshots");
    rename(names.join(&stamps[0]), names.join("20300101T000000Z")).unwrap();
    assert_eq!(scratch.json(["check"]).0, 14);
    let repaired = scratch.ok(["repair"]);
    assert_eq!(repaired["lost"], serde_json::json!([]), "{repaired:#}");
    assert!(repaired["actions"].to_string().contains("has its name again"), "{repaired:#}");
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["restore", &stamps[0], "-t", "out"]);
    assert_eq!(describe(&scratch.path("out/tree"), true), states[0]);
}
