//! What a live service can look like when its operator wants yesterday back: whole, garbage, gone, crashed. Restoring works
//! over each of them, and undoing brings exactly that back.

use crate::support::{Scratch, describe, has, inode, put, run};
use std::path::Path;
use std::process::Command;

const CONFIRM: &str = "--confirm-service-stopped";

/// Runs Python with the database module in a directory.
pub fn python_at(directory: &Path, script: &str) {
    run(Command::new("python3").args(["-c", script]).current_dir(directory));
}

/// Makes `app.db` with one marked row and some pages.
pub fn make_database(directory: &Path, mode: &str) {
    let script = format!(
        "import sqlite3,hashlib\nc=sqlite3.connect('app.db',isolation_level=None)\nc.execute('pragma journal_mode={mode}')\n\
         c.execute('create table t(a)')\nc.execute('begin')\nc.execute(\"insert into t values('first')\")\n\
         for i in range(300): c.execute('insert into t values(?)',(hashlib.sha256(str(i).encode()).hexdigest()*14,))\nc.execute('commit')\nc.close()"
    );
    python_at(directory, &script);
}

/// Leaves `app.db` as a crash does: with a journal to roll back, of which the first page is among the first, or with committed
/// rows in its log.
pub fn crash_database(directory: &Path, mode: &str) {
    let script = format!(
        "import sqlite3,os\nc=sqlite3.connect('app.db',isolation_level=None)\nc.execute('pragma cache_size=2')\n\
         c.execute('begin')\nc.execute('create table u(b)')\nc.execute(\"insert into t values('second')\")\n\
         c.execute(\"update t set a=a||'x' where rowid%3=0\")\n\
         for i in range(900): c.execute('insert into t values(zeroblob(700))')\n\
         if '{mode}'=='wal': c.execute('commit')\nos._exit(0)"
    );
    python_at(directory, &script);
}

/// How many marked rows a database shows; an error is that it can't be opened.
pub fn marked_rows(path: &Path) -> rusqlite::Result<(i64, i64)> {
    let connection = rusqlite::Connection::open(path)?;
    let count =
        |mark: &str| connection.query_row("SELECT count(*) FROM t WHERE a=?", [mark], |row| row.get(0));
    Ok((count("first")?, count("second")?))
}

/// The ways in which the state before can be kept.
const SAVINGS: [&[&str]; 2] = [&[], &["--no-pre-snapshot"]];

#[test]
fn whatever_lies_there_is_overwritten_and_comes_back() {
    if !has("python3") {
        return;
    }
    let states =
        ["garbage", "short", "empty", "missing", "journal", "log", "log of none", "directory", "same"];
    for saving in SAVINGS {
        for state in states {
            let scratch = Scratch::new();
            scratch.init();
            let directory = scratch.mkdir("live");
            let path = directory.join("app.db");
            let mode = if state.starts_with("log") { "wal" } else { "delete" };
            make_database(&directory, mode);
            scratch.file("live/beside", "not part of the source");
            let stamp = scratch.backup(&["app=live/app.db"]);
            let number = inode(&path);
            match state {
                "garbage" => put(&path, vec![0xA5; 700_001]),
                "short" => std::fs::File::options().write(true).open(&path).unwrap().set_len(5000).unwrap(),
                "empty" => put(&path, b""),
                "missing" => std::fs::remove_file(&path).unwrap(),
                "directory" => {
                    std::fs::remove_file(&path).unwrap();
                    scratch.file("live/app.db/inside/file", "x");
                }
                "log of none" => {
                    crash_database(&directory, "wal");
                    std::fs::remove_file(&path).unwrap();
                }
                "same" => {}
                _ => crash_database(&directory, mode),
            }
            let before = describe(&directory, false);
            let label = format!("{state} {saving:?}");
            if state == "journal" {
                assert!(directory.join("app.db-journal").metadata().unwrap().len() > 512, "{label}");
            }
            let document = scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
            assert_eq!(document["restored_integrity_ok"], true, "{label}");
            assert_eq!(marked_rows(&path).unwrap(), (1, 0), "{label}");
            for sidecar in ["app.db-journal", "app.db-wal", "app.db-shm"] {
                assert!(
                    !directory.join(sidecar).exists() || mode == "wal",
                    "{label}: {sidecar} is still there"
                );
            }
            if !["missing", "log of none", "directory"].contains(&state) {
                assert_eq!(inode(&path), number, "{label}");
            }
            // Looking made a log again: the rollback has to deal with what it finds.
            let document = scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
            assert_eq!(document["restored_integrity_ok"], true, "{label}");
            assert_eq!(describe(&directory, false), before, "{label}");
            // And forth again: the rollback can be undone as any restore.
            scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
            assert_eq!(marked_rows(&path).unwrap(), (1, 0), "{label}");
            scratch.ok(["validate", "--all"]);
        }
    }
}

#[test]
fn a_safety_snapshot_is_restored_like_any_other() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let directory = scratch.mkdir("live");
    make_database(&directory, "delete");
    scratch.file("live2/reg.json", "{}");
    let stamp = scratch.backup(&["app=live/app.db", "reg=live2/reg.json"]);
    crash_database(&directory, "delete");
    std::fs::remove_file(scratch.path("live2/reg.json")).unwrap();
    let before = describe(&directory, false);
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    let safety = document["pre_restore_snapshot"].as_str().unwrap().to_owned();
    let listed = scratch.ok(["list"]);
    assert_eq!(listed["backups"][1]["kind"], "pre-restore");
    assert_eq!(listed["backups"][1]["stamp"], safety.as_str());
    assert_eq!(listed["latest"], stamp.as_str(), "a safety snapshot is never the latest");
    scratch.ok(["validate", &safety]);
    let shown = scratch.ok(["show", &safety]);
    assert_eq!(shown["snapshot"]["source_details"]["reg"]["exists"], false);
    // Beside: the database as it lay, with what lay beside it.
    scratch.ok(["restore", &safety, "-t", "out"]);
    let kept = ["app.db", "app.db-journal"];
    // In place, without another safety snapshot: sidecars come back, and what was missing is missing.
    let document = scratch.ok(["restore", &safety, "--no-pre-snapshot", CONFIRM]);
    assert_eq!(document["pre_restore_snapshot"], serde_json::Value::Null);
    assert_eq!(describe(&directory, false), before);
    assert!(!scratch.path("live2/reg.json").exists());
    for name in kept {
        assert_eq!(
            std::fs::read(scratch.path(&format!("out/app/{name}"))).unwrap(),
            std::fs::read(directory.join(name)).unwrap()
        );
    }
    // SQLite makes of it what it would have made of the crash: the committed state.
    assert_eq!(marked_rows(&directory.join("app.db")).unwrap(), (1, 0));
    // To another name its sidecars follow.
    scratch.ok(["restore", &safety, "app", "--map", "app=live/other.db", CONFIRM]);
    assert!(directory.join("other.db-journal").exists());
    assert_eq!(marked_rows(&directory.join("other.db")).unwrap(), (1, 0));
    // Backups take nothing over from it.
    put(&scratch.path("live2/reg.json"), "{}");
    let next = scratch.ok(["backup", "app=live/app.db", "reg=live2/reg.json"]);
    assert_eq!(next["sources"]["app"]["parent"], stamp.as_str(), "{next:#}");
    // It is kept for a week.
    let (code, document) = scratch.json(["forget", &safety]);
    assert_eq!(code, 2, "{document:#}");
    scratch.ok(["forget", &safety, "--safety"]);
}

#[test]
fn trees_come_back_with_everything_that_the_file_system_keeps() {
    for saving in SAVINGS {
        let scratch = Scratch::new();
        scratch.init();
        scratch.file("tree/a/file", vec![7; 300_000]);
        scratch.file("tree/a/linked", "one");
        scratch.file("tree/kind", "was a file");
        std::fs::hard_link(scratch.path("tree/a/linked"), scratch.path("tree/b")).unwrap();
        std::os::unix::fs::symlink("a/file", scratch.path("tree/link")).unwrap();
        let stamp = scratch.backup(&["tree"]);
        let first = describe(&scratch.path("tree"), true);
        // Everything is different afterwards.
        put(&scratch.path("tree/a/file"), vec![8; 200_000]);
        std::fs::remove_file(scratch.path("tree/b")).unwrap();
        scratch.file("tree/b/now/a/directory", "x");
        std::fs::hard_link(scratch.path("tree/b/now/a/directory"), scratch.path("tree/b/now/twice")).unwrap();
        std::fs::remove_file(scratch.path("tree/link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", scratch.path("tree/link")).unwrap();
        std::fs::remove_file(scratch.path("tree/kind")).unwrap();
        run(Command::new("mkfifo").arg(scratch.path("tree/kind")));
        scratch.sparse("tree/sparse", 50 << 20, &[(20 << 20, b"middle")]);
        scratch.file("tree/log.jsonl", "{\"whole\": 1}\n{\"not whole");
        if has("setfattr") {
            run(Command::new("setfattr").args(["-n", "user.mark", "-v", "x"]).arg(scratch.path("tree/a")));
        }
        run(Command::new("chmod").args(["750"]).arg(scratch.path("tree/a")));
        run(Command::new("touch").args(["-d", "2001-02-03 04:05:06.789"]).arg(scratch.path("tree/a/file")));
        let before = describe(&scratch.path("tree"), true);
        scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        assert_eq!(describe(&scratch.path("tree"), true), first, "{saving:?}");
        scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
        assert_eq!(describe(&scratch.path("tree"), true), before, "{saving:?}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&scratch.path("tree/sparse").metadata().unwrap());
        assert!(blocks < 1000, "a sparse file stays sparse: {blocks} blocks");
    }
}

#[test]
fn what_was_missing_is_missing_again() {
    for saving in SAVINGS {
        let scratch = Scratch::new();
        scratch.init();
        scratch.file("deep/down/tree/file", "x");
        let stamp = scratch.backup(&["tree=deep/down/tree"]);
        std::fs::remove_dir_all(scratch.path("deep")).unwrap();
        scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        assert_eq!(std::fs::read(scratch.path("deep/down/tree/file")).unwrap(), b"x");
        scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
        assert!(!scratch.path("deep").exists(), "{saving:?}");
    }
}

#[test]
fn a_read_only_repository_keeps_the_way_back_in_the_state_directory() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/file", "one");
    let stamp = scratch.backup(&["tree"]);
    put(&scratch.path("tree/file"), "two");
    let _mounted = crate::support::ReadOnly::new(&scratch.path("repo"));
    let Some(_mounted) = _mounted else { return };
    let state = scratch.mkdir("state");
    let state = state.to_str().unwrap();
    // Memory, and a container's own layer, are gone when they are needed.
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM, "--state-dir", "/dev/shm/icecore"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (2, "usage"), "{document:#}");
    let document = scratch.ok(["restore", &stamp, CONFIRM, "--state-dir", state]);
    assert!(document["journal"].as_str().unwrap().starts_with(state));
    assert_eq!(document["pre_restore_snapshot"], serde_json::Value::Null);
    assert_eq!(std::fs::read(scratch.path("tree/file")).unwrap(), b"one");
    scratch.ok(["restore", "--rollback", CONFIRM, "--state-dir", state]);
    assert_eq!(std::fs::read(scratch.path("tree/file")).unwrap(), b"two");
}
