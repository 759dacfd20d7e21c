//! The disaster: the host and its repository are gone. A replica on another host, and one age identity, bring everything back, and
//! real Chroma opens it.

use crate::far::Sshd;
use crate::support::{Scratch, document, put, python};
use std::path::Path;

fn chroma(python: &Path, verb: &str, store: &Path, ids: &[&str]) -> String {
    let arguments: Vec<&str> =
        [verb, store.to_str().unwrap()].into_iter().chain(ids.iter().copied()).collect();
    crate::restore_drill::chroma(python, &arguments)
}

#[test]
fn everything_comes_back_from_a_replica_and_one_identity() {
    let Some(python) = python() else { return };
    let elsewhere = Scratch::new();
    let Some(sshd) = Sshd::start(&elsewhere) else { return };
    let url = sshd.url(&elsewhere.path("replica"));
    let identity = elsewhere.new_identity("identity");
    let (known, registry, rows);
    {
        // The host that is lost. It never has the identity but while it works; here it lies in its memory only.
        let host = Scratch::new();
        let names: Vec<String> = (0..120).map(|number| format!("note-{number:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        chroma(&python, "add", &host.path("data/chroma"), &names);
        let database = rusqlite::Connection::open(host.path("data/app.db")).unwrap();
        database.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)").unwrap();
        host.file("data/registry.json", "{\"projects\": [1, 2, 3]}");
        let config = format!(
            "profile = \"app\"\nrepository = \"repo\"\n[source.db]\npath = \"data/app.db\"\n[source.registry]\npath = \"data/registry.json\"\n\
             [source.chroma]\npath = \"data/chroma\"\n[[replica]]\nname = \"elsewhere\"\nurl = \"{url}\"\n"
        );
        host.file("icecore.toml", config);
        let ok = |arguments: &[&str]| {
            let mut command = sshd.icecore(&host);
            command.env("ICECORE_IDENTITY", elsewhere.path("identity")).args([
                "--json",
                "-c",
                "icecore.toml",
            ]);
            let (code, answer) = document(command.args(arguments));
            assert_eq!(code, 0, "{arguments:?}: {answer:#}");
            answer
        };
        ok(&["init", "--recipient", &identity]);
        ok(&["backup", "--replicate"]);
        chroma(&python, "add", &host.path("data/chroma"), &["the-last-note"]);
        database.execute_batch("INSERT INTO t VALUES (4)").unwrap();
        ok(&["backup", "--replicate"]);
        known = chroma(&python, "ids", &host.path("data/chroma"), &[]);
        registry = std::fs::read(host.path("data/registry.json")).unwrap();
        rows = 4;
    }
    // Another machine, with nothing but the identity and the address.
    let new = Scratch::new();
    new.file("identity", std::fs::read(elsewhere.path("identity")).unwrap());
    let (code, answer) =
        document(sshd.icecore(&new).args(["--json", "-r", &url, "--profile", "app", "status"]));
    assert_eq!(code, 0, "{answer:#}");
    let mut restore = sshd.icecore(&new);
    restore.args(["--json", "-r", &url, "--profile", "app", "restore", "latest", "--target", "data"]);
    let (code, answer) = document(&mut restore);
    assert_eq!(code, 0, "{answer:#}");
    assert_eq!(answer["restored_integrity_ok"], true);
    assert_eq!(std::fs::read(new.path("data/registry/registry.json")).unwrap(), registry);
    let database = rusqlite::Connection::open(new.path("data/db/app.db")).unwrap();
    assert_eq!(database.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), rows);
    let store = new.path("data/chroma");
    assert_eq!(chroma(&python, "ids", &store, &[]), known);
    // Life goes on: it takes new records, and backups go to the same replica as before.
    chroma(&python, "add", &store, &["life-goes-on"]);
    assert!(chroma(&python, "ids", &store, &[]).contains("life-goes-on"));
    put(
        &new.path("icecore.toml"),
        format!("profile = \"app\"\nrepository = \"{url}\"\n[source.chroma]\npath = \"data/chroma\"\n"),
    );
    let (code, answer) = document(sshd.icecore(&new).env_remove("ICECORE_REPOSITORY").args([
        "--json",
        "-c",
        "icecore.toml",
        "backup",
    ]));
    assert_eq!(code, 0, "{answer:#}");
    assert!(answer["new_bytes"].as_u64().unwrap() < 3_000_000, "{answer:#}");
}
