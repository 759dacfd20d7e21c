//! Applications that open and close all the time, replace their database, or change its journal mode under the capture.

use crate::support::{Scratch, document, has};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A Python program that says "ready" and goes on until it is killed; failing is an error.
pub struct Application(Child);

impl Application {
    pub fn start(scratch: &Scratch, script: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir(scratch.directory.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub fn stop(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the application failed");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Two rows are always equal, in every committed state.
const MAKE: &str = "import sqlite3, os, time\ndef make(path, n):\n c = sqlite3.connect(path, isolation_level=None)\n \
                    c.execute('create table t(a, pad)')\n c.execute('begin')\n \
                    for i in range(2): c.execute('insert into t values(?, zeroblob(30000))', (n,))\n \
                    c.execute('commit')\n c.close()\n";

fn two_equal_rows(scratch: &Scratch, out: &str) -> i64 {
    scratch.ok(["restore", "latest", "-t", out]);
    let connection = rusqlite::Connection::open(scratch.path(out).join("db/app.db")).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let query = "SELECT min(a), max(a), count(*) FROM t";
    let (least, most, count): (i64, i64, i64) =
        connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!((least, count), (most, 2));
    least
}

fn snapshots_while(script: &str, rounds: usize) {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let application = Application::start(&scratch, &format!("{MAKE}{script}"));
    let mut last = -1;
    for round in 0..rounds {
        scratch.backup(&["db=app.db", "--validate", "quick"]);
        let found = two_equal_rows(&scratch, &format!("out-{round}"));
        assert!(found >= last);
        last = found;
    }
    assert!(last > 0, "the application was at work");
    application.stop();
}

#[test]
fn opened_written_and_closed_all_the_time() {
    for mode in ["delete", "wal"] {
        snapshots_while(
            &format!(
                "make('app.db', 0)\nc = sqlite3.connect('app.db'); c.execute('pragma journal_mode={mode}'); c.close()\n\
                 print('ready', flush=True)\nwhile True:\n c = sqlite3.connect('app.db', timeout=60, isolation_level=None)\n \
                 c.execute('update t set a = a + 1, pad = randomblob(30000)')\n c.close()\n"
            ),
            12,
        );
    }
}

#[test]
fn replaced_by_another_file_all_the_time() {
    snapshots_while(
        "make('app.db', 0)\nprint('ready', flush=True)\nn = 0\nwhile True:\n n += 1\n make('next.db', n)\n \
         os.rename('next.db', 'app.db')\n time.sleep(0.02)\n",
        10,
    );
}

#[test]
fn switched_between_journal_modes_all_the_time() {
    snapshots_while(
        "make('app.db', 0)\nc = sqlite3.connect('app.db', timeout=60, isolation_level=None)\nprint('ready', flush=True)\n\
         while True:\n for mode in ('wal', 'delete', 'truncate', 'persist'):\n  \
         try: c.execute('pragma journal_mode=' + mode)\n  except sqlite3.OperationalError: pass\n  \
         c.execute('update t set a = a + 1, pad = randomblob(30000)')\n  time.sleep(0.005)\n",
        10,
    );
}

#[test]
fn a_store_in_wal_mode_has_no_vectors_newer_than_its_database() {
    if !has("python3") || !has("strace") {
        return;
    }
    const SEGMENT: &str = "11111111-2222-3333-4444-555555555555";
    let scratch = Scratch::new();
    scratch.init();
    scratch.mkdir(&format!("store/{SEGMENT}"));
    // First the database, then the vectors, as Chroma 1.x does.
    let script = format!(
        "import sqlite3, time\nc = sqlite3.connect('store/chroma.sqlite3', timeout=60, isolation_level=None)\n\
         c.execute('pragma journal_mode=wal')\nc.execute('create table segments(id, scope)')\n\
         c.execute('create table n(n)')\nc.execute('insert into n values(0)')\n\
         c.execute(\"insert into segments values('{SEGMENT}', 'VECTOR')\")\n\
         f = open('store/{SEGMENT}/data_level0.bin', 'w+b', buffering=0)\nf.write(b'%010d' % 0)\n\
         print('ready', flush=True)\nn = 0\nwhile True:\n n += 1\n c.execute('update n set n = ?', (n,))\n \
         f.seek(0); f.write(b'%010d' % n)\n time.sleep(0.08)\n"
    );
    let application = Application::start(&scratch, &script);
    let mut last = 0;
    for round in 0..12 {
        // Reading the vectors takes a while, so that they often move meanwhile.
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-P"]);
        traced.arg(scratch.path(&format!("store/{SEGMENT}/data_level0.bin")));
        traced.args(["-e", "inject=pread64:delay_enter=30000", env!("CARGO_BIN_EXE_icecore")]);
        traced
            .args(["--json", "backup", "store", "--validate", "quick"])
            .current_dir(scratch.directory.path());
        traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
        let (code, document) = document(&mut traced);
        assert_eq!(code, 0, "{document:#}");
        scratch.ok(["restore", "latest", "-t", &format!("out-{round}")]);
        let store = scratch.path(&format!("out-{round}/store"));
        let vectors = std::fs::read_to_string(store.join(SEGMENT).join("data_level0.bin")).unwrap();
        let vectors: i64 = vectors.parse().unwrap();
        let connection = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
        let database: i64 = connection.query_row("SELECT n FROM n", [], |row| row.get(0)).unwrap();
        assert!((vectors..=vectors + 1).contains(&database), "vectors of {vectors}, database of {database}");
        last = database;
    }
    assert!(last > 3, "the application was at work ({last})");
    application.stop();
}
