//! What a snapshot left out is nobody's copy: a restore never takes it away, and what it does take away can come back.

use crate::restore_states::{crash_database, make_database, marked_rows};
use crate::support::{Scratch, describe, document, has, inode};

const CONFIRM: &str = "--confirm-service-stopped";

#[test]
fn excluded_files_stay_in_directories_that_go() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/kept", "kept");
    let stamp = scratch.backup(&["d=live", "--exclude", "*.tmp", "--exclude", "/cache"]);
    for file in ["new/sub/precious.tmp", "new/sub/goes", "new/goes", "goes/all/of/it", "cache/whole", "x.tmp"]
    {
        scratch.file(&format!("live/{file}"), file);
    }
    let before = describe(&scratch.path("live"), false);
    let (code, answer) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 0, "{answer}");
    let left: Vec<String> =
        describe(&scratch.path("live"), false).iter().map(|line| line.to_owned()).collect();
    for stays in ["new/sub/precious.tmp", "cache/whole", "x.tmp"] {
        let read = std::fs::read_to_string(scratch.path(&format!("live/{stays}"))).ok();
        assert_eq!(read.as_deref(), Some(stays), "{left:#?}");
    }
    for goes in ["new/sub/goes", "new/goes", "goes"] {
        assert!(!scratch.path(&format!("live/{goes}")).exists(), "{goes}");
    }
    assert_eq!(scratch.json(["restore", "--rollback", CONFIRM]).0, 0);
    assert_eq!(describe(&scratch.path("live"), false), before);
}

#[test]
fn excluded_files_are_not_replaced_by_something_else() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/place", "a file");
    let stamp = scratch.backup(&["d=live", "--exclude", "*.tmp"]);
    std::fs::remove_file(scratch.path("live/place")).unwrap();
    scratch.file("live/place/deep/precious.tmp", "precious");
    for dry in [&["-n"][..], &[]] {
        let (code, answer) = scratch.json([&["restore", &stamp, CONFIRM], dry].concat());
        assert_eq!((code, &answer["error"]["code"]), (22, &"left_out_in_the_way".into()), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("precious.tmp"), "{answer}");
    }
    assert!(scratch.path("live/place/deep/precious.tmp").exists());
}

#[test]
fn sidecars_that_are_removed_come_back_though_they_are_excluded() {
    if !has("python3") {
        return;
    }
    for saving in [&[][..], &["--no-pre-snapshot"]] {
        let scratch = Scratch::new();
        scratch.init();
        let directory = scratch.mkdir("live/with [odd] name");
        make_database(&directory, "wal");
        let stamp = scratch.backup(&["d=live", "--exclude", "*-wal", "--exclude", "*-shm"]);
        crash_database(&directory, "wal");
        let before = describe(&scratch.path("live"), false);
        assert_eq!(scratch.json([&["restore", &stamp, CONFIRM], saving].concat()).0, 0);
        assert!(!directory.join("app.db-wal").exists());
        assert_eq!(scratch.json(["restore", "--rollback", CONFIRM]).0, 0);
        assert_eq!(describe(&scratch.path("live"), false), before);
        assert_eq!(marked_rows(&directory.join("app.db")).unwrap(), (1, 1));
    }
}

#[test]
fn a_file_with_a_name_outside_keeps_its_content_there() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/a", "one");
    std::fs::hard_link(scratch.path("live/a"), scratch.path("live/b")).unwrap();
    let stamp = scratch.backup(&["d=live"]);
    for name in ["a", "b"] {
        std::fs::remove_file(scratch.path(&format!("live/{name}"))).unwrap();
    }
    // As many names as the snapshot knows, but one of them lies elsewhere.
    scratch.file("outside", "outside");
    std::fs::hard_link(scratch.path("outside"), scratch.path("live/a")).unwrap();
    scratch.file("live/b", "by itself");
    assert_eq!(scratch.json(["restore", &stamp, CONFIRM]).0, 0);
    assert_eq!(std::fs::read_to_string(scratch.path("outside")).unwrap(), "outside");
    assert_eq!(std::fs::read_to_string(scratch.path("live/a")).unwrap(), "one");
    assert_eq!(inode(&scratch.path("live/a")), inode(&scratch.path("live/b")));
}

#[test]
fn what_could_not_be_read_is_left_alone() {
    if !crate::support::is_root() {
        return crate::support::missing("root");
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/open", "one");
    scratch.file("live/secret/inside", "secret");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(scratch.path("live/secret"), mode).unwrap();
    let mut all = std::process::Command::new("chown");
    crate::support::run(all.args(["-R", "65534:65534"]).arg(scratch.directory.path()));
    std::os::unix::fs::chown(scratch.path("live/secret"), Some(0), Some(0)).unwrap();
    let (code, answer) = scratch.json_as_nobody(&["backup", "d=live"]);
    assert_eq!(code, 3, "{answer}");
    crate::support::put(&scratch.path("live/open"), "two");
    let (code, answer) =
        scratch.json_as_nobody(&["restore", "latest", CONFIRM, "--accept-incomplete-safety"]);
    assert!([0, 3].contains(&code), "{answer}");
    assert_eq!(std::fs::read_to_string(scratch.path("live/open")).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(scratch.path("live/secret/inside")).unwrap(), "secret");
}

#[test]
fn more_new_databases_than_files_can_be_open() {
    if !has("prlimit") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let directory = scratch.mkdir("live");
    let database = directory.join("0.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    for number in 1..400 {
        std::fs::copy(&database, directory.join(format!("{number}.db"))).unwrap();
    }
    let stamp = scratch.backup(&["d=live"]);
    std::fs::remove_dir_all(&directory).unwrap();
    let icecore = scratch.icecore();
    let mut limited = std::process::Command::new("prlimit");
    limited.args(["--nofile=340:340"]).arg(icecore.get_program());
    limited.args(["--json", "restore", &stamp, CONFIRM]).current_dir(scratch.directory.path()).env_clear();
    limited.envs(icecore.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (code, answer) = document(&mut limited);
    assert_eq!(code, 0, "{answer}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 400);
}
