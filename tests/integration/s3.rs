//! Repositories in an object store: straight backups, replicas, restores, damage, credentials.

use crate::far::S3;
use crate::support::{Scratch, describe, document, files_below, noise, put, run};
use icecore::backend::{Backend, ErrorKind, S3Backend, S3Options};
use serde_json::Value;

fn backend(server: &S3, prefix: &str) -> S3Backend {
    S3Backend::new(S3Options {
        bucket: "bucket".into(),
        prefix: server.prefix(prefix),
        access_key: Some(server.access_key.clone()),
        secret_key: Some(server.secret_key.clone()),
        region: Some("us-east-1".into()),
        endpoint: Some(server.endpoint.clone()),
        ..S3Options::default()
    })
    .unwrap()
}

/// What every backend promises, but for locks, of which there are none.
#[test]
fn objects_keep_the_contract() {
    let Some(server) = S3::start() else { return };
    let backend = backend(&server, "some/prefix");
    let kind = |error: icecore::backend::BackendError| error.kind;
    backend.put("index/a", b"hello").unwrap();
    backend.put("index/a", b"hello world").unwrap();
    assert_eq!(backend.get("index/a").unwrap(), b"hello world");
    assert_eq!(backend.get_range("index/a", 6, 5).unwrap(), b"world");
    assert_eq!(backend.get_range("index/a", 11, 0).unwrap(), b"");
    assert_eq!(backend.size("index/a").unwrap(), 11);
    assert!(backend.arrived("index/a").unwrap().is_some());
    assert_eq!(backend.get("index/none").map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(backend.size("index/none").map_err(kind), Err(ErrorKind::NotFound));
    assert!(!backend.has("index/none").unwrap());
    assert_eq!(backend.get_range("index/none", 0, 3).map_err(kind), Err(ErrorKind::NotFound));
    for (offset, len) in [(8, 5), (11, 1), (100, 5), (u64::MAX, 3)] {
        assert_eq!(
            backend.get_range("index/a", offset, len).map_err(kind),
            Err(ErrorKind::Short),
            "{offset}"
        );
    }
    let won = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8u8 {
            let (backend, won) = (&backend, &won);
            scope.spawn(move || match backend.put_new("snapshots/x", &[number]) {
                Ok(()) => drop(won.fetch_add(1, std::sync::atomic::Ordering::SeqCst)),
                Err(error) => assert_eq!(error.kind, ErrorKind::Exists),
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
    assert!(backend.prove_exclusive().unwrap());
    for key in ["packs/ab/abc", "packs/cd/cde", "packs-else"] {
        backend.put(key, b"x").unwrap();
    }
    let mut listed = backend.list("packs").unwrap();
    listed.sort();
    assert_eq!(listed, [("packs/ab/abc".to_owned(), 1), ("packs/cd/cde".to_owned(), 1)]);
    assert!(backend.list("nothing").unwrap().is_empty());
    // In parts, and more than a page of names.
    let large = noise(20_000_000, 1);
    backend.put("packs/ab/large", &large).unwrap();
    assert!(backend.get("packs/ab/large").unwrap() == large);
    assert!(backend.get_range("packs/ab/large", 9_000_000, 1000).unwrap() == large[9_000_000..9_001_000]);
    for number in 0..1010 {
        backend.put(&format!("proofs/{number}"), b"").unwrap();
    }
    assert_eq!(backend.list("proofs").unwrap().len(), 1010);
    backend.delete("packs/ab/large").unwrap();
    backend.delete("packs/ab/large").unwrap();
    assert!(!backend.has("packs/ab/large").unwrap());
}

fn ok(server: &S3, scratch: &Scratch, arguments: &[&str]) -> Value {
    let (code, answer) = document(server.icecore(scratch).arg("--json").args(arguments));
    assert_eq!(code, 0, "{arguments:?}: {answer:#}");
    answer
}

#[test]
fn straight_to_the_store_and_back() {
    let Some(server) = S3::start() else { return };
    for encrypted in [false, true] {
        let scratch = Scratch::new();
        let url = server.url(&format!("straight{}", u8::from(encrypted)));
        let ok = |arguments: &[&str]| ok(&server, &scratch, &[&["-r", &url], arguments].concat());
        if encrypted {
            ok(&["init", "--recipient", &scratch.new_identity("identity")]);
        } else {
            ok(&["init"]);
        }
        scratch.file("tree/big", noise(3_000_000, 1));
        scratch.file("tree/text", "words ".repeat(20_000));
        let first = ok(&["backup", "tree"])["stamp"].as_str().unwrap().to_owned();
        let mut bytes = noise(3_000_000, 1);
        bytes[1_500_000] ^= 1;
        put(&scratch.path("tree/big"), &bytes);
        // The base lies in the cache: what changed is stored as a difference.
        let second = ok(&["backup", "tree"]);
        assert!(second["stored_bytes"].as_u64().unwrap() < 2000, "{second:#}");
        // Without the cache it is stored whole, since fetching a base costs more.
        std::fs::remove_dir_all(scratch.path("home/.cache")).unwrap();
        bytes[500_000] ^= 1;
        put(&scratch.path("tree/big"), &bytes);
        let third = ok(&["backup", "tree"]);
        assert!((2000..200_000).contains(&third["stored_bytes"].as_u64().unwrap()), "{third:#}");
        ok(&["validate", "--all"]);
        ok(&["check", "--read-data"]);
        ok(&["restore", "latest", "--target", "out"]);
        assert_eq!(describe(&scratch.path("out/tree"), true), describe(&scratch.path("tree"), true));
        let restored = ok(&["restore", &first, "tree/big", "--confirm-service-stopped"]);
        assert!(restored["read_bytes"].as_u64().unwrap() < 400_000, "{restored:#}");
        assert!(std::fs::read(scratch.path("tree/big")).unwrap() == noise(3_000_000, 1));
        ok(&["restore", "--rollback", "--confirm-service-stopped"]);
        assert!(std::fs::read(scratch.path("tree/big")).unwrap() == bytes);
        ok(&["prune", "--keep-last", "1", "--now"]);
        ok(&["check", "--read-data"]);
        let list = ok(&["list"]);
        assert_eq!(
            list["backups"][0]["backup_root"].as_str().unwrap().split("/snapshots").next(),
            Some(url.as_str())
        );
        // A secret is nowhere: not in what is stored, nor kept, nor said.
        for path in files_below(scratch.directory.path()) {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(server.secret_key.len()).any(|window| window == server.secret_key.as_bytes()),
                "{path:?}"
            );
        }
        // Damage in the store is seen.
        let store = backend(&server, &format!("straight{}", u8::from(encrypted)));
        let (pack, _) = store.list("packs").unwrap().remove(0);
        let mut bytes = store.get(&pack).unwrap();
        bytes[30] ^= 1;
        store.put(&pack, &bytes).unwrap();
        let (code, _) =
            document(server.icecore(&scratch).args(["--json", "-r", &url, "check", "--read-data"]));
        assert_eq!(code, 14);
        let (code, answer) = document(server.icecore(&scratch).args(["--json", "-r", &url, "init"]));
        assert_eq!((code, &answer["error"]["code"]), (1, &"repository_exists".into()));
    }
}

#[test]
fn replicas_in_a_store() {
    let Some(server) = S3::start() else { return };
    let scratch = Scratch::new();
    scratch.init_encrypted();
    scratch.file("tree/big", noise(3_000_000, 1));
    scratch.backup(&["tree"]);
    let url = server.url("replica");
    let url = url.as_str();
    let first = ok(&server, &scratch, &["replicate", url]);
    assert_eq!(first["replicas"][0]["packs"], 2);
    assert_eq!(ok(&server, &scratch, &["replicate", url])["replicas"][0]["sent_bytes"], 0);
    scratch.file("tree/more", noise(10_000, 2));
    scratch.backup(&["tree"]);
    let second = ok(&server, &scratch, &["replicate", url]);
    assert!(second["replicas"][0]["sent_bytes"].as_u64().unwrap() < 20_000, "{second:#}");
    assert_eq!(ok(&server, &scratch, &["replicate", "--status", url])["replicas"][0]["lag_seconds"], 0);
    // The host is gone; the store and the identity are left.
    std::fs::remove_dir_all(scratch.path("repo")).unwrap();
    run(std::process::Command::new("mv").arg(scratch.path("tree")).arg(scratch.path("as-it-was")));
    ok(&server, &scratch, &["-r", url, "restore", "latest", "--target", "new"]);
    assert_eq!(describe(&scratch.path("new/tree"), true), describe(&scratch.path("as-it-was"), true));
    // And a repository here again, by the same means.
    scratch.mkdir("again");
    ok(&server, &scratch, &["-r", url, "replicate", "again"]);
    assert_eq!(document(scratch.icecore().args(["--json", "-r", "again", "validate", "--all"])).0, 0);
}

#[test]
fn credentials_come_from_files_and_errors_name_none() {
    let Some(server) = S3::start() else { return };
    let scratch = Scratch::new();
    let url = server.url("by-profile");
    let url = url.as_str();
    let (key, secret) = (&server.access_key, server.secret_key.as_str());
    scratch.file("home/.aws/credentials", format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n[other]\naws_access_key_id = two\naws_secret_access_key = {secret}\n"));
    scratch.file("home/.aws/config", format!("[default]\nregion = eu-central-1\nendpoint_url = {}\n[profile other]\nregion = eu-central-1\nendpoint_url = http://127.0.0.1:1\n", server.endpoint));
    let (code, answer) = document(scratch.icecore().args(["--json", "-r", url, "init"]));
    assert_eq!(code, 0, "{answer:#}");
    // The other profile leads nowhere: another test's server could take a port that is free, but not that one.
    let (code, answer) =
        document(scratch.icecore().env("AWS_PROFILE", "other").args(["--json", "-r", url, "list"]));
    assert_eq!((code, &answer["error"]["code"]), (1, &"unreachable".into()), "{answer:#}");
    assert!(!answer.to_string().contains(secret));
    let (code, answer) = document(scratch.icecore().args(["--json", "-r", "s3://no-such-bucket/x", "list"]));
    assert_eq!(code, 10, "{answer:#}");
    assert!(!answer.to_string().contains(secret));
}
