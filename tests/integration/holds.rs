//! Clones, subvolume snapshots, limits of a hold, and several sources at one moment.

use crate::hostile_applications::Application;
use crate::sqlite_live::{Writer, check};
use crate::support::{Mounted, Scratch, has, is_root, run};
use crate::untouched::state;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn consistency(document: &serde_json::Value, source: &str) -> String {
    document["sources"][source]["consistency"].as_str().unwrap().to_owned()
}

/// Every name on a file system.
fn names(mounted: &Mounted) -> Vec<String> {
    let walk = walkdir::WalkDir::new(&mounted.path).sort_by_file_name();
    walk.into_iter().map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[test]
fn a_busy_database_is_cloned_where_extents_are_shared() {
    for kind in ["xfs", "btrfs"] {
        let scratch = Scratch::new();
        scratch.init();
        let Some(mounted) = Mounted::new(&scratch, kind) else { return };
        let directory = scratch.mkdir(&format!("{kind}/service"));
        let database = directory.join("app.db");
        let writer = Writer::start(&database, "delete");
        let place = format!("db={}", database.display());
        let mut last = 0;
        for round in 0..8 {
            let document = scratch.ok(["backup", &place, "--validate", "quick"]);
            assert_eq!(consistency(&document, "db"), "reflinked", "{kind}");
            scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
            let commits = check(&scratch.path(&format!("out-{round}/db/app.db")));
            assert!(commits >= last);
            last = commits;
        }
        let forbidden = scratch.ok(["backup", &place, "--hold", "lock"]);
        assert_eq!(consistency(&forbidden, "db"), "locked");
        writer.stop();
        // What a killed writer left is settled from a copy; then all is as a clean end leaves it.
        drop(rusqlite::Connection::open(&database).unwrap().execute_batch("UPDATE n SET n = n"));
        let (before, listed) = (state(&directory), names(&mounted));
        let document = scratch.ok(["backup", &place, "--reread"]);
        assert_eq!(consistency(&document, "db"), "reflinked");
        assert_eq!(state(&directory), before, "{kind}");
        assert_eq!(names(&mounted), listed);
    }
}

#[test]
fn a_clone_leaves_nothing_behind_when_it_is_killed() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let Some(mounted) = Mounted::new(&scratch, "xfs") else { return };
    let database = scratch.mkdir("xfs/service").join("app.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t SELECT randomblob(2000000)").unwrap();
    drop(connection);
    let (before, listed) = (state(&scratch.path("xfs/service")), names(&mounted));
    let mut killed = 0;
    for call in ["ioctl", "fcntl", "pread64", "read"] {
        for nth in [1, 2, 3, 4, 6] {
            let mut traced = Command::new("strace");
            traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            traced.args([
                "-e",
                &format!("inject={call}:signal=KILL:when={nth}"),
                env!("CARGO_BIN_EXE_icecore"),
            ]);
            traced.args(["--json", "backup", "--reread", &format!("db={}", database.display())]);
            traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
            killed += u32::from(traced.output().unwrap().status.code().is_none());
            assert_eq!(state(&scratch.path("xfs/service")), before, "killed at {call} {nth}");
            assert_eq!(names(&mounted), listed, "killed at {call} {nth}");
        }
    }
    assert!(killed > 8, "{killed} runs were killed");
}

#[test]
fn a_read_only_mount_and_another_user_are_held_by_locks() {
    let scratch = Scratch::new();
    scratch.init();
    let Some(_mounted) = Mounted::new(&scratch, "xfs") else { return };
    let database = scratch.mkdir("xfs/service").join("app.db");
    let writer = Writer::start(&database, "delete");
    let shown = scratch.mkdir("shown");
    run(Command::new("mount").arg("--bind").args([&scratch.path("xfs/service"), &shown]));
    let _bound = Mounted { path: shown.clone() };
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&shown));
    let document = scratch.json(["backup", "db=shown/app.db", "--validate", "quick"]);
    assert_eq!((document.0, consistency(&document.1, "db").as_str()), (0, "locked"), "{:#}", document.1);
    if has("setpriv") {
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.path("xfs")));
        run(Command::new("chown").args(["-R", "65534"]).arg(scratch.path("repo")));
        let place = format!("db={}", database.display());
        let (code, document) = scratch.json_as_nobody(&["backup", &place, "--validate", "quick"]);
        assert_eq!((code, consistency(&document, "db").as_str()), (0, "locked"), "{document:#}");
    }
    writer.stop();
}

#[test]
fn a_subvolume_is_snapshotted_as_a_whole() {
    let scratch = Scratch::new();
    scratch.init();
    let Some(mounted) = Mounted::new(&scratch, "btrfs") else { return };
    let subvolume = mounted.path.join("app");
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&subvolume));
    let writer = Writer::start(&subvolume.join("app.db"), "delete");
    let place = format!("app={}", subvolume.display());
    let mut last = 0;
    for round in 0..6 {
        let document = scratch.ok(["backup", &place, "--validate", "quick"]);
        assert_eq!(consistency(&document, "app"), "fs-snapshot");
        assert_eq!(document["writer_pause_ms"], 0);
        scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
        let commits = check(&scratch.path(&format!("out-{round}/app/app.db")));
        assert!(commits >= last);
        last = commits;
        let left: Vec<String> =
            names(&mounted).into_iter().filter(|name| name.contains(".icecore")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let document = scratch.ok(["backup", &place, "--hold", "lock", "--validate", "quick"]);
    assert_eq!(consistency(&document, "app"), "optimistic", "a tree is compared, the database in it is held");
    writer.stop();
    // In a snapshot another subvolume is an empty directory: then it isn't used.
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(subvolume.join("inner")));
    crate::support::put(&subvolume.join("inner/file"), "kept");
    let document = scratch.ok(["backup", &place, "--validate", "quick"]);
    assert_eq!(consistency(&document, "app"), "optimistic");
    scratch.ok(["cat", "latest", "app/inner/file", "-o", "found"]);
    let (code, document) = scratch.json(["backup", &place, "--hold", "fs-snapshot"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (21, "source_hold_unavailable"));
    run(Command::new("btrfs").args(["-q", "subvolume", "delete"]).arg(subvolume.join("inner")));
    let mount = subvolume.join("a mount");
    std::fs::create_dir(&mount).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mount));
    let document = scratch.ok(["backup", &place, "--validate", "quick"]);
    run(Command::new("umount").arg(&mount));
    assert_eq!(consistency(&document, "app"), "optimistic");
    // What a killed run left behind, the next one removes.
    let left = mounted.path.join(".icecore-snapshot-1-1");
    std::fs::create_dir(&left).unwrap();
    run(Command::new("chmod").arg("700").arg(&left));
    // A name that somebody else put there is no reason to remove what it leads to.
    let victim = mounted.path.join("victim");
    std::fs::create_dir(&victim).unwrap();
    run(Command::new("chmod").arg("700").arg(&victim));
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(victim.join("source")));
    std::os::unix::fs::symlink(&victim, mounted.path.join(".icecore-snapshot-evil")).unwrap();
    run(Command::new("btrfs")
        .args(["-q", "subvolume", "snapshot", "-r"])
        .args([&subvolume, &left.join("source")]));
    scratch.ok(["backup", &place, "--validate", "quick"]);
    assert!(!left.exists());
    assert!(victim.join("source").is_dir());
}

#[test]
fn where_no_lock_reaches_the_writers_it_is_said() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    // Not among the file systems whose locks are known to be this kernel's alone.
    let place = scratch.mkdir("ramfs");
    run(Command::new("mount").args(["-t", "ramfs", "none"]).arg(&place));
    let _mounted = Mounted { path: place.clone() };
    let writer = Writer::start(&place.join("app.db"), "delete");
    for round in 0..4 {
        let (code, document) = scratch.json(["backup", "db=ramfs/app.db", "--validate", "quick"]);
        // A writer that never rests may be too fast.
        if code == 0 {
            assert_eq!(consistency(&document, "db"), "optimistic");
            assert!(document["warnings"].to_string().contains("was not held"), "{document:#}");
            scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
            check(&scratch.path(&format!("out-{round}/db/app.db")));
        } else {
            assert_eq!((code, document["error"]["code"].as_str().unwrap()), (21, "source_kept_changing"));
        }
    }
    writer.stop();
    let (code, document) = scratch.json(["backup", "db=ramfs/app.db", "--validate", "quick"]);
    assert_eq!(code, 0, "{document:#}");
}

#[test]
fn what_is_asked_for_but_not_there_is_refused() {
    let scratch = Scratch::new();
    scratch.init();
    // The tests' own directory may lie on a file system that shares extents; tmpfs doesn't.
    let place = Path::new("/dev/shm");
    if !place.is_dir() {
        return;
    }
    let directory = tempfile::tempdir_in(place).unwrap();
    let database = directory.path().join("app.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    for hold in ["reflink", "fs-snapshot"] {
        let (code, document) =
            scratch.json(["backup", &format!("db={}", database.display()), "--hold", hold]);
        let error = &document["error"];
        assert_eq!((code, error["code"].as_str().unwrap()), (21, "source_hold_unavailable"), "{document:#}");
        assert!(error["message"].as_str().unwrap().contains(hold));
    }
    let document = scratch.ok(["backup", &format!("db={}", database.display()), "--hold", "optimistic"]);
    assert_eq!(consistency(&document, "db"), "optimistic");
    let (code, document) = scratch.json(["backup", "db=x", "--hold", "firmly"]);
    assert_eq!(code, 2, "{document:#}");
}

/// Writes one row after another, and prints the longest that a write took, in ms, when told to end.
const IMPATIENT: &str = r#"
import sqlite3, sys, time, threading
c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
print("ready", flush=True)
longest = 0
while not stop.is_set():
    begun = time.monotonic()
    c.execute("INSERT INTO small VALUES(1)")
    longest = max(longest, time.monotonic() - begun)
print(int(longest * 1000), flush=True)
"#;

#[test]
fn a_read_that_hangs_under_the_hold_is_not_waited_for_by_writers() {
    if !has("strace") || !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let database = scratch.mkdir("service").join("app.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE small(a); CREATE TABLE bulk(b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<15000) INSERT INTO bulk SELECT randomblob(1000) FROM n").unwrap();
    drop(connection);
    let mut writer = Command::new("python3");
    writer.args(["-c", IMPATIENT]).arg(&database).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    // Each thread's first read of the database takes eight seconds: also those under the hold.
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-P"]).arg(&database);
    traced.args(["-e", "inject=pread64:delay_enter=8000000:when=1", env!("CARGO_BIN_EXE_icecore")]);
    traced.args(["--json", "backup", "db=service/app.db", "--max-hold", "1s", "--hold", "lock"]);
    traced.current_dir(scratch.directory.path());
    traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
    let output = traced.output().unwrap();
    drop(writer.stdin.take());
    let longest: u64 = lines.next().unwrap().unwrap().parse().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["code"], "source_too_slow", "{document:#}");
    assert_eq!(document["exit_code"], 21);
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.contains("may wait 1000 ms"), "{message}");
    assert!(document["error"]["hint"].as_str().unwrap().contains("--max-hold"));
    assert!((700..5000).contains(&longest), "the longest write took {longest} ms");
    assert!(scratch.repository_files("snapshots").is_empty());
    assert!(writer.wait().unwrap().success());
    scratch.backup(&["db=service/app.db"]);
}

/// Counts up in one database, then in the other, for ever: in `first` and `second`, with journal mode `mode`.
const IN_STEP: &str = r#"
import sqlite3, time
dbs = [sqlite3.connect(path, timeout=60, isolation_level=None) for path in (first, second)]
for db in dbs:
    db.execute("PRAGMA journal_mode=" + mode)
    # As fast as can be: what isn't noted at one moment is far apart.
    db.execute("PRAGMA synchronous=OFF")
    db.execute("CREATE TABLE n(n)"); db.execute("INSERT INTO n VALUES(0)")
    if bulk:
        db.execute("CREATE TABLE bulk(b)"); db.execute("BEGIN")
        for _ in range(bulk): db.execute("INSERT INTO bulk VALUES(randomblob(100000))")
        db.execute("COMMIT")
print("ready", flush=True)
while True:
    for db in dbs: db.execute("UPDATE n SET n = n + 1")
    time.sleep(pause)
"#;

/// Takes snapshots of both while they are written, and checks that each shows a moment that was.
fn in_step(sources: &str, settings: &str, rounds: usize, moments: &[u64]) {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.mkdir("service/store");
    scratch.file("icecore.toml", sources);
    let application = Application::start(&scratch, &format!("{settings}\n{IN_STEP}"));
    let mut last = -1;
    for round in 0..rounds {
        let document = scratch.ok(["backup", "--validate", "quick"]);
        let found: Vec<u64> = ["zebra", "ant"]
            .iter()
            .map(|name| document["sources"][name]["moment"].as_u64().unwrap())
            .collect();
        assert_eq!(found, moments, "{document:#}");
        scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
        let count = |name: &str| -> i64 {
            let files = crate::support::files_below(&scratch.path(&format!("out-{round}/{name}")));
            let connection = rusqlite::Connection::open(&files[0]).unwrap();
            connection.query_row("SELECT n FROM n", [], |row| row.get(0)).unwrap()
        };
        let (first, second) = (count("zebra"), count("ant"));
        let stood = first == second || first == second + 1;
        assert!(stood, "{settings}: {first} and {second} never stood side by side");
        assert!(second >= last);
        last = second;
        std::fs::remove_dir_all(scratch.path(&format!("out-{round}"))).unwrap();
    }
    assert!(last > 3, "the application was at work ({last})");
    application.stop();
    // One after another, in the config's order, where nothing is held.
    let document = scratch.ok(["backup", "--cold", "--reread", "--validate", "quick"]);
    let moment = |name: &str| document["sources"][name]["moment"].as_u64().unwrap();
    assert_eq!((moment("zebra"), moment("ant")), (0, 1), "{document:#}");
    let shown = scratch.ok(["show"]);
    assert_eq!(shown["snapshot"]["sources"], serde_json::json!(["zebra", "ant"]), "{shown:#}");
}

const TWO_DATABASES: &str = "[source.zebra]\npath = \"service/z.db\"\nkind = \"sqlite\"\n\
                             [source.ant]\npath = \"service/a.db\"\nkind = \"sqlite\"\n";

#[test]
fn databases_written_in_step_are_captured_at_one_moment() {
    for mode in ["delete", "wal"] {
        let names = "first, second, bulk, pause = 'service/z.db', 'service/a.db', 0, 0";
        in_step(TWO_DATABASES, &format!("mode = '{mode}'; {names}"), 15, &[0, 0]);
    }
}

#[test]
fn a_store_and_a_large_database_that_catches_up_belong_to_one_moment() {
    // The large one asks to be let go when it was written between its rehearsal and the hold; the store must then be read
    // again as well.
    let sources = "[source.zebra]\npath = \"service/store\"\nkind = \"chroma\"\nhold = \"lock\"\n\
                   [source.ant]\npath = \"service/a.db\"\nkind = \"sqlite\"\nhold = \"lock\"\n";
    let names = "first, second, bulk, pause = 'service/store/chroma.sqlite3', 'service/a.db', 150, 0.1";
    in_step(sources, &format!("mode = 'delete'; {names}"), 15, &[0, 0]);
}

/// Two tables in two databases, changed by one transaction over both, for ever.
const ATTACHED: &str = r#"
import sqlite3
c = sqlite3.connect("vol/app/a.db", timeout=60, isolation_level=None)
c.execute("ATTACH 'vol/app/b.db' AS b")
c.execute("CREATE TABLE main.n(n, pad)"); c.execute("CREATE TABLE b.n(n, pad)")
for t in ("main", "b"):
    for _ in range(50): c.execute(f"INSERT INTO {t}.n VALUES(0, randomblob(3000))")
c.execute("PRAGMA cache_size=3"); c.execute("PRAGMA b.cache_size=3")
print("ready", flush=True)
while True:
    c.execute("BEGIN")
    for t in ("main", "b"): c.execute(f"UPDATE {t}.n SET n = n + 1, pad = randomblob(3000)")
    c.execute("COMMIT")
"#;

#[test]
fn a_transaction_over_two_databases_is_whole_in_a_subvolume() {
    let scratch = Scratch::new();
    scratch.init();
    let Some(mounted) = Mounted::new(&scratch, "btrfs") else { return };
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(mounted.path.join("app")));
    std::os::unix::fs::symlink(&mounted.path, scratch.path("vol")).unwrap();
    let application = Application::start(&scratch, ATTACHED);
    let place = format!("app={}", mounted.path.join("app").display());
    for round in 0..12 {
        let document = scratch.ok(["backup", &place, "--validate", "quick"]);
        assert_eq!(consistency(&document, "app"), "fs-snapshot");
        scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
        let count = |name: &str| -> (i64, i64) {
            let connection =
                rusqlite::Connection::open(scratch.path(&format!("out-{round}/app/{name}"))).unwrap();
            connection
                .query_row("SELECT min(n), max(n) FROM n", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
        };
        let (one, other) = (count("a.db"), count("b.db"));
        assert_eq!((one.0, one), (one.1, other), "round {round}");
    }
    application.stop();
}

/// Opens a database in WAL mode, writes, and stays until it is killed.
const WAL_APPLICATION: &str = "import sqlite3, time, os\nc = sqlite3.connect('app.db', timeout=2, isolation_level=None)\n\
                               c.execute('pragma journal_mode=wal')\nc.execute('create table if not exists t(a)')\n\
                               c.execute('insert into t values(randomblob(1000000))')\nprint('ready', flush=True)\n\
                               while True: time.sleep(1)";

#[test]
fn an_application_in_wal_mode_can_be_restarted_meanwhile() {
    if !has("strace") || !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let application = Application::start(&scratch, WAL_APPLICATION);
    // Reading the log takes eight seconds, under the hold.
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-P"])
        .arg(scratch.path("app.db-wal"));
    traced.args(["-e", "inject=pread64:delay_enter=4000000:when=2..3", env!("CARGO_BIN_EXE_icecore")]);
    traced.args(["--json", "backup", "db=app.db"]).current_dir(scratch.directory.path());
    traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
    let mut backup = traced.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    drop(application);
    let since = std::time::Instant::now();
    let application = Application::start(&scratch, WAL_APPLICATION);
    assert!(since.elapsed() < std::time::Duration::from_secs(2), "it wrote after {:?}", since.elapsed());
    assert!(backup.try_wait().unwrap().is_none(), "the backup is still reading");
    assert!(backup.wait().unwrap().success());
    application.stop();
    scratch.ok(["restore", "latest", "-t", "out"]);
    let connection = rusqlite::Connection::open(scratch.path("out/db/app.db")).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "the state when it was held");
}

#[test]
fn a_snapshot_mounted_elsewhere_is_read_in_place_of_the_source() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let database = scratch.mkdir("live").join("app.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES('then')").unwrap();
    drop(connection);
    scratch.mkdir("mounted");
    scratch.file(
        "icecore.toml",
        "[source.db]\npath = \"live/app.db\"\nkind = \"sqlite\"\nsource_path = \"mounted/app.db\"\n[hooks]\n\
         before = \"cp live/app.db mounted/\"\nafter = [\"rm\", \"mounted/app.db\"]\n",
    );
    scratch.ok(["backup"]);
    assert!(!scratch.path("mounted/app.db").exists());
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("UPDATE t SET a = 'now'").unwrap();
    drop(connection);
    // It goes back to where the source lives.
    scratch.ok(["restore", "latest", "--confirm-service-stopped"]);
    let connection = rusqlite::Connection::open(&database).unwrap();
    let value: String = connection.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(value, "then");
    drop(connection);
    scratch.file("mounted/app.db", std::fs::read(&database).unwrap());
    let place = format!("db={}", scratch.path("mounted/app.db").display());
    scratch.ok(["backup", "db=live/app.db", "--source-path", &place]);
}
