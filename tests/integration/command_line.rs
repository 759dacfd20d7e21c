//! The command line is a contract: names, JSON keys, help.

use crate::support::{Scratch, document, run, settle};
use serde_json::json;

const VERBS: [&str; 15] = [
    "init",
    "backup",
    "list",
    "show",
    "ls",
    "cat",
    "diff",
    "status",
    "validate",
    "restore",
    "forget",
    "pin",
    "unpin",
    "completions",
    "man",
];

#[test]
fn every_verb_explains_itself() {
    let scratch = Scratch::new();
    for verb in VERBS {
        let output = run(scratch.icecore().args([verb, "--help"]));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: icecore"), "{verb}: {text}");
        assert!(text.lines().next().unwrap().len() > 15, "{verb} has no first line");
    }
    let output = run(scratch.icecore().arg("--help"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(VERBS.iter().all(|verb| text.contains(verb)) && text.contains("Exit codes"));
}

#[test]
fn no_key_is_ever_left_out() {
    let scratch = Scratch::new();
    let common = ["schema", "verb", "ok", "exit_code", "warnings", "error"];
    let backup = [
        "stamp",
        "backup_root",
        "manifest",
        "valid",
        "errors",
        "findings",
        "sources",
        "writer_pause_ms",
        "new_bytes",
        "stored_bytes",
        "metadata_bytes",
        "unreferenced_bytes",
        "duration_ms",
    ];
    let check = |verb: &str, keys: &[&str], arguments: &[&str], code: i32| {
        let (got, document) = scratch.json(arguments);
        assert_eq!(got, code, "{document:#}");
        assert_eq!(document["verb"], verb);
        for key in keys.iter().chain(&common) {
            assert!(document.get(key).is_some(), "{verb} lacks {key}: {document:#}");
        }
        assert_eq!(document["error"].is_null(), code == 0);
    };
    let file = scratch.file("a.json", "{}");
    let file = file.to_str().unwrap();
    check("backup", &backup, &["backup", file], 10);
    check("list", &["backup_dir", "latest", "backups"], &["list"], 10);
    scratch.init();
    check("backup", &backup, &["backup", file], 0);
    check("backup", &backup, &["backup", "x=/nowhere"], 1);
    check("list", &["backup_dir", "latest", "backups"], &["list"], 0);
    check("validate", &["valid", "errors", "findings"], &["validate", "latest"], 0);
    check("status", &["latest", "sources"], &["status", "--max-age", "1h"], 0);
    let restore =
        ["pre_restore_snapshot", "restored_integrity_ok", "guard", "holders", "written_bytes", "a_restored"];
    check("restore", &restore, &["restore", "latest", "-t", "out"], 0);
    check("restore", &restore[..5], &["restore", "latest"], 22);
}

#[test]
fn mistakes_are_documents_too() {
    let scratch = Scratch::new();
    let (code, document) = scratch.json(["bakcup"]);
    assert_eq!((code, &document["error"]["code"]), (2, &json!("usage")));
    let (code, document) = scratch.json(["backup", "--validate", "half"]);
    assert_eq!(code, 2);
    assert!(document["error"]["message"].as_str().unwrap().contains("half"));
}

#[test]
fn values_mean_what_the_keys_say() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/a", vec![7u8; 100_000]);
    scratch.file("reg.json", "[1, 2]");
    settle();
    let first = scratch.ok(["backup", "tree", "reg=reg.json", "--tag", "before"]);
    assert_eq!(first["sources"]["tree"]["bytes"], 100_000);
    assert_eq!(first["sources"]["reg"]["kind"], "json");
    assert_eq!(first["new_bytes"], 100_006);
    let stamp = first["stamp"].as_str().unwrap();
    assert_eq!(first["backup_root"], scratch.path("repo/snapshots").join(stamp).to_str().unwrap());
    assert!(scratch.path("repo/snapshots").join(stamp).is_file());
    let second = scratch.ok(["backup", "tree", "reg=reg.json"]);
    assert_eq!((&second["new_bytes"], &second["sources"]["tree"]["unchanged_files"]), (&json!(0), &json!(1)));
    let list = scratch.ok(["list"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    assert_eq!(list["backups"][0]["tags"], json!(["before"]));
    assert_eq!(list["latest"], second["stamp"]);
    let shown = scratch.ok(["show", stamp]);
    assert_eq!(shown["snapshot"]["source_details"]["reg"]["consistency"], "optimistic");
    scratch.ok(["pin", stamp]);
    let (code, _) = scratch.json(["forget", stamp]);
    assert_eq!(code, 2, "pinned");
    scratch.ok(["unpin", stamp]);
    scratch.ok(["forget", stamp]);
    assert_eq!(scratch.ok(["snapshots"])["backups"].as_array().unwrap().len(), 1);
}

#[test]
fn cat_and_ls_and_diff_look_inside() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/sub/a.txt", "one");
    let first = scratch.backup(&["tree"]);
    scratch.file("tree/sub/a.txt", "two!");
    scratch.file("tree/new", "n");
    let second = scratch.backup(&["tree"]);
    let output = run(scratch.icecore().args(["cat", &first, "tree/sub/a.txt"]));
    assert_eq!(output.stdout, b"one");
    let (code, document) = scratch.json(["cat", &first, "tree/sub"]);
    assert_eq!((code, &document["error"]["code"]), (2, &json!("usage")));
    scratch.ok(["cat", &second, "tree/sub/a.txt", "-o", "out.txt"]);
    assert_eq!(std::fs::read(scratch.path("out.txt")).unwrap(), b"two!");
    let listed = scratch.ok(["ls", "latest", "tree", "-R"]);
    let paths: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["tree/new", "tree/sub", "tree/sub/a.txt"]);
    let diff = scratch.ok(["diff", &first, &second]);
    let changes: Vec<(&str, &str)> = diff["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["change"].as_str().unwrap(), one["path"].as_str().unwrap()))
        .collect();
    assert_eq!(changes, [("added", "tree/new"), ("modified", "tree/sub/a.txt")]);
}

#[test]
fn works_without_home_terminal_and_writable_root() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    let mut bare = scratch.icecore();
    bare.env_remove("HOME")
        .env_remove("PATH")
        .env("TMPDIR", "/nonexistent")
        .args(["--json", "backup", "a.json"]);
    let (code, document) = document(&mut bare);
    assert_eq!(code, 0, "{document:#}");
}

#[test]
fn a_config_is_written_and_used() {
    let scratch = Scratch::new();
    scratch.file("app/registry.json", "{}");
    rusqlite::Connection::open(scratch.path("app/app.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t(a)")
        .unwrap();
    scratch.ok(["init", "--write-config"]);
    let text = std::fs::read_to_string(scratch.path("icecore.toml")).unwrap();
    assert!(text.contains("[source.app]") && text.contains("[source.registry]"), "{text}");
    let planned = scratch.ok(["backup", "-n"]);
    assert_eq!(planned["sources"]["app"]["kind"], "sqlite");
    let mut command = scratch.icecore();
    command.env_remove("ICECORE_REPOSITORY").args(["--json", "backup"]);
    let (code, taken) = document(&mut command);
    assert_eq!(code, 0, "{taken:#}");
    assert_eq!(taken["sources"].as_object().unwrap().len(), 2);
    let (code, _) = scratch.json(["init", "--if-missing", "--write-config"]);
    assert_eq!(code, 1, "an existing config is kept");
}

#[test]
fn on_demand_sources_wait_to_be_asked_for() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("a.json", "{}");
    scratch.file("b/x", "x");
    scratch.file("icecore.toml", "profile = \"p\"\n[source.a]\npath = \"a.json\"\n[source.b]\npath = \"b\"\non_demand = true\n[source.gone]\npath = \"gone\"\nkind = \"tree\"\noptional = true\n");
    let names = |arguments: &[&str]| -> Vec<String> {
        let document = scratch.ok(["backup"].iter().chain(arguments));
        document["sources"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&[]), ["a", "gone"]);
    assert_eq!(names(&["--with", "b"]), ["a", "b", "gone"]);
    assert_eq!(names(&["--only", "b"]), ["b"]);
    assert_eq!(names(&["--without", "gone"]), ["a"]);
    let (code, _) = scratch.json(["backup", "--with", "nobody"]);
    assert_eq!(code, 2);
    assert_eq!(scratch.ok(["list", "--having", "b"])["backups"].as_array().unwrap().len(), 2);
}
