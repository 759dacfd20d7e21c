//! The RocksDB index cache: missing, stale, damaged, shared, and ahead of packs that are gone.

use crate::support::{Scratch, files_below, noise, put};
use icecore::backend::LocalBackend;
use icecore::format::ListedPack;
use icecore::id::Id;
use icecore::repository::{IndexOptions, Repository};
use std::path::PathBuf;
use std::sync::Arc;

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
    let first = Repository::open(
        Arc::new(LocalBackend::new(scratch.path("repo"))),
        IndexOptions { cache_directory: Some(cache(&scratch)), memory_limit_bytes: 0 },
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

/// The repository, with its index in RocksDB or in memory.
fn open(scratch: &Scratch, in_rocks: bool) -> Repository {
    let backend = Arc::new(LocalBackend::new(scratch.path("repo")));
    let cache_directory = in_rocks.then(|| scratch.path("another-cache"));
    let opened = Repository::open(backend, IndexOptions { cache_directory, memory_limit_bytes: 0 }).unwrap();
    assert_eq!(opened.index().unwrap().describe().starts_with("RocksDB"), in_rocks);
    opened
}

/// How the ids of all chunks begin, and those that are differences.
fn prefixes(repository: &Repository) -> (Vec<u64>, usize) {
    let (mut prefixes, mut differences) = (Vec::new(), 0);
    let mut take = |pack: &ListedPack| {
        prefixes.extend(pack.chunks.iter().map(|chunk| chunk.prefix));
        differences += pack.chunks.iter().filter(|chunk| !chunk.bases.is_empty()).count();
        Ok(())
    };
    repository.index().unwrap().each_pack(&mut take).unwrap();
    (prefixes, differences)
}

#[test]
fn chunks_looked_up_together_are_told_like_single_ones() {
    let scratch = Scratch::new();
    scratch.init();
    let mut bytes = noise(6_000_000, 1);
    for round in 0..3 {
        for at in (round * 1_000..bytes.len()).step_by(150_000) {
            bytes[at] ^= 1;
        }
        scratch.file("tree/a", &bytes);
        scratch.file("tree/b", noise(300_000, 10 + round as u64));
        scratch.ok(["backup", "tree"]);
    }
    let (known, differences) = prefixes(&open(&scratch, false));
    assert!(differences > 20, "{differences}");
    let unknown = (0..50u64).map(|number| number << 58 | 7);
    let asked: Vec<u64> = known.iter().copied().chain(unknown).chain(known.first().copied()).collect();
    let packs = scratch.repository_files("packs");
    assert!(packs.len() > 4, "{packs:?}");
    for pack in &packs {
        let whole = std::fs::read(pack).unwrap();
        for damage in ["none", "cut", "gone"] {
            match damage {
                "none" => {}
                "cut" => put(pack, &whole[..whole.len() / 2]),
                _ => std::fs::remove_file(pack).unwrap(),
            }
            let told = |repository: Repository| {
                let mut lacking = repository.lacking(asked.clone()).unwrap();
                lacking.sort_unstable();
                lacking.dedup();
                lacking
            };
            let single = open(&scratch, false);
            let id = |prefix: &u64| Id::from_slice(&[prefix.to_le_bytes(); 4].concat()).unwrap();
            let mut lacking: Vec<u64> =
                asked.iter().copied().filter(|prefix| !single.has_chunk(&id(prefix)).unwrap()).collect();
            lacking.sort_unstable();
            lacking.dedup();
            assert_eq!(told(open(&scratch, true)), lacking, "{damage} {}", pack.display());
            assert_eq!(told(open(&scratch, false)), lacking, "{damage} {}", pack.display());
            assert_eq!(lacking.len() > 50, damage != "none");
        }
        put(pack, whole);
    }
}
