//! Packs that are written and read back beside those that fill them: what goes wrong there ends the backup, and nothing is published.

use crate::crash_matrix::{backup, files_in, init, open};
use crate::fault_disk::{FaultDisk, Spoilt};
use crate::support::{noise, put};
use icecore::backend::Disk;
use icecore::backup::BackupError;
use icecore::flow::FlowError;
use icecore::format::{Doomed, DoomedKind, Key, PackKind};
use icecore::id::Id;
use icecore::progress::Silent;
use icecore::repository::{ChunkWriter, Condemned, Repository, RepositoryError, Trust};
use icecore::stamp::now_nanos;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two full packs of data, and what is left for a third.
const BYTES: usize = 70 << 20;

/// A disk with an empty repository, which is open.
fn fresh() -> (FaultDisk, Repository) {
    let disk = FaultDisk::default();
    init(&disk).unwrap();
    let repository = open(&disk).unwrap();
    (disk, repository)
}

#[test]
fn a_pack_that_goes_wrong_is_in_no_snapshot() {
    let (source, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = noise(BYTES, 1);
    put(&source.path().join("f"), &content);
    for how in [Spoilt::Name, Spoilt::Content] {
        for pack in 0.. {
            let disk = FaultDisk::default();
            init(&disk).unwrap();
            disk.spoil(pack, how);
            let stamp = backup(&disk, source.path(), scratch.path());
            let Some(spoilt) = disk.spoilt() else {
                stamp.unwrap();
                assert!(pack >= 4, "{pack}: two full packs, one that isn't, and one of the tree");
                break;
            };
            let error = stamp.unwrap_err();
            let repository = match &error {
                FlowError::Repository(error) => error,
                FlowError::Backup(BackupError::Repository(error)) => error,
                other => panic!("{how:?} of pack {pack}: {other:?}"),
            };
            let is_told = match how {
                Spoilt::Name => repository.to_string().contains("a bad sector"),
                Spoilt::Content => matches!(repository, RepositoryError::Damaged { .. }),
            };
            assert!(is_told, "{how:?} of pack {pack}: {repository:?}");
            let repository = open(&disk).unwrap();
            assert!(repository.snapshots().unwrap().list.is_empty());
            let name = spoilt.file_name().unwrap().to_string_lossy();
            assert!(listed(&repository).iter().all(|pack| pack.hex() != name), "{how:?} of pack {pack}");
            // The disk is well again. What was stored serves, but nothing that wasn't, or didn't read back, is taken for stored.
            disk.spoil(usize::MAX, how);
            let stamp = backup(&disk, source.path(), scratch.path()).unwrap();
            if how == Spoilt::Content {
                disk.remove(&spoilt).unwrap();
            }
            let repository = open(&disk).unwrap();
            let snapshots = repository.snapshots().unwrap();
            let root = snapshots.get(stamp).unwrap().manifest.sources[0].root.clone().unwrap();
            let found = files_in(&repository, &root);
            assert!(
                found.get(Path::new("f")).is_some_and(|bytes| *bytes == content),
                "{how:?} of pack {pack}"
            );
        }
    }
}

/// The packs that index files list.
fn listed(repository: &Repository) -> Vec<Id> {
    let index = repository.index().unwrap();
    let files = index.files().iter().map(|(name, _)| index.read_file(name).unwrap().unwrap());
    files.flat_map(|file| file.packs.into_iter().map(|pack| pack.pack)).collect()
}

fn is_read_anew(disk: &FaultDisk, pack: &Id) -> bool {
    disk.read_anew().iter().any(|path| path.to_string_lossy().ends_with(&pack.hex()))
}

/// Where the lane has enough to do, those that fill packs write them too. Whatever isn't read back on the way is in the end.
#[test]
fn each_pack_is_read_back_and_listed() {
    let (disk, repository) = fresh();
    let writer = ChunkWriter::new(&repository, Trust::Index);
    let bytes = noise(4 * (32 << 20) + 1000, 2);
    disk.shut(true);
    std::thread::scope(|scope| {
        let lane = writer.lane(scope);
        for (number, chunk) in bytes.chunks(1 << 20).enumerate() {
            writer.put(PackKind::Data, chunk).unwrap();
            // The first pack is full and written, and is being read back.
            while number == 40 && disk.read_anew().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(lane);
        disk.shut(false);
    });
    assert!(disk.read_anew().len() < 5, "some are left for the end");
    assert_eq!(listed(&open(&disk).unwrap()), [], "nothing was due");
    let written = writer.finish(&Silent).unwrap();
    assert_eq!(written.packs.len(), 5, "{written:?}");
    let again = open(&disk).unwrap();
    let listed = listed(&again);
    for pack in &written.packs {
        assert!(is_read_anew(&disk, pack) && listed.contains(pack), "{pack} of {written:?}, {listed:?}");
    }
    for chunk in bytes.chunks(1 << 20) {
        assert_eq!(again.read_chunk(&again.naming().id_of(chunk)).unwrap(), chunk);
    }
}

/// A long run lists packs on the way, none that it hasn't read back; whoever is killed then has left what he hadn't listed.
#[test]
fn what_is_listed_on_the_way_was_read_back() {
    let (disk, repository) = fresh();
    let writer = ChunkWriter::new(&repository, Trust::Index);
    std::thread::scope(|scope| {
        let _lane = writer.lane(scope);
        for number in 0..270_000u32 {
            writer.put(PackKind::Data, &number.to_le_bytes()).unwrap();
        }
        let begun = Instant::now();
        while listed(&open(&disk).unwrap()).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is listed");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let listed = listed(&open(&disk).unwrap());
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(listed.iter().all(|pack| is_read_anew(&disk, pack)), "{listed:?}");
}

/// Whoever trusts no chunk that he hasn't read leaves none in a pack that nobody lists.
#[test]
fn what_is_read_chunk_by_chunk_is_listed_too() {
    let (disk, repository) = fresh();
    let chunks = noise(33 << 20, 6);
    let put_all = |repository: &Repository, trust| {
        let writer = ChunkWriter::new(repository, trust);
        for chunk in chunks.chunks(1 << 20).take(32) {
            writer.put(PackKind::Data, chunk).unwrap();
        }
        (trust == Trust::Nothing).then(|| writer.finish(&Silent).unwrap())
    };
    put_all(&repository, Trust::Index);
    let again = open(&disk).unwrap();
    assert_eq!((again.index().unwrap().packs().len(), listed(&again)), (1, vec![]));
    let written = put_all(&again, Trust::Nothing).unwrap();
    assert_eq!((written.packs.len(), listed(&open(&disk).unwrap()).len()), (0, 1));
}

/// What a run found wrong it doesn't rely on, though somebody may take it off the list of what is condemned.
#[test]
fn what_was_found_wrong_stays_so_for_a_run() {
    let (disk, repository) = fresh();
    let chunks = noise(33 << 20, 8);
    let chunk = &chunks[..1 << 20];
    let put_all = |repository: &Repository| {
        let writer = ChunkWriter::new(repository, Trust::Index);
        for chunk in chunks.chunks(1 << 20) {
            writer.put(PackKind::Data, chunk).unwrap();
        }
    };
    put_all(&repository);
    let mut tree = disk.tree();
    tree.damage(|path| path.to_string_lossy().contains("/packs/"));
    let disk = FaultDisk::with(&tree);
    let repository = open(&disk).unwrap();
    let index = repository.index().unwrap();
    assert!(index.holds(&repository.naming().id_of(chunk)).unwrap() && !index.refresh().unwrap().is_less());
    put_all(&repository);
    let doomed = repository.backend().list("doomed").unwrap();
    assert_eq!(doomed.len(), 1, "{doomed:?}");
    doomed.iter().for_each(|(path, _)| repository.backend().delete(path).unwrap());
    assert!(index.refresh().unwrap().is_less());
    let writer = ChunkWriter::new(&repository, Trust::Index);
    let (id, kept) = (repository.naming().id_of(chunk), writer.kept_in(&repository.naming().id_of(chunk)));
    let wrong = index.packs().keys().filter(|pack| index.is_doomed(pack)).count();
    assert!(
        wrong == 1 && kept.unwrap().is_none_or(|packs| !packs.iter().any(|pack| index.is_doomed(pack))),
        "{id}"
    );
}

/// A run that knows that what it refers to can't be read publishes nothing, however little its proof asks.
#[test]
fn what_lies_in_a_condemned_pack_and_is_damaged_is_no_snapshot() {
    let (source, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&source.path().join("f"), noise(300_000, 7));
    let (disk, _) = fresh();
    backup(&disk, source.path(), scratch.path()).unwrap();
    let mut tree = disk.tree();
    let packs = open(&disk).unwrap().backend().list("packs").unwrap();
    let (largest, _) = packs.iter().max_by_key(|(_, size)| *size).unwrap();
    tree.damage(|path| path.ends_with(largest));
    let disk = FaultDisk::with(&tree);
    let Some(Key::Pack(id)) = Key::parse(largest) else { panic!("{largest}") };
    let condemned = vec![Doomed { kind: DoomedKind::Pack, id, since_ns: now_nanos() }];
    let repository = open(&disk).unwrap();
    repository.condemn(&Condemned::default(), condemned).unwrap();
    let error = backup(&disk, source.path(), scratch.path()).unwrap_err();
    assert!(matches!(error, FlowError::Repository(RepositoryError::Damaged { .. })), "{error:?}");
    assert_eq!(repository.snapshots().unwrap().list.len(), 1);
}

/// What a run that was killed has left is read back before another run relies on it: what is right serves and is listed, and of what
/// isn't nothing is taken for stored.
#[test]
fn what_a_killed_run_has_left_is_read_back_before_it_counts() {
    let (source, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = noise(BYTES, 5);
    put(&source.path().join("f"), &content);
    let disk = FaultDisk::default();
    init(&disk).unwrap();
    backup(&disk, source.path(), scratch.path()).unwrap();
    let repository = open(&disk).unwrap();
    for directory in ["index", "manifests", "snapshots"] {
        for (path, _) in repository.backend().list(directory).unwrap() {
            repository.backend().delete(&path).unwrap();
        }
    }
    let packs = repository.backend().list("packs").unwrap();
    let (largest, _) = packs.iter().max_by_key(|(_, size)| *size).unwrap();
    for is_damaged in [false, true] {
        let mut left = disk.tree();
        if is_damaged {
            left.damage(|path| path.ends_with(largest));
        }
        let disk = FaultDisk::with(&left);
        let stamp = backup(&disk, source.path(), scratch.path()).unwrap();
        let repository = open(&disk).unwrap();
        let snapshots = repository.snapshots().unwrap();
        let manifest = &snapshots.get(stamp).unwrap().manifest;
        let found = files_in(&repository, manifest.sources[0].root.as_ref().unwrap());
        assert!(found.get(Path::new("f")).is_some_and(|bytes| *bytes == content), "{is_damaged}");
        let condemned: Vec<Id> =
            repository.condemned().unwrap().list.iter().map(|doomed| doomed.id).collect();
        let listed = listed(&repository);
        for (path, size) in &packs {
            let Some(Key::Pack(pack)) = Key::parse(path) else { panic!("{path}") };
            let is_bad = is_damaged && path == largest;
            assert_eq!(condemned.contains(&pack), is_bad, "{path} of {size} bytes");
            assert_eq!(listed.contains(&pack), !is_bad, "{path} of {size} bytes");
            assert!(is_read_anew(&disk, &pack), "{path} of {size} bytes");
        }
        let is_stored_again = manifest.new_bytes > 30 << 20;
        assert_eq!(is_stored_again, is_damaged, "{} bytes", manifest.new_bytes);
        assert!(manifest.new_bytes < 34 << 20, "{} bytes", manifest.new_bytes);
    }
}

/// Before a hold the lane comes to rest, whatever it still has to do, until the next pack is full.
#[test]
fn at_rest_it_leaves_the_disk_alone() {
    let (disk, repository) = fresh();
    let writer = ChunkWriter::new(&repository, Trust::Index);
    let bytes = noise(3 * (33 << 20), 3);
    std::thread::scope(|scope| {
        let _lane = writer.lane(scope);
        let mut chunks = bytes.chunks(1 << 20);
        let mut fill = |count: usize| {
            for chunk in chunks.by_ref().take(count) {
                writer.put(PackKind::Data, chunk).unwrap();
            }
        };
        disk.shut(true);
        fill(33);
        while disk.read_anew().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fill(33);
        disk.shut(false);
        // The first pack is being read back, the second one waits to be written.
        writer.rest();
        let calls = disk.calls();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!((disk.calls(), disk.read_anew().len()), (calls, 1));
        fill(33);
        while disk.read_anew().len() < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    writer.finish(&Silent).unwrap();
}

/// Whoever goes on after an error, as a file that is read again does, isn't told that what was lost is kept.
#[test]
fn after_an_error_nothing_counts_as_kept() {
    for has_lane in [false, true] {
        let (disk, repository) = fresh();
        let writer = ChunkWriter::new(&repository, Trust::Index);
        let bytes = noise(40 << 20, 4);
        disk.spoil(0, Spoilt::Name);
        std::thread::scope(|scope| {
            let lane = has_lane.then(|| writer.lane(scope));
            for chunk in bytes.chunks(1 << 20).chain(bytes.chunks(1 << 20)) {
                drop(writer.put(PackKind::Data, chunk));
            }
            drop(lane);
        });
        for _ in 0..2 {
            let error = writer.finish(&Silent).unwrap_err();
            assert!(
                matches!(&error, RepositoryError::Backend(error) if error.to_string().contains("a bad sector")),
                "{error:?}"
            );
        }
        assert!(writer.put(PackKind::Data, b"anything").is_err());
    }
}
