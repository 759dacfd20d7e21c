//! Nobody's files are pulled from under a running process, wherever it runs: leases, locks, and names of the holders.

use crate::restore_states::make_database;
use crate::support::{Scratch, document, has, inode, is_root, missing, put, run};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CONFIRM: &str = "--confirm-service-stopped";

/// A process that has something open, until it is dropped.
struct Holder(Child);

impl Holder {
    /// Runs Python, maybe by way of other programs, and waits until it says that it is ready.
    fn start(before: &[&str], directory: &Path, script: &str) -> Self {
        let script = format!("{script}\nprint('ready',flush=True)\nimport sys\nsys.stdin.read()");
        let mut command: Vec<&str> = before.to_vec();
        command.extend(["python3", "-c", &script]);
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// A scratch directory with a tree and a database that have changed since they were backed up.
fn service() -> (Scratch, String) {
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    make_database(&live, "delete");
    scratch.file("live/tree/file", vec![1; 5000]);
    scratch.file("live/tree/same", "same");
    let stamp = scratch.backup(&["app=live/app.db", "tree=live/tree"]);
    put(&scratch.path("live/tree/file"), vec![2; 6000]);
    scratch.file("live/tree/extra", "extra");
    put(&live.join("app.db"), "garbage");
    (scratch, stamp)
}

fn refused(scratch: &Scratch, arguments: &[&str], code: &str) -> Value {
    let before = crate::support::describe(&scratch.path("live"), true);
    let (exit, document) = scratch.json(arguments);
    assert_eq!((exit, document["error"]["code"].as_str().unwrap()), (22, code), "{document:#}");
    assert_eq!(crate::support::describe(&scratch.path("live"), true), before, "nothing was changed");
    assert!(scratch.ok(["list"])["backups"].as_array().unwrap().len() == 1, "nothing was saved");
    document
}

#[test]
fn whoever_has_a_file_open_is_named() {
    if !has("python3") {
        return;
    }
    let (scratch, stamp) = service();
    let live = scratch.path("live");
    for (what, script) in [
        ("read", "f=open('tree/same')"),
        ("written", "f=open('tree/file','r+')"),
        ("extra", "f=open('tree/extra')"),
        ("database", "f=open('app.db')"),
        ("mapped", "import mmap,os\nd=os.open('tree/file',os.O_RDWR)\nm=mmap.mmap(d,0)\nos.close(d)"),
    ] {
        let holder = Holder::start(&[], &live, script);
        for arguments in [&["restore", &stamp, CONFIRM][..], &["restore", &stamp, "-n"]] {
            let document = refused(&scratch, arguments, "files_in_use");
            assert_eq!(document["guard"]["open_files"], "held", "{what}");
            assert_eq!(document["holders"][0]["pid"], holder.0.id(), "{what}: {document:#}");
            assert!(document["holders"][0]["command"].as_str().unwrap().contains("python3"), "{what}");
            let path = document["holders"][0]["path"].as_str().unwrap();
            assert!(path.starts_with(live.to_str().unwrap()), "{what}: {path}");
        }
    }
    // A directory that is open, or the one somebody works in, hinders nothing.
    let _standing = Holder::start(&[], &live.join("tree"), "import os\nd=os.open('.',os.O_RDONLY)");
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(
        (&document["guard"]["open_files"], &document["guard"]["locks"]),
        (&"none".into(), &"none".into())
    );
}

#[test]
fn a_service_in_another_container_is_noticed() {
    if !is_root() || !has("unshare") || !has("python3") {
        return;
    }
    let (scratch, stamp) = service();
    let live = scratch.path("live");
    // The service runs on the host, the restore in a container of its own: /proc shows it nobody.
    let _holder = Holder::start(&[], &live, "f=open('tree/file')");
    let mut inside = Command::new("unshare");
    inside.args([
        "--pid",
        "--fork",
        "--mount-proc",
        env!("CARGO_BIN_EXE_icecore"),
        "--json",
        "restore",
        &stamp,
        CONFIRM,
    ]);
    inside.current_dir(scratch.directory.path()).env("HOME", scratch.path("home"));
    let (exit, told) = document(inside.env("ICECORE_REPOSITORY", scratch.path("repo")));
    assert_eq!((exit, told["error"]["code"].as_str().unwrap()), (22, "files_in_use"), "{told:#}");
    assert_eq!(told["holders"].as_array().unwrap().len(), 0, "it can't be seen from in there");
    assert_eq!(std::fs::read(live.join("tree/file")).unwrap(), vec![2; 6000]);
    drop(_holder);
    // And the other way round: it is seen from the host, by the lease and by name.
    let _holder =
        Holder::start(&["unshare", "--pid", "--fork", "--mount-proc"], &live, "f=open('tree/file')");
    let document = refused(&scratch, &["restore", &stamp, CONFIRM], "files_in_use");
    assert!(!document["holders"].as_array().unwrap().is_empty());
}

#[test]
fn a_database_that_is_locked_is_in_use() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    for mode in ["delete", "wal"] {
        drop(std::fs::remove_file(live.join("app.db")));
        make_database(&live, mode);
        let stamp = scratch.backup(&["app=live/app.db"]);
        let script = "import sqlite3\nc=sqlite3.connect('app.db',isolation_level=None)\nc.execute('begin immediate')\n\
                      c.execute('insert into t values(1)')";
        let holder = Holder::start(&[], &live, script);
        let (exit, document) = scratch.json(["restore", &stamp, CONFIRM]);
        assert_eq!((exit, document["error"]["code"].as_str().unwrap()), (22, "files_in_use"), "{document:#}");
        assert_eq!(
            (&document["guard"]["open_files"], &document["guard"]["locks"]),
            (&"held".into(), &"held".into())
        );
        drop(holder);
        scratch.ok(["restore", &stamp, CONFIRM]);
    }
}

#[test]
fn root_in_a_container_without_cap_lease_still_gets_leases() {
    if !is_root() || !has("setpriv") || !has("python3") {
        return;
    }
    let (scratch, stamp) = service();
    run(Command::new("chown").args(["-R", "12345:12345"]).arg(scratch.path("live")));
    let restore = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-lease", "--inh-caps", "-lease", env!("CARGO_BIN_EXE_icecore")]);
        command.args(["--json", "restore", &stamp, CONFIRM]).current_dir(scratch.directory.path());
        document(command.env("HOME", scratch.path("home")).env("ICECORE_REPOSITORY", scratch.path("repo")))
    };
    let holder = Holder::start(&[], &scratch.path("live"), "f=open('tree/file')");
    let (exit, told) = restore();
    assert_eq!((exit, told["error"]["code"].as_str().unwrap()), (22, "files_in_use"), "{told:#}");
    drop(holder);
    let (exit, told) = restore();
    assert_eq!((exit, &told["guard"]["open_files"]), (0, &"none".into()), "{told:#}");
}

#[test]
fn where_nobody_can_tell_it_has_to_be_said() {
    if !is_root() || !has("setpriv") {
        return missing("root and setpriv");
    }
    let scratch = Scratch::new();
    let tree = scratch.mkdir("live/tree");
    put(&tree.join("file"), "one");
    // Another user may write the file, but isn't its owner: no lease.
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(scratch.path("live")));
    assert_eq!(scratch.json_as_nobody(&["init"]).0, 0);
    assert_eq!(scratch.json_as_nobody(&["backup", "tree=live/tree"]).0, 0);
    put(&tree.join("file"), "two");
    let number = inode(&tree.join("file"));
    let (exit, document) = scratch.json_as_nobody(&["restore", "latest", CONFIRM]);
    assert_eq!((exit, document["error"]["code"].as_str().unwrap()), (22, "guard_blind"), "{document:#}");
    assert_eq!(document["guard"]["open_files"], "unknown");
    assert_eq!(std::fs::read(tree.join("file")).unwrap(), b"two");
    let (exit, document) = scratch.json_as_nobody(&["restore", "latest", CONFIRM, "--accept-blind-guard"]);
    // Owners and times of others' files can't be set.
    assert_eq!(exit, 3, "{document:#}");
    assert_eq!(std::fs::read(tree.join("file")).unwrap(), b"one");
    assert_eq!(inode(&tree.join("file")), number);
}

#[test]
fn whoever_comes_during_a_restore_waits_or_is_refused() {
    if !has("strace") || !has("python3") {
        return;
    }
    let (scratch, stamp) = service();
    // The restore stands still in the middle of the database, all its locks held.
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e"]);
    traced.args(["inject=pwrite64:delay_enter=3000000:when=2..4", env!("CARGO_BIN_EXE_icecore")]);
    traced.args(["--json", "restore", &stamp, "app", CONFIRM]).current_dir(scratch.directory.path());
    traced.env("HOME", scratch.path("home")).env("ICECORE_REPOSITORY", scratch.path("repo"));
    let restoring = traced.stdout(Stdio::piped()).spawn().unwrap();
    let path = scratch.path("live/app.db");
    let since = std::time::Instant::now();
    while !std::fs::metadata(&path).is_ok_and(|found| found.len() > 10_000) && since.elapsed().as_secs() < 20
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Opened without waiting it can't be; opened with waiting it is whole by then.
    let mut opened = Command::new("python3");
    opened.args(["-c", "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],timeout=30)\nprint(c.execute('select count(*) from t').fetchone()[0])"]);
    let told = opened.arg(&path).output().unwrap();
    let output = restoring.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&told.stdout);
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(
        text.trim() == "301" || said.contains("not a database") || said.contains("locked"),
        "{text} {said}"
    );
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}
