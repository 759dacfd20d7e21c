//! Directory trees come back as they were, whatever they hold.

use crate::restore_states::{crash_database, make_database};
use crate::support::{Scratch, cases, describe, has, is_root, noise, put, run, settle};
use icecore::backend::LocalBackend;
use icecore::format::{Content, Entry};
use icecore::repository::{FileReader, IndexOptions, Repository, RepositoryError};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use proptest::strategy::Strategy;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Backs the tree `tree` up, restores it to `out`, and compares everything.
fn round_trip(scratch: &Scratch) {
    let taken = scratch.ok(["backup", "tree"]);
    let before = describe(&scratch.path("tree"), true);
    scratch.ok(["restore", taken["stamp"].as_str().unwrap(), "-t", "out"]);
    assert_eq!(describe(&scratch.path("out/tree"), true), before);
}

fn set_mtime(path: &Path, nanos: i64) {
    let time =
        nix::sys::time::TimeSpec::new(nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).unwrap();
}

#[test]
fn every_kind_of_file_comes_back() {
    let scratch = Scratch::new();
    scratch.init();
    let tree = scratch.mkdir("tree");
    scratch.file("tree/a/empty", "");
    scratch.file("tree/a/small", "hello");
    scratch.file("tree/a/big", noise(3_000_000, 1));
    scratch.mkdir("tree/empty directory");
    symlink("a/small", tree.join("link")).unwrap();
    symlink("/nonexistent/target", tree.join("dangling")).unwrap();
    std::fs::hard_link(tree.join("a/small"), tree.join("hard 1")).unwrap();
    std::fs::hard_link(tree.join("a/small"), tree.join("hard 2")).unwrap();
    put(&tree.join(OsStr::from_bytes(b"not \xff utf-8 \x01\n")), "x");
    nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::set_permissions(tree.join("a/empty"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(tree.join("empty directory"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::setxattr(tree.join("a/big"), "user.note", b"\0binary\xff", rustix::fs::XattrFlags::empty())
        .unwrap();
    rustix::fs::setxattr(tree.join("a"), "user.dir", b"d", rustix::fs::XattrFlags::empty()).unwrap();
    set_mtime(&tree.join("a/small"), 1_234_567_890_123_456_789);
    set_mtime(&tree.join("link"), -1_500_000_001);
    set_mtime(&tree.join("a"), 1);
    round_trip(&scratch);
}

#[test]
fn owners_devices_and_acls_come_back() {
    if !is_root() || !has("setfacl") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let tree = scratch.mkdir("tree");
    let file = scratch.file("tree/owned", "x");
    std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
    std::os::unix::fs::lchown(&tree, Some(77), Some(88)).unwrap();
    symlink("x", tree.join("link")).unwrap();
    std::os::unix::fs::lchown(tree.join("link"), Some(5), Some(6)).unwrap();
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o640));
    nix::sys::stat::mknod(&tree.join("null"), kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
    let acl = tempfile::tempdir_in(".").unwrap();
    run(Command::new("setfacl").args(["-m", "u:1000:rwx,g:2000:r"]).arg(&file));
    run(Command::new("setfacl").args(["-d", "-m", "u:1000:rw"]).arg(&tree));
    drop(acl);
    assert!(describe(&tree, true).join("\n").contains("posix_acl_default"));
    round_trip(&scratch);
}

#[test]
fn sparse_files_stay_sparse() {
    let scratch = Scratch::new();
    scratch.init();
    let len = 200 << 20;
    scratch.sparse("tree/sparse", len, &[(50 << 20, &noise(300_000, 3)), (len - 4, b"tail")]);
    scratch.sparse("tree/only a hole", 10 << 20, &[]);
    round_trip(&scratch);
    let restored = std::fs::metadata(scratch.path("out/tree/sparse")).unwrap();
    assert!(restored.blocks() * 512 < 2 << 20, "{} blocks", restored.blocks());
}

/// All at once, on all cores and in no order, as a judge has a database copied.
#[test]
fn a_file_is_read_whole_as_by_position() {
    let scratch = Scratch::new();
    scratch.init();
    let islands = [(3_000_001, 2_500_000), (9_000_000, 100_000), (19_999_000, 1_000)];
    let islands = islands.map(|(at, len)| (at, noise(len, at)));
    let islands: Vec<(u64, &[u8])> = islands.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    scratch.sparse("tree/sparse", 20_000_000, &islands);
    scratch.file("tree/empty", "");
    scratch.file("tree/small", "hello");
    scratch.file("tree/twice the same", noise(1_500_000, 4).repeat(2));
    scratch.ok(["backup", "tree"]);
    let (repository, root) = newest(&scratch);
    let entries = repository.entries(&root.content).unwrap();
    assert_eq!(entries.len(), 4);
    for entry in entries {
        let reader = FileReader::open(&repository, &entry).unwrap();
        let found = Mutex::new(vec![0; entry.size as usize]);
        let put = |bytes: &[u8], offset: u64| {
            found.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok::<_, RepositoryError>(())
        };
        reader.each_part(&put).unwrap();
        let name = String::from_utf8(entry.name.clone()).unwrap();
        assert!(*found.lock().unwrap() == std::fs::read(scratch.path("tree").join(&name)).unwrap(), "{name}");
        assert_eq!(reader.chunks_read().count(), reader.chunks().count(), "{name}");
        // Bytes that no chunk holds aren't taken for zeros.
        let longer = Entry { size: entry.size + 1, segments: None, ..entry };
        let read = FileReader::open(&repository, &longer).unwrap().each_part(&put);
        assert!(matches!(read, Err(RepositoryError::Damaged { .. })), "{name}");
    }
}

#[test]
fn long_paths_come_back() {
    let scratch = Scratch::new();
    scratch.init();
    let tree = scratch.mkdir("tree");
    // 30 levels of 200 bytes: 6,000 bytes, beyond PATH_MAX. Made and compared from inside, by a shell.
    let script = "import os\nfor i in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('file', 'w').write('deep')";
    run(Command::new("python3").args(["-c", script]).current_dir(&tree));
    let taken = scratch.ok(["backup", "tree"]);
    assert_eq!(
        (&taken["sources"]["tree"]["files"], taken["warnings"].as_array().unwrap().len()),
        (&1.into(), 0)
    );
    scratch.ok(["restore", "latest", "-t", "out"]);
    let script = "import os\nfor i in range(30): os.chdir('d' * 200)\nprint(open('file').read())";
    let output = run(Command::new("python3").args(["-c", script]).current_dir(scratch.path("out/tree")));
    assert_eq!(output.stdout, b"deep\n");
    for place in [&tree, &scratch.path("out")] {
        run(Command::new("rm").arg("-rf").arg(place));
    }
}

/// The repository, and the root of the newest snapshot's only source.
fn newest(scratch: &Scratch) -> (Repository, Entry) {
    let backend = Arc::new(LocalBackend::new(scratch.path("repo")));
    let repository = Repository::open(backend, IndexOptions::default()).unwrap();
    let newest = repository.snapshots().unwrap().list.pop().unwrap();
    (repository, newest.manifest.sources[0].root.clone().unwrap())
}

/// Where its entries are kept.
fn newest_root(scratch: &Scratch) -> Content {
    newest(scratch).1.content
}

#[test]
fn a_tree_is_the_same_whether_directories_are_taken_over_or_read_anew() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let tree = scratch.mkdir("tree");
    let mut names = Vec::new();
    for directory in ["", "a", "a/b", "a/b/c", "d", "links"] {
        std::fs::create_dir_all(tree.join(directory)).unwrap();
        for name in ["1", "2", "left out", "9"] {
            names.push(tree.join(directory).join(name));
        }
    }
    names.iter().for_each(|name| put(name, "first"));
    symlink("1", tree.join("links/symlink")).unwrap();
    std::fs::hard_link(tree.join("a/1"), tree.join("links/hard")).unwrap();
    make_database(&tree.join("d"), "wal");
    // Each change alone, and what came before stays.
    let changes: [&dyn Fn(); 9] = [
        &|| {},
        &|| put(&tree.join("a/b/2"), "second"),
        &|| std::fs::remove_file(tree.join("a/b/9")).unwrap(),
        &|| put(&tree.join("a/0"), "new"),
        &|| std::fs::remove_dir_all(tree.join("a/b/c")).unwrap(),
        &|| symlink("2", tree.join("links/another")).unwrap(),
        &|| std::fs::remove_file(tree.join("links/hard")).unwrap(),
        &|| crash_database(&tree.join("d"), "wal"),
        &|| put(&tree.join("left out"), "whatever"),
    ];
    settle();
    for (number, change) in changes.into_iter().enumerate() {
        change();
        settle();
        let backup = ["backup", "tree", "--exclude", "left out"];
        let taken = scratch.ok(backup);
        let kept = newest_root(&scratch);
        assert_eq!(
            taken["sources"]["tree"]["unchanged_files"].as_u64().unwrap() > 10,
            number > 0,
            "{number}"
        );
        scratch.ok(backup.iter().chain(&["--reread"]));
        assert_eq!(kept, newest_root(&scratch), "{number}");
    }
}

#[test]
fn a_hundred_thousand_files_in_one_directory() {
    let scratch = Scratch::new();
    scratch.init();
    let tree = scratch.mkdir("tree");
    for number in 0..100_000 {
        put(&tree.join(format!("file-{number:06}")), number.to_string());
    }
    settle();
    let first = scratch.ok(["backup", "tree"]);
    assert_eq!(first["sources"]["tree"]["files"], 100_000);
    put(&tree.join("file-050000"), "changed");
    let second = scratch.ok(["backup", "tree"]);
    assert_eq!(second["sources"]["tree"]["unchanged_files"], 99_999);
    let (all, again) =
        (first["metadata_bytes"].as_u64().unwrap(), second["metadata_bytes"].as_u64().unwrap());
    assert!(again * 50 < all, "one change cost {again} of {all} bytes of metadata");
    scratch.ok(["restore", "latest", "-t", "out"]);
    assert_eq!(std::fs::read(scratch.path("out/tree/file-050000")).unwrap(), b"changed");
    assert_eq!(std::fs::read_dir(scratch.path("out/tree")).unwrap().count(), 100_000);
}

#[test]
fn excludes_are_relative_to_the_source_and_listed() {
    let scratch = Scratch::new();
    scratch.init();
    for file in ["keep", "a.tmp", "sub/b.tmp", "sub/keep.tmp", "cache/x", "sub/cache/y"] {
        scratch.file(&format!("tree/{file}"), "x");
    }
    scratch.ok(["backup", "tree", "--exclude", "*.tmp", "--exclude", "!keep.tmp", "--exclude", "/cache"]);
    let listed = scratch.ok(["ls", "latest", "tree", "-R"]);
    let paths: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["tree/keep", "tree/sub", "tree/sub/cache", "tree/sub/cache/y", "tree/sub/keep.tmp"]);
    let shown = scratch.ok(["show"]);
    let notes = shown["snapshot"]["source_details"]["tree"]["notes"].as_array().unwrap();
    let excluded: Vec<&str> = notes
        .iter()
        .filter(|note| note["reason"] == "excluded")
        .map(|note| note["path"].as_str().unwrap())
        .collect();
    assert_eq!(excluded, ["a.tmp", "cache", "sub/b.tmp"]);
    let (code, document) = scratch.json(["backup", "tree", "--exclude", "a{b"]);
    assert_eq!(code, 2, "{document:#}");
}

#[test]
fn a_growing_log_ends_with_a_whole_record() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/log.jsonl", "{\"n\":1}\n{\"n\":2}\n{\"n\":");
    scratch.file("tree/whole.jsonl", "{\"n\":1}\n{\"n\":2}");
    scratch.file("tree/plain.log", "line\npart");
    scratch.ok(["backup", "tree"]);
    scratch.ok(["restore", "latest", "-t", "out"]);
    let read = |name: &str| std::fs::read_to_string(scratch.path("out/tree").join(name)).unwrap();
    assert_eq!(read("log.jsonl"), "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(read("whole.jsonl"), "{\"n\":1}\n{\"n\":2}");
    assert_eq!(read("plain.log"), "line\npart");
}

#[test]
fn a_log_that_grows_all_the_time_is_captured_between_records() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.file("tree/log.jsonl", "");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // In two writes, so that half a record is often what is there.
                write!(file, "{{\"n\":{number},").unwrap();
                writeln!(file, "\"text\":\"{}\"}}", "x".repeat(number % 300)).unwrap();
                number += 1;
                // Or a slow reader would never get to the end.
                if number % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        for _ in 0..10 {
            scratch.ok(["backup", "tree"]);
            let output = run(scratch.icecore().args(["cat", "latest", "tree/log.jsonl"]));
            let text = String::from_utf8(output.stdout).unwrap();
            for (number, line) in text.lines().enumerate() {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(record["n"], number);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn databases_in_a_tree_are_captured_as_databases() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/other", "x");
    let connection = rusqlite::Connection::open(scratch.path("tree/data.bin")).unwrap();
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a); INSERT INTO t VALUES(42)").unwrap();
    assert!(scratch.path("tree/data.bin-wal").is_file());
    scratch.ok(["backup", "tree"]);
    scratch.ok(["restore", "latest", "-t", "out"]);
    let names: Vec<String> = std::fs::read_dir(scratch.path("out/tree"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let restored = rusqlite::Connection::open(scratch.path("out/tree/data.bin")).unwrap();
    let value: i64 = restored.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 42);
    scratch.file("icecore.toml", "repository = \"repo\"\n[source.tree]\npath = \"tree\"\nsqlite = \"raw\"\n");
    scratch.ok(["backup"]);
    let listed = scratch.ok(["ls", "latest", "tree"]);
    assert_eq!(listed["entries"].as_array().unwrap().len(), 4, "raw takes the sidecars too");
}

#[test]
fn an_unchanged_tree_reads_no_file_and_writes_no_pack() {
    if !has("strace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    for number in 0..50 {
        scratch.file(&format!("tree/d{}/f{number}", number % 5), noise(10_000, number));
    }
    settle();
    scratch.backup(&["tree"]);
    let packs = scratch.repository_files("packs");
    let log = scratch.path("trace");
    let program = scratch.icecore();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]).arg(&log).arg(program.get_program());
    traced.args(["--json", "backup", "tree"]).current_dir(scratch.directory.path());
    traced.env("ICECORE_REPOSITORY", scratch.path("repo")).env("HOME", scratch.path("home"));
    run(&mut traced);
    let opened = std::fs::read_to_string(log).unwrap();
    assert!(opened.contains("\"d0\""), "directories are listed");
    assert!(!opened.contains("\"f1\""), "no file is opened");
    assert_eq!(scratch.repository_files("packs"), packs, "no pack is written");
}

#[test]
fn insertions_and_moves_are_deduplicated() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(8_000_000, 9);
    scratch.file("tree/big", &bytes);
    scratch.ok(["backup", "tree"]);
    bytes.splice(4_000_000..4_000_000, *b"inserted");
    scratch.file("tree/moved/copy", &bytes);
    std::fs::remove_file(scratch.path("tree/big")).unwrap();
    let second = scratch.ok(["backup", "tree"]);
    assert!(second["new_bytes"].as_u64().unwrap() < 600_000, "{second:#}");
    round_trip(&scratch);
}

/// A tree: relative path → content (or a directory), mode, time.
type Model = BTreeMap<Vec<u8>, (Option<Vec<u8>>, u32, i64)>;

fn trees() -> impl Strategy<Value = Model> {
    let name = prop::collection::vec(prop::sample::select(b"ab.\xe9 -".to_vec()), 1..4);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
    let content = prop::option::of((0usize..200_000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)));
    prop::collection::btree_map(
        path,
        (content, 0o400u32..0o1000, -1_000_000_000_000_000i64..4_000_000_000_000_000_000),
        0..12,
    )
}

fn make(root: &Path, tree: &Model) {
    let mut made: Vec<(PathBuf, u32, i64)> = Vec::new();
    for (path, (content, mode, time)) in tree {
        let path = root.join(OsStr::from_bytes(path));
        // Names like "." or ".." and files where a directory is needed don't make a tree; they are left out.
        let inside = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !inside
            || path.symlink_metadata().is_ok()
            || std::fs::create_dir_all(path.parent().unwrap()).is_err()
        {
            continue;
        }
        let done = match content {
            Some(bytes) => std::fs::File::create_new(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, bytes)),
            None => std::fs::create_dir(&path),
        };
        if done.is_ok() {
            made.push((path, mode | if content.is_none() { 0o700 } else { 0 }, *time));
        }
    }
    for (path, mode, time) in made.iter().rev() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)).unwrap();
        set_mtime(path, *time);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back_after_any_change(first in trees(), second in trees()) {
        let scratch = Scratch::new();
        scratch.init();
        let tree = scratch.mkdir("tree");
        make(&tree, &first);
        let one = scratch.backup(&["tree"]);
        let before = describe(&tree, true);
        std::fs::remove_dir_all(&tree).unwrap();
        scratch.mkdir("tree");
        make(&tree, &second);
        scratch.backup(&["tree"]);
        let after = describe(&tree, true);
        scratch.ok(["restore", "latest", "-t", "out"]);
        assert_eq!(describe(&scratch.path("out/tree"), true), after);
        // In place: the second state becomes the first again, whatever changed its kind.
        scratch.ok(["restore", &one, "--confirm-service-stopped"]);
        assert_eq!(describe(&tree, true), before);
    }
}

#[test]
fn a_change_that_hides_its_time_and_size_is_noticed() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.file("tree/file", "before");
    settle();
    scratch.backup(&["tree"]);
    let time = path.metadata().unwrap();
    put(&path, "after!");
    set_mtime(&path, time.mtime() * 1_000_000_000 + time.mtime_nsec());
    settle();
    scratch.backup(&["tree"]);
    let output = run(scratch.icecore().args(["cat", "latest", "tree/file"]));
    assert_eq!(output.stdout, b"after!");
}
