//! A restore that is killed at any moment: nothing half-restored can be opened, and it can be finished, or undone.

use crate::restore_states::{crash_database, make_database, python_at};
use crate::support::{Scratch, describe, document, has, put, run, settle};
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIRM: &str = "--confirm-service-stopped";

/// System calls that change something, at the target or where the journal is kept.
const CALLS: [&str; 15] = [
    "pwrite64",
    "write",
    "ftruncate",
    "fallocate",
    "fsync",
    "syncfs",
    "unlinkat",
    "unlink",
    "mkdirat",
    "linkat",
    "symlinkat",
    "rename",
    "renameat2",
    "fchownat",
    "utimensat",
];

/// A service of three sources: a database with a crash's journal, a Chroma store, a tree.
struct Service {
    scratch: Scratch,
    stamp: String,
    /// The state to restore and the state before, as directories to copy from.
    wanted: PathBuf,
    before: PathBuf,
}

impl Service {
    fn new() -> Self {
        let scratch = Scratch::new();
        scratch.init();
        let live = scratch.mkdir("live");
        make_database(&live, "delete");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma/1.5.9-whole.tar.gz");
        run(Command::new("tar").arg("xzf").arg(fixture).arg("-C").arg(&live));
        scratch.file("live/tree/a/file", vec![1; 200_000]);
        scratch.file("live/tree/gone", "gone");
        scratch.file("live/tree/kind", "kind");
        scratch.file(
            "icecore.toml",
            "[source.app]\npath = \"live/app.db\"\n[source.store]\npath = \"live/store\"\n[source.tree]\npath = \"live/tree\"\n",
        );
        let stamp = scratch.backup(&[]);
        let wanted = scratch.path("wanted");
        run(Command::new("cp").arg("-a").args([&live, &wanted]));
        crash_database(&live, "delete");
        python_at(
            &live.join("store"),
            "import sqlite3\nc=sqlite3.connect('chroma.sqlite3')\nc.execute('create table marked(a)')\n\
             for i in range(200): c.execute('insert into marked values(?)',('x'*300,))\nc.commit()\nc.close()",
        );
        for directory in std::fs::read_dir(live.join("store")).unwrap() {
            let path = directory.unwrap().path().join("data_level0.bin");
            if let Ok(mut bytes) = std::fs::read(&path) {
                bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 1);
                put(&path, bytes);
            }
        }
        put(&live.join("tree/a/file"), vec![2; 150_000]);
        std::fs::remove_file(live.join("tree/gone")).unwrap();
        std::fs::remove_file(live.join("tree/kind")).unwrap();
        scratch.file("live/tree/kind/is/a/directory", "x");
        std::os::unix::fs::symlink("a/file", live.join("tree/extra")).unwrap();
        let before = scratch.path("before");
        run(Command::new("cp").arg("-a").args([&live, &before]));
        run(Command::new("cp").arg("-a").args([scratch.path("repo"), scratch.path("fresh")]));
        Self { scratch, stamp, wanted, before }
    }

    fn live(&self) -> PathBuf {
        self.scratch.path("live")
    }

    /// Puts the state before back, whatever a run has left, and the repository, in which nothing of that state is.
    fn reset(&self) {
        self.reset_to(&self.before, &self.scratch.path("fresh"));
    }

    fn reset_to(&self, live: &Path, repository: &Path) {
        for (from, to) in [(live, self.live()), (repository, self.scratch.path("repo"))] {
            drop(std::fs::remove_dir_all(&to));
            run(Command::new("cp").arg("-a").args([from, &to]));
        }
        // What was touched just now is compared again, and nothing of the comparison is used.
        settle();
    }

    /// Restores and is killed at the `nth` call of that name, before it takes effect. False if it came to its end.
    fn killed_at(&self, call: &str, nth: u32, saving: &[&str]) -> bool {
        self.killed(call, nth, &[&[self.stamp.as_str()], saving].concat())
    }

    /// As `killed_at`, of any restore. `CALL of PATH` counts the calls about one file below the live directory.
    fn killed(&self, call: &str, nth: u32, arguments: &[&str]) -> bool {
        let (call, of) = call.split_once(" of ").unwrap_or((call, ""));
        // Calls are counted by thread: on one core all are made by the same.
        let mut traced = Command::new("taskset");
        traced.args(["-c", "0", "strace", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        if !of.is_empty() {
            traced.arg("-P").arg(self.live().join(of));
        }
        traced.args(["-e", &format!("inject={call}:signal=KILL:when={nth}"), env!("CARGO_BIN_EXE_icecore")]);
        traced.args(["--json", "restore", CONFIRM]).args(arguments);
        traced.current_dir(self.scratch.directory.path()).env_clear();
        traced.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        traced.env("HOME", self.scratch.path("home")).env("ICECORE_REPOSITORY", self.scratch.path("repo"));
        traced.output().unwrap().status.code().is_none()
    }

    /// No database can be opened whose source is neither as before nor as wanted.
    fn nothing_half_restored_opens(&self, label: &str) {
        for (database, around) in [("app.db", None), ("store/chroma.sqlite3", Some("store"))] {
            // SQLite refuses much that is half of something; what tells everybody is the first sector, which comes last.
            let bytes = |side: &Path| std::fs::read(side.join(database)).unwrap();
            let now = bytes(&self.live());
            let is_whole = now == bytes(&self.before) || now == bytes(&self.wanted);
            let marker = b"icecore restore: this database is being overwritten and is not whole.\n";
            assert!(is_whole || now.starts_with(marker), "{label}: {database} isn't marked");
            // Opening may write, so a copy is opened.
            let copies = tempfile::tempdir().unwrap();
            let name = Path::new(database).file_name().unwrap().to_str().unwrap();
            for suffix in ["", "-journal", "-wal"] {
                let from = self.live().join(format!("{database}{suffix}"));
                if from.exists() {
                    std::fs::copy(from, copies.path().join(format!("{name}{suffix}"))).unwrap();
                }
            }
            let copy = copies.path().join(name);
            let opened =
                rusqlite::Connection::open_with_flags(&copy, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
                    .and_then(|connection| contents(&connection));
            let Ok(contents_now) = opened else { continue };
            let expected = |side: &Path| self.expected(side, database);
            let is = |side: &Path| {
                contents_now == expected(side)
                    && around
                        .is_none_or(|around| files(&self.live().join(around)) == files(&side.join(around)))
            };
            assert!(is(&self.before) || is(&self.wanted), "{label}: {database} opens, and is neither state");
        }
    }

    /// What SQLite shows of a database in one of the two states.
    fn expected(&self, side: &Path, database: &str) -> Vec<String> {
        let copies = tempfile::tempdir().unwrap();
        for suffix in ["", "-journal"] {
            let from = side.join(format!("{database}{suffix}"));
            if from.exists() {
                std::fs::copy(from, copies.path().join(format!("x{suffix}"))).unwrap();
            }
        }
        contents(&rusqlite::Connection::open(copies.path().join("x")).unwrap()).unwrap()
    }
}

/// Everything that a reader sees of the tables that matter.
fn contents(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<String>> {
    let mut tables = connection.prepare("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")?;
    let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut found = names.clone();
    for (table, column) in [("t", "a"), ("marked", "a"), ("embeddings", "embedding_id")] {
        if names.iter().any(|name| name == table) {
            let summed = format!("SELECT count(*), total(length({column})) FROM {table}");
            let summed = connection.query_row(&summed, [], |row| {
                Ok(format!("{table} {} {}", row.get::<_, i64>(0)?, row.get::<_, f64>(1)?))
            });
            found.push(summed?);
        }
    }
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    found.push(check);
    Ok(found)
}

/// Every file of a store but its database, with its content.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    crate::support::files_below(directory)
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("sqlite3"))
        .map(|path| (path.strip_prefix(directory).unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Directories' own times are compared too, but for the one that holds the single database: it is no source.
fn state(root: &Path) -> Vec<String> {
    let mut lines = describe(root, true);
    lines.remove(0);
    lines
}

fn killed_everywhere(saving: &[&str], every: u32) {
    if !has("strace") || !has("python3") {
        return;
    }
    let service = Service::new();
    let (before, wanted) = (state(&service.before), state(&service.wanted));
    assert_eq!(state(&service.live()), before);
    let (mut kills, mut midway) = (0, 0);
    for call in CALLS {
        for nth in (1..).step_by(every as usize) {
            for verb in ["--resume", "--rollback"] {
                service.reset();
                let label = format!("killed at {call} {nth} {saving:?}, {verb}");
                let was_killed = service.killed_at(call, nth, saving);
                if !was_killed {
                    break;
                }
                kills += 1;
                service.nothing_half_restored_opens(&label);
                let (code, document) = service.scratch.json(["restore", verb, CONFIRM]);
                let goal = if verb == "--resume" { &wanted } else { &before };
                match code {
                    0 => {
                        midway += 1;
                        assert_eq!(&state(&service.live()), goal, "{label}");
                    }
                    // It was killed before anything was changed, or after everything was done.
                    13 => {
                        let now = state(&service.live());
                        assert!(now == before || now == wanted, "{label}: {document:#}");
                    }
                    _ => panic!("{label}: {document:#}"),
                }
            }
            service.reset();
            if !service.killed_at(call, nth, saving) {
                assert_eq!(state(&service.live()), wanted, "{call} {nth}");
                break;
            }
        }
    }
    assert!(kills > 60 && midway > 30, "{kills} runs were killed, {midway} of them midway");
    eprintln!("{kills} runs were killed, {midway} of them midway");
    service.scratch.ok(["validate", "--all"]);
}

/// One in so many calls; `scripts/soak` tries each.
fn every(short: u32) -> u32 {
    std::env::var("ICECORE_EVERY_KILL").ok().map_or(short, |_| 1)
}

#[test]
fn with_a_safety_snapshot() {
    killed_everywhere(&[], every(3));
}

#[test]
fn with_an_undo_journal() {
    killed_everywhere(&["--no-pre-snapshot"], every(4));
}

/// Who goes back, or on, may be killed as well, and again: what was there before, sidecars included, still comes back whole.
#[test]
fn while_it_is_undone_or_finished() {
    if !has("strace") || !has("python3") {
        return;
    }
    let service = Service::new();
    let (before, wanted) = (state(&service.before), state(&service.wanted));
    let mut kills = 0;
    for (saving, verb) in [(&[][..], "--rollback"), (&["--no-pre-snapshot"], "--rollback"), (&[], "--resume")]
    {
        // Killed when the databases were filled and not readable yet.
        service.reset();
        assert!(service.killed_at("syncfs", 1, saving));
        let midway = service.scratch.path("midway");
        drop(std::fs::remove_dir_all(&midway));
        run(Command::new("cp").arg("-a").args([&service.live(), &midway]));
        let repository = service.scratch.path("with-journal");
        drop(std::fs::remove_dir_all(&repository));
        run(Command::new("cp").arg("-a").args([&service.scratch.path("repo"), &repository]));
        for call in CALLS.into_iter().chain(["pwrite64 of app.db-journal"]) {
            let step = if call.contains(" of ") { 1 } else { every(3) };
            for nth in (1..).step_by(step as usize) {
                service.reset_to(&midway, &repository);
                let label = format!("killed at {call} {nth} {saving:?}, {verb}");
                if !service.killed(call, nth, &[verb]) {
                    assert_eq!(
                        state(&service.live()),
                        if verb == "--resume" { &wanted } else { &before }[..],
                        "{label}"
                    );
                    break;
                }
                kills += 1;
                service.nothing_half_restored_opens(&label);
                // The other way than the one that was broken off, every other time.
                let next = if kills % 2 == 0 { "--rollback" } else { "--resume" };
                let (code, document) = service.scratch.json(["restore", next, CONFIRM]);
                let now = state(&service.live());
                match code {
                    0 => assert_eq!(
                        now,
                        if next == "--resume" { &wanted } else { &before }[..],
                        "{label}, {next}"
                    ),
                    13 => assert!(now == before || now == wanted, "{label}: {document:#}"),
                    _ => panic!("{label}: {document:#}"),
                }
            }
        }
    }
    assert!(kills > 60, "{kills} runs were killed");
    eprintln!("{kills} runs were killed");
}

#[test]
fn a_store_whose_vectors_alone_differ_cannot_be_opened_meanwhile() {
    if !has("strace") || !has("python3") {
        return;
    }
    let service = Service::new();
    // The database is as wanted already, and so would be no reason to touch it.
    let database = "store/chroma.sqlite3";
    std::fs::remove_file(service.before.join(database)).unwrap();
    run(Command::new("cp").arg("-a").args([service.wanted.join(database), service.before.join(database)]));
    let mut mixes = 0;
    for nth in 1.. {
        service.reset();
        let inode = crate::support::inode(&service.live().join(database));
        let was_killed = service.killed("pwrite64", nth, &[&service.stamp, "store"]);
        if !was_killed {
            assert_eq!(files(&service.live().join("store")), files(&service.wanted.join("store")));
            assert_eq!(crate::support::inode(&service.live().join(database)), inode);
            break;
        }
        let now = files(&service.live().join("store"));
        let is_mix =
            now != files(&service.before.join("store")) && now != files(&service.wanted.join("store"));
        mixes += u32::from(is_mix);
        service.nothing_half_restored_opens(&format!("killed at pwrite64 {nth}"));
    }
    assert!(mixes > 1, "{mixes} mixes");
}

#[test]
fn other_commands_say_so_until_it_is_settled() {
    if !has("strace") || !has("python3") {
        return;
    }
    let service = Service::new();
    // The marker is there, and nothing more.
    let mut nth = 1;
    while !service
        .live()
        .join("app.db")
        .metadata()
        .is_ok_and(|_| std::fs::read(service.live().join("app.db")).unwrap().starts_with(b"icecore restore"))
    {
        service.reset();
        assert!(service.killed_at("pwrite64", nth, &[]), "it never came to a database");
        nth += 1;
    }
    let scratch = &service.scratch;
    let refused = |arguments: &[&str], exit: i32| {
        let (code, document) = scratch.json(arguments);
        assert_eq!(
            (code, document["error"]["code"].as_str().unwrap()),
            (exit, "restore_incomplete"),
            "{document:#}"
        );
        let hint = document["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("--resume") && hint.contains("--rollback"), "{hint}");
    };
    refused(&["backup"], 22);
    refused(&["backup", "x=live/store"], 22);
    refused(&["restore", &service.stamp, CONFIRM], 22);
    refused(&["restore", &service.stamp, "app", "-n"], 22);
    refused(&["status"], 23);
    assert!(scratch.ok(["list"])["warnings"][0].as_str().unwrap().contains("interrupted"));
    scratch.ok(["backup", "other=icecore.toml"]);
    scratch.ok(["restore", &service.stamp, "-t", "out"]);
    // SQLite says what it is not, and the file says why.
    let error = rusqlite::Connection::open(service.live().join("app.db"))
        .and_then(|connection| contents(&connection))
        .unwrap_err();
    assert!(error.to_string().contains("not a database"), "{error}");
    let start = std::fs::read(service.live().join("app.db")).unwrap();
    assert!(String::from_utf8_lossy(&start[..300]).contains("--rollback"));
    // The same guards.
    let (code, document) = scratch.json(["restore", "--resume"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (22, "confirmation_missing"));
    let open = std::fs::File::open(service.live().join("app.db")).unwrap();
    let (code, document) = scratch.json(["restore", "--resume", CONFIRM]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (22, "files_in_use"));
    drop(open);
    let document = scratch.ok(["restore", "--rollback", "-n"]);
    assert!(!document["plan"].as_array().unwrap().is_empty());
    scratch.ok(["restore", "--resume", CONFIRM]);
    assert_eq!(state(&service.live()), state(&service.wanted));
    scratch.ok(["backup"]);
    let (code, document) = scratch.json(["restore", "--resume", CONFIRM]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (13, "no_restore"));
    // The journal is found by its target as well, from another repository.
    let (code, _) = document_of(scratch, &["-r", "elsewhere", "init"]);
    assert_eq!(code, 0);
}

fn document_of(scratch: &Scratch, arguments: &[&str]) -> (i32, serde_json::Value) {
    document(scratch.icecore().arg("--json").args(arguments))
}
