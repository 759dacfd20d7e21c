//! Real processes that are killed, disks that are full or fail, and many runs at once: the repository stays sound.

use crate::support::{Mounted, Scratch, describe, document, has, noise, put, run, settle};
use icecore::backend::LocalBackend;
use icecore::format::{Key, PackKind};
use icecore::progress::Silent;
use icecore::repository::{ChunkWriter, IndexOptions, Repository, RepositoryError, Trust};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn rounds(short: u32) -> u32 {
    std::env::var("ICECORE_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}

/// Every listed snapshot comes back as it was when it was taken.
fn all_come_back(scratch: &Scratch, states: &BTreeMap<String, Vec<String>>) {
    scratch.ok(["check", "--read-data"]);
    let list = scratch.ok(["list"]);
    for one in list["backups"].as_array().unwrap() {
        let stamp = one["stamp"].as_str().unwrap();
        scratch.ok(["restore", stamp, "-t", "out"]);
        let state = describe(&scratch.path("out/tree"), true);
        assert!(states.get(stamp).is_none_or(|known| *known == state), "{stamp} holds other bytes");
        std::fs::remove_dir_all(scratch.path("out")).unwrap();
    }
}

/// `scripts/soak` kills 200 times.
#[test]
fn kills_at_random_moments_lose_nothing() {
    let scratch = Scratch::new();
    scratch.init();
    let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let verbs: [&[&str]; 4] = [
        &["backup", "tree"],
        &["prune", "--keep-last", "4", "--grace", "0s"],
        &["prune", "--keep-last", "4", "--now"],
        &["validate", "--all"],
    ];
    for round in 0..rounds(24) {
        for file in 0..5u64 {
            if (u64::from(round) + file) % 2 == 0 {
                scratch.file(&format!("tree/f{file}"), noise(150_000, u64::from(round) * 10 + file));
            }
        }
        settle();
        let state = describe(&scratch.path("tree"), true);
        let verb = verbs[round as usize % verbs.len()];
        let mut command = scratch.icecore();
        let mut child = command.args(verb).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(round).wrapping_mul(7919) % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let list = scratch.ok(["list"]);
        let newest = list["backups"]
            .as_array()
            .unwrap()
            .last()
            .and_then(|one| one["stamp"].as_str().map(str::to_owned));
        if let Some(stamp) = newest.filter(|_| verb[0] == "backup") {
            states.entry(stamp).or_insert_with(|| state.clone());
        }
        if round % 3 == 0 {
            states.insert(scratch.backup(&["tree"]), state);
        }
        scratch.ok(["check"]);
    }
    all_come_back(&scratch, &states);
    scratch.ok(["prune", "--keep-last", "2", "--now"]);
    all_come_back(&scratch, &states);
}

/// A disk that fills up at one point after another: the exit code says so, and freeing space works on a full disk.
#[test]
fn a_full_disk_stops_a_backup_and_not_a_prune() {
    let scratch = Scratch::new();
    let Some(disk) = Mounted::new(&scratch, "ext4") else { return };
    let repo = disk.path.join("repo");
    let icecore = |arguments: &[&str]| {
        document(scratch.icecore().env("ICECORE_REPOSITORY", &repo).arg("--json").args(arguments))
    };
    assert_eq!(icecore(&["init"]).0, 0);
    scratch.file("tree/f", noise(30_000_000, 1));
    settle();
    assert_eq!(icecore(&["backup", "tree"]).0, 0);
    let free = || {
        let output = run(Command::new("df").args(["--output=avail", "-B1"]).arg(&disk.path)).stdout;
        String::from_utf8(output).unwrap().lines().last().unwrap().trim().parse::<u64>().unwrap()
    };
    let filler = disk.path.join("filler");
    for left in [30_000_000u64, 8_000_000, 1_000_000, 60_000] {
        drop(std::fs::remove_file(&filler));
        let len = free().saturating_sub(left).to_string();
        run(Command::new("fallocate").args(["-l", &len]).arg(&filler));
        scratch.file("tree/f", noise(60_000_000, left));
        settle();
        let (code, refused) = icecore(&["backup", "tree"]);
        assert_eq!(code, 16, "{left}: {refused:#}");
        assert_eq!(icecore(&["check", "--read-data"]).0, 0);
        // What the failed run has left is garbage.
        let (code, pruned) = icecore(&["prune", "--keep-last", "9", "--now"]);
        assert_eq!(code, 0, "{left}: {pruned:#}");
        assert_eq!(icecore(&["check", "--read-data"]).0, 0);
    }
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(icecore(&["backup", "tree"]).0, 0);
    assert_eq!(icecore(&["validate", "--all"]).0, 0);
}

/// The n-th write or fsync fails: no run claims success, and nothing that was there gets lost.
#[test]
fn after_an_error_of_the_disk_nobody_claims_success() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(400_000, 1));
    settle();
    let mut states = BTreeMap::from([(scratch.backup(&["tree"]), describe(&scratch.path("tree"), true))]);
    let mut failed = 0;
    for call in ["fsync", "write", "renameat2", "rename"] {
        for nth in 1..=rounds(9) {
            scratch.file("tree/f", noise(300_000, u64::from(nth) + 100));
            settle();
            let before = scratch.ok(["list"])["backups"].as_array().unwrap().len();
            let inject = format!("inject={call}:error=EIO:when={nth}");
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o"]).arg(scratch.path("trace")).arg("-e").arg(&inject);
            command.arg(env!("CARGO_BIN_EXE_icecore")).args(["backup", "tree", "--quiet"]);
            command.current_dir(scratch.directory.path()).env("HOME", scratch.path("home"));
            command.env("ICECORE_REPOSITORY", scratch.path("repo"));
            let output = command.output().unwrap();
            let injected = std::fs::read_to_string(scratch.path("trace")).unwrap().contains("(INJECTED)");
            let list = scratch.ok(["list"]);
            let backups = list["backups"].as_array().unwrap();
            if backups.len() > before {
                let stamp = backups.last().unwrap()["stamp"].as_str().unwrap().to_owned();
                states.insert(stamp, describe(&scratch.path("tree"), true));
            }
            if injected && !output.status.success() {
                failed += 1;
            }
            // Only notes in lock files, and what is printed, may fail unnoticed.
            if injected && call != "write" {
                assert!(!output.status.success(), "{inject}: claimed success");
            }
            scratch.ok(["check"]);
        }
    }
    assert!(failed > 10, "{failed} runs failed");
    scratch.ok(["prune", "--keep-last", "3", "--now"]);
    all_come_back(&scratch, &states);
}

/// Files below a directory of the repository, the largest last.
fn files_of(scratch: &Scratch, directory: &str) -> Vec<PathBuf> {
    let mut files = scratch.repository_files(directory);
    files.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
    files
}

/// `Scratch::failing`, and nothing is restored yet.
fn failing(scratch: &Scratch, files: &[&Path], fault: (&str, &str), verb: &[&str]) -> (i32, Value) {
    drop(std::fs::remove_dir_all(scratch.path("out")));
    scratch.failing(files, fault, verb)
}

/// A sector that can't be read is damage; too little memory for reading it, or too many open files, says nothing of what lies there.
#[test]
fn only_what_the_disk_has_lost_is_damaged() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(400_000, 1));
    let stamp = scratch.backup(&["tree"]);
    let packs = files_of(&scratch, "packs");
    let data = [packs.last().unwrap().as_path()];
    let verbs: [&[&str]; 4] =
        [&["check"], &["check", "--read-data"], &["restore", &stamp, "-t", "out"], &["validate", &stamp]];
    for verb in verbs {
        let (code, told) = failing(&scratch, &data, ("pread64", "EIO"), verb);
        assert_eq!(code, 14, "{verb:?}: {told:#}");
        for fault in [("pread64", "ENOMEM"), ("openat", "EMFILE")] {
            let (code, told) = failing(&scratch, &data, fault, verb);
            assert_eq!((code, &told["error"]["code"]), (1, &"repository_io".into()), "{verb:?}: {told:#}");
        }
    }
    // One inode that is lost is one pack that is lost, and no listing.
    let (code, told) = failing(&scratch, &[data[0].parent().unwrap()], ("statx", "EUCLEAN"), &["check"]);
    assert_eq!(code, 14, "{told:#}");
    assert_eq!(failing(&scratch, &data, ("pread64", "ENOMEM"), &["repair"]).0, 1);
    assert_eq!(scratch.ok(["check", "--read-data"])["valid"], true);
    assert_eq!(files_of(&scratch, "packs"), packs);
}

/// Where a small file can't be read, everything that doesn't hang on it comes back all the same, and `check` names it.
#[test]
fn a_small_file_that_the_disk_has_lost_spares_the_rest() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let backup = |seed| {
        scratch.file("tree/f", noise(200_000, seed));
        settle();
        scratch.backup(&["tree"])
    };
    let (first, lost, kept) = (backup(1), backup(2), backup(3));
    scratch.ok(["validate", &lost]);
    scratch.ok(["forget", &first]);
    scratch.ok(["prune", "--keep-last", "9"]);
    let name = scratch.path("repo/snapshots").join(&lost);
    let manifest_name = std::fs::read_to_string(&name).unwrap();
    let manifest = scratch.path("repo/manifests").join(manifest_name.trim_end());
    let mut small = vec![name, manifest];
    for directory in ["index", "proofs", "doomed"] {
        small.push(files_of(&scratch, directory).pop().expect(directory));
    }
    for file in &small {
        let fault = ("read", "EIO");
        let (code, told) = failing(&scratch, &[file], fault, &["restore", &kept, "-t", "out"]);
        assert_eq!(code, 0, "{file:?}: {told:#}");
        assert_eq!(std::fs::read(scratch.path("out/tree/f")).unwrap(), noise(200_000, 3));
        let (code, told) = failing(&scratch, &[file], ("openat", "EMFILE"), &["restore", &kept, "-t", "out"]);
        assert_eq!((code, &told["error"]["code"]), (1, &"repository_io".into()), "{file:?}: {told:#}");
        let (code, told) = failing(&scratch, &[file], fault, &["check"]);
        assert_eq!(code, 14, "{file:?}: {told:#}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(told["errors"].to_string().contains(name), "{file:?}: {told:#}");
    }
    // An index file of which not even its inode is left: its packs' trailers tell what it told.
    let (code, told) =
        failing(&scratch, &[&small[2]], ("statx,openat", "EUCLEAN"), &["restore", &kept, "-t", "out"]);
    assert_eq!(code, 0, "{told:#}");
    // Its name stays with a manifest that can't be read now, and may be read another time.
    let (code, told) = failing(&scratch, &[&small[1]], ("read", "EIO"), &["repair"]);
    assert_eq!((code, &told["lost"]), (14, &serde_json::json!([])), "{told:#}");
    let actions = told["actions"].to_string();
    assert!(actions.contains(&format!("and snapshots/{lost} by hand")), "{actions}");
    // A name that can't be read is replaced where its manifest is whole.
    let repaired = failing(&scratch, &[&small[0]], ("read", "EIO"), &["repair"]).1;
    assert!(repaired["actions"].to_string().contains("was written anew"), "{repaired:#}");
    assert_eq!(std::fs::read_to_string(&small[0]).unwrap(), manifest_name);
    let (code, told) =
        failing(&scratch, &[&small[1]], ("read", "EIO"), &["prune", "--keep-last", "1", "--now"]);
    assert_eq!(code, 14, "{told:#}");
    scratch.ok(["restore", &lost, "-t", "out/lost"]);
    // The others are sent.
    std::fs::create_dir(scratch.path("replica")).unwrap();
    let (code, told) = failing(&scratch, &[&small[1]], ("read", "EIO"), &["replicate", "replica"]);
    assert_eq!(code, 0, "{told:#}");
    assert!(told["warnings"].to_string().contains(manifest_name.trim_end()), "{told:#}");
    assert!(scratch.path("replica/snapshots").join(&kept).exists());
    assert!(!scratch.path("replica/snapshots").join(&lost).exists());
}

/// Whoever decides by the journals of restores stops where they can't be read; a single one that is lost hides no other.
#[test]
fn journals_that_cannot_be_read_are_not_taken_for_none() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(100_000, 1));
    settle();
    let first = scratch.backup(&["tree"]);
    for seed in [2, 3] {
        put(&scratch.path("tree/f"), noise(100_000, seed));
        scratch.ok(["restore", &first, "--confirm-service-stopped"]);
    }
    let journals = files_of(&scratch, "restores");
    let [one, ..] = journals.as_slice() else { panic!("{journals:?}") };
    for verb in [&["prune", "--keep-last", "9"][..], &["forget", &first], &["backup", "tree"]] {
        let (code, told) = failing(&scratch, &[one], ("openat", "EMFILE"), verb);
        assert_eq!((code, &told["error"]["code"]), (1, &"repository_io".into()), "{verb:?}: {told:#}");
    }
    let (code, told) = failing(&scratch, &[one], ("read", "EIO"), &["list"]);
    assert_eq!(code, 0, "{told:#}");
    assert!(told["warnings"].to_string().contains("it can't be told which restore"), "{told:#}");
    assert_eq!(failing(&scratch, &[one], ("read", "EIO"), &["prune", "--keep-last", "9"]).0, 0);
}

/// A snapshot that lost its data, which nobody has noticed, doesn't push out one that has all of its own.
#[test]
fn the_last_sound_snapshot_is_not_forgotten_for_one_without_data() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(200_000, 1));
    settle();
    let sound = scratch.backup(&["tree"]);
    let before = files_of(&scratch, "packs");
    scratch.file("tree/f", noise(300_000, 2));
    settle();
    let hollow = scratch.backup(&["tree"]);
    let pack = files_of(&scratch, "packs").into_iter().rfind(|pack| !before.contains(pack)).unwrap();
    let whole = std::fs::read(&pack).unwrap();
    for is_gone in [false, true] {
        if is_gone {
            std::fs::remove_file(&pack).unwrap()
        } else {
            put(&pack, &whole[..200_000])
        }
        for more in [&["-n"][..], &[], &["--now"]] {
            let (code, told) = scratch.json([&["prune", "--keep-last", "1"], more].concat());
            assert_eq!(code, 14, "{told:#}");
            assert!(told["error"]["message"].as_str().unwrap().contains(&hollow), "{told:#}");
        }
    }
    let (code, told) = scratch.json(["validate", "--all"]);
    // Many chunks of one file are lost: that is said once.
    let findings = told["findings"].as_array().unwrap();
    assert_eq!((code, findings.len(), &findings[0]["path"]), (14, 1, &"f".into()), "{told:#}");
    scratch.ok(["prune", "--keep-last", "1", "--now"]);
    scratch.ok(["restore", &sound, "-t", "out"]);
    assert_eq!(std::fs::read(scratch.path("out/tree/f")).unwrap(), noise(200_000, 1));
}

/// Three backups, prunes, checks and restores at once; a minute in `scripts/soak`.
#[test]
fn everything_at_once() {
    let seconds =
        std::env::var("ICECORE_TOGETHER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let scratch = Scratch::new();
    scratch.init();
    let states: Mutex<BTreeMap<String, (String, Vec<String>)>> = Mutex::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let go_on = || Instant::now() < end;
    std::thread::scope(|scope| {
        for profile in ["a", "b", "c"] {
            let (scratch, states) = (&scratch, &states);
            scope.spawn(move || {
                let source = format!("tree-{profile}");
                for round in 0..u64::MAX {
                    if !go_on() {
                        break;
                    }
                    let own = u64::from(profile.as_bytes()[0]);
                    scratch.file(&format!("{source}/own"), noise(200_000, round * 256 + own));
                    scratch.file(&format!("{source}/shared"), noise(200_000, round));
                    settle();
                    let state = describe(&scratch.path(&source), true);
                    let named = format!("tree={source}");
                    let arguments = ["--profile", profile, "backup", &named, "--retry-lock", "60s"];
                    let stamp = scratch.ok(arguments)["stamp"].as_str().unwrap().to_owned();
                    states.lock().unwrap().insert(stamp, (source.clone(), state));
                }
            });
        }
        scope.spawn(|| {
            for round in 0.. {
                if !go_on() {
                    break;
                }
                let profile = ["a", "b", "c"][round % 3];
                let last: &[&str] = if round % 2 == 0 { &["--now"] } else { &["--grace", "1s"] };
                let arguments = ["--profile", profile, "prune", "--keep-last", "3", "--retry-lock", "60s"];
                scratch.ok(arguments.iter().chain(last));
            }
        });
        scope.spawn(|| {
            while go_on() {
                let (code, checked) = scratch.json(["check"]);
                assert_eq!(code, 0, "{checked:#}");
            }
        });
        scope.spawn(|| {
            while go_on() {
                let known: Vec<String> = states.lock().unwrap().keys().cloned().collect();
                let Some(stamp) = known.last() else { continue };
                let out = format!("out-{stamp}");
                let (code, told) = scratch.json(["restore", stamp, "-t", &out, "--retry-lock", "60s"]);
                assert!(matches!(code, 0 | 13), "{told:#}");
                if code == 0 {
                    let (source, state) = states.lock().unwrap()[stamp].clone();
                    assert_eq!(describe(&scratch.path(&out).join("tree"), true), state, "{source}");
                }
                drop(std::fs::remove_dir_all(scratch.path(&out)));
            }
        });
    });
    scratch.ok(["check", "--read-data"]);
    let list = scratch.ok(["list"]);
    let (backups, states) = (list["backups"].as_array().unwrap(), states.into_inner().unwrap());
    assert!(states.len() > 6 && !backups.is_empty());
    for one in backups {
        let stamp = one["stamp"].as_str().unwrap();
        scratch.ok(["restore", stamp, "-t", "last"]);
        assert_eq!(describe(&scratch.path("last/tree"), true), states[stamp].1, "{stamp}");
        std::fs::remove_dir_all(scratch.path("last")).unwrap();
    }
    println!("{} snapshots taken, {} left", states.len(), backups.len());
}

/// A host with a cache of its own that has seen packs which another host's prune removed stores what it needs.
#[test]
fn a_warm_cache_does_not_deduplicate_against_what_another_host_pruned() {
    let scratch = Scratch::new();
    scratch.init();
    let on = |home: &str, arguments: &[&str]| {
        let mut command = scratch.icecore();
        command.env("HOME", scratch.path(home)).args(["--json", "--index-memory", "0"]).args(arguments);
        let (code, told) = document(&mut command);
        assert_eq!(code, 0, "{told:#}");
        told
    };
    scratch.file("tree/f", noise(600_000, 1));
    settle();
    let first = on("one", &["backup", "tree"])["stamp"].as_str().unwrap().to_owned();
    put(&scratch.path("tree/f"), noise(600_000, 2));
    settle();
    on("one", &["backup", "tree"]);
    on("two", &["forget", &first]);
    on("two", &["prune", "--keep-last", "9", "--now"]);
    // The first content again: the cache of the first host knows it.
    put(&scratch.path("tree/f"), noise(600_000, 1));
    settle();
    let again = on("one", &["backup", "tree"]);
    assert!(again["new_bytes"].as_u64().unwrap() >= 600_000, "{again:#}");
    on("one", &["check", "--read-data"]);
    on("two", &["validate", "--all"]);
}

/// A repository that can't be written is read without locks.
#[test]
fn a_read_only_repository_is_checked_and_restored_from() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(100_000, 1));
    settle();
    let stamp = scratch.backup(&["tree"]);
    scratch.backup(&["tree"]);
    let Some(_read_only) = crate::support::ReadOnly::new(&scratch.path("repo")) else { return };
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["list"]);
    scratch.ok(["validate", &stamp]);
    scratch.ok(["restore", &stamp, "-t", "out"]);
    scratch.ok(["prune", "-n"]);
    let (code, refused) = scratch.json(["prune", "--keep-last", "1"]);
    assert_eq!((code, refused["error"]["code"].as_str()), (1, Some("permission_denied")), "{refused:#}");
    assert!(Path::new(refused["error"]["path"].as_str().unwrap()).starts_with(scratch.path("repo")));
}

/// Packs of which every chunk was decoded before they were named are read back all the same.
#[test]
fn a_pack_that_does_not_read_back_is_no_proof() {
    let scratch = Scratch::new();
    scratch.init();
    let backend = Arc::new(LocalBackend::new(scratch.path("repo")));
    let repository = Repository::open(backend, IndexOptions::default()).unwrap();
    let writer = ChunkWriter::new(&repository, Trust::Index);
    writer.put(PackKind::Data, &noise(300_000, 1)).unwrap();
    writer.put(PackKind::Data, &vec![7; 100_000]).unwrap();
    let packs = writer.finish(&Silent).unwrap().packs;
    assert_eq!(packs.len(), 1);
    let pack = packs[0];
    repository.prove_pack(&pack).unwrap();
    let path = scratch.path("repo").join(Key::Pack(pack).path());
    let right = std::fs::read(&path).unwrap();
    for at in [0, 20, right.len() / 2, right.len() - 40, right.len() - 1] {
        let mut wrong = right.clone();
        wrong[at] ^= 4;
        put(&path, wrong);
        let proof = repository.prove_pack(&pack);
        assert!(matches!(proof, Err(RepositoryError::Damaged { .. })), "{at}: {proof:?}");
    }
    put(&path, &right[..right.len() - 1]);
    assert!(repository.prove_pack(&pack).is_err(), "cut short");
    put(&path, right);
    repository.prove_pack(&pack).unwrap();
}
