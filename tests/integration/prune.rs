//! Retention and freeing space, from the command line.

use crate::support::{Scratch, describe, files_below, has, noise, put, run, settle};
use icecore::format::Manifest;
use icecore::id::Id;
use icecore::stamp::Stamp;
use nix::fcntl::FlockArg;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Publishes the newest snapshot once more, as of another time, with some of its sources.
fn forge(scratch: &Scratch, from: &str, at: i64, sources: &[&str]) -> Stamp {
    let repository = scratch.path("repo");
    let line = std::fs::read_to_string(repository.join("snapshots").join(from)).unwrap();
    let mut manifest =
        Manifest::decode(&std::fs::read(repository.join("manifests").join(line.trim())).unwrap()).unwrap();
    manifest.stamp = Stamp::from_unix(at);
    manifest.sources.retain(|source| sources.contains(&source.name.as_str()));
    let bytes = manifest.encode();
    put(&repository.join("manifests").join(Id::of(&bytes).hex()), &bytes);
    put(&repository.join("snapshots").join(manifest.stamp.to_string()), format!("{}\n", Id::of(&bytes)));
    manifest.stamp
}

fn stamps(document: &Value, stay: bool) -> BTreeSet<String> {
    let all = document["snapshots"].as_array().unwrap().iter();
    all.filter(|one| one["stays"] == stay).map(|one| one["stamp"].as_str().unwrap().to_owned()).collect()
}

fn used(scratch: &Scratch) -> u64 {
    let packs = scratch.repository_files("packs").into_iter();
    packs.map(|pack| std::fs::metadata(pack).unwrap().len()).sum()
}

#[test]
fn sixty_days_of_databases_and_sundays_of_stores() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("db.json", "{}");
    scratch.file("store/x", noise(10_000, 1));
    let base = scratch.backup(&["db=db.json", "chroma=store"]);
    // 2026-04-06 was a Monday; the store goes on for half a year before that, on Sundays.
    let monday = Stamp::parse("20260406T030000Z").unwrap().unix();
    let mut sundays = BTreeSet::new();
    for day in -180..60i64 {
        let is_sunday = day.rem_euclid(7) == 6;
        let sources: &[&str] = if is_sunday { &["db", "chroma"] } else { &["db"] };
        if is_sunday || day >= 0 {
            let stamp = forge(&scratch, &base, monday + day * 86_400, sources).to_string();
            if is_sunday {
                sundays.insert(stamp);
            }
        }
    }
    scratch.ok(["forget", &base]);
    let before = describe(&scratch.path("repo"), true);
    let told = scratch.ok(["prune", "-n"]);
    assert_eq!(before, describe(&scratch.path("repo"), true), "-n changes nothing");
    let kept = stamps(&told, true);
    let of_store: BTreeSet<&String> = kept.intersection(&sundays).collect();
    let newest: BTreeSet<&String> = sundays.iter().rev().take(4).collect();
    assert!(newest.is_subset(&of_store), "{of_store:?}");
    let months: BTreeSet<&str> = of_store.iter().map(|stamp| &stamp[..6]).collect();
    assert_eq!(months.len(), 6, "{of_store:?}");
    let reasons = told["snapshots"].to_string();
    for reason in ["newest of db", "daily of db", "weekly of chroma", "monthly of chroma"] {
        assert!(reasons.contains(reason), "{reason}");
    }
    let done = scratch.ok(["prune"]);
    assert_eq!(stamps(&done, false), stamps(&told, false));
    let list = scratch.ok(["list"]);
    let left: BTreeSet<String> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["stamp"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, kept);
    scratch.ok(["check", "--read-data"]);
}

#[test]
fn what_is_freed_goes_in_two_steps_and_what_stays_comes_back() {
    let scratch = Scratch::new();
    scratch.init();
    let mut snapshots = Vec::new();
    for round in 0..4u64 {
        for file in 0..6 {
            scratch.file(&format!("tree/f{file}"), noise(400_000, round * 10 + file));
        }
        scratch.file("tree/always", noise(500_000, 999));
        settle();
        snapshots.push((scratch.backup(&["tree"]), describe(&scratch.path("tree"), true)));
    }
    let full = used(&scratch);
    let (old, kept) = snapshots.split_at(3);
    let stamps: Vec<&str> = old.iter().map(|(stamp, _)| stamp.as_str()).collect();
    scratch.ok(["forget"].iter().chain(&stamps));
    let told = scratch.ok(["check"]);
    assert!(told["unreferenced_bytes"].as_u64().unwrap() > 6_000_000, "{told:#}");
    let first = scratch.ok(["prune"]);
    assert_eq!((first["deleted_files"].as_u64(), first["forgotten"].as_array().unwrap().len()), (Some(0), 0));
    assert!(first["condemned_bytes"].as_u64().unwrap() > 6_000_000, "{first:#}");
    assert!(used(&scratch) >= full, "nothing is deleted within the grace");
    let again = scratch.ok(["prune"]);
    assert_eq!((again["deleted_files"].as_u64(), again["rewritten_packs"].as_u64()), (Some(0), Some(0)));
    scratch.ok(["check", "--read-data"]);
    let second = scratch.ok(["prune", "--grace", "0s"]);
    assert!(second["freed_bytes"].as_u64().unwrap() > 6_000_000, "{second:#}");
    assert!(used(&scratch) < 3_500_000, "{}", used(&scratch));
    let checked = scratch.ok(["check", "--read-data"]);
    assert_eq!(checked["unreferenced_packs"], 0);
    for (stamp, state) in kept {
        scratch.ok(["restore", stamp, "-t", "out"]);
        assert_eq!(&describe(&scratch.path("out/tree"), true), state);
    }
    // Index files that were put together go one prune later.
    scratch.ok(["prune", "--grace", "0s"]);
    assert!(files_below(&scratch.path("repo/doomed")).is_empty());
}

#[test]
fn now_means_now() {
    let scratch = Scratch::new();
    scratch.init();
    for round in 0..2 {
        scratch.file("tree/f", noise(3_000_000, round));
        settle();
        scratch.backup(&["tree"]);
    }
    let done = scratch.ok(["prune", "--keep-last", "1", "--now"]);
    assert_eq!(done["forgotten"].as_array().unwrap().len(), 1);
    assert!(done["freed_bytes"].as_u64().unwrap() > 3_000_000, "{done:#}");
    assert_eq!(done["condemned_bytes"], 0);
    scratch.ok(["check", "--read-data"]);
    // While a backup runs it waits, or is told who is there.
    let held = scratch.hold("writers", FlockArg::LockShared);
    let (code, refused) = scratch.json(["prune", "--now"]);
    assert_eq!((code, refused["error"]["code"].as_str()), (11, Some("busy")));
    let told = refused["error"]["message"].as_str().unwrap();
    assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
    scratch.ok(["prune"]);
    scratch.ok(["backup", "tree"]);
    drop(held);
    let alone = scratch.hold("writers", FlockArg::LockExclusive);
    assert_eq!(scratch.json(["backup", "tree"]).0, 11);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| scratch.ok(["backup", "tree", "--retry-lock", "30s"]));
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(alone);
        waiting.join().unwrap();
    });
}

/// What a backup that isn't published yet has stored looks like garbage: while one runs, nothing new is condemned.
#[test]
fn what_a_running_backup_has_stored_is_left_alone() {
    let scratch = Scratch::new();
    scratch.init();
    for round in 0..2 {
        scratch.file("tree/f", noise(1_000_000, round));
        settle();
        scratch.backup(&["tree"]);
    }
    let held = scratch.hold("writers", FlockArg::LockShared);
    let first = scratch.ok(["prune", "--keep-last", "1"]);
    assert_eq!(first["forgotten"].as_array().unwrap().len(), 1);
    assert_eq!(first["condemned_bytes"], 0, "{first:#}");
    assert!(first["warnings"].to_string().contains("another run is using the repository"), "{first:#}");
    drop(held);
    let second = scratch.ok(["prune"]);
    assert!(second["condemned_bytes"].as_u64().unwrap() >= 1_000_000, "{second:#}");
}

/// A first snapshot's manifest is there before its name. While its run is there that isn't damage, and nothing is deleted.
#[test]
fn a_first_snapshot_that_gets_its_name_just_now_is_no_damage() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(1_000_000, 1));
    settle();
    let stamp = scratch.backup(&["tree"]);
    let name = scratch.path("repo/snapshots").join(&stamp);
    let line = std::fs::read(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    let running = scratch.hold("writers", FlockArg::LockShared);
    let told = scratch.ok(["prune", "--grace", "0s"]);
    assert!(told["warnings"].to_string().contains("still arriving"), "{told:#}");
    assert_eq!((&told["freed_bytes"], &told["condemned_bytes"]), (&0.into(), &0.into()), "{told:#}");
    scratch.ok(["prune", "-n"]);
    drop(running);
    // Now nobody is there who would give it its name.
    assert_eq!(scratch.json(["prune", "--grace", "0s"]).0, 14);
    put(&name, line);
    scratch.ok(["prune", "--grace", "0s"]);
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["validate", &stamp]);
}

/// What was condemned and is needed again isn't deleted, and a backup doesn't rely on what is condemned.
#[test]
fn condemned_data_is_pardoned_or_stored_again() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(2_000_000, 1));
    settle();
    let first = scratch.backup(&["tree"]);
    let manifest = scratch.path("repo/snapshots").join(&first);
    let name = std::fs::read(&manifest).unwrap();
    let kept = scratch.path("repo/manifests").join(String::from_utf8(name.clone()).unwrap().trim());
    let bytes = std::fs::read(&kept).unwrap();
    scratch.file("tree/f", noise(2_000_000, 2));
    settle();
    scratch.backup(&["tree"]);
    scratch.ok(["forget", &first]);
    scratch.ok(["prune"]);
    // The first content again: it is stored anew, though a condemned pack has it.
    scratch.file("tree/f", noise(2_000_000, 1));
    settle();
    let again = scratch.ok(["backup", "tree"]);
    assert!(again["new_bytes"].as_u64().unwrap() >= 2_000_000, "{again:#}");
    scratch.ok(["forget", again["stamp"].as_str().unwrap()]);
    scratch.ok(["prune", "--grace", "1h"]);
    // A snapshot that was published by somebody who didn't see that (or was brought back) keeps its packs.
    put(&kept, &bytes);
    put(&manifest, &name);
    let pruned = scratch.ok(["prune", "--grace", "0s"]);
    assert!(pruned["pardoned_files"].as_u64().unwrap() > 0, "{pruned:#}");
    scratch.ok(["prune", "--grace", "0s"]);
    scratch.ok(["validate", &first]);
    scratch.ok(["check", "--read-data"]);
}

#[test]
fn pinned_young_safety_and_newest_snapshots_stay() {
    let scratch = Scratch::new();
    scratch.init();
    let mut stamps = Vec::new();
    for round in 0..4 {
        scratch.file("tree/f", noise(50_000, round));
        settle();
        stamps.push(scratch.backup(&["tree"]));
    }
    scratch.ok(["pin", &stamps[0]]);
    let restored = scratch.ok(["restore", &stamps[1], "--confirm-service-stopped"]);
    let safety = restored["pre_restore_snapshot"].as_str().unwrap();
    let done = scratch.ok(["prune", "--keep-last", "1", "-v"]);
    let left: Vec<String> = stamps_of(&scratch);
    assert_eq!(left, [&stamps[0], &stamps[3], safety].map(str::to_owned), "{done:#}");
    for wrong in [["prune", "--keep-last", "0"], ["prune", "--keep-within", "3 fortnights"]] {
        assert_eq!(scratch.json(wrong).0, 2);
    }
    // Another profile's snapshots are nobody else's.
    let other = scratch.ok(["prune", "--profile", "other"]);
    assert_eq!(other["snapshots"].as_array().unwrap().len(), 0);
    assert_eq!(stamps_of(&scratch).len(), 3);
}

fn stamps_of(scratch: &Scratch) -> Vec<String> {
    let list = scratch.ok(["list"]);
    list["backups"].as_array().unwrap().iter().map(|one| one["stamp"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_policy_in_the_config_is_used_by_backups_that_prune() {
    let scratch = Scratch::new();
    scratch.init();
    scratch
        .file("icecore.toml", "[retention]\nkeep_last = 2\ngrace = \"0s\"\n[source.tree]\npath = \"tree\"\n");
    let mut last = Value::Null;
    for round in 0..5 {
        scratch.file("tree/f", noise(100_000, round));
        settle();
        last = scratch.ok(["backup", "--prune"]);
    }
    assert_eq!(stamps_of(&scratch).len(), 2);
    assert_eq!(last["pruned"]["forgotten"].as_array().unwrap().len(), 1, "{last:#}");
    scratch.file("icecore.toml", "[retention]\nkeep_daily = 0\n[source.tree]\npath = \"tree\"\n");
    let (code, refused) = scratch.json(["prune"]);
    assert_eq!(code, 2, "{refused:#}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("keep_last"));
}

/// Many small packs and index files become few, and nothing gets lost on the way.
#[test]
fn small_packs_and_index_files_are_put_together() {
    let scratch = Scratch::new();
    scratch.init();
    let mut states = Vec::new();
    for round in 0..20u64 {
        scratch.file(&format!("tree/f{round}"), noise(30_000, round));
        settle();
        states.push((scratch.backup(&["tree"]), describe(&scratch.path("tree"), true)));
    }
    let files = |below: &str| scratch.repository_files(below).len();
    assert!(files("packs") >= 40 && files("index") >= 20);
    scratch.ok(["prune", "--keep-last", "100"]);
    scratch.ok(["check", "--read-data"]);
    for _ in 0..2 {
        scratch.ok(["prune", "--keep-last", "100", "--grace", "0s"]);
    }
    assert!(files("packs") <= 4, "{} packs", files("packs"));
    assert!(files("index") <= 2, "{} index files", files("index"));
    scratch.ok(["check", "--read-data"]);
    for (stamp, state) in states.iter().step_by(7) {
        let out = format!("out-{stamp}");
        scratch.ok(["restore", stamp, "-t", &out]);
        assert_eq!(&describe(&scratch.path(&format!("{out}/tree")), true), state);
    }
    let again = scratch.ok(["prune", "--keep-last", "100", "--grace", "0s"]);
    assert_eq!((again["rewritten_packs"].as_u64(), again["deleted_files"].as_u64()), (Some(0), Some(0)));
}

/// A prune of a repository that can't be told what it needs frees nothing.
#[test]
fn a_damaged_repository_is_not_pruned() {
    let scratch = Scratch::new();
    scratch.init();
    for round in 0..2 {
        scratch.file("tree/f", noise(200_000, round));
        settle();
        scratch.backup(&["tree"]);
    }
    let manifests = scratch.repository_files("manifests");
    let bytes = std::fs::read(&manifests[0]).unwrap();
    put(&manifests[0], &bytes[..bytes.len() / 2]);
    let before = files_below(&scratch.path("repo/packs"));
    let (code, refused) = scratch.json(["prune", "--keep-last", "1", "--now"]);
    assert_eq!((code, refused["error"]["code"].as_str()), (14, Some("repository_damaged")));
    assert_eq!(files_below(&scratch.path("repo/packs")), before);
    put(&manifests[0], bytes);
    scratch.ok(["prune", "--keep-last", "1", "--now"]);
    scratch.ok(["check", "--read-data"]);
}

/// A copy by rsync while snapshots are published, forgotten and pruned is sound, but for what is still arriving. `cp` copies in any
/// order: there a snapshot that was published meanwhile may lack its packs, and nothing else may be wrong.
#[test]
fn copies_taken_while_prunes_delete_are_sound_or_arriving() {
    if !has("rsync") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut copies = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..24u64 {
                for file in 0..4 {
                    scratch.file(&format!("tree/f{file}"), noise(200_000, round * 4 + file));
                }
                settle();
                scratch.ok(["backup", "tree"]);
                // Longer than one copy takes, as the usual day is.
                scratch.ok(["prune", "--keep-last", "3", "--grace", "4s"]);
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let copy = scratch.path(&format!("copy-{copies}"));
            let is_rsync = copies % 2 == 0;
            let before = stamps_of(&scratch);
            let mut command = std::process::Command::new(if is_rsync { "rsync" } else { "cp" });
            if is_rsync {
                command.arg("-a").arg(scratch.path("repo/"));
            } else {
                command.arg("-r").arg(scratch.path("repo"));
            }
            // Files may go away while they are copied; what counts is what the copy is worth.
            command.arg(&copy).stderr(std::process::Stdio::null()).status().unwrap();
            let (code, checked) = check_of(&scratch, &copy);
            let is_new = |one: &Value| !before.iter().any(|stamp| one["stamp"] == stamp.as_str());
            let arriving = checked["affected"].as_array().unwrap();
            let is_arriving = !is_rsync && code == 14 && arriving.iter().all(is_new) && !arriving.is_empty();
            assert!(
                code == 0 || is_arriving,
                "{} {before:?} {checked:#}",
                if is_rsync { "rsync" } else { "cp" }
            );
            copies += 1;
        }
    });
    assert!(copies >= 4, "{copies} copies");
    assert_eq!(stamps_of(&scratch).len(), 3);
    let copy = scratch.path("copy-0");
    run(std::process::Command::new("rsync").args(["-a", "--delete"]).arg(scratch.path("repo/")).arg(&copy));
    assert_eq!(check_of(&scratch, &copy).0, 0);
}

fn check_of(scratch: &Scratch, copy: &Path) -> (i32, Value) {
    crate::support::document(scratch.icecore().arg("-r").arg(copy).args(["--json", "check", "--read-data"]))
}
