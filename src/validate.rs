//! Proves snapshots from their stored bytes.

use crate::format::{
    ChunkRef, CollectionCount, Entry, EntryKind, Finding, Level, Manifest, Proof, Severity, SourceRecord,
};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{FileReader, Repository, RepositoryError, Snapshots};
use crate::source::{Judgement, ReadAt, StoredFiles, VALIDATOR_VERSION, judge};
use crate::stamp::now_nanos;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A damaged repository makes so many findings that the first of each source must do.
const MAX_FINDINGS: usize = 100;

/// How thorough a validation should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Exactly(Level),
    /// Full where the source has no full proof younger than this, else quick.
    FullEvery(Duration),
}

/// Where and how to work.
pub struct ValidateOptions<'a> {
    pub depth: Depth,
    pub temporary_directory: &'a Path,
}

/// What a validation found.
pub struct Outcome {
    pub findings: Vec<Finding>,
    /// Some finding is damage of the repository itself.
    pub damaged: bool,
}

impl Outcome {
    /// No error was found.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }
}

/// Proves a draft before it is published: each pack that the run wrote is read back, then each source is judged, and its
/// proof is put into the manifest. A source whose content an earlier snapshot had proven in full inherits that proof.
pub fn prove_draft(
    repository: &Repository,
    manifest: &mut Manifest,
    fresh_packs: &[Id],
    earlier: &Snapshots,
    options: &ValidateOptions<'_>,
    progress: &dyn Progress,
) -> Result<Outcome, RepositoryError> {
    progress.begin("proving what was written", None);
    prove_packs(repository, fresh_packs, progress)?;
    let mut outcome = Outcome { findings: Vec::new(), damaged: false };
    let profile = manifest.profile.clone();
    // While a snapshot is known to be bad, nothing that may share its chunks is taken on trust.
    let suspicious = earlier.list.iter().any(|snapshot| snapshot.was_found_bad());
    let depth = if suspicious { Depth::Exactly(Level::Full) } else { options.depth };
    for source in &mut manifest.sources {
        let Some(root) = source.root.clone() else { continue };
        if let Some(inherited) = inherit(source, &root, earlier).filter(|_| !suspicious) {
            let missing = quick_chunks(repository, source, &root)?;
            if missing.findings.is_empty() {
                source.collections = inherited.collections;
                source.written_by = inherited.written_by;
                source.proof = Some(inherited.proof);
                continue;
            }
        }
        let level = level_for(source, &profile, earlier, depth);
        let found = prove_source(repository, source, level, options.temporary_directory, progress)?;
        source.collections = found.collections;
        source.written_by = found.written_by;
        outcome.damaged |= found.damaged;
        outcome.findings.extend(found.findings.iter().cloned());
        source.proof = Some(Proof {
            level,
            validator: VALIDATOR_VERSION,
            time_ns: now_nanos(),
            inherited_from: None,
            findings: found.findings,
        });
    }
    Ok(outcome)
}

/// Reads packs back on all cores. A pack that was written just now and doesn't read back is an error, not a finding.
fn prove_packs(
    repository: &Repository,
    packs: &[Id],
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    let failed: Mutex<Option<RepositoryError>> = Mutex::default();
    on_all_cores(packs.len(), progress, |number| {
        let proven = packs.get(number).map_or(Ok(0), |pack| repository.prove_pack(pack));
        match proven {
            Ok(bytes) => progress.advance(bytes),
            Err(error) => {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    })?;
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Calls `work` with each number below `count`, on one thread per core.
fn on_all_cores(
    count: usize,
    progress: &dyn Progress,
    work: impl Fn(usize) + Sync,
) -> Result<(), RepositoryError> {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || progress.interrupted() {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
    if progress.interrupted() { Err(RepositoryError::Interrupted) } else { Ok(()) }
}

/// Proves a published snapshot again.
pub fn validate(
    repository: &Repository,
    manifest: &Manifest,
    level: Level,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Outcome, RepositoryError> {
    let mut outcome = Outcome { findings: Vec::new(), damaged: false };
    for source in manifest.sources.iter().filter(|source| source.root.is_some()) {
        let found = prove_source(repository, source, level, temporary_directory, progress)?;
        outcome.damaged |= found.damaged;
        outcome.findings.extend(found.findings);
    }
    Ok(outcome)
}

struct Inherited {
    proof: Proof,
    collections: Vec<CollectionCount>,
    written_by: Option<String>,
}

fn inherit(source: &SourceRecord, root: &Entry, earlier: &Snapshots) -> Option<Inherited> {
    earlier.list.iter().rev().find_map(|snapshot| {
        // A snapshot that a later validation found bad has nothing to leave.
        let sound = snapshot.is_valid().then_some(snapshot)?;
        let before = sound.manifest.source(&source.name).filter(|before| before.kind == source.kind)?;
        let proof = before.proof.as_ref()?;
        let same = before.root.as_ref().is_some_and(|earlier| {
            earlier.content == root.content && earlier.size == root.size && earlier.captured == root.captured
        });
        let proven = is_full(proof.level, proof.validator, proof.is_valid());
        (same && proven).then(|| {
            let inherited_from = proof.inherited_from.or(Some(snapshot.stamp));
            Inherited {
                proof: Proof { inherited_from, ..proof.clone() },
                collections: before.collections.clone(),
                written_by: before.written_by.clone(),
            }
        })
    })
}

/// A proof that today's checks would not go beyond.
fn is_full(level: Level, validator: u32, valid: bool) -> bool {
    level == Level::Full && validator == VALIDATOR_VERSION && valid
}

fn level_for(source: &SourceRecord, profile: &str, earlier: &Snapshots, depth: Depth) -> Level {
    let every = match depth {
        Depth::Exactly(level) => return level,
        Depth::FullEvery(every) => i64::try_from(every.as_nanos()).unwrap_or(i64::MAX),
    };
    let since = now_nanos().saturating_sub(every);
    let recent =
        earlier.list.iter().filter(|snapshot| snapshot.manifest.profile == profile).any(|snapshot| {
            let own = snapshot.manifest.source(&source.name).and_then(|before| before.proof.as_ref());
            let at_publication = own.is_some_and(|proof| {
                is_full(proof.level, proof.validator, proof.is_valid()) && proof.time_ns >= since
            });
            let afterwards = snapshot.later_proof.as_ref().is_some_and(|proof| {
                let full = is_full(proof.level, proof.validator, proof.is_valid());
                full && proof.time_ns >= since && proof.sources.contains(&source.name)
            });
            at_publication || afterwards
        });
    if recent { Level::Quick } else { Level::Full }
}

#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    collections: Vec<CollectionCount>,
    written_by: Option<String>,
    damaged: bool,
}

impl Found {
    fn damage(&mut self, source: &SourceRecord, path: &[u8], error: &RepositoryError) {
        self.damaged = true;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                code: format!("{}_stored_data_damaged", source.name),
                severity: Severity::Error,
                source: source.name.clone(),
                path: String::from_utf8_lossy(path).into_owned(),
                detail: error.to_string(),
            });
        }
    }
}

fn prove_source(
    repository: &Repository,
    source: &SourceRecord,
    level: Level,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Found, RepositoryError> {
    let Some(root) = &source.root else { return Ok(Found::default()) };
    progress.begin(&format!("validating {} ({})", source.name, level.name()), Some(source.counts.bytes));
    let mut found = match level {
        Level::Quick => quick_chunks(repository, source, root)?,
        Level::Full => all_chunks(repository, source, root, progress)?,
    };
    if found.damaged {
        return Ok(found);
    }
    let files = RepositoryFiles { repository, root };
    match judge(source.kind, &source.name, &files, level, temporary_directory) {
        Ok(Judgement { findings, collections, written_by }) => {
            found.findings.extend(findings);
            found.collections = collections;
            found.written_by = written_by;
        }
        Err(error) => match error.downcast::<RepositoryError>() {
            Ok(error @ (RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. })) => {
                found.damage(source, b"", &error);
            }
            Ok(error) => return Err(error),
            Err(error) => {
                let directory = temporary_directory.to_owned();
                return Err(RepositoryError::Scratch { directory, source: error });
            }
        },
    }
    Ok(found)
}

/// Takes a file's path and entry.
type Visit<'v> = dyn FnMut(&[u8], &Entry) -> Result<(), RepositoryError> + 'v;

/// Walks all entries (which proves the entry trees), giving each file with its path.
fn each_file(
    repository: &Repository,
    root: &Entry,
    visit: &mut Visit<'_>,
) -> Result<(), (Vec<u8>, RepositoryError)> {
    let mut waiting = vec![(Vec::new(), root.clone())];
    while let Some((path, entry)) = waiting.pop() {
        match entry.kind {
            EntryKind::Directory => {
                let below = repository.entries(&entry.content).map_err(|error| (path.clone(), error))?;
                waiting.extend(below.into_iter().rev().map(|entry| {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    ([path.as_slice(), slash, &entry.name].concat(), entry)
                }));
            }
            EntryKind::File => visit(&path, &entry).map_err(|error| (path, error))?,
            _ => {}
        }
    }
    Ok(())
}

fn is_damage(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. })
}

/// Each chunk is in a pack that is there and long enough.
fn quick_chunks(
    repository: &Repository,
    source: &SourceRecord,
    root: &Entry,
) -> Result<Found, RepositoryError> {
    let mut found = Found::default();
    let mut walk = |path: &[u8], entry: &Entry| {
        for chunk in repository.chunk_list(&entry.content)? {
            if !repository.has_chunk(&chunk.id)? {
                found.damage(source, path, &RepositoryError::MissingChunk { id: chunk.id });
                break;
            }
        }
        Ok(())
    };
    match each_file(repository, root, &mut walk) {
        Ok(()) => Ok(found),
        Err((path, error)) if is_damage(&error) => {
            found.damage(source, &path, &error);
            Ok(found)
        }
        Err((_, error)) => Err(error),
    }
}

/// Each chunk is read back and has its id; on all cores.
fn all_chunks(
    repository: &Repository,
    source: &SourceRecord,
    root: &Entry,
    progress: &dyn Progress,
) -> Result<Found, RepositoryError> {
    let mut found = Found::default();
    let mut seen: HashSet<Id> = HashSet::new();
    let mut batch: Vec<(Vec<u8>, ChunkRef)> = Vec::new();
    let mut walk = |path: &[u8], entry: &Entry| {
        for chunk in repository.chunk_list(&entry.content)? {
            if seen.insert(chunk.id) {
                batch.push((path.to_owned(), chunk));
            }
            if batch.len() >= BATCH {
                read_batch(repository, source, &std::mem::take(&mut batch), &mut found, progress)?;
            }
        }
        Ok(())
    };
    let walked = each_file(repository, root, &mut walk);
    read_batch(repository, source, &batch, &mut found, progress)?;
    match walked {
        Ok(()) => Ok(found),
        Err((path, error)) if is_damage(&error) => {
            found.damage(source, &path, &error);
            Ok(found)
        }
        Err((_, error)) => Err(error),
    }
}

const BATCH: usize = 4096;

fn read_batch(
    repository: &Repository,
    source: &SourceRecord,
    batch: &[(Vec<u8>, ChunkRef)],
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    let failed: Mutex<Vec<(usize, RepositoryError)>> = Mutex::default();
    on_all_cores(batch.len(), progress, |number| {
        let Some((_, chunk)) = batch.get(number) else { return };
        progress.advance(u64::from(chunk.len));
        if let Err(error) = repository.read_chunk(&chunk.id) {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push((number, error));
        }
    })?;
    for (number, error) in failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if !is_damage(&error) {
            return Err(error);
        }
        let path = batch.get(number).map(|(path, _)| path.clone()).unwrap_or_default();
        found.damage(source, &path, &error);
    }
    Ok(())
}

/// A source in the repository, for its judge.
pub struct RepositoryFiles<'r> {
    pub repository: &'r Repository,
    pub root: &'r Entry,
}

impl RepositoryFiles<'_> {
    fn find(&self, path: &[u8]) -> io::Result<Entry> {
        let found = self.repository.entry_at(self.root, path).map_err(io::Error::other)?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StoredFiles for RepositoryFiles<'_> {
    fn root(&self) -> &Entry {
        self.root
    }

    fn list(&self, directory: &Entry) -> io::Result<Vec<Entry>> {
        self.repository.entries(&directory.content).map_err(io::Error::other)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn ReadAt + '_>> {
        let entry = self.find(path)?;
        Ok(Box::new(Stored(FileReader::open(self.repository, &entry).map_err(io::Error::other)?)))
    }
}

struct Stored<'r>(FileReader<'r>);

impl ReadAt for Stored<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.0.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_exact_at(buffer, offset).map_err(io::Error::other)
    }
}
