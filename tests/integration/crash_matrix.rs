//! Power cuts at every step of init, backup, forget, prune and repair: whatever the disk could be left with opens, checks, gives
//! back every snapshot that was published, and takes a new backup and a prune.

use crate::fault_disk::{FaultDisk, Tree};
use crate::support::{noise, put};
use icecore::backend::LocalBackend;
use icecore::backup::{Author, BackupRequest};
use icecore::check::{ReadData, Scope, check, repair};
use icecore::cores::on_all_cores;
use icecore::flow::{FlowError, PublishRequest, prove_and_publish};
use icecore::format::{Doomed, DoomedKind, Entry, EntryKind, Key, Level, SourceKind};
use icecore::hooks::Hooks;
use icecore::progress::Silent;
use icecore::prune::{PruneOptions, prune};
use icecore::repository::{Condemned, FileReader, IndexOptions, Repository, RepositoryError};
use icecore::source::{CaptureOptions, HoldMode, SourceSpec, SqliteInTree};
use icecore::stamp::Stamp;
use icecore::validate::Depth;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ROOT: &str = "/repo";

/// Paths and bytes of one source.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

fn request(source: &Path, scratch: &Path) -> PublishRequest {
    let spec = SourceSpec {
        name: "tree".into(),
        kind: SourceKind::Tree,
        path: source.to_owned(),
        source_path: None,
        hold: HoldMode::Auto,
        max_hold: None,
        optional: false,
        exclude: Vec::new(),
        sqlite: SqliteInTree::Hold,
    };
    let options = CaptureOptions {
        cold: true,
        raw: false,
        hold: HoldMode::Auto,
        max_hold: None,
        lock_wait: Duration::ZERO,
        temporary_directory: scratch.to_owned(),
    };
    let author = Author { profile: "p".into(), host: "h".into(), tool: "t".into(), tags: Vec::new() };
    PublishRequest {
        backup: BackupRequest { sources: vec![spec], author, options, repository_path: None },
        depth: Depth::Exactly(Level::Quick),
        patience: Duration::ZERO,
        reread: false,
        hooks: Hooks::default(),
    }
}

/// Opens the repository on a disk.
pub fn open(disk: &FaultDisk) -> Result<Repository, RepositoryError> {
    Repository::open(Arc::new(LocalBackend::on(Arc::new(disk.clone()), ROOT)), IndexOptions::default())
}

/// Makes a repository on a disk.
pub fn init(disk: &FaultDisk) -> Result<(), RepositoryError> {
    let backend = LocalBackend::on(Arc::new(disk.clone()), ROOT);
    backend.create_directory("")?;
    Repository::create(Arc::new(backend), *b"thirty-two bytes for a crash tes")?;
    let backend = LocalBackend::on(Arc::new(disk.clone()), ROOT);
    Ok(Key::DIRECTORIES.iter().try_for_each(|directory| backend.create_directory(directory))?)
}

/// Takes a snapshot of a tree into the repository on a disk.
pub fn backup(disk: &FaultDisk, source: &Path, scratch: &Path) -> Result<Stamp, FlowError> {
    let published = prove_and_publish(&open(disk)?, &request(source, scratch), &Silent);
    published.map(|published| published.manifest.stamp).map_err(|unpublished| unpublished.error)
}

fn pruned(disk: &FaultDisk, grace: Option<Duration>) -> Result<(), RepositoryError> {
    let options = PruneOptions { grace, patience: Duration::ZERO };
    prune(&open(disk)?, &options, &HashSet::new(), &mut Vec::new(), &Silent).map(drop)
}

/// What a directory holds.
fn files_of(source: &Path) -> Files {
    let files = crate::support::files_below(source).into_iter();
    files.map(|path| (path.strip_prefix(source).unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

/// What a snapshot holds.
pub fn files_in(repository: &Repository, root: &Entry) -> Files {
    let (mut found, mut waiting) = (Files::new(), vec![(PathBuf::new(), root.clone())]);
    while let Some((path, entry)) = waiting.pop() {
        if entry.kind == EntryKind::Directory {
            for below in repository.entries(&entry.content).unwrap() {
                waiting.push((path.join(String::from_utf8(below.name.clone()).unwrap()), below));
            }
        } else {
            let reader = FileReader::open(repository, &entry).unwrap();
            let mut bytes = vec![0; reader.size() as usize];
            reader.read_exact_at(&mut bytes, 0).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// One verb of the story: the calls that it made, and what must be there whenever they are cut.
struct Step {
    name: &'static str,
    disk: FaultDisk,
    calls: std::ops::Range<usize>,
    /// Published before, and not forgotten by this step.
    must: BTreeSet<Stamp>,
}

/// A story on a disk, and what each snapshot in it holds.
struct Story {
    disk: FaultDisk,
    steps: Vec<Step>,
    snapshots: BTreeMap<Stamp, Files>,
    gone: BTreeSet<Stamp>,
    life: u64,
    source: tempfile::TempDir,
    scratch: tempfile::TempDir,
}

impl Story {
    /// A disk on which nothing has happened.
    fn empty() -> Self {
        Self {
            disk: FaultDisk::default(),
            steps: Vec::new(),
            snapshots: BTreeMap::new(),
            gone: BTreeSet::new(),
            life: 0,
            source: tempfile::tempdir().unwrap(),
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    /// The life of a small repository; lives differ in what changes, and when it is pruned. The damage at its end is to what can be
    /// made anew.
    fn new(life: u64) -> Self {
        let mut story = Self { life, ..Self::empty() };
        story.step("init", |story| init(&story.disk).unwrap());
        let mut stamps: Vec<Stamp> = (1..=4).map(|seed| story.backup(seed)).collect();
        story.forget(stamps[0]);
        story.forget(stamps[1]);
        story.prune(Some(Duration::ZERO));
        story.forget(stamps[2]);
        stamps.push(story.backup(5));
        story.prune(Some(Duration::ZERO));
        // So many small packs that they are put together.
        stamps.extend((6..=12).map(|seed| story.backup(seed)));
        story.forget(stamps[5]);
        story.prune(if life.is_multiple_of(2) { Some(Duration::ZERO) } else { None });
        story.prune(Some(Duration::ZERO));
        stamps.push(story.backup(13));
        story.forget(stamps[6 + life as usize % 3]);
        story.prune(if life.is_multiple_of(3) { None } else { Some(Duration::ZERO) });
        let mut tree = story.disk.tree();
        tree.damage(|path| path.to_string_lossy().contains("/index/"));
        tree.damage(|path| path.ends_with(format!("snapshots/{}", stamps[9])));
        story.disk = FaultDisk::with(&tree);
        story.step("repair", |story| {
            let (done, after) = repaired(&story.disk);
            assert!(after && done > 0, "{done} files were put aside");
        });
        story
    }

    /// Changes half of the files.
    fn change(&self, seed: u64) {
        for file in 0..8 {
            if seed == 1 || file % 2 == seed % 2 {
                let path = self.source.path().join(format!("d{}/f{file}", file % 2));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                put(&path, noise(1_000 + 2_000 * file as usize, self.life * 10_000 + seed * 100 + file));
            }
        }
        let long = noise(30_000, 5).into_iter().chain(noise(700 * seed as usize, 6)).collect::<Vec<u8>>();
        put(&self.source.path().join("long"), long);
        crate::support::settle();
    }

    fn step(&mut self, name: &'static str, work: impl FnOnce(&Self)) {
        let (disk, from) = (self.disk.clone(), self.disk.calls());
        let must = self.snapshots.keys().copied().filter(|stamp| !self.gone.contains(stamp)).collect();
        work(self);
        let calls = from..disk.calls();
        self.steps.push(Step { name, disk, calls, must });
    }

    fn backup(&mut self, seed: u64) -> Stamp {
        self.change(seed);
        let files = files_of(self.source.path());
        let stamp = std::cell::Cell::new(None);
        self.step("backup", |story| {
            stamp.set(Some(backup(&story.disk, story.source.path(), story.scratch.path()).unwrap()));
        });
        let stamp = stamp.get().unwrap();
        self.snapshots.insert(stamp, files);
        stamp
    }

    fn forget(&mut self, stamp: Stamp) {
        self.gone.insert(stamp);
        self.step("forget", |story| {
            let repository = open(&story.disk).unwrap();
            let snapshots = repository.snapshots().unwrap();
            repository.forget(snapshots.get(stamp).unwrap()).unwrap();
        });
    }

    fn prune(&mut self, grace: Option<Duration>) {
        self.step("prune", |story| pruned(&story.disk, grace).unwrap());
    }

    /// What a cut in this step has left is as good as what was there before, or as what the step makes.
    fn survives(&self, step: &Step, tree: &Tree, place: &str) {
        let disk = FaultDisk::with(tree);
        if step.name == "init" && matches!(open(&disk), Err(RepositoryError::Absent { .. })) {
            init(&disk).unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        if step.name == "repair" {
            assert!(repaired(&disk).0 <= 2, "{place}");
        }
        let mut must = step.must.clone();
        self.is_whole(&disk, &must, None, place);
        let stamp = backup(&disk, self.source.path(), self.scratch.path())
            .unwrap_or_else(|error| panic!("{place}: a new backup: {error}"));
        must.insert(stamp);
        for grace in [Some(Duration::ZERO), None] {
            pruned(&disk, grace).unwrap_or_else(|error| panic!("{place}: a new prune: {error}"));
        }
        self.is_whole(&disk, &must, Some(stamp), place);
    }

    /// It checks, holds what it must, and everything in it is right; a fresh snapshot may have the stamp of one that never was.
    fn is_whole(&self, disk: &FaultDisk, must: &BTreeSet<Stamp>, fresh: Option<Stamp>, place: &str) {
        let repository = open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
        let scope = Scope { read_data: ReadData::Part(icecore::check::Part::WHOLE) };
        let checked = check(&repository, scope, &Silent).unwrap();
        assert!(checked.is_sound(), "{place}: {:?}", checked.problems);
        let there: BTreeSet<Stamp> = checked.snapshots.list.iter().map(|snapshot| snapshot.stamp).collect();
        assert!(must.is_subset(&there), "{place}: {must:?} must be there, {there:?} are");
        let present = files_of(self.source.path());
        for snapshot in &checked.snapshots.list {
            let root = snapshot.manifest.sources[0].root.as_ref().unwrap();
            let of_story = self.snapshots.get(&snapshot.stamp);
            let files = files_in(&repository, root);
            // One that wasn't there before may have been made just now, under a stamp that the story used later.
            let is_new = !must.contains(&snapshot.stamp) || fresh == Some(snapshot.stamp);
            let is_right = of_story == Some(&files) || (is_new && files == present);
            assert!(is_right, "{place}: {} holds other bytes", snapshot.stamp);
        }
    }
}

/// How many files were put aside, and whether the result is sound.
fn repaired(disk: &FaultDisk) -> (usize, bool) {
    let (done, after) = repair(&|| open(disk), &|_, _, _, _| None, Duration::ZERO, &Silent).unwrap();
    (done.quarantined.len(), after.is_sound())
}

/// A number for `scripts/soak` to raise.
fn number_from(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// `ICECORE_CRASH_SEEDS`: random states behind each call; `ICECORE_CRASH_LIVES`: lives.
#[test]
fn a_power_cut_at_any_call_loses_nothing() {
    let (seeds, lives) = (number_from("ICECORE_CRASH_SEEDS", 3), number_from("ICECORE_CRASH_LIVES", 4));
    let mut tried: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for life in 0..lives {
        let story = Story::new(life);
        for (number, step) in story.steps.iter().enumerate() {
            let [calls, cuts, different] = tried.entry(step.name).or_default();
            let mut seen = HashSet::new();
            let mut states: Vec<(usize, Tree)> = Vec::new();
            for call in step.calls.clone() {
                // A state that an earlier cut leaves too, but for leftovers in tmp/, is tried once.
                let left = step.disk.after_a_cut(call, seeds);
                *cuts += left.len();
                let fresh = left.into_iter().filter(|tree| seen.insert(tree.digest(Path::new("/repo/tmp"))));
                states.extend(fresh.map(|tree| (call, tree)));
            }
            *calls += step.calls.len();
            *different += states.len();
            on_all_cores(states.len(), |which| {
                let (call, tree) = &states[which];
                let place = format!("life {life}, step {number}, {}, call {call}, state {which}", step.name);
                story.survives(step, tree, &place);
                Ok::<(), ()>(())
            })
            .unwrap();
        }
    }
    let total: [usize; 3] = std::array::from_fn(|place| tried.values().map(|counts| counts[place]).sum());
    println!("power cuts: [calls, states, different but for tmp/] {total:?}: {tried:?}");
    assert!(total[2] > 150 * lives as usize, "{total:?}");
}

/// A disk that fails from some call on, every third one (`ICECORE_FAIL_STRIDE`): nobody claims success, and what was there stays.
#[test]
fn a_disk_that_fails_is_never_called_a_success() {
    let (story, stride) = (Story::new(0), number_from("ICECORE_FAIL_STRIDE", 3) as usize);
    let failures = AtomicUsize::new(0);
    for step in &story.steps {
        if matches!(step.name, "init" | "repair") {
            continue;
        }
        let before = step.disk.after_a_cut(step.calls.start, 0).swap_remove(0);
        let calls: Vec<usize> = (0..step.calls.len()).step_by(stride).collect();
        on_all_cores(calls.len(), |which| {
            let call = calls[which];
            let disk = FaultDisk::with(&before);
            disk.fail_from(call);
            let must: Vec<Stamp> = step.must.iter().copied().collect();
            let failed = match step.name {
                "backup" => backup(&disk, story.source.path(), story.scratch.path()).is_err(),
                "forget" => open(&disk)
                    .and_then(|repository| {
                        let snapshots = repository.snapshots()?;
                        let other =
                            |snapshot: &&icecore::repository::Snapshot| !must.contains(&snapshot.stamp);
                        snapshots
                            .list
                            .iter()
                            .find(other)
                            .map_or(Ok(()), |snapshot| repository.forget(snapshot))
                    })
                    .is_err(),
                _ => pruned(&disk, Some(Duration::ZERO)).is_err(),
            };
            failures.fetch_add(usize::from(failed), Ordering::Relaxed);
            if call < 2 {
                assert!(failed, "{}: call {call} failed, and nobody said so", step.name);
            }
            let left = disk.after_a_cut(disk.calls(), 0);
            left.iter().for_each(|tree| {
                story.survives(step, tree, &format!("{} after call {call} failed", step.name))
            });
            Ok::<(), ()>(())
        })
        .unwrap();
    }
    println!("{} runs on failing disks", failures.load(Ordering::Relaxed));
}

/// Does something at the first step whose name begins like this.
struct Meanwhile<'a> {
    step: &'a str,
    work: &'a (dyn Fn() + Sync),
    is_done: std::sync::atomic::AtomicBool,
}

impl icecore::progress::Progress for Meanwhile<'_> {
    fn begin(&self, step: &str, _total_bytes: Option<u64>) {
        if step.starts_with(self.step) && !self.is_done.swap(true, Ordering::SeqCst) {
            (self.work)();
        }
    }
    fn advance(&self, _bytes: u64) {}
    fn stop(&self) -> &icecore::progress::Stop {
        icecore::progress::Progress::stop(&Silent)
    }
}

/// What a backup condemns while a prune is at work stays condemned.
#[test]
fn what_is_condemned_during_a_prune_stays_condemned() {
    let story = Story::empty();
    init(&story.disk).unwrap();
    put(&story.source.path().join("one"), noise(5_000, 1));
    crate::support::settle();
    backup(&story.disk, story.source.path(), story.scratch.path()).unwrap();
    let repository = open(&story.disk).unwrap();
    let packs = repository.index().unwrap().packs();
    let doomed = packs.keys().map(|id| Doomed { kind: DoomedKind::Pack, id: *id, since_ns: 1 });
    let doomed: Vec<Doomed> = doomed.collect();
    let work = || open(&story.disk).unwrap().condemn(&Condemned::default(), doomed.clone()).unwrap();
    let meanwhile = Meanwhile { step: "", work: &work, is_done: false.into() };
    let options = PruneOptions { grace: Some(Duration::ZERO), patience: Duration::ZERO };
    prune(&repository, &options, &HashSet::new(), &mut Vec::new(), &meanwhile).unwrap();
    assert!(meanwhile.is_done.load(Ordering::SeqCst));
    let left = open(&story.disk).unwrap().condemned().unwrap().list;
    assert!(doomed.len() > 1 && doomed.iter().all(|doomed| left.contains(doomed)), "{left:?}");
}

/// While a snapshot is proven, another host forgets the only other one that has its data, and prunes: once, and the data is stored
/// again; twice, so that it is gone, and nothing is published.
#[test]
fn a_prune_during_the_proof_is_noticed() {
    for prunes in [1, 2] {
        let story = Story::empty();
        init(&story.disk).unwrap();
        // One file in one chunk: its proof needs nothing but the entry.
        let file = story.source.path().join("one");
        put(&file, noise(5_000, 1));
        crate::support::settle();
        let first = backup(&story.disk, &file, story.scratch.path()).unwrap();
        let work = || {
            let repository = open(&story.disk).unwrap();
            let snapshots = repository.snapshots().unwrap();
            repository.forget(snapshots.get(first).unwrap()).unwrap();
            (0..prunes).for_each(|_| pruned(&story.disk, Some(Duration::ZERO)).unwrap());
        };
        let meanwhile = Meanwhile { step: "validating", work: &work, is_done: false.into() };
        let request = request(&file, story.scratch.path());
        let published = prove_and_publish(&open(&story.disk).unwrap(), &request, &meanwhile);
        assert!(meanwhile.is_done.load(Ordering::SeqCst));
        (0..3).for_each(|_| pruned(&story.disk, Some(Duration::ZERO)).unwrap());
        let repository = open(&story.disk).unwrap();
        let snapshots = repository.snapshots().unwrap();
        match (prunes, published) {
            (1, Ok(published)) => {
                let warnings = published.warnings.join(" ");
                assert!(warnings.contains("stored again"), "{warnings}");
                let scope = Scope { read_data: ReadData::Part(icecore::check::Part::WHOLE) };
                assert!(check(&repository, scope, &Silent).unwrap().is_sound());
                assert_eq!(snapshots.list.len(), 1);
            }
            (2, Err(unpublished)) => {
                let told = unpublished.error.to_string();
                assert!(told.contains("a prune has removed data"), "{told}");
                assert!(snapshots.list.is_empty());
            }
            (_, published) => {
                panic!("{prunes} prunes: {:?}", published.map(|published| published.manifest.stamp))
            }
        }
    }
}
