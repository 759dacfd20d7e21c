//! Databases are captured while other processes write them.

use crate::support::{Scratch, has, is_root, run};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Commits transfers between two tables for ever: in every committed state the sums agree, `n` counts the commits, and
/// the full-text index fits. Prints a line once it is at work. Ends with an error if one write fails.
const WRITER: &str = r#"
import sqlite3, sys, random, os
path, mode = sys.argv[1], sys.argv[2]
c = sqlite3.connect(path, timeout=60, isolation_level=None)
c.execute(f"PRAGMA journal_mode={mode}")
c.execute("PRAGMA cache_size=10")
c.execute("CREATE TABLE IF NOT EXISTS a(i INTEGER PRIMARY KEY, v, pad)")
c.execute("CREATE TABLE IF NOT EXISTS b(i INTEGER PRIMARY KEY, v, pad)")
c.execute("CREATE TABLE IF NOT EXISTS n(n)")
c.execute("CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(t)")
if not c.execute("SELECT count(*) FROM n").fetchone()[0]:
    c.execute("BEGIN")
    c.execute("INSERT INTO n VALUES(0)")
    for i in range(300):
        for t in "ab": c.execute(f"INSERT INTO {t} VALUES(?,?,?)", (i, 100, os.urandom(random.randrange(1500))))
    c.execute("COMMIT")
print("ready", flush=True)
while True:
    c.execute("BEGIN IMMEDIATE")
    for _ in range(random.randrange(1, 40)):
        i, j, d = random.randrange(300), random.randrange(300), random.randrange(50)
        c.execute("UPDATE a SET v=v-?, pad=? WHERE i=?", (d, os.urandom(random.randrange(1500)), i))
        c.execute("UPDATE b SET v=v+?, pad=? WHERE i=?", (d, os.urandom(random.randrange(1500)), j))
    c.execute("UPDATE n SET n=n+1")
    c.execute("INSERT INTO f VALUES(?)", ("row %d" % random.randrange(10**9),))
    if random.random() < .1: c.execute("ROLLBACK")
    else: c.execute("COMMIT")
"#;

pub struct Writer(Child);

impl Writer {
    pub fn start(database: &Path, mode: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", WRITER]).arg(database).arg(mode).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// It never failed: it is still running.
    pub fn stop(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the writer failed");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

/// One committed state: the sums agree; returns the number of commits in it.
pub fn check(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let one = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    assert_eq!(one("SELECT (SELECT sum(v) FROM a) + (SELECT sum(v) FROM b)"), 60_000);
    let (commits, rows) = (one("SELECT n FROM n"), one("SELECT count(*) FROM f"));
    assert_eq!(commits, rows);
    commits
}

fn fifty_snapshots(mode: &str, user: Option<u32>) {
    if !has("python3") || (user.is_some() && (!is_root() || !has("setpriv"))) {
        return;
    }
    let scratch = Scratch::new();
    let database = scratch.mkdir("service").join("app.db");
    let writer = Writer::start(&database, mode);
    let icecore = |arguments: &[&str]| -> std::process::Output {
        let program = scratch.icecore();
        let Some(user) = user else { return scratch.icecore().args(arguments).output().unwrap() };
        let mut other = Command::new("setpriv");
        other
            .args(["--reuid", &user.to_string(), "--clear-groups"])
            .arg(program.get_program())
            .args(arguments);
        other
            .current_dir(scratch.directory.path())
            .env("ICECORE_REPOSITORY", scratch.path("repo"))
            .output()
            .unwrap()
    };
    if let Some(user) = user {
        std::fs::set_permissions(scratch.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(scratch.mkdir("repo"), Some(user), None).unwrap();
        // The writer makes its files private to itself where the umask says so; here others may read them.
        for file in std::fs::read_dir(scratch.path("service")).unwrap() {
            std::fs::set_permissions(file.unwrap().path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    assert!(icecore(&["init"]).status.success());
    let mut last = 0;
    for round in 0..50 {
        let output = icecore(&["backup", "db=service/app.db", "--validate", "quick"]);
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        let out = scratch.path(&format!("out-{round}"));
        let output = run(scratch.icecore().args(["--json", "restore", "latest", "-t"]).arg(&out));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"restored_integrity_ok\":true"));
        let commits = check(&out.join("db/app.db"));
        assert!(commits >= last, "a later snapshot holds an earlier state");
        last = commits;
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert!(last > 50, "the writer was at work ({last} commits)");
    writer.stop();
}

#[test]
fn rollback_journal_as_root() {
    fifty_snapshots("delete", None);
}

#[test]
fn rollback_journal_as_another_user() {
    fifty_snapshots("delete", Some(65534));
}

#[test]
fn write_ahead_log_as_root() {
    fifty_snapshots("wal", None);
}

#[test]
fn write_ahead_log_as_another_user() {
    fifty_snapshots("wal", Some(65534));
}

#[test]
fn truncated_and_persistent_journals() {
    for mode in ["truncate", "persist"] {
        let scratch = Scratch::new();
        scratch.init();
        let database = scratch.mkdir("service").join("app.db");
        let writer = Writer::start(&database, mode);
        for round in 0..8 {
            scratch.backup(&["db=service/app.db", "--validate", "quick"]);
            scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
            check(&scratch.path(&format!("out-{round}/db/app.db")));
        }
        writer.stop();
    }
}

/// Leaves a database as a crash in the middle of a transaction does.
fn crashed(scratch: &Scratch, mode: &str) -> PathBuf {
    let script = format!(
        "import sqlite3,os\nc=sqlite3.connect('app.db',isolation_level=None)\nc.execute('pragma journal_mode={mode}')\n\
         c.execute('pragma cache_size=5')\nc.execute('pragma wal_autocheckpoint=0')\nc.execute('create table t(a,b)')\n\
         c.execute('begin')\nfor i in range(500): c.execute('insert into t values(?,zeroblob(2000))',(i,))\n\
         c.execute('commit')\nc.execute('begin')\nc.execute('update t set a=-1')\nos._exit(0)"
    );
    run(Command::new("python3").args(["-c", &script]).current_dir(scratch.directory.path()));
    scratch.path("app.db")
}

#[test]
fn what_a_crash_left_is_settled_in_the_copy_only() {
    for (mode, sidecar) in [("delete", "app.db-journal"), ("wal", "app.db-wal")] {
        let scratch = Scratch::new();
        scratch.init();
        let database = crashed(&scratch, mode);
        let left = std::fs::read(scratch.path(sidecar)).unwrap();
        assert!(left.len() > 10_000);
        let raw = std::fs::read(&database).unwrap();
        scratch.backup(&["app.db"]);
        assert_eq!(std::fs::read(scratch.path(sidecar)).unwrap(), left, "{mode}");
        assert_eq!(std::fs::read(&database).unwrap(), raw, "{mode}");
        scratch.ok(["restore", "latest", "-t", "out"]);
        let connection = rusqlite::Connection::open(scratch.path("out/app/app.db")).unwrap();
        let one = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(
            (one("SELECT count(*) FROM t"), one("SELECT count(*) FROM t WHERE a = -1")),
            (500, 0),
            "{mode}"
        );
    }
}

#[test]
fn pages_stay_where_they_are() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("app.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO t SELECT i, hex(randomblob(400)) FROM n; DELETE FROM t WHERE a % 7 = 0").unwrap();
    scratch.backup(&["app.db"]);
    let output = run(scratch.icecore().args(["cat", "latest", "app"]));
    assert!(output.stdout == std::fs::read(&path).unwrap(), "byte for byte");
    connection.execute_batch("UPDATE t SET b = 'x' WHERE a = 10000").unwrap();
    let second = scratch.ok(["backup", "app.db"]);
    assert!(second["new_bytes"].as_u64().unwrap() < 1_500_000, "{second:#}");
}

#[test]
fn a_database_that_is_never_let_go_says_so() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("app.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(a); PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; INSERT INTO t VALUES(1); COMMIT").unwrap();
    let (code, document) = scratch.json(["backup", "app.db", "--lock-wait", "1s"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (21, "source_busy"));
    assert!(document["error"]["message"].as_str().unwrap().contains("exclusive locking mode"));
    drop(connection);
    scratch.backup(&["app.db"]);
}

#[test]
fn a_large_database_is_rehearsed_and_reread_where_it_changed() {
    let scratch = Scratch::new();
    scratch.init();
    let database = scratch.mkdir("service").join("app.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("CREATE TABLE bulk(a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO bulk SELECT i, randomblob(900) FROM n").unwrap();
    drop(connection);
    let writer = Writer::start(&database, "delete");
    for round in 0..10 {
        scratch.backup(&["db=service/app.db", "--validate", "quick"]);
        scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
        check(&scratch.path(&format!("out-{round}/db/app.db")));
        std::fs::remove_dir_all(scratch.path(&format!("out-{round}"))).unwrap();
    }
    writer.stop();
}

#[test]
fn odd_but_sound_databases_are_backed_up() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("app.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    drop(connection);
    // A time in the future, in WAL mode, with nobody there: nothing to hold, and nothing racy about it.
    run(Command::new("touch").args(["-d", "2035-01-01"]).arg(&path));
    scratch.backup(&["app.db"]);
    // A file that SQLite let grow ahead of its pages.
    let connection = rusqlite::Connection::open(scratch.path("grown.db")).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    drop(connection);
    std::fs::OpenOptions::new().write(true).open(scratch.path("grown.db")).unwrap().set_len(1 << 20).unwrap();
    let document = scratch.ok(["backup", "grown.db", "--validate", "full"]);
    assert!(document["warnings"].to_string().contains("size_larger"), "{document:#}");
}
