//! The drill: a marker is written after the backup, and the day before is wanted back, then the marker again. With real
//! Chroma and with a real application that keeps its data in SQLite (Fossil).

use crate::support::{Scratch, has, inode, python, run};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONFIRM: &str = "--confirm-service-stopped";

/// `add STORE ID…` adds records, `ids STORE` prints those that Chroma knows and finds by their vectors, sorted.
const CHROMA: &str = r#"
import random, sys
import chromadb
from chromadb.config import Settings

def vector(seed):
    r = random.Random(seed); v = [r.gauss(0, 1) for _ in range(24)]; n = sum(x * x for x in v) ** .5
    return [x / n for x in v]

verb, store, ids = sys.argv[1], sys.argv[2], sys.argv[3:]
client = chromadb.PersistentClient(store, Settings(anonymized_telemetry=False))
c = client.get_or_create_collection("notes", metadata={"hnsw:space": "cosine", "hnsw:sync_threshold": 50, "hnsw:batch_size": 20}, embedding_function=None)
if verb == "add":
    for at in range(0, len(ids), 40):
        some = ids[at:at + 40]
        c.add(ids=some, embeddings=[vector(i) for i in some], documents=[f"about {i}" for i in some])
else:
    found = [i for i in sorted(c.get()["ids"]) if c.query(query_embeddings=[vector(i)], n_results=1)["ids"][0][0] == i]
    assert len(found) == c.count(), (len(found), c.count())
    print(" ".join(found))
"#;

pub fn chroma(python: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(python);
    let output = run(command.args(["-c", CHROMA]).args(arguments).env("ANONYMIZED_TELEMETRY", "False"));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn with_real_chroma() {
    let Some(python) = python() else { return };
    for saving in [&[][..], &["--no-pre-snapshot"]] {
        let scratch = Scratch::new();
        scratch.init();
        let store = scratch.path("store");
        let at = store.to_str().unwrap();
        let names: Vec<String> = (0..230).map(|number| format!("base-{number:03}")).collect();
        let mut arguments = vec!["add", at];
        arguments.extend(names.iter().map(String::as_str));
        chroma(&python, &arguments);
        let stamp = scratch.backup(&["store"]);
        let baseline = chroma(&python, &["ids", at]);
        assert_eq!(baseline.split(' ').count(), 230);
        let markers: Vec<String> = (0..60).map(|number| format!("marker-{number}")).collect();
        let mut arguments = vec!["add", at];
        arguments.extend(markers.iter().map(String::as_str));
        chroma(&python, &arguments);
        let marked = chroma(&python, &["ids", at]);
        assert_eq!(marked.split(' ').count(), 290);
        let number = inode(&store.join("chroma.sqlite3"));
        let document = scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        assert_eq!(document["restored_integrity_ok"], true);
        // Looking writes, so it is done in copies, but for the last time.
        let look = |name: &str, from: &Path| {
            let copy = scratch.path(name);
            run(Command::new("cp").arg("-a").arg(from).arg(&copy));
            chroma(&python, &["ids", copy.to_str().unwrap()])
        };
        assert_eq!(look("copy-1", &store), baseline);
        if let Some(safety) = document["pre_restore_snapshot"].as_str() {
            scratch.ok(["restore", safety, "-t", "before"]);
            assert_eq!(look("copy-2", &scratch.path("before/store")), marked);
        }
        scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
        assert_eq!(look("copy-3", &store), marked);
        scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        assert_eq!(inode(&store.join("chroma.sqlite3")), number);
        // It accepts writes.
        chroma(&python, &["add", at, "zz-after"]);
        assert_eq!(chroma(&python, &["ids", at]), format!("{baseline} zz-after"));
    }
}

/// A running server of the application.
struct Server(std::process::Child);

impl Server {
    fn start(directory: &Path, port: &str) -> Self {
        let mut command = Command::new("fossil");
        command.args(["server", "--localhost", "--port", port, "app.fossil"]).current_dir(directory);
        command.env("HOME", directory).env("USER", "root").stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn fossil(directory: &Path, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("fossil");
    command.args(arguments).current_dir(directory).env("HOME", directory).env("USER", "root");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the server answers about a page of its wiki.
fn page(port: &str, name: &str) -> String {
    let since = Instant::now();
    loop {
        if let Ok(mut connection) = std::net::TcpStream::connect(format!("127.0.0.1:{port}")) {
            let request = format!("GET /wiki?name={name} HTTP/1.0\r\nHost: localhost\r\n\r\n");
            std::io::Write::write_all(&mut connection, request.as_bytes()).unwrap();
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut connection, &mut answer).unwrap();
            return answer;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "the server doesn't answer");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn with_a_real_application() {
    if !has("fossil") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    fossil(&live, &["new", "app.fossil"], "");
    let write = |name: &str| {
        fossil(&live, &["wiki", "create", name, "-R", "app.fossil"], &format!("written as {name}"));
    };
    write("baseline");
    let port = (20000 + std::process::id() % 20000).to_string();
    let service = Server::start(&live, &port);
    assert!(page(&port, "baseline").contains("written as baseline"));
    let stamp = scratch.backup(&["app=live/app.fossil"]);
    write("marker");
    assert!(page(&port, "marker").contains("written as marker"));
    drop(service);
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    {
        let _service = Server::start(&live, &port);
        assert!(page(&port, "baseline").contains("written as baseline"));
        assert!(!page(&port, "marker").contains("written as marker"));
    }
    let safety = document["pre_restore_snapshot"].as_str().unwrap();
    scratch.ok(["restore", safety, "-t", "before"]);
    let listed = fossil(&scratch.path("before/app"), &["wiki", "list", "-R", "app.fossil"], "");
    assert!(listed.contains("marker"), "{listed}");
    scratch.ok(["restore", "--rollback", CONFIRM]);
    let _service = Server::start(&live, &port);
    assert!(page(&port, "marker").contains("written as marker"));
    write("after");
    assert!(page(&port, "after").contains("written as after"));
}

#[test]
fn hooks_stop_and_start_the_service_and_commands_judge_the_result() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("it's live");
    crate::restore_states::make_database(&live, "delete");
    let config = |verify: &str, after: &str| {
        scratch.file(
            "icecore.toml",
            format!(
                "[source.app]\npath = \"it's live/app.db\"\nverify = {verify}\n[hooks]\n\
                 before_restore = \"echo stop >> log; kill $(cat pid) 2>/dev/null; sleep 0.2\"\n\
                 after_restore = \"{after}\"\n"
            ),
        );
    };
    let log = || std::fs::read_to_string(scratch.path("log")).unwrap_or_default();
    config(
        "\"test $(stat -c %s {path}) -gt 100 && echo $ICECORE_SOURCE >> log\"",
        "echo start $ICECORE_RESTORED >> log",
    );
    let stamp = scratch.backup(&[]);
    crate::support::put(&live.join("app.db"), "garbage");
    // The service has its database open until the hook stops it.
    let mut service = Command::new("python3")
        .args([
            "-c",
            "import time,os\nf=open('app.db')\nopen('../pid','w').write(str(os.getpid()))\ntime.sleep(60)",
        ])
        .current_dir(&live)
        .spawn()
        .unwrap();
    while !scratch.path("pid").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let planned = scratch.ok(["restore", &stamp, "-n"]);
    assert!(planned["warnings"].to_string().contains("before_restore"), "{planned:#}");
    scratch.ok(["restore", &stamp, CONFIRM]);
    drop(service.wait());
    assert_eq!(log(), "stop\napp\nstart true\n");
    // A command that isn't content: in place, journal kept, the service isn't started.
    config("[\"test\", \"-d\", \"{path}\"]", "echo start $ICECORE_RESTORED >> log");
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (24, "verify_failed"), "{document:#}");
    assert_eq!(log(), "stop\napp\nstart true\nstop\n");
    scratch.ok(["backup"]);
    config("\"true\"", "echo start $ICECORE_RESTORED >> log; exit 3");
    let (code, document) = scratch.json(["restore", "--resume", CONFIRM]);
    assert_eq!(
        (code, document["error"]["code"].as_str().unwrap()),
        (24, "after_restore_failed"),
        "{document:#}"
    );
    // Refused after the service was stopped: it is started again.
    std::fs::remove_file(scratch.path("log")).unwrap();
    config("\"true\"", "echo start $ICECORE_RESTORED >> log");
    let open = std::fs::File::open(live.join("app.db")).unwrap();
    let (code, _) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!((code, log().as_str()), (22, "stop\nstart false\n"));
    drop(open);
    let (code, _) = scratch.json(["restore", &stamp, CONFIRM, "--no-hooks"]);
    assert_eq!((code, log().as_str()), (0, "stop\nstart false\n"));
}
