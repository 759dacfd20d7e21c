//! Disks that are full, that fail, and snapshots that are damaged: told before the first byte where that can be, and else
//! finished or undone afterwards.

use crate::restore_states::{crash_database, make_database, marked_rows};
use crate::support::{Scratch, describe, has, is_root, noise, put, run};
use std::path::PathBuf;
use std::process::Command;

const CONFIRM: &str = "--confirm-service-stopped";

/// A small file system in memory, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn new(scratch: &Scratch, size: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let path = scratch.mkdir("small");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path));
        Some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn want_of_room_is_told_before_the_first_byte() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/big", noise(3_000_000, 1));
    scratch.file("tree/small", "small");
    let stamp = scratch.backup(&["tree"]);
    let Some(small) = Small::new(&scratch, "2m") else { return };
    let target = small.0.join("tree");
    std::fs::create_dir(&target).unwrap();
    put(&target.join("small"), "other");
    put(&target.join("extra"), noise(1_000_000, 2));
    let map = format!("tree={}", target.display());
    for arguments in
        [&["restore", &stamp, CONFIRM, "--map", &map][..], &["restore", &stamp, "-n", "--map", &map]]
    {
        let (code, document) = scratch.json(arguments);
        assert_eq!((code, document["error"]["code"].as_str().unwrap()), (16, "no_space"), "{document:#}");
        assert_eq!(std::fs::read(target.join("small")).unwrap(), b"other");
        assert_eq!(std::fs::read(target.join("extra")).unwrap().len(), 1_000_000);
    }
    let (code, _) = scratch.json(["restore", &stamp, "-t", small.0.join("out").to_str().unwrap()]);
    assert_eq!(code, 16);
    // What goes makes room for what comes.
    run(Command::new("mount").args(["-o", "remount,size=4200k"]).arg(&small.0));
    put(&target.join("extra"), noise(3_000_000, 2));
    scratch.ok(["restore", &stamp, CONFIRM, "--map", &map]);
    assert_eq!(std::fs::read(target.join("big")).unwrap(), noise(3_000_000, 1));
}

#[test]
fn checking_a_restored_database_takes_no_room() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    make_database(&live, "wal");
    crate::restore_states::python_at(
        &live,
        "import sqlite3\nc=sqlite3.connect('app.db')\nc.execute('insert into t values(zeroblob(3000000))')\nc.commit()",
    );
    let stamp = scratch.backup(&["app=live/app.db"]);
    put(&live.join("app.db"), "garbage");
    let Some(small) = Small::new(&scratch, "1m") else { return };
    let small = small.0.to_str().unwrap();
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM, "--temp-dir", small]);
    assert_eq!((code, &document["restored_integrity_ok"]), (0, &true.into()), "{document:#}");
    assert_eq!(std::fs::read_dir(&live).unwrap().count(), 1);
}

/// Restores with a system call that fails from its `nth` use on.
fn failing(scratch: &Scratch, stamp: &str, call: &str, error: &str, nth: u32) -> i32 {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    traced.args(["-e", &format!("inject={call}:error={error}:when={nth}+"), env!("CARGO_BIN_EXE_icecore")]);
    traced.args(["--json", "restore", stamp, CONFIRM]).current_dir(scratch.directory.path());
    traced.env("HOME", scratch.path("home")).env("ICECORE_REPOSITORY", scratch.path("repo"));
    let output = traced.output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = output.status.code().unwrap();
    if code != 0 {
        let error = &told["error"];
        assert!(error["message"].as_str().unwrap().len() > 20 && error["hint"].is_string(), "{told:#}");
    }
    if code == 23 {
        assert_eq!(told["error"]["code"], "restore_incomplete");
        assert!(told["journal"].as_str().unwrap().contains("restores"), "{told:#}");
        assert!(told["error"]["hint"].as_str().unwrap().contains("--rollback"));
    }
    code
}

#[test]
fn a_full_or_failing_disk_midway_leaves_a_way_forth_and_back() {
    if !has("strace") || !has("python3") {
        return;
    }
    let mut incomplete = 0;
    for (call, error) in [
        ("pwrite64", "ENOSPC"),
        ("pwrite64", "EIO"),
        ("fsync", "EIO"),
        ("syncfs", "EIO"),
        ("ftruncate", "EIO"),
        ("unlinkat", "EIO"),
        ("linkat", "ENOSPC"),
        ("mkdirat", "ENOSPC"),
    ] {
        for nth in [1, 2, 3, 5, 8] {
            for verb in ["--resume", "--rollback"] {
                let scratch = Scratch::new();
                scratch.init();
                let live = scratch.mkdir("live");
                make_database(&live, "delete");
                scratch.file("live/tree/a", noise(200_000, 1));
                scratch.file("live/tree/new/b", "b");
                std::fs::hard_link(scratch.path("live/tree/a"), scratch.path("live/tree/twin")).unwrap();
                let stamp = scratch.backup(&["app=live/app.db", "tree=live/tree"]);
                let wanted = describe(&live, true).split_off(1);
                crash_database(&live, "delete");
                put(&live.join("tree/a"), noise(100_000, 2));
                std::fs::remove_dir_all(live.join("tree/new")).unwrap();
                std::fs::remove_file(live.join("tree/twin")).unwrap();
                scratch.file("live/tree/extra", "x");
                let before = describe(&live, true).split_off(1);
                let code = failing(&scratch, &stamp, call, error, nth);
                let label = format!("{call} {error} {nth}: {code}");
                let now = describe(&live, true).split_off(1);
                match code {
                    0 => assert_eq!(now, wanted, "{label}"),
                    23 => {
                        incomplete += 1;
                        // Opening may write, so a copy is opened.
                        let copy = scratch.path("copy");
                        run(Command::new("cp").arg("-a").args([&live, &copy]));
                        let opened = marked_rows(&copy.join("app.db"));
                        assert!(opened.is_err() || opened == Ok((1, 0)), "{label}: {opened:?}");
                        scratch.ok(["restore", verb, CONFIRM]);
                        let now = describe(&live, true).split_off(1);
                        assert_eq!(now, if verb == "--resume" { wanted } else { before }, "{label}");
                    }
                    // Nothing was changed: the repository could not be written, for one.
                    _ => assert_eq!(now, before, "{label}"),
                }
            }
        }
    }
    assert!(incomplete > 20, "{incomplete}");
}

#[test]
fn damage_of_the_repository_is_found_before_where_it_can_be() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(400_000, 1);
    scratch.file("tree/a", &bytes);
    scratch.backup(&["tree"]);
    let earlier = scratch.repository_files("packs");
    bytes.extend(noise(400_000, 3));
    put(&scratch.path("tree/a"), &bytes);
    let stamp = scratch.backup(&["tree"]);
    put(&scratch.path("tree/a"), noise(400_000, 2));
    // The pack that holds the end of the file, not its beginning.
    let packs = scratch.repository_files("packs").into_iter().filter(|path| !earlier.contains(path));
    let data = &packs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(data).unwrap();
    std::fs::remove_file(data).unwrap();
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 14, "{document:#}");
    assert!(document["error"]["message"].as_str().unwrap().contains("nothing was changed"), "{document:#}");
    assert_eq!(std::fs::read(scratch.path("tree/a")).unwrap(), noise(400_000, 2));
    // A flipped bit is found when the chunk is read: midway, and it can be undone.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    put(data, &flipped);
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 14, "{document:#}");
    assert!(document["error"]["hint"].as_str().unwrap().contains("--rollback"), "{document:#}");
    scratch.ok(["restore", "--rollback", CONFIRM]);
    assert_eq!(std::fs::read(scratch.path("tree/a")).unwrap(), noise(400_000, 2));
    put(data, &whole);
    scratch.ok(["restore", &stamp, CONFIRM]);
    assert!(std::fs::read(scratch.path("tree/a")).unwrap() == bytes);
}

#[test]
fn what_cannot_be_saved_is_told_before_it_is_overwritten() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/a", noise(300_000, 1));
    let stamp = scratch.backup(&["tree"]);
    put(&scratch.path("tree/a"), noise(300_000, 2));
    let run_with = |more: &[&str]| {
        let verb = [&["restore", &stamp, CONFIRM], more].concat();
        scratch.failing(&[&scratch.path("tree/a")], ("pread64,read", "EIO"), &verb)
    };
    let (code, told) = run_with(&[]);
    assert_eq!((code, told["error"]["code"].as_str().unwrap()), (22, "safety_incomplete"), "{told:#}");
    assert_eq!(std::fs::read(scratch.path("tree/a")).unwrap(), noise(300_000, 2));
    // The disk that can't be read may still be written.
    let (code, told) = run_with(&["--accept-incomplete-safety"]);
    assert_eq!(code, 0, "{told:#}");
    assert!(told["warnings"].to_string().contains("tree/a"), "{told:#}");
    assert_eq!(std::fs::read(scratch.path("tree/a")).unwrap(), noise(300_000, 1));
}
