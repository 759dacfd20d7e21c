//! Damaged repositories: noticed, named, and nothing wrong is ever restored.

use crate::support::{Scratch, describe, noise, put, settle};
use std::path::{Path, PathBuf};

struct Damaged {
    scratch: Scratch,
    stamps: [String; 2],
    /// What restoring each snapshot must give.
    states: [Vec<String>; 2],
}

fn prepare() -> Damaged {
    let scratch = Scratch::new();
    scratch.init();
    let make = |seed: u64| {
        for number in 0..6 {
            scratch.file(&format!("tree/sub/f{number}"), noise(80_000, seed + number));
        }
        scratch.file("tree/long", noise(900_000, 500));
        settle();
        let stamp = scratch.backup(&["tree"]);
        (stamp, describe(&scratch.path("tree"), true))
    };
    let ((first, before), (second, after)) = (make(1), make(100));
    Damaged { scratch, stamps: [first, second], states: [before, after] }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Flip,
    Truncate,
    ZeroPage,
    Empty,
    Delete,
    Swap,
}

const CHANGES: [Change; 6] =
    [Change::Flip, Change::Truncate, Change::ZeroPage, Change::Empty, Change::Delete, Change::Swap];

fn apply(change: Change, path: &Path, other: Option<&PathBuf>) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    match change {
        Change::Flip if bytes.is_empty() => bytes.push(1),
        Change::Flip => bytes[middle] ^= 0x10,
        Change::Truncate => bytes.truncate(middle),
        Change::ZeroPage => bytes.iter_mut().skip(middle / 2).take(4096).for_each(|byte| *byte = 0),
        Change::Empty => bytes.clear(),
        Change::Delete => return std::fs::remove_file(path).unwrap(),
        Change::Swap => match other {
            Some(other) => bytes = std::fs::read(other).unwrap(),
            None => return,
        },
    }
    put(path, bytes);
}

/// Kinds of files in a repository, and one file of each that is damaged.
const KINDS: [&str; 10] = [
    "config",
    "README",
    "data pack",
    "tree pack",
    "index",
    "manifests",
    "snapshots",
    "proofs",
    "pins",
    "doomed",
];

/// A repository that has a file of each kind; a third snapshot was forgotten and its packs are condemned.
fn prepare_all_kinds() -> Damaged {
    let damaged = prepare();
    let scratch = &damaged.scratch;
    scratch.file("tree/third", noise(200_000, 7));
    settle();
    let third = scratch.backup(&["tree"]);
    scratch.ok(["validate", &damaged.stamps[0]]);
    scratch.ok(["validate", &damaged.stamps[1]]);
    scratch.ok(["pin", &damaged.stamps[0]]);
    scratch.ok(["forget", &third]);
    scratch.ok(["prune", "--keep-last", "9"]);
    damaged
}

fn files_of_kind(scratch: &Scratch, kind: &str) -> Vec<PathBuf> {
    let is_data = |path: &PathBuf| {
        icecore::format::Pack::decode(&std::fs::read(path).unwrap()).unwrap().kind
            == icecore::format::PackKind::Data
    };
    match kind {
        "config" | "README" => vec![scratch.path("repo").join(kind)],
        "data pack" => scratch.repository_files("packs").into_iter().filter(is_data).collect(),
        "tree pack" => scratch.repository_files("packs").into_iter().filter(|path| !is_data(path)).collect(),
        _ => scratch.repository_files(kind),
    }
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    crate::support::run(std::process::Command::new("cp").arg("-a").args([from, to]));
}

/// Restores both snapshots: 0 means the right bytes, anything else an error.
fn restores(damaged: &Damaged, place: &str) -> [i32; 2] {
    std::array::from_fn(|number| {
        let scratch = &damaged.scratch;
        let out = scratch.path("out");
        if out.exists() {
            std::fs::remove_dir_all(&out).unwrap();
        }
        let (code, _) = scratch.json(["restore", &damaged.stamps[number], "-t", "out", "--accept-invalid"]);
        if code == 0 {
            assert!(describe(&out.join("tree"), true) == damaged.states[number], "{place}: wrong bytes");
        }
        code
    })
}

/// Kind of file × change × verb: damage is detected or provably harmless; never a panic, never wrong bytes, and no good
/// snapshot is lost by whatever is done.
#[test]
fn every_cell_of_the_damage_table_holds() {
    let damaged = prepare_all_kinds();
    let scratch = &damaged.scratch;
    let (repo, whole, broken) = (scratch.path("repo"), scratch.path("whole"), scratch.path("broken"));
    copy(&repo, &whole);
    // `scripts/soak` damages more files of each kind.
    let files_of_a_kind = std::env::var("ICECORE_DAMAGE_FILES").ok().and_then(|text| text.parse().ok());
    let mut table: Vec<String> = Vec::new();
    for kind in KINDS {
        let most = files_of_a_kind.unwrap_or(if kind.ends_with("pack") { 2 } else { 1 });
        copy(&whole, &repo);
        let files = files_of_kind(scratch, kind);
        assert!(!files.is_empty(), "there is no {kind}");
        for (change, chosen) in
            CHANGES.into_iter().flat_map(|change| (0..files.len().min(most)).map(move |one| (change, one)))
        {
            copy(&whole, &repo);
            let path = &files[chosen];
            let original = std::fs::read(path).unwrap();
            apply(change, path, files.get((chosen + 1) % files.len()));
            if std::fs::read(path).is_ok_and(|now| now == original) {
                continue;
            }
            copy(&repo, &broken);
            let place = format!("{kind} {chosen} {change:?}");
            let before = restores(&damaged, &place);
            let mut row = format!("{place:<24} restore {before:?}");
            for verb in ["list", "validate", "check", "backup", "prune", "repair"] {
                copy(&broken, &repo);
                let typed: &[&str] = match verb {
                    "validate" => &["validate", "--all"],
                    "check" => &["check", "--read-data"],
                    "backup" => &["backup", "tree"],
                    "prune" => &["prune", "--keep-last", "9", "--now"],
                    other => &[other],
                };
                let (code, told) = scratch.json(typed);
                row.push_str(&format!("  {verb} {code}"));
                assert!(matches!(code, 0 | 3 | 10 | 14 | 20), "{place}, {verb}: {told:#}");
                let is_noticed = code != 0 || told["warnings"].to_string().len() > 2;
                // A pin that is gone was taken away, a name that is gone was forgotten: nothing tells them apart.
                let is_unknowable = matches!(change, Change::Delete) && matches!(kind, "pins" | "snapshots");
                if verb == "check" {
                    let is_harmless = before == [0, 0];
                    assert!(is_noticed || is_harmless || is_unknowable, "{place}: not noticed");
                    let is_data = !matches!(kind, "README" | "pins");
                    let is_gone = matches!(change, Change::Delete);
                    assert!(!is_data || is_gone || is_noticed, "{place}: a damaged file isn't noticed");
                }
                // What was there before is there still, or comes back with the file that was damaged.
                let after = restores(&damaged, &format!("{place}, after {verb}"));
                for (before, after) in before.iter().zip(after) {
                    assert!(*before != 0 || after == 0, "{place}: {verb} lost a snapshot that was good");
                }
                if verb == "prune" && !is_unknowable {
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    put(path, &original);
                    assert_eq!(
                        restores(&damaged, &place),
                        [0, 0],
                        "{place}: {verb} lost what could be mended"
                    );
                }
                if verb == "repair" && code == 0 {
                    scratch.ok(["check", "--read-data"]);
                }
            }
            table.push(row);
        }
    }
    println!("{}\n{} rows", table.join("\n"), table.len());
}

#[test]
fn what_is_affected_is_named() {
    let Damaged { scratch, stamps, .. } = prepare();
    // The pack that holds only the second snapshot's data: the first must stay whole.
    let packs = scratch.repository_files("packs");
    let newest = packs
        .iter()
        .filter(|pack| std::fs::metadata(pack).unwrap().len() > 100_000)
        .max_by_key(|pack| std::fs::metadata(pack).unwrap().modified().unwrap())
        .unwrap();
    apply(Change::Flip, newest, None);
    scratch.ok(["validate", &stamps[0]]);
    let (code, document) = scratch.json(["validate", &stamps[1]]);
    assert_eq!(code, 14);
    assert_eq!(document["errors"][0], "tree_stored_data_damaged");
    let finding = &document["findings"][0];
    assert!(finding["path"].as_str().unwrap().starts_with("sub/f"), "{document:#}");
    assert!(finding["detail"].as_str().unwrap().contains("packs/"));
    let (code, document) = scratch.json(["restore", &stamps[1], "-t", "out", "--accept-invalid"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (14, "repository_damaged"));
}

#[test]
fn a_lost_pack_is_stored_again() {
    let Damaged { scratch, stamps, .. } = prepare();
    for pack in scratch.repository_files("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    let (code, _) = scratch.json(["validate", &stamps[1]]);
    assert_eq!(code, 14);
    scratch.ok(["backup", "tree", "--reread"]);
    // The same bytes are back, so the snapshot that lost them is whole again.
    scratch.ok(["validate", &stamps[1]]);
    scratch.ok(["validate", "latest"]);
}

#[test]
fn a_damaged_index_costs_time_only() {
    let Damaged { scratch, stamps, states } = prepare();
    for index in scratch.repository_files("index") {
        apply(Change::Flip, &index, None);
    }
    let document = scratch.ok(["restore", &stamps[0], "-t", "out"]);
    assert!(document["warnings"].to_string().contains("index"));
    assert_eq!(describe(&scratch.path("out/tree"), true), states[0]);
    let document = scratch.ok(["backup", "tree"]);
    assert_eq!(document["new_bytes"], 0, "chunks are found by the packs' trailers");
    let (code, document) = scratch.json(["validate", "latest"]);
    assert_eq!(code, 14, "{document:#}");
}

#[test]
fn damaged_chunks_are_stored_again_and_found() {
    let Damaged { scratch, stamps, states } = prepare();
    for pack in scratch.repository_files("packs") {
        apply(Change::Flip, &pack, None);
    }
    let (code, _) = scratch.json(["validate", &stamps[1]]);
    assert_eq!(code, 14);
    scratch.ok(["backup", "tree", "--reread"]);
    scratch.ok(["validate", "latest"]);
    // What the source still has is whole again in the older snapshot too: the good copy is used.
    scratch.ok(["restore", &stamps[1], "-t", "out", "--accept-invalid"]);
    assert_eq!(describe(&scratch.path("out/tree"), true), states[1]);
}

#[test]
fn a_later_validation_that_failed_counts() {
    let Damaged { scratch, stamps, .. } = prepare();
    let newest = scratch
        .repository_files("packs")
        .into_iter()
        .filter(|pack| std::fs::metadata(pack).unwrap().len() > 100_000)
        .max_by_key(|pack| std::fs::metadata(pack).unwrap().modified().unwrap())
        .unwrap();
    apply(Change::Delete, &newest, None);
    assert_eq!(scratch.ok(["list"])["latest"], stamps[1].as_str());
    let (code, _) = scratch.json(["validate", &stamps[1]]);
    assert_eq!(code, 14);
    let list = scratch.ok(["list"]);
    assert_eq!((&list["latest"], &list["backups"][1]["valid"]), (&stamps[0].as_str().into(), &false.into()));
    let (code, refused) = scratch.json(["restore", &stamps[1], "-t", "out"]);
    assert_eq!((code, refused["error"]["code"].as_str().unwrap()), (22, "snapshot_invalid"));
    // A quick look takes nothing back.
    let (code, _) = scratch.json(["validate", &stamps[0], "--quick"]);
    assert_eq!(code, 0);
    assert_eq!(scratch.ok(["list"])["latest"], stamps[0].as_str());
    // The next backup trusts nothing that may be bad: it stores again what is missing, and says so.
    let document = scratch.ok(["backup", "tree"]);
    assert!(document["warnings"].to_string().contains(&stamps[1]), "{document:#}");
    assert!(document["new_bytes"].as_u64().unwrap() > 0);
    assert_eq!(document["sources"]["tree"]["validated"], "full");
    // Mended by that, and validated again, it is what it was.
    scratch.ok(["validate", &stamps[1]]);
    let list = scratch.ok(["list"]);
    assert_eq!((&list["latest"], &list["backups"][1]["valid"]), (&document["stamp"], &true.into()));
}

/// A quick proof reads no chunk, but knows of each whether its pack is there; in a tree, whose databases it looks for on the same
/// way, as well as in a single file.
#[test]
fn quick_proofs_miss_what_is_gone() {
    let Damaged { scratch, stamps, .. } = prepare();
    scratch.ok(["validate", &stamps[1], "--quick"]);
    for pack in scratch.repository_files("packs") {
        let bytes = std::fs::read(&pack).unwrap();
        // Nodes stay: what is missed are chunks of files.
        if bytes.len() > 100_000 {
            std::fs::remove_file(&pack).unwrap();
        }
    }
    let (code, document) = scratch.json(["validate", &stamps[1], "--quick"]);
    assert_eq!((code, &document["errors"][0]), (14, &"tree_stored_data_damaged".into()), "{document:#}");
}
