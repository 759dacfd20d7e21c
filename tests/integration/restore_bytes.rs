//! How much a restore in place reads and writes: what differs, and no more.

use crate::restore_states::python_at;
use crate::support::{Scratch, has, noise, put, settle};
use std::os::unix::fs::{FileExt, MetadataExt};

const CONFIRM: &str = "--confirm-service-stopped";

#[test]
fn scattered_page_edits_cost_what_they_changed() {
    if !has("python3") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let live = scratch.mkdir("live");
    // Rows as applications have them: words, numbers, no noise.
    python_at(
        &live,
        "import sqlite3,random\nrandom.seed(1)\nw=[''.join(random.choices('etaoinshrdlu',k=random.randint(2,9))) for _ in range(4000)]\n\
         c=sqlite3.connect('app.db')\nc.execute('create table t(id integer primary key, words, score real, at)')\n\
         c.executemany('insert into t values(?,?,?,?)',((i,' '.join(random.choices(w,k=40)),random.random(),1700000000+i) for i in range(160000)))\nc.commit()",
    );
    let path = live.join("app.db");
    let stamp = scratch.backup(&["app=live/app.db"]);
    let pages = path.metadata().unwrap().len() / 4096;
    let before = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let mut changed = std::collections::BTreeSet::new();
    for number in 0..400u64 {
        let page = 1 + number * 7919 % (pages - 1);
        changed.insert(page);
        file.write_all_at(b"edited", page * 4096 + 100 + number % 3000).unwrap();
    }
    // The first sector comes last.
    [40, 300, 3000].into_iter().for_each(|at| file.write_all_at(b"edited", at).unwrap());
    changed.insert(0);
    drop(file);
    settle();
    let differing = changed.len() as u64 * 4096;
    let planned = scratch.ok(["restore", &stamp, "-n"]);
    assert_eq!(planned["plan"][0]["bytes"], differing, "{planned:#}");
    let edited = std::fs::read(&path).unwrap();
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let (written, read) =
        (document["written_bytes"].as_u64().unwrap(), document["read_bytes"].as_u64().unwrap());
    assert!(written * 10 <= differing * 11, "{written} bytes written, {differing} differ");
    assert!(read <= 3 * differing, "{read} bytes read, {differing} differ");
    // The safety snapshot costs what was about to be lost.
    let listed = scratch.ok(["list"]);
    let safety = &listed["backups"][1];
    assert!(safety["stored_bytes"].as_u64().unwrap() <= 4 * differing, "{safety:#}");
    // And it holds all of that.
    scratch.ok(["restore", "--rollback", CONFIRM]);
    assert!(std::fs::read(&path).unwrap() == edited);
}

/// What is saved of large files goes by the comparison, and must be right wherever they differ.
#[test]
fn large_files_come_back_whatever_was_changed_in_them() {
    for saving in [&[][..], &["--no-pre-snapshot"]] {
        let scratch = Scratch::new();
        scratch.init();
        let bytes = noise(6_000_000, 1);
        let names =
            ["head", "middle", "tail", "longer", "shorter", "other", "same", "moved", "spots", "bits"];
        for name in names {
            scratch.file(&format!("tree/{name}"), &bytes);
        }
        let stamp = scratch.backup(&["tree"]);
        for name in names {
            let mut changed = bytes.clone();
            match name {
                "head" => changed[..5000].fill(1),
                "middle" => changed[3_000_000..3_200_000].fill(2),
                "tail" => changed[5_999_000..].fill(3),
                "longer" => changed.extend(noise(700_000, 2)),
                "shorter" => changed.truncate(2_345_678),
                "other" => changed = noise(6_000_000, 3),
                "moved" => changed.rotate_left(1000),
                "spots" => (0..6_000_000).step_by(40_961).for_each(|at| changed[at] ^= 1),
                "bits" => (0..6_000_000)
                    .step_by(997)
                    .for_each(|at| changed[at..].iter_mut().take(3).for_each(|b| *b ^= 4)),
                _ => {}
            }
            put(&scratch.path(&format!("tree/{name}")), changed);
        }
        // Files that were touched just now are read again, so that they are left to grow old.
        settle();
        let before = crate::support::describe(&scratch.path("tree"), true);
        scratch.ok(["restore", &stamp, CONFIRM].iter().chain(saving));
        for name in names {
            assert!(std::fs::read(scratch.path(&format!("tree/{name}"))).unwrap() == bytes, "{name}");
        }
        scratch.ok(["restore", "--rollback", CONFIRM].iter().chain(saving));
        assert_eq!(crate::support::describe(&scratch.path("tree"), true), before, "{saving:?}");
        scratch.ok(["validate", "--all"]);
    }
}

#[test]
fn a_plain_file_is_written_block_by_block() {
    let scratch = Scratch::new();
    scratch.init();
    let bytes = noise(30_000_000, 1);
    let path = scratch.file("tree/big", &bytes);
    scratch.file("tree/same", noise(5_000_000, 2));
    let stamp = scratch.backup(&["tree"]);
    let untouched = scratch.path("tree/same").metadata().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for at in [4096u64, 9_000_000, 9_000_001, 20_000_000 - 1, 29_999_999] {
        file.write_all_at(&[bytes[at as usize] ^ 1], at).unwrap();
    }
    drop(file);
    let document = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let written = document["written_bytes"].as_u64().unwrap();
    assert!(written <= 4 * 4096, "{written}");
    let now = scratch.path("tree/same").metadata().unwrap();
    let times =
        |metadata: &std::fs::Metadata| (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime_nsec());
    assert_eq!(times(&now), times(&untouched), "what is equal isn't touched, not even its change time");
    let again = scratch.ok(["restore", &stamp, CONFIRM]);
    assert_eq!(again["written_bytes"], 0);
}

#[test]
fn holes_stay_holes_and_become_holes_again() {
    let scratch = Scratch::new();
    scratch.init();
    let islands: [(u64, &[u8]); 2] = [(10 << 20, &noise(100_000, 1)), (40 << 20, &noise(100_000, 2))];
    let path = scratch.sparse("tree/sparse", 64 << 20, &islands);
    let stamp = scratch.backup(&["tree"]);
    let blocks = path.metadata().unwrap().blocks();
    let wanted = std::fs::read(&path).unwrap();
    for turn in 0..3 {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        match turn {
            0 => file.write_all_at(&noise(3_000_000, 3), 20 << 20).unwrap(),
            1 => file.set_len(1 << 20).unwrap(),
            _ => put(&path, vec![0; 70 << 20]),
        }
        drop(file);
        scratch.ok(["restore", &stamp, CONFIRM]);
        assert!(std::fs::read(&path).unwrap() == wanted, "{turn}");
        let now = path.metadata().unwrap().blocks();
        assert!(now <= blocks + 64, "{turn}: {now} blocks instead of {blocks}");
        let again = scratch.ok(["restore", &stamp, CONFIRM]);
        assert_eq!(again["written_bytes"], 0, "{turn}");
    }
}
