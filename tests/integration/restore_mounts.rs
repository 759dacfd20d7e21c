//! Restoring on real file systems and through mounts: inodes of every file and directory stay, mounts are never taken away,
//! and who holds a directory open in another mount namespace sees the restored content.

use crate::restore_states::{make_database, marked_rows};
use crate::support::{Mounted, Scratch, describe, has, is_root, noise, put, run};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CONFIRM: &str = "--confirm-service-stopped";

/// The inode of every file and directory below a place.
fn inodes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let all = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
    all.map(|entry| (entry.path().to_owned(), entry.metadata().unwrap().ino())).collect()
}

/// Fills a place with a database, a store and a tree; returns `NAME=PATH` for each.
fn fill(place: &Path) -> Vec<String> {
    make_database(place, "delete");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma/1.5.9-whole.tar.gz");
    run(Command::new("tar").arg("xzf").arg(fixture).arg("-C").arg(place).arg("--no-same-owner"));
    std::fs::create_dir_all(place.join("tree/sub/deep")).unwrap();
    put(&place.join("tree/sub/deep/file"), noise(300_000, 1));
    put(&place.join("tree/sub/linked"), "linked");
    std::fs::hard_link(place.join("tree/sub/linked"), place.join("tree/twin")).unwrap();
    put(&place.join("registry.json"), "{}");
    [("app", "app.db"), ("store", "store"), ("tree", "tree"), ("registry", "registry.json")]
        .map(|(name, path)| format!("{name}={}", place.join(path).display()))
        .to_vec()
}

/// Changes every file in place.
fn change(place: &Path) {
    for path in crate::support::files_below(place) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        file.write_all_at(b"changed", len / 2).unwrap();
        file.set_len(len + 5000).unwrap();
    }
    put(&place.join("tree/extra"), "x");
}

#[test]
fn inodes_stay_on_every_file_system() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let scratch = Scratch::new();
        scratch.init();
        let Some(mounted) = Mounted::new(&scratch, kind) else { return };
        let place = mounted.path.join("live");
        std::fs::create_dir(&place).unwrap();
        let sources = fill(&place);
        let mut arguments: Vec<&str> = sources.iter().map(String::as_str).collect();
        arguments.push("--cold");
        let stamp = scratch.backup(&arguments);
        let (before, numbers) = (describe(&place, false), inodes(&place));
        for saving in [&[][..], &["--no-pre-snapshot"]] {
            change(&place);
            scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
            assert_eq!(describe(&place, false), before, "{kind}");
            assert_eq!(inodes(&place), numbers, "{kind}");
            scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
            let now = inodes(&place);
            assert!(
                numbers.iter().all(|(path, number)| now.get(path) == Some(number)),
                "{kind}: rolled back"
            );
            scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        }
        assert_eq!(marked_rows(&place.join("app.db")).unwrap(), (1, 0));
    }
}

/// A bind mount, undone at the end.
struct Bound(PathBuf);

impl Bound {
    fn new(from: &Path, to: &Path) -> Self {
        run(Command::new("mount").arg("--bind").args([from, to]));
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_container_that_holds_the_directory_sees_the_restored_content() {
    if !is_root() || !has("unshare") || !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    let sources = fill(&live);
    let arguments: Vec<&str> = sources.iter().map(String::as_str).collect();
    let stamp = scratch.backup(&arguments);
    let inside = scratch.mkdir("container/data");
    let registry = scratch.file("container/registry.json", "");
    // As docker does: mounts of its own, directories and a single file bound into them, and a directory held open.
    let script = format!(
        "mount --bind {live} {inside} && mount --bind {live}/registry.json {registry} && exec python3 -c \"\n\
         import os,sys\nd=os.open('{inside}/tree/sub',os.O_RDONLY)\nprint('ready',flush=True)\nsys.stdin.readline()\n\
         print(len(os.listdir(d)), os.stat('deep/file',dir_fd=d).st_size, open('{registry}').read(), \
         os.path.exists('{inside}/tree/extra'),flush=True)\"",
        live = live.display(),
        inside = inside.display(),
        registry = registry.display()
    );
    let mut container = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(container.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    change(&live);
    scratch.ok(["restore", &stamp, CONFIRM]);
    drop(container.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line.trim(), "2 300000 {} False");
    assert!(container.wait().unwrap().success());
}

#[test]
fn mounts_inside_a_source_are_written_into_and_never_removed() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    fill(&live);
    scratch.file("live/data/known/file", "known");
    let stamp = scratch.backup(&["live", "--cold"]);
    let first = describe(&live, false);
    // One that the snapshot knows as a directory, one that it doesn't know, one in a directory that goes, and a single file.
    scratch.file("elsewhere/known/file", "other");
    scratch.file("elsewhere/extra", "x");
    scratch.file("precious/keep", "keep");
    scratch.mkdir("live/unknown");
    scratch.file("live/goes/too/file", "x");
    scratch.mkdir("live/goes/mount");
    scratch.file("file outside", "outside, and longer than inside");
    let _one = Bound::new(&scratch.path("elsewhere"), &scratch.path("live/data"));
    let _two = Bound::new(&scratch.path("precious"), &scratch.path("live/unknown"));
    let _three = Bound::new(&scratch.path("precious"), &scratch.path("live/goes/mount"));
    let _four = Bound::new(&scratch.path("file outside"), &scratch.path("live/registry.json"));
    let planned = scratch.ok(["restore", &stamp, "-n"]);
    assert!(planned["warnings"].to_string().contains("live/unknown"), "{planned:#}");
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!(code, 3, "{document:#}");
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("live/unknown") && warnings.contains("live/goes/mount"), "{warnings}");
    assert_eq!(std::fs::read(scratch.path("elsewhere/known/file")).unwrap(), b"known");
    assert!(!scratch.path("elsewhere/extra").exists());
    assert_eq!(std::fs::read(scratch.path("file outside")).unwrap(), b"{}");
    assert_eq!(std::fs::read(scratch.path("precious/keep")).unwrap(), b"keep");
    assert!(!scratch.path("live/goes/too").exists() && scratch.path("live/goes/mount").is_dir());
    // What can't be made of a mount point is told before anything is changed.
    drop((_one, _two, _three, _four));
    scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(describe(&live, false), first);
    std::fs::remove_file(scratch.path("live/registry.json")).unwrap();
    scratch.mkdir("live/registry.json");
    let _bound = Bound::new(&scratch.path("precious"), &scratch.path("live/registry.json"));
    put(&scratch.path("live/data/known/file"), "changed");
    let (code, document) = scratch.json(["restore", &stamp, CONFIRM]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (22, "mount_in_the_way"), "{document:#}");
    assert_eq!(std::fs::read(scratch.path("live/data/known/file")).unwrap(), b"changed");
}

#[test]
fn through_an_overlay_the_upper_file_keeps_its_inode() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    // An overlay can't have its layers on another one: a file system of their own.
    let Some(mounted) = Mounted::new(&scratch, "ext4") else { return };
    let directory = |name: &str| {
        let path = mounted.path.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (lower, upper, work) = (directory("lower"), directory("upper"), directory("work"));
    let merged = scratch.mkdir("merged");
    put(&lower.join("below"), "from the lower layer");
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged));
    let _unmount = Bound(merged.clone());
    let sources = fill(&merged);
    let mut arguments: Vec<&str> = sources.iter().map(String::as_str).collect();
    arguments.push("--cold");
    let stamp = scratch.backup(&arguments);
    let before = describe(&merged, false);
    change(&merged);
    let numbers = inodes(&merged);
    let upper_numbers = inodes(&upper);
    scratch.ok(["restore", &stamp, CONFIRM]);
    let now = inodes(&merged);
    assert!(now.iter().all(|(path, number)| numbers.get(path) == Some(number)));
    let upper_now = inodes(&upper);
    let same = |path: &PathBuf| upper_numbers.get(path) == upper_now.get(path);
    assert!(upper_now.keys().filter(|path| path.is_file()).all(same));
    assert_eq!(
        describe(&merged, false).into_iter().filter(|line| !line.contains("below")).collect::<Vec<_>>(),
        before.into_iter().filter(|line| !line.contains("below")).collect::<Vec<_>>()
    );
}
