//! Replicas in directories and over a real ssh: complete, cheap to keep current, usable as repositories, and safe from their source.

use crate::far::Sshd;
use crate::support::{Scratch, describe, document, files_below, noise, put, run};
use icecore::backend::wire::{Answer, HELLO, Request, read_frame, write_frame};
use icecore::backend::{Backend, BackendError, Piece};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const TREE: [&str; 1] = ["tree"];

fn with_tree(scratch: &Scratch) {
    scratch.file("tree/big", noise(3_000_000, 1));
    scratch.file("tree/text", "words ".repeat(20_000));
    let database = rusqlite::Connection::open(scratch.path("tree/app.db")).unwrap();
    database.execute_batch("CREATE TABLE t(a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO t SELECT i, hex(randomblob(20)) FROM n").unwrap();
}

fn change(scratch: &Scratch, round: u8) {
    let mut bytes = std::fs::read(scratch.path("tree/big")).unwrap();
    let at = usize::from(round) * 50_000;
    bytes[at..at + 100].copy_from_slice(&noise(100, u64::from(round)));
    put(&scratch.path("tree/big"), bytes);
}

/// One replica's part of the answer.
fn replica(document: &Value) -> &Value {
    &document["replicas"][0]
}

fn at(scratch: &Scratch, place: &Path, arguments: &[&str]) -> (i32, Value) {
    document(scratch.icecore().arg("--json").arg("-r").arg(place).args(arguments))
}

fn stamps(document: &Value) -> Vec<String> {
    let list = document["backups"].as_array().unwrap();
    list.iter().map(|backup| backup["stamp"].as_str().unwrap().to_owned()).collect()
}

/// Every file of a repository but temporaries and locks.
fn contents(place: &Path) -> BTreeMap<String, Vec<u8>> {
    let relative = |path: &Path| path.strip_prefix(place).unwrap().display().to_string();
    let files = files_below(place).into_iter().map(|path| (relative(&path), std::fs::read(&path).unwrap()));
    files.filter(|(name, _)| !name.starts_with("tmp") && !name.starts_with("locks")).collect()
}

#[test]
fn a_directory_gets_what_is_missing_and_nothing_else() {
    for encrypted in [false, true] {
        let scratch = Scratch::new();
        scratch.init_as(encrypted);
        with_tree(&scratch);
        scratch.backup(&TREE);
        let there = scratch.mkdir("there");
        let to = there.to_str().unwrap();
        let first = scratch.ok(["replicate", to]);
        assert_eq!(replica(&first)["snapshots"].as_array().unwrap().len(), 1);
        assert_eq!(replica(&first)["lag_seconds"], 0);
        assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
        // Nothing new: nothing is sent.
        assert_eq!(replica(&scratch.ok(["replicate", to]))["sent_bytes"], 0);
        change(&scratch, 1);
        let second = scratch.backup(&TREE);
        let status = scratch.ok(["replicate", "--status", to]);
        assert_eq!(replica(&status)["missing_snapshots"], 1);
        let added = scratch.ok(["replicate", to]);
        assert!(replica(&added)["sent_bytes"].as_u64().unwrap() < 20_000, "{added:#}");
        // Pins follow.
        scratch.ok(["pin", &second]);
        scratch.ok(["replicate", to]);
        let (_, list) = at(&scratch, &there, &["list"]);
        assert_eq!(list["backups"][1]["pinned"], true, "{list:#}");
        assert_eq!(stamps(&list), stamps(&scratch.ok(["list"])));
        // What was forgotten there is not sent again, unless asked for.
        at(&scratch, &there, &["unpin", &second]);
        scratch.ok(["unpin", &second]);
        change(&scratch, 2);
        let third = scratch.backup(&TREE);
        scratch.ok(["replicate", to]);
        assert_eq!(at(&scratch, &there, &["prune", "--keep-last", "1", "--now"]).0, 0);
        change(&scratch, 3);
        let fourth = scratch.backup(&TREE);
        let again = scratch.ok(["replicate", to]);
        assert!(replica(&again)["sent_bytes"].as_u64().unwrap() < 20_000, "{again:#}");
        let (_, list) = at(&scratch, &there, &["list"]);
        assert_eq!(stamps(&list), [third, fourth]);
        scratch.ok(["replicate", "--all", to]);
        assert_eq!(stamps(&at(&scratch, &there, &["list"]).1).len(), 4);
        assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
        assert_eq!(at(&scratch, &there, &["validate", "--all"]).0, 0);
        let (code, _) = at(&scratch, &there, &["restore", "latest", "--target", "out"]);
        assert_eq!(code, 0);
        assert_eq!(
            std::fs::read(scratch.path("out/tree/big")).unwrap(),
            std::fs::read(scratch.path("tree/big")).unwrap()
        );
    }
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let scratch = Scratch::new();
    scratch.init();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let other = Scratch::new();
    other.init();
    scratch.mkdir("foreign");
    scratch.file("foreign/holiday.jpg", "picture");
    scratch.mkdir("good");
    let config = format!(
        "repository = \"repo\"\n[source.tree]\npath = \"tree\"\n\
         [[replica]]\nname = \"foreign\"\nurl = \"foreign\"\n\
         [[replica]]\nname = \"other\"\nurl = \"{}\"\n\
         [[replica]]\nname = \"unmounted\"\nurl = \"nowhere\"\n\
         [[replica]]\nname = \"laptop\"\nurl = \"ssh://icecore.invalid/srv/x\"\nssh = \"false\"\noptional = true\n\
         [[replica]]\nname = \"good\"\nurl = \"good\"\n",
        other.path("repo").display()
    );
    scratch.file("icecore.toml", config);
    let (code, answer) = scratch.json(["-c", "icecore.toml", "replicate"]);
    assert_eq!(code, 15, "{answer:#}");
    let codes: Vec<&str> = answer["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|replica| replica["error"]["code"].as_str().unwrap_or("fine"))
        .collect();
    assert_eq!(
        codes,
        ["not_empty", "another_repository", "replica_missing", "unreachable", "fine"],
        "{answer:#}"
    );
    assert!(answer["warnings"][0].as_str().unwrap().contains("optional replica laptop"));
    assert_eq!(std::fs::read_dir(scratch.path("foreign")).unwrap().count(), 1);
    let (code, _) = at(&scratch, &scratch.path("good"), &["validate", "--all"]);
    assert_eq!(code, 0);
    // By name; and after a backup, whose snapshot is saved in any case.
    assert_eq!(scratch.ok(["-c", "icecore.toml", "replicate", "good", "laptop"])["replicas"][0]["ok"], true);
    change(&scratch, 1);
    let (code, saved) = scratch.json(["-c", "icecore.toml", "backup", "--replicate"]);
    assert_eq!(code, 15, "{saved:#}");
    let (_, list) = at(&scratch, &scratch.path("good"), &["list"]);
    assert!(stamps(&list).contains(&saved["stamp"].as_str().unwrap().to_owned()));
    std::fs::remove_file(scratch.path("icecore.toml")).unwrap();
    let (code, answer) = scratch.json(["replicate"]);
    assert_eq!((code, &answer["error"]["code"]), (2, &"usage".into()));
    let itself = scratch.path("repo");
    let (code, answer) = scratch.json(["replicate", itself.to_str().unwrap()]);
    assert_eq!((code, &replica(&answer)["error"]["code"]), (15, &"usage".into()));
}

#[test]
fn over_ssh_a_replica_is_a_repository() {
    for encrypted in [false, true] {
        let scratch = Scratch::new();
        let Some(sshd) = Sshd::start(&scratch) else { return };
        scratch.init_as(encrypted);
        with_tree(&scratch);
        let first = scratch.backup(&TREE);
        let url = sshd.url(&scratch.path("far"));
        let ok = |arguments: &[&str]| sshd.ok(&scratch, arguments);
        ok(&["replicate", &url]);
        change(&scratch, 1);
        let second = scratch.backup(&TREE);
        ok(&["replicate", &url]);
        let list = ok(&["-r", &url, "list"]);
        assert_eq!(stamps(&list), [first.clone(), second.clone()]);
        assert_eq!(list["backups"][0]["backup_root"], format!("{url}/snapshots/{first}"));
        ok(&["-r", &url, "validate", "--all"]);
        ok(&["-r", &url, "check", "--read-data"]);
        ok(&["-r", &url, "restore", &second, "--target", "out"]);
        assert_eq!(describe(&scratch.path("out/tree"), true), describe(&scratch.path("tree"), true));
        // In place: only what differs is read over there, and the way back is kept here.
        let before = std::fs::read(scratch.path("tree/big")).unwrap();
        let restored = ok(&["-r", &url, "restore", &first, "tree/big", "--confirm-service-stopped"]);
        assert!(restored["read_bytes"].as_u64().unwrap() < 200_000, "{restored:#}");
        assert_ne!(std::fs::read(scratch.path("tree/big")).unwrap(), before);
        ok(&["-r", &url, "restore", "--rollback", "--confirm-service-stopped"]);
        assert_eq!(std::fs::read(scratch.path("tree/big")).unwrap(), before);
        // Backups go there directly too; and prunes.
        change(&scratch, 2);
        let third = ok(&["-r", &url, "backup", "tree"]);
        assert!(third["stored_bytes"].as_u64().unwrap() < 200_000, "{third:#}");
        ok(&["-r", &url, "prune", "--keep-last", "1", "--now"]);
        // The newest, and the one that the restore could be repeated from.
        let third = third["stamp"].as_str().unwrap().to_owned();
        assert_eq!(stamps(&ok(&["-r", &url, "list"])), [first, third]);
        ok(&["-r", &url, "check", "--read-data"]);
        // Damage over there is seen from here, whatever was kept near, and is mended by reading the source again.
        let mend = files_below(&scratch.path("far/packs"));
        let largest = mend.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let whole = std::fs::read(largest).unwrap();
        let mut broken = whole.clone();
        broken[whole.len() / 2] ^= 1;
        put(largest, &broken);
        let reread = ok(&["-r", &url, "backup", "tree", "--reread"]);
        assert!(reread["stored_bytes"].as_u64().unwrap() > 0, "{reread:#}");
        let stamp = reread["stamp"].as_str().unwrap().to_owned();
        ok(&["-r", &url, "validate", &stamp]);
        put(largest, &whole);
        let pack = files_below(&scratch.path("far/packs")).remove(0);
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[20] ^= 1;
        put(&pack, &bytes);
        let (code, _) = sshd.json(&scratch, &["-r", &url, "check", "--read-data"]);
        assert_eq!(code, 14);
    }
}

#[test]
fn after_a_prune_packs_are_put_together_over_there() {
    for encrypted in [false, true] {
        let scratch = Scratch::new();
        let Some(sshd) = Sshd::start(&scratch) else { return };
        scratch.init_as(encrypted);
        for round in 0..8u64 {
            scratch.file(&format!("tree/file{round}"), noise(600_000, round));
            scratch.backup(&TREE);
        }
        let url = sshd.url(&scratch.path("far"));
        let replicate = || sshd.ok(&scratch, &["replicate", &url]);
        let first = replicate();
        assert!(replica(&first)["sent_bytes"].as_u64().unwrap() > 4_500_000);
        scratch.ok(["prune", "--keep-last", "1", "--now"]);
        scratch.file("tree/new", noise(30_000, 99));
        scratch.backup(&TREE);
        let second = replicate();
        let sent = replica(&second)["sent_bytes"].as_u64().unwrap();
        assert!(sent < 200_000, "{second:#}");
        sshd.ok(&scratch, &["-r", &url, "check", "--read-data"]);
    }
}

#[test]
fn without_the_key_files_are_carried_as_they_are() {
    let scratch = Scratch::new();
    scratch.init_encrypted();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let Some(sshd) = Sshd::start(&scratch) else { return };
    // A backup host without the key pulls from the source host.
    scratch.mkdir("pulled");
    let pull = || {
        let mut command = sshd.icecore(&scratch);
        command.env_remove("ICECORE_IDENTITY").args(["--json", "-r", &sshd.url(&scratch.path("repo"))]);
        document(command.args(["replicate", "pulled"]))
    };
    let (code, answer) = pull();
    assert_eq!(code, 0, "{answer:#}");
    assert!(answer["warnings"][0].as_str().unwrap().contains("without the repository's key"));
    change(&scratch, 1);
    scratch.backup(&TREE);
    let (code, answer) = pull();
    assert_eq!(code, 0, "{answer:#}");
    assert!(replica(&answer)["sent_bytes"].as_u64().unwrap() < 20_000, "{answer:#}");
    assert_eq!(at(&scratch, &scratch.path("pulled"), &["check", "--read-data"]).0, 0);
    assert_eq!(at(&scratch, &scratch.path("pulled"), &["validate", "--all"]).0, 0);
}

#[test]
fn a_replica_that_somebody_has_made_readable_gets_nothing() {
    let scratch = Scratch::new();
    scratch.init_encrypted();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let there = scratch.mkdir("there");
    scratch.ok(["replicate", "there"]);
    let config = there.join("config");
    let text = std::fs::read_to_string(&config).unwrap();
    let body = text.rsplit_once(",\n  \"blake3\"").unwrap().0;
    let encryption = &body[body.find("\"encryption\": {").unwrap()..];
    let body = body.replace(encryption, "\"encryption\": null").replace("[\n    \"encryption\"\n  ]", "[]");
    put(&config, format!("{body},\n  \"blake3\": \"{}\"\n}}\n", blake3::hash(body.as_bytes()).to_hex()));
    for key in files_below(&there.join("keys")) {
        std::fs::remove_file(key).unwrap();
    }
    change(&scratch, 1);
    scratch.backup(&TREE);
    let before = contents(&there);
    for arguments in [&["replicate", "there"][..], &["replicate", "--status", "there"]] {
        let (code, answer) = scratch.json(arguments);
        assert_eq!((code, &replica(&answer)["error"]["code"]), (15, &"not_alike".into()), "{answer:#}");
    }
    assert!(contents(&there) == before);
}

#[test]
fn what_cannot_be_reached_is_told() {
    let scratch = Scratch::new();
    scratch.init();
    let Some(sshd) = Sshd::start(&scratch) else { return };
    let told = |command: &mut Command, wanted: &str| {
        let (code, answer) = document(command);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(code != 0 && message.contains(wanted), "{answer:#}");
    };
    let url = sshd.url(&scratch.path("nothing"));
    told(sshd.icecore(&scratch).args(["--json", "-r", &url, "list"]), "no repository");
    told(sshd.icecore(&scratch).args(["--json", "-r", "ssh://127.0.0.1:1/x", "list"]), "refused");
    told(
        sshd.icecore(&scratch)
            .env("ICECORE_REMOTE_PATH", "no-such-program")
            .args(["--json", "-r", &url, "list"]),
        "not found",
    );
    sshd.force("echo welcome to this host, please read the rules");
    told(sshd.icecore(&scratch).args(["--json", "-r", &url, "list"]), "welcome to this");
}

#[test]
fn who_does_not_answer_is_not_waited_for_after_a_signal() {
    let scratch = Scratch::new();
    scratch.init();
    let silent = scratch.file("silent", "#!/bin/sh\nprintf 'icecore serve 2\\n'\nexec sleep 100\n");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&silent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = scratch.icecore();
    command.env("ICECORE_SSH", &silent).args(["--json", "-r", "ssh://x/y", "list"]);
    let begun = std::time::Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    run(Command::new("kill").arg(child.id().to_string()));
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(40), "{:?}", begun.elapsed());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("has not answered"), "{said}");
}

/// The far end of a connection, without any client's good manners.
struct Hostile {
    child: Child,
    number: u64,
}

impl Hostile {
    fn connect(place: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(["serve", "--stdio", "--append-only"])
            .arg(place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(HELLO).unwrap();
        let mut hello = [0; HELLO.len()];
        child.stdout.as_mut().unwrap().read_exact(&mut hello).unwrap();
        Self { child, number: 0 }
    }

    fn ask(&mut self, request: &Request, payload: &[u8]) -> Answer {
        self.number += 1;
        write_frame(self.child.stdin.as_mut().unwrap(), self.number, request, payload).unwrap();
        read_frame::<Answer>(self.child.stdout.as_mut().unwrap()).unwrap().unwrap().says
    }

    fn is_refused(&mut self, request: &Request, payload: &[u8]) {
        let answer = self.ask(request, payload);
        let refused = matches!(answer, Answer::Failed { .. } | Answer::Composed(false) | Answer::Unsupported);
        assert!(refused, "{request:?}: {answer:?}");
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

#[test]
fn whoever_may_only_add_can_destroy_nothing() {
    let scratch = Scratch::new();
    scratch.init();
    with_tree(&scratch);
    scratch.backup(&TREE);
    scratch.ok(["validate", "latest"]);
    let there = scratch.mkdir("there");
    scratch.ok(["replicate", "there"]);
    scratch.file("secret", "outside the repository");
    let before = contents(&there);
    let mut hostile = Hostile::connect(&there);
    for (key, bytes) in &before {
        hostile.is_refused(&Request::Delete { key: key.clone() }, &[]);
        for other in [b"".as_slice(), b"something else", &bytes[..bytes.len() / 2]] {
            if other != bytes.as_slice() {
                hostile.is_refused(&Request::Put { key: key.clone() }, other);
            }
        }
        hostile.is_refused(&Request::PutNew { key: key.clone() }, bytes);
        let piece = Piece::Sent { len: 4 };
        hostile.is_refused(&Request::Compose { key: key.clone(), pieces: vec![piece] }, b"evil");
    }
    let name = blake3::hash(b"condemned").to_hex();
    for key in [
        format!("doomed/{name}"),
        format!("quarantine/20260101T000000Z/packs/{name}"),
        format!("packs/{}/{name}", &name[..2]),
        "snapshots/20990101T000000Z".into(),
        "tmp/x".into(),
        "locks/x".into(),
        "restores/x".into(),
        "../secret".into(),
        "packs/../../secret".into(),
        "/etc/passwd".into(),
        "packs//x".into(),
        "elsewhere".into(),
        String::new(),
    ] {
        hostile.is_refused(&Request::Put { key: key.clone() }, b"not what the name says");
        hostile.is_refused(&Request::PutNew { key: key.clone() }, b"not what the name says");
    }
    // A name whose hash is right, of what may not be added at all.
    hostile.is_refused(&Request::Put { key: format!("doomed/{name}") }, b"condemned");
    for key in ["../secret", "packs/../../secret", "/etc/passwd", "tmp/x", "locks/prune"] {
        hostile.is_refused(&Request::Get { key: key.into() }, &[]);
        hostile.is_refused(&Request::Delete { key: key.into() }, &[]);
        hostile.is_refused(&Request::Size { key: key.into() }, &[]);
    }
    for directory in ["..", "/", "tmp", ""] {
        hostile.is_refused(&Request::List { directory: directory.into() }, &[]);
    }
    for name in ["writers", "prune", "backup-app", "../x", ""] {
        for is_shared in [false, true] {
            hostile.is_refused(&Request::Lock { name: name.into(), is_shared }, &[]);
        }
    }
    // A key in a repository that isn't encrypted would make everybody refuse it.
    let key = format!("keys/evil.{}.age", &blake3::hash(b"no key").to_hex()[..16]);
    hostile.is_refused(&Request::Put { key }, b"no key");
    // A file where a directory belongs, a second name for what has one.
    let (name, line) = before.iter().find(|(key, _)| key.starts_with("snapshots/")).unwrap();
    for key in
        ["pins", "packs", "packs/ab", "snapshots", "index", "keys", "proofs", &format!("{name}/x"), "pins/x"]
    {
        hostile.is_refused(&Request::Put { key: key.into() }, b"");
        hostile.is_refused(&Request::PutNew { key: key.into() }, b"");
    }
    hostile.is_refused(&Request::PutNew { key: "snapshots/20300101T000000Z".into() }, line);
    let huge = Request::GetRange { key: "config".into(), offset: 0, len: u64::MAX };
    hostile.is_refused(&huge, &[]);
    drop(hostile);
    assert!(contents(&there) == before);
}

#[test]
fn noise_instead_of_messages_harms_nothing() {
    let scratch = Scratch::new();
    scratch.init();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let there = scratch.mkdir("there");
    scratch.ok(["replicate", "there"]);
    let before = contents(&there);
    for round in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(["serve", "--stdio", "--append-only"])
            .arg(&there)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let hello: &[u8] = if round % 2 == 0 { HELLO } else { &[] };
        let _ = stdin.write_all(hello).and_then(|()| stdin.write_all(&noise(2000, round)));
        drop(stdin);
        assert!(!child.wait().unwrap().success());
    }
    assert!(contents(&there) == before);
}

#[test]
fn a_forced_append_only_command_takes_new_snapshots_and_keeps_old_ones() {
    let scratch = Scratch::new();
    let Some(sshd) = Sshd::start(&scratch) else { return };
    scratch.init();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let there = scratch.path("far");
    sshd.force(&format!("{} serve --stdio --append-only {}", env!("CARGO_BIN_EXE_icecore"), there.display()));
    let url = sshd.url(Path::new("/somewhere/else"));
    let by_ssh = |arguments: &[&str]| sshd.json(&scratch, arguments);
    assert_eq!(by_ssh(&["replicate", &url]).0, 0);
    let before = contents(&there);
    change(&scratch, 1);
    let second = scratch.backup(&TREE);
    assert_eq!(by_ssh(&["replicate", &url]).0, 0);
    // Directly too.
    change(&scratch, 2);
    let (code, answer) = by_ssh(&["-r", &url, "backup", "tree"]);
    assert_eq!(code, 0, "{answer:#}");
    for destroying in [
        vec!["forget", &second],
        vec!["prune", "--keep-last", "1", "--now"],
        vec!["prune", "--keep-last", "1"],
    ] {
        let (code, answer) = by_ssh(&[&["-r", &url], destroying.as_slice()].concat());
        assert_ne!(code, 0, "{answer:#}");
    }
    let after = contents(&there);
    assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)));
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
    assert_eq!(stamps(&at(&scratch, &there, &["list"]).1).len(), 3);
}

#[test]
fn killed_at_either_end_it_holds_complete_snapshots_only() {
    let rounds = if std::env::var_os("ICECORE_SOAK").is_some() { 50 } else { 12 };
    let scratch = Scratch::new();
    let Some(sshd) = Sshd::start(&scratch) else { return };
    scratch.init();
    for round in 0..3u8 {
        scratch.file(&format!("tree/file{round}"), noise(40_000_000, u64::from(round) + 50));
        scratch.backup(&TREE);
    }
    let url = sshd.url(&scratch.path("far"));
    let (mut killed, mut sent) = (0, 0);
    for round in 0..rounds {
        let mut command = sshd.icecore(&scratch);
        command.args(["--json", "replicate", "--limit", "60M", &url]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100 + 150 * (round % 8)));
        if round % 2 == 0 {
            drop(child.kill());
        } else {
            // The far end's process; the near one tries again by itself, and is stopped then.
            drop(
                Command::new("pkill")
                    .args(["-KILL", "-f", &format!("serve --stdio -- {}", scratch.path("far").display())])
                    .status(),
            );
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(Command::new("kill").arg(child.id().to_string()).status());
        }
        let ended = child.wait().unwrap();
        killed += u32::from(!ended.success());
        if !scratch.path("far/config").exists() {
            continue;
        }
        let (code, answer) = at(&scratch, &scratch.path("far"), &["check", "--read-data"]);
        assert_eq!(code, 0, "{answer:#}");
        let (code, answer) = at(&scratch, &scratch.path("far"), &["list"]);
        assert_eq!(code, 0);
        sent = sent.max(stamps(&answer).len());
        if sent > 0 {
            assert_eq!(at(&scratch, &scratch.path("far"), &["validate", "--all"]).0, 0);
        }
    }
    assert!(killed >= 4, "{killed} runs were broken off");
    sshd.ok(&scratch, &["replicate", &url]);
    assert_eq!(stamps(&at(&scratch, &scratch.path("far"), &["list"]).1).len(), 3);
    assert_eq!(at(&scratch, &scratch.path("far"), &["validate", "--all"]).0, 0);
}

#[test]
fn a_plain_rsync_is_a_replica_and_is_gone_on_with() {
    if !crate::support::has("rsync") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    with_tree(&scratch);
    scratch.backup(&TREE);
    let source = format!("{}/", scratch.path("repo").display());
    run(Command::new("rsync").args(["-a", &source]).arg(scratch.path("there")));
    change(&scratch, 1);
    scratch.backup(&TREE);
    let added = scratch.ok(["replicate", "there"]);
    assert!(replica(&added)["sent_bytes"].as_u64().unwrap() < 20_000, "{added:#}");
    run(Command::new("rsync").args(["-a", &source]).arg(scratch.path("there")));
    assert_eq!(at(&scratch, &scratch.path("there"), &["check", "--read-data"]).0, 0);
    assert_eq!(stamps(&at(&scratch, &scratch.path("there"), &["list"]).1).len(), 2);
}

#[test]
fn who_sends_future_stamps_ages_nothing_out() {
    use icecore::format::Manifest;
    use icecore::id::Id;
    use icecore::stamp::{Stamp, now_nanos};
    use std::time::{Duration, SystemTime};
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/file", noise(10_000, 1));
    let base = scratch.backup(&TREE);
    let repo = scratch.path("repo");
    let line = std::fs::read_to_string(repo.join("snapshots").join(&base)).unwrap();
    let manifest = std::fs::read(repo.join("manifests").join(line.trim())).unwrap();
    let aged = |path: &Path, days: u64| {
        let time = SystemTime::now() - Duration::from_secs(days * 86_400);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let forge = |unix: i64, arrived_before: u64| {
        let mut manifest = Manifest::decode(&manifest).unwrap();
        manifest.stamp = Stamp::from_unix(unix);
        let bytes = manifest.encode();
        put(&repo.join("manifests").join(Id::of(&bytes).hex()), &bytes);
        let name = repo.join("snapshots").join(manifest.stamp.to_string());
        put(&name, format!("{}\n", Id::of(&bytes)));
        aged(&name, arrived_before);
        manifest.stamp.to_string()
    };
    aged(&repo.join("config"), 30);
    let now = Stamp::from_nanos(now_nanos()).unix();
    let day = 86_400;
    let good: Vec<String> = (1..6i64).map(|age| forge(now - age * day, age as u64)).collect();
    // What came with the repository itself counts by its name.
    let old: Vec<String> = (1..4i64).map(|week| forge(now - (30 + 7 * week) * day, 30)).collect();
    // A hostile source sends a snapshot for each of the next hundred days, and some of last week.
    for ahead in 1..100 {
        forge(now + ahead * day, 0);
    }
    for age in 2..6 {
        forge(now - age * day + 60, 0);
    }
    scratch.ok(["forget", &base]);
    let going = |arguments: &[&str]| -> Vec<String> {
        let told = scratch.ok([&["prune", "-n"], arguments].concat());
        let all = told["snapshots"].as_array().unwrap().iter();
        all.filter(|one| one["stays"] == false).map(|one| one["stamp"].as_str().unwrap().to_owned()).collect()
    };
    let policy = ["--keep-daily", "7", "--keep-weekly", "20"];
    let by_name = going(&policy);
    assert!(good.iter().all(|stamp| by_name.contains(stamp)), "by name the good ones go");
    let by_arrival = going(&[policy.as_slice(), &["--by-arrival"]].concat());
    assert!(good.iter().chain(&old).all(|stamp| !by_arrival.contains(stamp)), "{by_arrival:?}");
    assert!(by_arrival.len() > 100, "{by_arrival:?}");
    // As the config of the replica's host says it.
    scratch.file(
        "replica.toml",
        "repository = \"repo\"\n[retention]\nkeep_daily = 7\nkeep_weekly = 20\nby_arrival = true\n",
    );
    scratch.ok(["-c", "replica.toml", "prune"]);
    let left = stamps(&scratch.ok(["list"]));
    assert!(good.iter().chain(&old).all(|stamp| left.contains(stamp)), "{left:?}");
}

/// A store with manners of its own.
struct Odd {
    store: icecore::backend::MemoryBackend,
    /// Its retention lets nothing be deleted whose key begins like this.
    keeps: Option<&'static str>,
    /// It makes a name, and then says that it is taken: its answer was lost, and the request repeated.
    forgets_names: bool,
}

impl Backend for Odd {
    fn location(&self) -> String {
        self.store.location()
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        self.store.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        self.store.get_range(key, offset, len)
    }
    fn size(&self, key: &str) -> Result<u64, BackendError> {
        self.store.size(key)
    }
    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        self.store.arrived(key)
    }
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.store.put(key, bytes)
    }
    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.store.put_new(key, bytes)?;
        if self.forgets_names { self.store.put_new(key, bytes) } else { Ok(()) }
    }
    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        self.store.list(directory)
    }
    fn delete(&self, key: &str) -> Result<(), BackendError> {
        if self.keeps.is_none_or(|kept| !key.starts_with(kept)) {
            return self.store.delete(key);
        }
        let source = std::io::Error::other("the object is locked");
        Err(BackendError {
            kind: icecore::backend::ErrorKind::Held,
            action: "delete",
            path: key.into(),
            source: source.into(),
        })
    }
    fn try_lock(
        &self,
        name: &str,
        kind: icecore::backend::LockKind,
    ) -> Result<icecore::backend::Lock, BackendError> {
        self.store.try_lock(name, kind)
    }
}

#[test]
fn what_retention_still_holds_is_told_and_stays_whole() {
    use icecore::prune::{PruneOptions, prune};
    use icecore::repository::{IndexOptions, Repository};
    use std::sync::Arc;
    let scratch = Scratch::new();
    scratch.init();
    for round in 0..3u64 {
        scratch.file("tree/file", noise(100_000, round));
        scratch.backup(&TREE);
    }
    // Everything, or names only: then what they need must not go.
    for kept in ["", "snapshots/"] {
        let store = Odd {
            store: icecore::backend::MemoryBackend::default(),
            keeps: Some(kept),
            forgets_names: false,
        };
        for (key, bytes) in contents(&scratch.path("repo")) {
            store.put(&key, &bytes).unwrap();
        }
        let store: Arc<dyn Backend> = Arc::new(store);
        let open = || Repository::open(Arc::clone(&store), IndexOptions::default()).unwrap();
        let repository = open();
        let all = repository.snapshots().unwrap().list;
        let going = all[..2].iter().map(|snapshot| snapshot.stamp).collect();
        let options = PruneOptions { grace: None, patience: std::time::Duration::ZERO };
        let mut forgotten = Vec::new();
        let pruned =
            prune(&repository, &options, &going, &mut forgotten, &icecore::progress::Silent).unwrap();
        assert!(pruned.held_files >= 2 && forgotten.is_empty(), "{pruned:?}");
        assert!(pruned.warnings.iter().any(|warning| warning.contains("retention")), "{pruned:?}");
        let again = open();
        let left = again.snapshots().unwrap().list;
        assert_eq!(left.len(), 3);
        for snapshot in &left {
            for source in &snapshot.manifest.sources {
                let entries = again.entries(&source.root.as_ref().unwrap().content).unwrap();
                for chunk in again.chunk_list(&entries[0].content).unwrap() {
                    again.read_chunk(&chunk.id).unwrap();
                }
            }
        }
    }
}

/// The files of the packs of a repository, the largest first.
fn packs(place: &Path) -> Vec<std::path::PathBuf> {
    let mut packs = files_below(&place.join("packs"));
    packs.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    packs
}

#[test]
fn what_is_not_whole_here_is_not_sent_and_the_rest_is() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("one/file", noise(300_000, 1));
    let lost = scratch.backup(&["one"]);
    scratch.file("two.json", "{}");
    let sound = scratch.backup(&["two.json"]);
    scratch.mkdir("there");
    // A pack is gone here.
    let pack = packs(&scratch.path("repo")).remove(0);
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::remove_file(&pack).unwrap();
    let (code, answer) = scratch.json(["replicate", "there"]);
    assert_eq!(code, 15, "{answer:#}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("is lost here"), "{answer:#}");
    let there = scratch.path("there");
    assert_eq!(stamps(&at(&scratch, &there, &["list"]).1), [sound.as_str()]);
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
    // It is back: the older one is sent on request.
    put(&pack, &bytes);
    scratch.ok(["replicate", "--all", "there"]);
    assert_eq!(stamps(&at(&scratch, &there, &["list"]).1), [lost, sound]);
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
}

#[test]
fn what_is_not_whole_there_is_sent_again() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/file", noise(300_000, 1));
    scratch.backup(&TREE);
    let there = scratch.mkdir("there");
    scratch.ok(["replicate", "there"]);
    let pack = packs(&there).remove(0);
    let bytes = std::fs::read(&pack).unwrap();
    put(&pack, &bytes[..bytes.len() / 2]);
    scratch.file("tree/more", noise(1000, 2));
    scratch.backup(&TREE);
    scratch.ok(["replicate", "there"]);
    assert!(std::fs::read(&pack).unwrap() == bytes);
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
    // Gone altogether, with nothing new here.
    std::fs::remove_file(&pack).unwrap();
    scratch.ok(["replicate", "--all", "there"]);
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
}

#[test]
fn what_is_condemned_there_is_stored_there_once_more() {
    let scratch = Scratch::new();
    scratch.init();
    let there = scratch.mkdir("there");
    scratch.file("tree/file", noise(300_000, 1));
    let first = scratch.backup(&TREE);
    scratch.ok(["replicate", "there"]);
    // Nobody needs it there any more, and it is condemned; here two new snapshots need it.
    put(&scratch.path("tree/file"), noise(1000, 2));
    scratch.backup(&TREE);
    scratch.ok(["replicate", "there"]);
    assert_eq!(at(&scratch, &there, &["forget", &first]).0, 0);
    assert_eq!(at(&scratch, &there, &["prune", "--keep-last", "9"]).0, 0);
    let doomed = files_below(&there.join("doomed"));
    assert!(!doomed.is_empty());
    put(&scratch.path("tree/file"), noise(300_000, 1));
    scratch.backup(&TREE);
    put(&scratch.path("tree/other"), noise(10, 3));
    scratch.backup(&TREE);
    scratch.ok(["replicate", "there"]);
    // As if the grace were over.
    assert_eq!(at(&scratch, &there, &["prune", "--keep-last", "9", "--grace", "0s"]).0, 0);
    assert_eq!(at(&scratch, &there, &["prune", "--keep-last", "9", "--grace", "0s"]).0, 0);
    assert_eq!(at(&scratch, &there, &["check", "--read-data"]).0, 0);
    assert_eq!(at(&scratch, &there, &["validate", "--all"]).0, 0);
}

#[test]
fn packs_of_very_many_pieces_are_sent_as_they_are() {
    let scratch = Scratch::new();
    let Some(sshd) = Sshd::start(&scratch) else { return };
    scratch.init();
    for number in 0..45_000u32 {
        scratch.file(&format!("tree/{number}"), noise(90, u64::from(number)));
    }
    scratch.backup(&TREE);
    let url = sshd.url(&scratch.path("far"));
    let replicate = || sshd.ok(&scratch, &["replicate", &url]);
    replicate();
    for number in (0..45_000u32).filter(|number| number % 3 > 0) {
        std::fs::remove_file(scratch.path(&format!("tree/{number}"))).unwrap();
    }
    // What is left there lies between garbage, and is put together here with what isn't there yet.
    for round in 0..9u32 {
        scratch.file("tree/0", noise(90, u64::from(100_000 + round)));
        scratch.file(&format!("tree/new{round}"), noise(90, u64::from(200_000 + round)));
        scratch.backup(&TREE);
    }
    scratch.ok(["prune", "--keep-last", "1", "--now"]);
    replicate();
    assert_eq!(at(&scratch, &scratch.path("far"), &["check", "--read-data"]).0, 0);
}

#[test]
fn a_name_that_was_made_unheard_is_ones_own() {
    use icecore::format::Manifest;
    use icecore::repository::{IndexOptions, Repository};
    use std::sync::Arc;
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/file", "x");
    scratch.backup(&TREE);
    let store = icecore::backend::MemoryBackend::default();
    let mut manifest = None;
    for (key, bytes) in contents(&scratch.path("repo")) {
        if key.starts_with("manifests/") {
            manifest = Some(Manifest::decode(&bytes).unwrap());
        }
        if !key.starts_with("snapshots/") && !key.starts_with("manifests/") {
            store.put(&key, &bytes).unwrap();
        }
    }
    let store: Arc<dyn Backend> = Arc::new(Odd { store, keeps: None, forgets_names: true });
    let repository = Repository::open(Arc::clone(&store), IndexOptions::default()).unwrap();
    let mut manifest = manifest.unwrap();
    let stamp = manifest.stamp;
    repository.publish(&mut manifest).unwrap();
    assert_eq!(manifest.stamp, stamp);
    let snapshots = repository.snapshots().unwrap();
    assert_eq!((snapshots.list.len(), snapshots.arriving.len(), snapshots.damaged.len()), (1, 0, 0));
}
