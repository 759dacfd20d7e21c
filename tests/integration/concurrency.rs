//! Several runs at once, and clocks that go wrong.

use crate::support::{Scratch, document, noise, put};
use icecore::format::Manifest;
use icecore::stamp::Stamp;
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn a_second_run_of_a_profile_is_told_or_waits() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/x", "x");
    let held = scratch.hold("backup-default", nix::fcntl::FlockArg::LockExclusive);
    let (code, refused) = scratch.json(["backup", "tree"]);
    assert_eq!((code, refused["error"]["code"].as_str().unwrap()), (11, "busy"));
    scratch.ok(["backup", "tree", "--profile", "other"]);
    scratch.ok(["list"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| scratch.ok(["backup", "tree", "--retry-lock", "30s"]));
        std::thread::sleep(std::time::Duration::from_millis(400));
        drop(held);
        waiting.join().unwrap();
    });
}

#[test]
fn many_profiles_at_once_get_a_stamp_each() {
    let scratch = Scratch::new();
    scratch.init();
    for number in 0..6u64 {
        scratch.file(&format!("tree-{number}/own"), noise(300_000, number));
        scratch.file(&format!("tree-{number}/same"), noise(300_000, 99));
    }
    std::thread::scope(|scope| {
        for number in 0..6 {
            let scratch = &scratch;
            scope.spawn(move || {
                for _ in 0..3 {
                    scratch.ok([
                        "--profile",
                        &format!("p{number}"),
                        "backup",
                        &format!("tree=tree-{number}"),
                    ]);
                }
            });
        }
    });
    let list = scratch.ok(["list"]);
    let stamps: std::collections::BTreeSet<String> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["stamp"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(stamps.len(), 18);
    scratch.ok(["validate", "--all"]);
}

/// Changes a snapshot's manifest, and names it by its stamp.
fn made_again(scratch: &Scratch, stamp: &str, change: impl FnOnce(&mut Manifest)) {
    let line = std::fs::read_to_string(scratch.path("repo/snapshots").join(stamp)).unwrap();
    let manifest = std::fs::read(scratch.path("repo/manifests").join(line.trim())).unwrap();
    let mut decoded = Manifest::decode(&manifest).unwrap();
    change(&mut decoded);
    let bytes = decoded.encode();
    let id = icecore::id::Id::of(&bytes);
    put(&scratch.path("repo/manifests").join(id.hex()), &bytes);
    put(&scratch.path("repo/snapshots").join(decoded.stamp.to_string()), format!("{id}\n"));
}

#[test]
fn a_clock_that_went_back_keeps_the_order() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    let first = scratch.backup(&["a.json"]);
    // The newest snapshot is two days ahead: its manifest is made again with a later stamp, as a wrong clock would have.
    let ahead =
        Stamp::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + 2 * 86_400);
    made_again(&scratch, &first, |manifest| manifest.stamp = ahead);
    // Its name lies, and the clock that it was taken by doesn't.
    assert!(scratch.ok(["status", "--max-age", "1h"])["age_s"].as_u64().unwrap() < 600);
    let document = scratch.ok(["backup", "a.json"]);
    assert_eq!(document["stamp"], ahead.next().to_string());
    assert!(document["warnings"][0].as_str().unwrap().contains("more than a day ahead"), "{document:#}");
    assert_eq!(scratch.ok(["list"])["latest"], ahead.next().to_string());
    let shown = scratch.ok(["show"]);
    assert!(
        shown["snapshot"]["clock"].as_str().unwrap() < ahead.rfc3339().as_str(),
        "the real clock is in the manifest"
    );
}

/// A snapshot by a clock that was ahead isn't fresh for as long as that clock was ahead.
#[test]
fn nobody_knows_how_old_a_snapshot_of_the_future_is() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    let stamp = scratch.backup(&["a.json"]);
    made_again(&scratch, &stamp, |manifest| manifest.clock_ns += 300 * 86_400 * 1_000_000_000);
    let (code, document) = scratch.json(["status", "--max-age", "1h"]);
    assert_eq!((code, &document["age_s"]), (13, &serde_json::Value::Null), "{document:#}");
    let document = scratch.ok(["status"]);
    assert!(document["warnings"].to_string().contains("clock that was ahead"), "{document:#}");
    scratch.backup(&["a.json"]);
    scratch.ok(["status", "--max-age", "1h"]);
}

#[test]
fn a_taken_stamp_moves_to_the_next_second() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    // Names without manifests (still arriving) occupy the coming seconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    for second in 0..30 {
        put(
            &scratch.path("repo/snapshots").join(Stamp::from_unix(now + second).to_string()),
            format!("{}\n", "0".repeat(64)),
        );
    }
    let (code, taken) = document(scratch.icecore().args(["--json", "backup", "a.json"]));
    assert_eq!(code, 0);
    assert_eq!(taken["stamp"], Stamp::from_unix(now + 30).to_string());
    let list = scratch.ok(["list"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 1);
    assert_eq!(list["warnings"].as_array().unwrap().len(), 30, "arriving ones are noted");
}

#[test]
fn a_killed_first_backup_goes_on_where_it_was() {
    let scratch = Scratch::new();
    scratch.init();
    let total = 320_000_000;
    scratch.file("tree/big", noise(total, 1));
    let mut first = scratch.icecore().args(["--json", "backup", "tree"]).spawn().unwrap();
    while scratch.repository_files("packs").len() < 2 {
        assert!(first.try_wait().unwrap().is_none(), "it was faster than the test");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(scratch.repository_files("snapshots").is_empty());
    let document = scratch.ok(["backup", "tree"]);
    let new_bytes = document["new_bytes"].as_u64().unwrap();
    assert!(new_bytes < total as u64 - 60_000_000, "{new_bytes} bytes were stored again");
    scratch.ok(["validate", "latest"]);
}
