//! The RocksDB index cache: missing, stale, damaged, shared, and ahead of packs that are gone.

use crate::support::{Scratch, files_below, noise, put};
use std::path::PathBuf;

/// An index limit of 0 MiB: every repository counts as large.
const LARGE: [&str; 2] = ["--index-memory", "0"];

fn prepare() -> Scratch {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/a", noise(3_000_000, 1));
    scratch.ok(LARGE.iter().chain(&["backup", "tree"]));
    scratch.ok(LARGE.iter().chain(&["backup", "tree"]));
    assert!(index_of(&scratch).starts_with("RocksDB cache"), "{}", index_of(&scratch));
    scratch
}

fn cache(scratch: &Scratch) -> PathBuf {
    scratch.path("home/.cache/icecore")
}

/// How a verb says that it keeps the index.
fn index_of(scratch: &Scratch) -> String {
    let output = crate::support::run(scratch.icecore().args(LARGE).args([
        "-v",
        "--no-progress",
        "validate",
        "latest",
    ]));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("index: ")).unwrap().to_owned()
}

fn new_bytes(scratch: &Scratch) -> u64 {
    scratch.ok(LARGE.iter().chain(&["backup", "tree", "--reread"]))["new_bytes"].as_u64().unwrap()
}

#[test]
fn small_repositories_need_no_cache() {
    let scratch = Scratch::new();
    scratch.init();
    scratch.file("tree/a", "x");
    scratch.ok(["backup", "tree"]);
    scratch.ok(["backup", "tree"]);
    assert!(!cache(&scratch).exists());
}

#[test]
fn a_missing_cache_is_made_again() {
    let scratch = prepare();
    std::fs::remove_dir_all(cache(&scratch)).unwrap();
    assert_eq!(new_bytes(&scratch), 0);
    assert!(cache(&scratch).is_dir());
}

#[test]
fn a_damaged_cache_is_made_again() {
    for kind in ["CURRENT", "MANIFEST", "sst", "all"] {
        let scratch = prepare();
        let mut touched = 0;
        for file in files_below(&cache(&scratch)) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if kind == "all" || name.contains(kind) {
                let len = std::fs::metadata(&file).unwrap().len() as usize;
                put(&file, noise(len, 5));
                touched += 1;
            }
        }
        assert!(touched > 0, "{kind}");
        assert_eq!(new_bytes(&scratch), 0, "{kind}");
        scratch.ok(LARGE.iter().chain(&["restore", "latest", "-t", &format!("out-{kind}")]));
        assert_eq!(std::fs::read(scratch.path(&format!("out-{kind}/tree/a"))).unwrap(), noise(3_000_000, 1));
    }
}

#[test]
fn a_stale_cache_learns_what_others_wrote() {
    let scratch = prepare();
    scratch.file("tree/b", noise(2_000_000, 2));
    // Another host, with a cache of its own, backs the new file up.
    let elsewhere = scratch.path("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    scratch.ok(LARGE.iter().chain(&["--cache-dir", elsewhere, "backup", "tree"]));
    assert_eq!(new_bytes(&scratch), 0);
}

#[test]
fn packs_that_another_process_pruned_are_not_believed_in() {
    let scratch = prepare();
    for directory in ["packs", "index", "snapshots", "manifests"] {
        for file in scratch.repository_files(directory) {
            std::fs::remove_file(file).unwrap();
        }
    }
    // The cache still knows every chunk; nothing of it may count.
    assert_eq!(new_bytes(&scratch), 3_000_000);
    scratch.ok(["validate", "latest"]);
    // Only the pack is gone, its index file is not.
    for file in scratch.repository_files("packs") {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(new_bytes(&scratch), 3_000_000);
    scratch.ok(LARGE.iter().chain(&["validate", "latest"]));
}

#[test]
fn two_processes_share_a_cache() {
    let scratch = prepare();
    let first = icecore::repository::Repository::open(
        std::sync::Arc::new(icecore::backend::LocalBackend::new(scratch.path("repo"))),
        icecore::repository::IndexOptions { cache_directory: Some(cache(&scratch)), memory_limit_bytes: 0 },
    )
    .unwrap();
    assert!(first.index().unwrap().describe().starts_with("RocksDB"));
    // While this process has it open, another one works all the same, from a private copy.
    assert!(index_of(&scratch).starts_with("private RocksDB"), "{}", index_of(&scratch));
    assert_eq!(new_bytes(&scratch), 0);
    drop(first);
    assert!(index_of(&scratch).starts_with("RocksDB"));
    let left = files_below(&cache(&scratch))
        .into_iter()
        .filter(|file| file.to_string_lossy().contains("private-"))
        .count();
    assert_eq!(left, 0, "private copies are removed");
}

#[test]
fn an_unusable_cache_directory_is_said_and_done_without() {
    let scratch = prepare();
    let file = scratch.file("a-file", "x");
    let arguments = ["--cache-dir", file.to_str().unwrap(), "backup", "tree"];
    let document = scratch.ok(LARGE.iter().chain(&arguments));
    assert!(document["warnings"].to_string().contains("without the index cache"), "{document:#}");
    assert_eq!(document["new_bytes"], 0);
}
