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

/// Kind of file × change × verb: an error with its code, or the right result; never a panic, never wrong bytes.
#[test]
fn every_kind_of_damage_is_noticed_or_harmless() {
    let mut table: Vec<String> = Vec::new();
    for kind in ["config", "packs", "index", "manifests", "snapshots", "README"] {
        for change in CHANGES {
            let Damaged { scratch, stamps, states } = prepare();
            let files = if matches!(kind, "config" | "README") {
                vec![scratch.path("repo").join(kind)]
            } else {
                scratch.repository_files(kind)
            };
            apply(change, &files[0], files.get(1));
            let (validate, found) = scratch.json(["validate", "--all"]);
            let mut restored = Vec::new();
            for (stamp, state) in stamps.iter().zip(&states) {
                let out = format!("out-{stamp}");
                let (code, _) = scratch.json(["restore", stamp, "-t", &out, "--accept-invalid"]);
                if code == 0 {
                    assert_eq!(
                        &describe(&scratch.path(&out).join("tree"), true),
                        state,
                        "{kind} {change:?}: wrong bytes"
                    );
                }
                restored.push(code);
            }
            let harmless = restored == [0, 0];
            // A name without its manifest is taken for one that is still arriving, and said so; a name that is gone
            // is a snapshot that was forgotten.
            let arriving = found["warnings"].to_string().contains("still arriving");
            let forgotten = kind == "snapshots" && matches!(change, Change::Delete);
            let noticed = matches!(validate, 10 | 14 | 20) || arriving || forgotten;
            let nothing_changed = matches!(change, Change::Swap) && files.len() < 2;
            assert!(noticed || harmless || nothing_changed, "{kind} {change:?}: {validate} {restored:?}");
            if validate == 14 {
                assert!(found["error"]["message"].as_str().unwrap().len() > 5);
            }
            for verb in [
                vec!["list"],
                vec!["show", &stamps[0]],
                vec!["status"],
                vec!["backup", "tree"],
                vec!["ls", "latest", "-R"],
                vec!["diff", &stamps[0], &stamps[1]],
            ] {
                let (code, document) = scratch.json(&verb);
                assert!(matches!(code, 0 | 10 | 13 | 14 | 20), "{kind} {change:?} {verb:?}: {document:#}");
            }
            table.push(format!("{kind:<10} {change:<9?} validate {validate:>2}  restores {restored:?}"));
        }
    }
    println!("{}", table.join("\n"));
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
