//! Restoring into what is there: inodes stay, extras go, mount points and the world outside are left alone.

use crate::support::{Scratch, describe, inode, is_root, noise, put, run, settle};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

const CONFIRM: &str = "--confirm-service-stopped";

#[test]
fn inodes_stay_and_the_state_comes_back() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/sub/file", noise(500_000, 1));
    scratch.file("tree/sub/same", "same");
    scratch.file("tree/gone", "gone");
    scratch.file("tree/kind", "was a file");
    scratch.file("reg.json", "{\"v\": 1}");
    settle();
    let stamp = scratch.backup(&["tree", "reg=reg.json"]);
    let before = describe(&scratch.path("tree"), true);
    let paths = ["tree", "tree/sub", "tree/sub/file", "tree/sub/same", "reg.json"];
    let inodes: Vec<u64> = paths.iter().map(|path| inode(&scratch.path(path))).collect();
    let held = std::fs::File::open(scratch.path("tree/sub")).unwrap();
    put(&scratch.path("tree/sub/file"), noise(700_000, 2));
    put(&scratch.path("reg.json"), "{\"v\": 2, \"longer\": true}");
    std::fs::remove_file(scratch.path("tree/gone")).unwrap();
    std::fs::remove_file(scratch.path("tree/kind")).unwrap();
    scratch.file("tree/kind/now a directory", "x");
    scratch.file("tree/extra/deep/file", "x");
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(
        (&document["tree_restored"], &document["restored_integrity_ok"]),
        (&true.into(), &true.into())
    );
    assert_eq!(describe(&scratch.path("tree"), true), before);
    assert_eq!(std::fs::read(scratch.path("reg.json")).unwrap(), b"{\"v\": 1}");
    let after: Vec<u64> = paths.iter().map(|path| inode(&scratch.path(path))).collect();
    assert_eq!(after, inodes);
    // Who had the directory open sees the restored content.
    let through = format!("/proc/self/fd/{}/file", held.as_raw_fd());
    assert_eq!(std::fs::read(through).unwrap(), noise(500_000, 1));
    let again = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(again["written_bytes"], 0, "what is equal isn't written");
}

#[test]
fn only_what_differs_is_written() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(20_000_000, 1);
    scratch.file("tree/big", &bytes);
    let stamp = scratch.backup(&["tree"]);
    bytes[10_000_000] ^= 1;
    put(&scratch.path("tree/big"), &bytes);
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    assert!(document["written_bytes"].as_u64().unwrap() <= 262_144, "{document:#}");
    assert_eq!(std::fs::read(scratch.path("tree/big")).unwrap(), noise(20_000_000, 1));
}

#[test]
fn nothing_happens_without_confirmation_or_in_a_dry_run() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/a", "one");
    let stamp = scratch.backup(&["tree"]);
    put(&scratch.path("tree/a"), "two");
    let (code, document) = scratch.json(["restore", &stamp]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (22, "confirmation_missing"));
    let document = scratch.ok(["restore", &stamp, "-n"]);
    assert_eq!(document["tree_restored"], false);
    assert!(document["warnings"][0].as_str().unwrap().contains("refused"));
    let (code, document) = scratch.json(["--profile", "other", "restore", &stamp, CONFIRM]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (22, "other_profile"));
    assert_eq!(std::fs::read(scratch.path("tree/a")).unwrap(), b"two");
    scratch.file("out/tree/occupied", "x");
    let (code, _) = scratch.json(["restore", &stamp, "-t", "out"]);
    assert_eq!(code, 2);
    scratch.ok(["--profile", "other", "restore", &stamp, CONFIRM, "--relocated", "--map", "tree=elsewhere"]);
    assert_eq!(std::fs::read(scratch.path("elsewhere/a")).unwrap(), b"one");
}

#[test]
fn parts_and_choices() {
    let scratch = Scratch::new();
    scratch.init();
    for name in ["a", "b"] {
        scratch.file(&format!("{name}/sub/x"), name);
        scratch.file(&format!("{name}/y"), name);
    }
    let stamp = scratch.backup(&["a", "b"]);
    for name in ["a", "b"] {
        put(&scratch.path(&format!("{name}/sub/x")), "changed");
        put(&scratch.path(&format!("{name}/y")), "changed");
    }
    let document = scratch.ok(["restore", &stamp, "a/sub", CONFIRM]);
    assert_eq!((&document["a_restored"], &document["b_restored"]), (&true.into(), &false.into()));
    assert_eq!(document["sources"]["b"]["reason"], "not chosen");
    let read = |path: &str| std::fs::read_to_string(scratch.path(path)).unwrap();
    assert_eq!([read("a/sub/x"), read("a/y"), read("b/y")], ["a", "changed", "changed"]);
    scratch.ok(["restore", &stamp, "--without", "a", CONFIRM]);
    assert_eq!([read("a/y"), read("b/y")], ["changed", "b"]);
    std::fs::remove_dir_all(scratch.path("a")).unwrap();
    scratch.ok(["restore", &stamp, "a", CONFIRM]);
    assert_eq!(read("a/y"), "a");
}

#[test]
fn symlinks_in_the_target_are_not_followed() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/sub/file", "inside");
    let stamp = scratch.backup(&["tree"]);
    std::fs::remove_dir_all(scratch.path("tree/sub")).unwrap();
    scratch.file("outside/file", "outside");
    std::os::unix::fs::symlink(scratch.path("outside"), scratch.path("tree/sub")).unwrap();
    scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(std::fs::read(scratch.path("outside/file")).unwrap(), b"outside");
    assert_eq!(std::fs::read(scratch.path("tree/sub/file")).unwrap(), b"inside");
    assert!(!scratch.path("tree/sub").is_symlink());
}

#[test]
fn a_stale_journal_or_log_does_not_spoil_the_restored_database() {
    for mode in ["delete", "wal"] {
        let scratch = Scratch::new();
        scratch.init();
        let path = scratch.path("app.db");
        let script = format!(
            "import sqlite3; c=sqlite3.connect('app.db'); c.execute('pragma journal_mode={mode}'); c.execute('create table t(a)'); c.execute('insert into t values(1)'); c.commit(); c.close()"
        );
        run(Command::new("python3").args(["-c", &script]).current_dir(scratch.directory.path()));
        let stamp = scratch.backup(&["app.db"]);
        let script = format!(
            "import sqlite3,os; c=sqlite3.connect('app.db',isolation_level=None); c.execute('pragma cache_size=2'); c.execute('begin')\nfor i in range(2000): c.execute('insert into t values(zeroblob(500))')\nif '{mode}'=='wal': c.execute('commit')\nos._exit(0)"
        );
        run(Command::new("python3").args(["-c", &script]).current_dir(scratch.directory.path()));
        let sidecar = scratch.path(if mode == "wal" { "app.db-wal" } else { "app.db-journal" });
        assert!(sidecar.exists());
        let number = inode(&path);
        scratch.ok(["restore", &stamp, CONFIRM]);
        assert!(!sidecar.exists());
        assert_eq!(inode(&path), number);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1, "{mode}");
    }
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn bind(from: &Path, to: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(to));
        Self(to.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn bind_mounts_go_on_working() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("data/inside/file", "one");
    scratch.file("config.json", "{\"v\": 1}");
    let stamp = scratch.backup(&["data", "config=config.json"]);
    // As docker does: the host's directory and file appear in the container's tree.
    let (mount, file) = (scratch.mkdir("container/data"), scratch.file("container/config.json", ""));
    let _data = Mounted::bind(&scratch.path("data"), &mount);
    let _config = Mounted::bind(&scratch.path("config.json"), &file);
    // A mount of the same file system inside, which the snapshot knows nothing of.
    scratch.file("elsewhere/precious", "keep");
    let nested = scratch.mkdir("container/data/nested");
    let _nested = Mounted::bind(&scratch.path("elsewhere"), &nested);
    put(&mount.join("inside/file"), "two");
    scratch.file("container/data/extra", "x");
    put(&file, "{\"v\": 2}");
    let maps = [format!("data={}", mount.display()), format!("config={}", file.display())];
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM, "--map", &maps[0], "--map", &maps[1]]);
    assert_eq!(code, 3, "the nested mount point is left alone and named: {document:#}");
    assert!(document["warnings"].to_string().contains("mount point"));
    assert_eq!(std::fs::read(scratch.path("elsewhere/precious")).unwrap(), b"keep");
    assert_eq!(std::fs::read(scratch.path("data/inside/file")).unwrap(), b"one", "seen through the mount");
    assert_eq!(std::fs::read(scratch.path("config.json")).unwrap(), b"{\"v\": 1}");
    assert!(!scratch.path("data/extra").exists());
}

#[test]
fn files_that_were_linked_meanwhile_are_parted_again() {
    let scratch = Scratch::new();
    scratch.init();
    for (name, content) in [("a", "1111"), ("b", "2222"), ("c", "3333")] {
        scratch.file(&format!("tree/{name}"), content);
    }
    std::fs::hard_link(scratch.path("tree/c"), scratch.path("tree/c too")).unwrap();
    let stamp = scratch.backup(&["tree"]);
    let before = describe(&scratch.path("tree"), true);
    let kept = inode(&scratch.path("tree/c"));
    std::fs::remove_file(scratch.path("tree/b")).unwrap();
    std::fs::hard_link(scratch.path("tree/a"), scratch.path("tree/b")).unwrap();
    put(&scratch.path("tree/c"), "other");
    scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(describe(&scratch.path("tree"), true), before);
    assert_eq!(inode(&scratch.path("tree/c")), kept, "a hard-linked file keeps its inode");
    // A file outside that shares its inode with one inside isn't touched.
    let outside = scratch.file("outside", "outside");
    std::fs::remove_file(scratch.path("tree/a")).unwrap();
    std::fs::hard_link(&outside, scratch.path("tree/a")).unwrap();
    scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(std::fs::read(&outside).unwrap(), b"outside");
    assert_eq!(describe(&scratch.path("tree"), true), before);
}

#[test]
fn what_the_snapshot_left_out_stays() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/file", "one");
    scratch.file("tree/cache/big", "not backed up");
    scratch.file("tree/sub/x.tmp", "not backed up");
    scratch.file("tree/sub/y", "y");
    let stamp = scratch.backup(&["tree", "--exclude", "*.tmp", "--exclude", "/cache"]);
    scratch.file("tree/extra", "extra");
    scratch.file("tree/sub/later.tmp", "not backed up");
    put(&scratch.path("tree/file"), "two");
    scratch.ok(["restore", &stamp, CONFIRM]);
    let read = |path: &str| std::fs::read_to_string(scratch.path(path)).unwrap_or_default();
    assert_eq!(
        [read("tree/file"), read("tree/cache/big"), read("tree/sub/x.tmp")],
        ["one", "not backed up", "not backed up"]
    );
    assert!(!scratch.path("tree/extra").exists());
    scratch.ok(["restore", &stamp, "tree/sub", CONFIRM]);
    assert_eq!([read("tree/sub/x.tmp"), read("tree/sub/later.tmp")], ["not backed up", "not backed up"]);
}

#[test]
fn a_part_is_restored_inside_its_source_only() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("data/sub/deep/file", "inside");
    let stamp = scratch.backup(&["data"]);
    scratch.file("outside/deep/file", "outside");
    scratch.file("outside/other", "outside");
    for part in ["data/sub", "data/sub/deep", "data//sub/./deep/"] {
        std::fs::remove_dir_all(scratch.path("data/sub")).unwrap();
        std::os::unix::fs::symlink(scratch.path("outside"), scratch.path("data/sub")).unwrap();
        let (code, document) = scratch.json(["restore", &stamp, part, CONFIRM]);
        assert_eq!(std::fs::read(scratch.path("outside/deep/file")).unwrap(), b"outside", "{part}");
        assert!(scratch.path("outside/other").exists(), "{part}");
        if part == "data/sub" {
            assert_eq!(code, 0, "{document:#}");
            assert_eq!(std::fs::read(scratch.path("data/sub/deep/file")).unwrap(), b"inside");
        } else {
            assert_eq!(code, 22, "a symlink on the way is refused: {document:#}");
            std::fs::remove_file(scratch.path("data/sub")).unwrap();
            scratch.mkdir("data/sub");
        }
    }
    std::fs::remove_dir_all(scratch.path("data/sub")).unwrap();
    scratch.ok(["restore", &stamp, "data//sub/./deep/", CONFIRM]);
    assert_eq!(std::fs::read(scratch.path("data/sub/deep/file")).unwrap(), b"inside");
    let (code, _) = scratch.json(["restore", &stamp, "data/../outside", CONFIRM]);
    assert_eq!(code, 13);
}

#[test]
fn a_directory_that_could_not_be_read_isnt_emptied() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.file("data/readable", "x");
    scratch.file("data/secret/precious", "keep");
    run(Command::new("chmod").arg("0").arg(scratch.path("data/secret")));
    let as_nobody = |arguments: &[&str]| scratch.json_as_nobody(arguments).0;
    assert_eq!((as_nobody(&["init"]), as_nobody(&["backup", "data"])), (0, 3));
    for place in ["data", "data/secret"] {
        scratch.ok(["restore", "latest", place, CONFIRM]);
        assert!(scratch.path("data/secret/precious").exists(), "{place}");
    }
}
