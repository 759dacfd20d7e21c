//! Hooks and the lock file: what runs when, and that `after` always does.

use crate::support::{Scratch, has};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A repository and a config with one source and these lines below [hooks].
fn with_hooks(hooks: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("app.json", "{}");
    scratch.file(
        "icecore.toml",
        format!("profile = \"p\"\n[source.app]\npath = \"app.json\"\n[hooks]\n{hooks}\n"),
    );
    scratch
}

fn log(scratch: &Scratch) -> String {
    std::fs::read_to_string(scratch.path("log")).unwrap_or_default()
}

const ALL: &str = "before = \"echo before $ICECORE_PROFILE >> log\"\nafter = \"echo after >> log\"\n\
                   failed = \"echo failed: $ICECORE_ERROR >> log\"";

#[test]
fn before_and_after_surround_the_reading() {
    let scratch = with_hooks(ALL);
    scratch.ok(["backup"]);
    assert_eq!(log(&scratch), "before p\nafter\n");
    // Paths on the command line are not the config's services.
    scratch.ok(["backup", "x=app.json"]);
    assert_eq!(log(&scratch), "before p\nafter\n");
    scratch.ok(["backup", "-n"]);
    scratch.ok(["backup", "--no-hooks"]);
    assert_eq!(log(&scratch), "before p\nafter\n");
}

#[test]
fn after_runs_when_reading_fails() {
    let scratch = with_hooks(ALL);
    std::fs::remove_file(scratch.path("app.json")).unwrap();
    let (code, document) = scratch.json(["backup"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (1, "source_missing"));
    let log = log(&scratch);
    assert!(log.starts_with("before p\nafter\nfailed: source \"app\""), "{log}");
}

#[test]
fn a_failing_hook_ends_the_backup() {
    for (hooks, said) in [
        ("before = \"echo no room; exit 3\"\nafter = \"echo after >> log\"", "no room"),
        ("before = \"true\"\nafter = \"echo after >> log; echo stuck >&2; false\"", "stuck"),
        ("before = [\"/nonexistent/program\"]\nafter = \"echo after >> log\"", "could not be run"),
        ("before = \"sleep 60\"\nafter = \"echo after >> log\"\ntimeout = \"200ms\"", "longer than"),
    ] {
        let scratch = with_hooks(hooks);
        let begun = Instant::now();
        let (code, document) = scratch.json(["backup"]);
        assert_eq!((code, document["error"]["code"].as_str().unwrap()), (25, "hook_failed"), "{document:#}");
        assert!(document["error"]["message"].as_str().unwrap().contains(said), "{document:#}");
        assert_eq!(log(&scratch), "after\n", "{hooks}");
        assert!(scratch.repository_files("snapshots").is_empty());
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    let scratch = with_hooks("before = \"exit 1\"\nfailed = \"exit 2\"");
    let (_, document) = scratch.json(["backup"]);
    assert!(document["warnings"].to_string().contains("`failed`"), "{document:#}");
}

#[test]
fn after_runs_when_a_signal_ends_the_backup() {
    if !has("kill") {
        return;
    }
    for (signal, code) in [("TERM", Some(143)), ("INT", Some(130)), ("KILL", None)] {
        let scratch = with_hooks("before = \"echo begun >> log; sleep 30\"\nafter = \"echo after >> log\"");
        let mut child = scratch.icecore().arg("backup").stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while log(&scratch).is_empty() && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success()
        );
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        let since = Instant::now();
        while log(&scratch) != "begun\nafter\n" && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(log(&scratch), "begun\nafter\n", "{signal}");
    }
}

#[test]
fn after_runs_whatever_the_surroundings() {
    if !has("pkill") {
        return;
    }
    // No place for what a hook says.
    let scratch = with_hooks(ALL);
    scratch.mkdir("home");
    let mut command = scratch.icecore();
    command.args(["backup", "--temp-dir", "home"]).env("TMPDIR", "/nonexistent");
    assert!(command.status().unwrap().success());
    assert_eq!(log(&scratch), "before p\nafter\n");
    // A service manager's signal to all, then the end: the shell that stands by stays, and ends what `before` still does.
    let scratch = with_hooks(
        "before = \"echo begun >> log; sleep 3; echo late >> log\"\nafter = \"echo after >> log\"",
    );
    let mut child = scratch.icecore().arg("backup").stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    while log(&scratch).is_empty() && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let parent = child.id().to_string();
    let stopped =
        Command::new("pkill").args(["-TERM", "-P", &parent, "-f", "read -r line"]).status().unwrap();
    assert!(stopped.success());
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(log(&scratch), "begun\nafter\n");
}

/// Locks a file as an application does, until its stdin ends.
const APPLICATION: &str = "import fcntl,sys\nf=open('ingest.lock')\nfcntl.flock(f,fcntl.LOCK_EX)\nprint('locked',flush=True)\nsys.stdin.read()";

#[test]
fn the_applications_lock_is_waited_for_and_held() {
    if !has("python3") {
        return;
    }
    let scratch = with_hooks(
        "lock_file = \"ingest.lock\"\nlock_timeout = \"300ms\"\nbefore = \"flock -n ingest.lock true && echo free >> log; true\"",
    );
    let (code, document) = scratch.json(["backup"]);
    assert_eq!(
        (code, document["error"]["code"].as_str().unwrap()),
        (25, "lock_file_missing"),
        "{document:#}"
    );
    assert!(!scratch.path("ingest.lock").exists(), "it is never made by us");
    scratch.file("ingest.lock", "");
    let mut application = Command::new("python3");
    application.args(["-c", APPLICATION]).current_dir(scratch.directory.path());
    let mut application = application.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0u8; 7];
    std::io::Read::read_exact(application.stdout.as_mut().unwrap(), &mut line).unwrap();
    let (code, document) = scratch.json(["backup"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (25, "lock_file_busy"), "{document:#}");
    drop(application.stdin.take());
    application.wait().unwrap();
    scratch.ok(["backup"]);
    assert_eq!(log(&scratch), "", "during the backup nobody else gets it");
}
