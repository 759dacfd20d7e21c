//! Finishing and undoing restores of all kinds: of parts, of rollbacks, beside others, and when what they need is gone.

use crate::restore_states::{crash_database, make_database, marked_rows};
use crate::support::{Scratch, describe, has, is_root, missing, put, run};
use std::process::Command;

const CONFIRM: &str = "--confirm-service-stopped";

/// Runs a restore that is killed when it sets a file's time.
fn kill_midway(scratch: &Scratch, arguments: &[&str]) {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=utimensat"]);
    traced.args(["-e", "inject=utimensat:signal=KILL:when=1", env!("CARGO_BIN_EXE_icecore"), "--json"]);
    traced.args(arguments).current_dir(scratch.directory.path()).env_clear();
    traced.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    traced.env("HOME", scratch.path("home")).env("ICECORE_REPOSITORY", scratch.path("repo"));
    assert!(traced.output().unwrap().status.code().is_none(), "it was not killed");
    assert_eq!(scratch.json(["status"]).0, 23);
}

/// A tree with a database that has committed rows in its log, beside another file.
fn tree_with_database(scratch: &Scratch) -> String {
    scratch.init();
    let directory = scratch.mkdir("live");
    make_database(&directory, "wal");
    scratch.file("live/other", "one");
    let stamp = scratch.backup(&["d=live"]);
    crash_database(&directory, "wal");
    stamp
}

#[test]
fn a_database_in_a_tree_is_undone_with_what_lies_beside_it() {
    if !has("python3") {
        return;
    }
    for saving in [&[][..], &["--no-pre-snapshot"]] {
        let scratch = Scratch::new();
        let stamp = tree_with_database(&scratch);
        let directory = scratch.path("live");
        let only_database = || describe(&directory, false).into_iter().filter(|line| line.contains("app.db"));
        let before: Vec<String> = only_database().collect();
        let (code, answer) = scratch.json([&["restore", &stamp, "d/app.db", CONFIRM], saving].concat());
        assert_eq!(code, 0, "{answer}");
        // What changes later beside the part isn't the rollback's concern.
        put(&directory.join("other"), "two");
        let (code, answer) = scratch.json(["restore", "--rollback", CONFIRM]);
        assert_eq!(code, 0, "{answer}");
        assert_eq!(only_database().collect::<Vec<_>>(), before);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), before.len() + 1);
        assert_eq!(std::fs::read_to_string(directory.join("other")).unwrap(), "two");
        assert_eq!(marked_rows(&directory.join("app.db")).unwrap(), (1, 1));
    }
}

#[test]
fn what_a_rollback_saves_lies_whole_where_it_is_saved() {
    for saving in [&[][..], &["--no-pre-snapshot"]] {
        let scratch = Scratch::new();
        scratch.init();
        scratch.file("live/other", "one");
        let stamp = scratch.backup(&["d=live"]);
        scratch.file("live/other", "two");
        let links = scratch.mkdir("live/links");
        for name in ["here", "there"] {
            std::os::unix::fs::symlink(name, links.join(name)).unwrap();
        }
        let copy = |from: &str, to: &str| {
            run(Command::new("cp").arg("-a").args([scratch.path(from), scratch.path(to)]));
        };
        copy("live/links", "kept");
        assert_eq!(scratch.json(["restore", &stamp, CONFIRM, "--no-pre-snapshot"]).0, 0);
        // As it lies now, the directory is only in the undo, from which the rollback reads, but not where that saves.
        copy("kept", "live/links");
        let before = describe(&scratch.path("live"), false);
        let (code, answer) = scratch.json([&["restore", "--rollback", CONFIRM], saving].concat());
        assert_eq!(code, 0, "{answer}");
        assert_eq!(std::fs::read_to_string(scratch.path("live/other")).unwrap(), "two");
        let (code, answer) = scratch.json(["restore", "--rollback", CONFIRM]);
        assert_eq!(code, 0, "{answer}");
        assert_eq!(describe(&scratch.path("live"), false), before);
        let (code, answer) = scratch.json(["validate", "--all"]);
        assert_eq!(code, 0, "{answer}");
    }
}

#[test]
fn a_safety_snapshot_restored_through_a_symlink_puts_sidecars_beside_the_real_file() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let real = scratch.mkdir("real");
    make_database(&real, "wal");
    std::os::unix::fs::symlink("real/app.db", scratch.path("link.db")).unwrap();
    let stamp = scratch.backup(&["app=link.db"]);
    crash_database(&real, "wal");
    let before = describe(&real, false);
    let (code, answer) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 0, "{answer}");
    let safety = answer["pre_restore_snapshot"].as_str().unwrap().to_owned();
    let (code, answer) = scratch.json(["restore", &safety, "--no-pre-snapshot", CONFIRM]);
    assert_eq!(code, 0, "{answer}");
    assert_eq!(describe(&real, false), before);
}

#[test]
fn a_rollback_that_was_killed_is_finished_by_repeating_it() {
    if !has("python3") || !has("strace") {
        return;
    }
    for (how, saving) in [("--rollback", &[][..]), ("--resume", &[]), ("--resume", &["--no-pre-snapshot"])] {
        let scratch = Scratch::new();
        let stamp = tree_with_database(&scratch);
        let directory = scratch.path("live");
        let before = describe(&directory, false);
        let restore = [&["restore", &stamp, "d/app.db", CONFIRM], saving].concat();
        assert_eq!(scratch.json(restore).0, 0);
        kill_midway(&scratch, &[&["restore", "--rollback", CONFIRM], saving].concat());
        let (code, answer) = scratch.json(["restore", how, CONFIRM]);
        assert_eq!(code, 0, "{answer}");
        assert_eq!(describe(&directory, false), before, "{how} {saving:?}");
        assert_eq!(scratch.json(["status"]).0, 0);
        let (code, answer) = scratch.json(["restore", "--resume", CONFIRM]);
        assert_eq!((code, &answer["error"]["code"]), (13, &"no_restore".into()));
    }
}

#[test]
fn what_an_interrupted_restore_needs_is_not_forgotten() {
    if !has("python3") || !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    let stamp = tree_with_database(&scratch);
    kill_midway(&scratch, &["restore", &stamp, CONFIRM]);
    let safety = scratch.ok(["list"])["backups"][1]["stamp"].as_str().unwrap().to_owned();
    for stamp in [&stamp, &safety] {
        let (code, answer) = scratch.json(["forget", "--safety", stamp]);
        assert_eq!((code, &answer["error"]["code"]), (22, &"restore_incomplete".into()), "{answer}");
    }
    let (code, answer) = scratch.json(["backup", "-n", "d=live"]);
    assert_eq!((code, &answer["error"]["code"]), (22, &"restore_incomplete".into()), "{answer}");
    // Somebody else's tools don't ask.
    std::fs::remove_file(scratch.path(&format!("repo/snapshots/{stamp}"))).unwrap();
    for manifest in scratch.repository_files("manifests") {
        std::fs::remove_file(manifest).unwrap();
    }
    for way in ["--resume", "--rollback"] {
        let (code, answer) = scratch.json(["restore", way, CONFIRM]);
        assert_eq!((code, &answer["error"]["code"]), (13, &"no_such_snapshot".into()), "{answer}");
    }
}

#[test]
fn the_line_that_undoes_a_restore_undoes_that_one() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/a", "one");
    let stamp = scratch.backup(&["d=live"]);
    let mut told = Vec::new();
    for text in ["two", "three"] {
        put(&scratch.path("live/a"), text);
        let mut restore = scratch.icecore();
        restore.args(["--state-dir", "state dir", "restore", &stamp, "--no-pre-snapshot", CONFIRM]);
        let output = restore.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("to undo it: icecore ")).unwrap();
        told.push(line.to_owned());
    }
    assert!(scratch.path("state dir/restores").is_dir() && !scratch.path("repo/restores").exists());
    // Of two, the line of the first undoes the first.
    let undo = format!("{} {}", env!("CARGO_BIN_EXE_icecore"), told[0]);
    let mut shell = scratch.icecore();
    let environment: Vec<_> =
        shell.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    shell = Command::new("sh");
    shell.args(["-c", &undo]).current_dir("/").env_clear().envs(environment);
    shell.env("ICECORE_REPOSITORY", scratch.path("repo"));
    assert!(shell.status().unwrap().success(), "{undo}");
    assert_eq!(std::fs::read_to_string(scratch.path("live/a")).unwrap(), "two");
}

#[test]
fn targets_that_overlap_are_refused_before_anything_is_changed() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/a/inner", "one");
    scratch.file("live/b/file", "one");
    let stamp = scratch.backup(&["a=live/a", "b=live/b"]);
    let before = describe(&scratch.path("live"), true);
    let same = ["--map", "a=live/x", "--map", "b=live/x"];
    let nested = ["--map", "b=live/a/inner/deep"];
    let repository = ["--map", "a=repo/packs"];
    for (map, code) in
        [(&same[..], "targets_overlap"), (&nested, "targets_overlap"), (&repository, "targets_overlap")]
    {
        for dry in [&["-n"][..], &[]] {
            let (exit, answer) = scratch.json([&["restore", &stamp, CONFIRM], map, dry].concat());
            assert_eq!((exit, &answer["error"]["code"]), (22, &code.into()), "{map:?} {answer}");
        }
    }
    assert_eq!(scratch.json(["restore", &stamp, "--target", "repo/below"]).0, 22);
    for map in [["--map", "a="], ["--map", "a"]] {
        assert_eq!(scratch.json([&["restore", &stamp, CONFIRM][..], &map].concat()).0, 2);
    }
    assert_eq!(scratch.json(["restore", &stamp, CONFIRM, "--map", "a=x", "--map", "a=y"]).0, 2);
    assert_eq!(describe(&scratch.path("live"), true), before);
    // A part and a part of it are the part.
    std::fs::remove_dir_all(scratch.path("live/a/inner").parent().unwrap()).unwrap();
    assert_eq!(scratch.json(["restore", &stamp, "a/inner", "a/inner", CONFIRM]).0, 0);
}

#[test]
fn a_source_in_another_is_backed_up_only_where_that_leaves_it_out() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/data/file", "one");
    scratch.file("live/data/db/registry.json", "{}");
    let sources = ["data=live/data", "registry=live/data/db/registry.json"];
    let (code, answer) = scratch.json([&["backup"][..], &sources].concat());
    assert_eq!(code, 2, "{answer}");
    let stamp = scratch.backup(&[&sources[..], &["--exclude", "/db"]].concat());
    let before = describe(&scratch.path("live"), false);
    std::fs::remove_dir_all(scratch.path("live/data")).unwrap();
    let (code, answer) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 0, "{answer}");
    let without_modes =
        |lines: Vec<String>| lines.into_iter().filter(|line| !line.contains("data/db\"")).collect::<Vec<_>>();
    assert_eq!(without_modes(describe(&scratch.path("live"), false)), without_modes(before));
}

#[test]
fn what_cannot_be_written_is_told_before_anything_is_changed() {
    if !is_root() {
        return missing("root");
    }
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("live/sub/file", "one");
    scratch.file("live/other", "one");
    let mut all = Command::new("chown");
    crate::support::run(all.args(["-R", "65534:65534"]).arg(scratch.directory.path()));
    let (code, answer) = scratch.json_as_nobody(&["backup", "d=live"]);
    assert_eq!(code, 0, "{answer}");
    std::fs::remove_file(scratch.path("live/sub/file")).unwrap();
    put(&scratch.path("live/other"), "two");
    std::os::unix::fs::chown(scratch.path("live/other"), Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(scratch.path("live/sub"), Some(0), Some(0)).unwrap();
    for dry in [&["-n"][..], &[]] {
        let (code, answer) = scratch.json_as_nobody(&[&["restore", "latest", CONFIRM], dry].concat());
        assert_eq!((code, &answer["error"]["code"]), (22, &"target_unwritable".into()), "{answer}");
    }
    assert_eq!(std::fs::read_to_string(scratch.path("live/other")).unwrap(), "two");
    std::os::unix::fs::symlink("nowhere", scratch.path("dangling")).unwrap();
    let (code, answer) = scratch.json(["restore", "latest", CONFIRM, "-n", "--map", "d=dangling/below"]);
    assert_eq!((code, &answer["error"]["code"]), (22, &"dangling_link".into()), "{answer}");
}
