//! Each thing that can go wrong: its exit code, what is said, and that nothing is lost.

use crate::support::{Scratch, has, is_root, noise, put, run, settle};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn fails(scratch: &Scratch, arguments: &[&str], exit: i32, code: &str) -> Value {
    let (got, document) = scratch.json(arguments);
    assert_eq!((got, document["error"]["code"].as_str().unwrap()), (exit, code), "{document:#}");
    assert!(document["error"]["message"].as_str().unwrap().len() > 10);
    document
}

#[test]
fn no_repository_and_what_is_none() {
    let scratch = Scratch::new();
    scratch.file("a.json", "{}");
    for verb in [
        &["backup", "a.json"][..],
        &["list"],
        &["validate", "latest"],
        &["restore", "latest", "-t", "o"],
        &["status"],
    ] {
        fails(&scratch, verb, 10, "no_repository");
    }
    assert!(!scratch.path("repo").exists(), "backup never makes one");
    scratch.file("repo/config", "[core]\nbare = true\n");
    fails(&scratch, &["list"], 10, "not_a_repository");
    fails(&scratch, &["init"], 1, "repository_exists");
    std::fs::remove_file(scratch.path("repo/config")).unwrap();
    scratch.file("repo/holiday.jpg", "x");
    fails(&scratch, &["init"], 1, "not_empty");
    assert_eq!(std::fs::read_dir(scratch.path("repo")).unwrap().count(), 1, "nothing was added");
    let mut bare = scratch.icecore();
    bare.env_remove("ICECORE_REPOSITORY").args(["--json", "list"]);
    let (code, document) = crate::support::document(&mut bare);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (2, "usage"));
    fails(&scratch, &["-r", "ftp://host/x", "list"], 2, "usage");
}

#[test]
fn init_twice() {
    let scratch = Scratch::new();
    let first = scratch.ok(["init"]);
    fails(&scratch, &["init"], 1, "repository_exists");
    let again = scratch.ok(["init", "--if-missing"]);
    assert_eq!((first["id"].clone(), again["created"].clone()), (again["id"].clone(), false.into()));
}

#[test]
fn newer_repositories_are_refused() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("repo/config");
    let config = std::fs::read_to_string(&path).unwrap();
    let rewrite = |from: &str, to: &str| {
        let text = config.replace(from, to);
        let body = text.split(",\n  \"blake3\"").next().unwrap();
        let hash = icecore::id::Id::of(body.as_bytes());
        put(&path, format!("{body},\n  \"blake3\": \"{hash}\"\n}}\n"));
    };
    rewrite("\"format\": 0", "\"format\": 7");
    let document = fails(&scratch, &["list"], 10, "repository_unsupported");
    assert!(document["error"]["message"].as_str().unwrap().contains('7'));
    rewrite("\"requires\": []", "\"requires\": [\"time-travel\"]");
    let document = fails(&scratch, &["list"], 10, "repository_unsupported");
    assert!(document["error"]["message"].as_str().unwrap().contains("time-travel"));
    rewrite("\"optional\": []", "\"optional\": [\"time-travel\"]");
    scratch.ok(["list"]);
    put(&path, config.replace("32768", "32770"));
    fails(&scratch, &["list"], 14, "repository_damaged");
}

#[test]
fn missing_sources() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    let document = fails(&scratch, &["backup", "a.json", "b=/nowhere/at/all"], 1, "source_missing");
    assert_eq!(document["error"]["path"], "/nowhere/at/all");
    assert!(scratch.repository_files("snapshots").is_empty());
    scratch.file(
        "icecore.toml",
        "[source.a]\npath = \"a.json\"\n[source.b]\npath = \"gone\"\nkind = \"sqlite\"\noptional = true\n",
    );
    let document = scratch.ok(["backup"]);
    assert_eq!(document["sources"]["b"]["exists"], false);
    assert!(document["warnings"][0].as_str().unwrap().contains("gone"));
    fails(&scratch, &["backup", "--only", "b"], 1, "source_missing");
    // A source was named where a path is expected.
    let document = fails(&scratch, &["backup", "b"], 2, "usage");
    assert!(document["error"]["hint"].as_str().unwrap().contains("--only b"), "{document:#}");
    scratch.file("icecore.toml", "[source.a\n");
    fails(&scratch, &["backup"], 2, "config_invalid");
    scratch.file("icecore.toml", "[source.a]\npath = \"a.json\"\npth = 1\n");
    let message = fails(&scratch, &["backup"], 2, "config_invalid")["error"]["message"].to_string();
    assert!(message.contains("line 3, `pth = 1`: unknown field") && !message.contains('^'), "{message}");
    fails(&scratch, &["-c", "nowhere.toml", "backup"], 2, "config_invalid");
}

#[test]
fn unreadable_files_are_named_and_the_rest_is_done() {
    if !is_root() || !has("setpriv") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file("tree/fine", "x");
    let secret = scratch.file("tree/secret", "x");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0)).unwrap();
    let closed = scratch.mkdir("tree/closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();
    let as_nobody = |arguments: &[&str]| scratch.json_as_nobody(arguments);
    assert_eq!(as_nobody(&["init"]).0, 0);
    let (code, document) = as_nobody(&["backup", "tree"]);
    assert_eq!(code, 3, "{document:#}");
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("tree/secret") && warnings.contains("tree/closed"), "{warnings}");
    assert_eq!(document["sources"]["tree"]["files"], 1);
    let shown = scratch.ok(["show"]);
    let notes = shown["snapshot"]["source_details"]["tree"]["notes"].to_string();
    assert!(notes.contains("secret") && notes.contains("unreadable"));
    // Not the owner: owners can't be set, which is said (3), but the content is there.
    scratch.file("mine/x", "x");
    scratch.ok(["backup", "mine"]);
    std::fs::set_permissions(scratch.path("repo"), std::fs::Permissions::from_mode(0o755)).unwrap();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.path("repo")));
    let (code, document) = as_nobody(&["restore", "latest", "-t", "out"]);
    assert_eq!(code, 3, "{document:#}");
    assert!(document["warnings"].to_string().contains("owner"));
    assert_eq!(std::fs::read(scratch.path("out/mine/x")).unwrap(), b"x");
}

/// A source that is one file, which can't be read, isn't there to be left out: not even where it may be missing.
#[test]
fn a_single_file_that_cannot_be_read_is_not_called_missing() {
    if !is_root() || !has("setpriv") {
        return;
    }
    let scratch = Scratch::new();
    let secret = scratch.file("secret.log", "x");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0)).unwrap();
    scratch.file("fine.json", "{}");
    let closed = scratch.mkdir("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();
    scratch.file(
        "icecore.toml",
        "[source.a]\npath = \"fine.json\"\n[source.b]\npath = \"secret.log\"\nkind = \"tree\"\noptional = true\n",
    );
    assert_eq!(scratch.json_as_nobody(&["init"]).0, 0);
    for arguments in
        [&["backup"][..], &["backup", "secret.log"], &["backup", "c=closed", "--kind", "c=chroma"]]
    {
        let (code, document) = scratch.json_as_nobody(arguments);
        assert_eq!((code, &document["error"]["code"]), (1, &"source_unreadable".into()), "{document:#}");
        assert!(document["error"]["message"].as_str().unwrap().contains("Permission denied"), "{document:#}");
    }
    assert!(scratch.repository_files("snapshots").is_empty());
    // Nor by a dry run.
    let (code, document) = scratch.json_as_nobody(&["backup", "-n", "closed/below"]);
    assert_eq!((code, &document["error"]["code"]), (1, &"source_unreadable".into()), "{document:#}");
}

/// An account without a home keeps no journals there, and has none.
#[test]
fn a_home_that_is_no_directory_holds_no_journals() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    for verb in [&["backup", "a.json"][..], &["status"], &["prune", "--keep-last", "2"]] {
        let mut command = scratch.icecore();
        command.env_remove("XDG_STATE_HOME").env_remove("ICECORE_STATE_DIR").env("HOME", "/dev/null");
        let (code, document) = crate::support::document(command.arg("--json").args(verb));
        assert_eq!(code, 0, "{verb:?}: {document:#}");
    }
}

/// What is in the way of a target is told before anything is written, and stays.
#[test]
fn a_target_that_cannot_be_used_is_left_alone() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    scratch.backup(&["a.json"]);
    let precious = scratch.file("precious", "mine");
    for target in ["precious", "precious/below"] {
        let (code, document) = scratch.json(["restore", "latest", "-t", target]);
        assert!(code == 2 || code == 22, "{target}: {document:#}");
        let hint = document["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("--target") && !hint.contains("remove"), "{target}: {hint}");
    }
    assert_eq!(std::fs::read(precious).unwrap(), b"mine");
}

/// That a source was corrupt when it was read is no reason to distrust what the repository holds.
#[test]
fn a_corrupt_source_has_nobody_read_everything_again() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/f", noise(200_000, 1));
    let path = scratch.path("a.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE t(x UNIQUE); INSERT INTO t VALUES(1), (2), (3);").unwrap();
    database
        .execute_batch("PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name LIKE '%autoindex%';")
        .unwrap();
    drop(database);
    settle();
    let quick = ["--validate", "quick", "tree"];
    scratch.ok(["backup", "a.db"].iter().chain(&quick));
    assert_eq!(scratch.json(["validate", "latest"]).0, 20);
    let document = scratch.ok(["--profile", "other", "backup"].iter().chain(&quick));
    let validated = &document["sources"]["tree"]["validated"];
    assert_eq!((&document["warnings"], validated), (&serde_json::json!([]), &"quick".into()), "{document:#}");
    // A profile that got something wrong once proves in full from then on, and says so.
    let document = scratch.ok(["backup"].iter().chain(&quick));
    assert_eq!(document["sources"]["tree"]["validated"], "full", "{document:#}");
    assert!(document["warnings"].to_string().contains("proven in full"), "{document:#}");
}

#[test]
fn json_that_is_none() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{\"a\": ");
    let document = fails(&scratch, &["backup", "a.json"], 20, "source_invalid_json");
    assert!(document["error"]["message"].as_str().unwrap().contains("EOF"), "{document:#}");
    assert!(scratch.repository_files("snapshots").is_empty());
}

#[test]
fn json_that_is_being_replaced_is_read_until_it_is_whole() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.file("a.json", "{}");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 0..60 {
                // Truncate, write a half, pause, write the rest: what a careless application does.
                let text = format!("{{\"round\": {round}, \"pad\": \"{}\"}}", "x".repeat(2000));
                put(&path, &text[..1000]);
                std::thread::sleep(std::time::Duration::from_millis(5));
                put(&path, &text);
                std::thread::sleep(std::time::Duration::from_millis(15));
            }
        });
        while !writing.is_finished() {
            let (code, document) = scratch.json(["backup", "a.json"]);
            assert!(code == 0 || document["error"]["path"].is_string(), "{document:#}");
            if code == 0 {
                let output = run(scratch.icecore().args(["cat", "latest", "a"]));
                serde_json::from_slice::<Value>(&output.stdout).unwrap();
            }
        }
    });
    scratch.ok(["backup", "a.json"]);
}

#[test]
fn broken_databases_are_not_published() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("app.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(a, b); CREATE INDEX i ON t(a); CREATE VIRTUAL TABLE f USING fts5(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO t SELECT i, 'x' FROM n; INSERT INTO f SELECT 'word ' || a FROM t").unwrap();
    let good = scratch.backup(&["db=app.db"]);
    // Full-text damage that quick checks, and old SQLite versions, don't see.
    connection.execute_batch("DELETE FROM f_content WHERE id % 2 = 0").unwrap();
    let document = fails(&scratch, &["backup", "db=app.db", "--validate", "full"], 20, "snapshot_invalid");
    assert_eq!(document["errors"][0], "db_fts_corrupt");
    drop(connection);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 4096);
    put(&path, &bytes);
    let document = fails(&scratch, &["backup", "db=app.db", "--validate", "quick"], 20, "snapshot_invalid");
    assert_eq!(document["errors"][0], "db_size_mismatch");
    put(&path, b"");
    scratch.backup(&["db=app.db", "--kind", "db=sqlite"]);
    put(&path, noise(8192, 1));
    let document = fails(&scratch, &["backup", "db=app.db", "--kind", "db=sqlite"], 20, "snapshot_invalid");
    assert_eq!(document["errors"][0], "db_not_sqlite");
    let list = scratch.ok(["list"]);
    assert_eq!(list["backups"][0]["stamp"], good.as_str());
    scratch.ok(["validate", "--all"]);
}

/// What was proven only quickly is judged where it was restored, but for what full-text indexes say; and the answer says so.
#[test]
fn restored_databases_are_judged() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("app.db");
    let open = || rusqlite::Connection::open(&path).unwrap();
    open()
        .execute_batch(
            "CREATE TABLE t(a); CREATE INDEX i ON t(a); CREATE VIRTUAL TABLE f USING fts5(x);
            WITH RECURSIVE n(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n WHERE a < 500) INSERT INTO t SELECT a FROM n;
            INSERT INTO f SELECT 'word ' || a FROM t",
        )
        .unwrap();
    let restored = |target: &str| {
        let output = run(scratch.icecore().args(["restore", "latest", "--target", target]));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    scratch.backup(&["db=app.db", "--validate", "full"]);
    let (code, said) = restored("proven");
    assert!(code == 0 && !said.contains("quickly"), "{code} {said}");
    // The index of a text is told apart from the text only by a full proof.
    open().execute_batch("DELETE FROM f_content WHERE id % 2 = 0").unwrap();
    let stamp = scratch.backup(&["db=app.db", "--validate", "quick"]);
    let (code, said) = restored("quick");
    assert!(code == 0 && said.contains("it was proven quickly only"), "{code} {said}");
    assert!(said.contains(&format!("icecore validate {stamp}")), "{said}");
    // An index that doesn't know of a change to its table.
    let connection = open();
    let root: i64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'i'", [], |row| row.get(0))
        .unwrap();
    connection
        .execute_batch("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'i'")
        .unwrap();
    drop(connection);
    open().execute_batch("DELETE FROM t WHERE a % 2 = 0").unwrap();
    let put_back =
        format!("INSERT INTO sqlite_schema VALUES ('index', 'i', 't', {root}, 'CREATE INDEX i ON t(a)')");
    open().execute_batch(&format!("PRAGMA writable_schema = ON; {put_back}")).unwrap();
    scratch.backup(&["db=app.db", "--validate", "quick"]);
    let document = fails(&scratch, &["restore", "latest", "--target", "bad"], 24, "restored_invalid");
    assert_eq!(document["errors"][0], "db_integrity_check_failed", "{document:#}");
    fails(&scratch, &["validate", &stamp], 20, "snapshot_invalid");
}

#[test]
fn files_that_change_under_our_hands() {
    let scratch = Scratch::new();
    scratch.init();
    let victim = scratch.file("tree/victim", noise(3_000_000, 1));
    scratch.file("tree/steady", "steady");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                match round % 4 {
                    0 => drop(std::fs::remove_file(&victim)),
                    1 => put(&victim, noise(3_000_000, round)),
                    2 => drop(
                        std::fs::OpenOptions::new()
                            .write(true)
                            .open(&victim)
                            .map(|file| file.set_len(10_000)),
                    ),
                    _ => {
                        put(&scratch.path("tree/new"), noise(2_000_000, round));
                        #[expect(clippy::disallowed_methods, reason = "what an application does")]
                        drop(std::fs::rename(scratch.path("tree/new"), &victim));
                    }
                }
            }
        });
        for _ in 0..15 {
            // Whatever happens to the victim, the rest is there and what is published validates.
            scratch.ok(["backup", "tree"]);
            let output = run(scratch.icecore().args(["cat", "latest", "tree/steady"]));
            assert_eq!(output.stdout, b"steady");
            scratch.ok(["validate", "latest"]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn unknown_stamps_name_those_that_exist() {
    let scratch = Scratch::new();
    scratch.init();
    fails(&scratch, &["restore", "latest", "-t", "o"], 13, "no_such_snapshot");
    scratch.file("a.json", "{}");
    let stamp = scratch.backup(&["a.json"]);
    let document = fails(&scratch, &["show", "20200101T000000Z"], 13, "no_such_snapshot");
    assert!(document["error"]["hint"].as_str().unwrap().contains(&stamp));
    fails(&scratch, &["show", "yesterday"], 2, "usage");
    fails(&scratch, &["restore", &stamp, "b", "-t", "o"], 13, "no_such_source");
    fails(&scratch, &["restore", &stamp, "--chroma", "-t", "o"], 13, "chroma_snapshot_missing");
    fails(&scratch, &["ls", &stamp, "a/b"], 13, "no_such_path");
    fails(&scratch, &["status", "--max-age", "0s", "--profile", "other"], 13, "too_old");
}

#[test]
fn repository_and_source_inside_each_other() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("repo-beside/x", "x");
    fails(&scratch, &["backup", "all=."], 2, "usage");
    fails(&scratch, &["backup", "packs=repo/packs"], 2, "usage");
    scratch.ok(["backup", "beside=repo-beside"]);
    std::os::unix::fs::symlink(scratch.path("repo"), scratch.path("alias")).unwrap();
    fails(&scratch, &["backup", "alias=alias"], 2, "usage");
}

#[test]
fn a_full_disk_publishes_nothing_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let repo = scratch.mkdir("repo");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m,mode=700", "none"]).arg(&repo));
    let unmount = Unmount(repo.clone());
    scratch.init();
    scratch.file("tree/small", noise(500_000, 1));
    settle();
    let good = scratch.backup(&["tree"]);
    scratch.file("tree/large", noise(20_000_000, 2));
    let document = fails(&scratch, &["backup", "tree"], 16, "no_space");
    assert!(document["error"]["message"].as_str().unwrap().contains("nothing was published"));
    assert_eq!(std::fs::read_dir(repo.join("tmp")).unwrap().count(), 0, "temporaries are gone");
    scratch.ok(["validate", &good]);
    assert_eq!(scratch.ok(["list"])["backups"].as_array().unwrap().len(), 1);
    // A scratch directory that is full: said as well.
    std::fs::remove_file(scratch.path("tree/large")).unwrap();
    rusqlite::Connection::open(scratch.path("big.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(9000000))")
        .unwrap();
    let tmp = repo.join("tmp");
    fails(&scratch, &["backup", "db=big.db", "--temp-dir", tmp.to_str().unwrap()], 16, "scratch_failed");
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn a_failed_fsync_is_not_success() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/x", noise(100_000, 1));
    for nth in 1..=8 {
        let mut traced = Command::new("strace");
        traced.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync",
            "-e",
            &format!("inject=fsync:error=EIO:when={nth}"),
        ]);
        traced
            .args([env!("CARGO_BIN_EXE_icecore"), "--json", "backup", "tree", "--reread"])
            .current_dir(scratch.directory.path());
        let before = scratch.repository_files("snapshots").len();
        let (code, document) = crate::support::document(
            traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home")),
        );
        let published = scratch.repository_files("snapshots").len() - before;
        assert!(
            code == 0 || document["error"]["message"].as_str().unwrap().contains("os error 5"),
            "{document:#}"
        );
        // The very last fsync (of snapshots/) may fail after the name is there: then it may be seen, but isn't claimed.
        assert!(code != 0 || published == 1);
    }
    scratch.ok(["validate", "--all"]);
}

#[test]
fn a_read_only_repository_is_used_without_locks() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    let stamp = scratch.backup(&["a.json"]);
    let repo = scratch.path("repo");
    run(Command::new("mount").args(["--bind"]).arg(&repo).arg(&repo));
    let unmount = Unmount(repo.clone());
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&repo));
    scratch.ok(["list"]);
    scratch.ok(["validate", "latest"]);
    scratch.ok(["restore", &stamp, "-t", "out"]);
    fails(&scratch, &["backup", "a.json"], 1, "permission_denied");
    drop(unmount);
}

#[test]
fn a_signal_ends_it_cleanly() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/big", noise(250_000_000, 1));
    let mut command = scratch.icecore();
    command.args(["--json", "backup", "tree"]).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    // It is at work, and listens to signals, once it holds its lock.
    while !scratch.path("repo/locks/backup-default").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code().unwrap(), document["error"]["code"].as_str().unwrap()),
        (143, "interrupted")
    );
    assert!(scratch.repository_files("snapshots").is_empty());
    assert_eq!(std::fs::read_dir(scratch.path("repo/tmp")).unwrap().count(), 0);
}
