//! `scripts/extract.py`, written from `docs/format.md` alone, restores what the program stored.

use crate::support::{Scratch, describe, noise, put, python, run};
use std::path::Path;
use std::process::Command;

fn script() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/extract.py")
}

fn tree(scratch: &Scratch) {
    let tree = scratch.mkdir("tree");
    scratch.file("tree/sub/big", noise(3_000_000, 1));
    scratch.file("tree/sub/text", "words ".repeat(50_000));
    scratch.file("tree/empty", "");
    std::os::unix::fs::symlink("sub/text", tree.join("link")).unwrap();
    std::fs::hard_link(tree.join("sub/text"), tree.join("hard")).unwrap();
    put(&tree.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not \xff utf-8")), "x");
    scratch.sparse("tree/sparse", 5_000_000, &[(3_000_000, b"island")]);
    for number in 0..3000 {
        scratch.file(&format!("tree/many/{number}"), number.to_string());
    }
}

#[test]
fn restores_the_same_tree() {
    let scratch = Scratch::new();
    scratch.init();
    restores(&scratch);
}

#[test]
fn restores_from_an_encrypted_repository() {
    let scratch = Scratch::new();
    scratch.init_encrypted();
    restores(&scratch);
    let Some(python) = python() else { return };
    let output = Command::new(&python).arg(script()).arg(scratch.path("repo")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("opens its keys"), "{error}");
}

fn restores(scratch: &Scratch) {
    let Some(python) = python() else { return };
    let identity = scratch.path("identity");
    let python = |arguments: &[&std::ffi::OsStr]| {
        run(Command::new(&python).arg(script()).args(arguments).env("ICECORE_IDENTITY", &identity))
    };
    tree(scratch);
    let database = scratch.path("app.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<30000) INSERT INTO t SELECT i FROM n").unwrap();
    let stamp = scratch.backup(&["tree", "db=app.db"]);
    let repo = scratch.path("repo");
    let listed = python(&[repo.as_os_str()]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&stamp));
    let restored = |name: &str| python(&[repo.as_os_str(), stamp.as_ref(), scratch.path(name).as_os_str()]);
    restored("by-script");
    assert_eq!(describe(&scratch.path("by-script/tree"), true), describe(&scratch.path("tree"), true));
    assert_eq!(
        std::fs::read(scratch.path("by-script/db/app.db")).unwrap(),
        std::fs::read(&database).unwrap()
    );
    // Without any index file it goes by the packs' trailers.
    for index in scratch.repository_files("index") {
        std::fs::remove_file(index).unwrap();
    }
    restored("again");
    assert_eq!(describe(&scratch.path("again/tree"), true), describe(&scratch.path("tree"), true));
}

#[test]
fn notices_damage_and_explains_itself() {
    let Some(python) = python() else { return };
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/big", noise(300_000, 1));
    let stamp = scratch.backup(&["tree"]);
    let help = run(Command::new(&python).arg(script()).arg("--help"));
    assert!(String::from_utf8_lossy(&help.stdout).contains("REPO"));
    for pack in scratch.repository_files("packs") {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        put(&pack, bytes);
    }
    let output = Command::new(&python)
        .arg(script())
        .arg(scratch.path("repo"))
        .arg(&stamp)
        .arg(scratch.path("out"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && !error.contains("Traceback"), "{error}");
    assert!(std::fs::read_to_string(script()).unwrap().lines().count() < 300);
}
