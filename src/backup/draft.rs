//! One run over all sources: the draft of a snapshot.

use super::error::BackupError;
use super::parent::Parent;
use super::pool::Pool;
use super::recorder::{RecorderMemory, Recording, TreeRecorder};
use crate::chunking::{Cutter, Sizes};
use crate::format::{
    Chunking, Consistency, Counts, FORMAT_VERSION, Manifest, Note, NoteReason, SnapshotKind, SourceRecord,
};
use crate::progress::Progress;
use crate::repository::{ChunkWriter, Repository, Snapshot, Snapshots};
use crate::source::{
    self, Capture, CaptureError, CaptureOptions, Excludes, Member, Moment, SourceSpec, capture_together,
};
use crate::stamp::{Stamp, now_nanos};
use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A newest snapshot this far ahead of the clock is worth a word.
const AHEAD_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Whose snapshot it is, made where and by what.
#[derive(Debug, Clone)]
pub struct Author {
    pub profile: String,
    pub host: String,
    pub tool: String,
    pub tags: Vec<String>,
}

/// When a run began.
pub struct Begun {
    at: Instant,
    clock_ns: i64,
}

impl Begun {
    /// Now.
    pub fn now() -> Self {
        Self { at: Instant::now(), clock_ns: now_nanos() }
    }
}

/// What to back up, and as what.
pub struct BackupRequest {
    pub sources: Vec<SourceSpec>,
    pub author: Author,
    pub options: CaptureOptions,
    /// Where the repository lies, if on this machine: it must not be inside a source, nor a source inside it.
    pub repository_path: Option<PathBuf>,
}

/// A snapshot that isn't published. Its chunks are durable, and were read back.
pub struct Draft {
    pub manifest: Manifest,
    pub warnings: Vec<String>,
}

/// What was read. Some of its chunks may still be in memory.
pub struct Reading {
    pub(super) sources: Vec<SourceRecord>,
    pub(super) warnings: Vec<String>,
    pub(super) begun: Begun,
}

/// Reads every source and stores what is new. Sources are only read; the repository gains packs and index files.
pub fn backup(
    writer: &ChunkWriter<'_>,
    snapshots: &Snapshots,
    request: &BackupRequest,
    progress: &dyn Progress,
) -> Result<Reading, BackupError> {
    let begun = Begun::now();
    check_overlap(request)?;
    source::remove_stale_scratch(&request.options.temporary_directory);
    let mut warnings = Vec::new();
    let sources = std::thread::scope(|scope| {
        let pool = Pool::start(scope, writer);
        Reader { writer, pool: &pool, snapshots, request, progress }.all_sources(&mut warnings)
    })?;
    if let Some(spec) = request.sources.first().filter(|_| sources.iter().all(|source| source.root.is_none()))
    {
        let error = CaptureError::Missing { path: spec.read_path().to_owned() };
        return Err(BackupError::from_capture(&spec.name, error));
    }
    Ok(Reading { sources, warnings, begun })
}

/// Makes everything durable that was stored for what was read, proves it as it lies there, and drafts the manifest.
pub fn draft(
    writer: &ChunkWriter<'_>,
    snapshots: &Snapshots,
    author: &Author,
    kind: SnapshotKind,
    reading: Reading,
    progress: &dyn Progress,
) -> Result<Draft, BackupError> {
    let Reading { sources, mut warnings, begun } = reading;
    let clock_ns = begun.clock_ns;
    let stamp = choose_stamp(clock_ns, &author.profile, snapshots, &mut warnings);
    let written = writer.finish(progress)?;
    let Author { profile, host, tool, tags } = author.clone();
    let manifest = Manifest {
        format: FORMAT_VERSION,
        stamp,
        repository: writer.repository().id(),
        clock_ns,
        profile,
        host,
        kind,
        tool,
        tags,
        sources,
        new_bytes: written.new_bytes,
        stored_bytes: written.stored_bytes,
        metadata_bytes: written.metadata_bytes,
        duration_ms: begun.at.elapsed().as_millis() as u64,
    };
    Ok(Draft { manifest, warnings })
}

/// Cuts as the repository's config says.
pub fn cutter_of(repository: &Repository) -> Cutter {
    let Chunking { min_bytes, average_bytes, max_bytes, database_bytes, .. } = *repository.chunking();
    Cutter::new(Sizes { min: min_bytes, average: average_bytes, max: max_bytes }, database_bytes)
        .secret(repository.naming(), repository.gear())
}

/// Everything that reading sources needs.
struct Reader<'r> {
    writer: &'r ChunkWriter<'r>,
    pool: &'r Pool,
    snapshots: &'r Snapshots,
    request: &'r BackupRequest,
    progress: &'r dyn Progress,
}

/// What came of one source.
enum Outcome {
    Captured(Moment),
    Missing(PathBuf),
}

impl Reader<'_> {
    /// Databases and stores first, at one moment where that can be; then the rest in order.
    fn all_sources(&self, warnings: &mut Vec<String>) -> Result<Vec<SourceRecord>, BackupError> {
        let sources = &self.request.sources;
        let memory = RecorderMemory::default();
        let options: Vec<CaptureOptions> = sources.iter().map(|spec| self.options_for(spec)).collect();
        let parents: Vec<_> =
            sources.iter().map(|spec| parent_of(self.snapshots, self.request, spec)).collect();
        let mut recorders: Vec<TreeRecorder<'_>> =
            parents.iter().map(|parent| self.recorder(parent.map(|(_, record)| record), &memory)).collect();
        let begun_ns = now_nanos();
        let mut outcomes = self.held_sources(&options, &mut recorders)?;
        let moments = outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Captured(moment) => Some(moment.moment + 1),
            Outcome::Missing(_) => None,
        });
        let mut next_moment = moments.max().unwrap_or(0);
        let mut records = Vec::with_capacity(sources.len());
        for (place, (spec, mut recorder)) in sources.iter().zip(recorders).enumerate() {
            let mut captured_ns = begun_ns;
            let outcome = match (outcomes.remove(&place), options.get(place)) {
                (Some(outcome), _) => outcome,
                (None, options) => {
                    captured_ns = now_nanos();
                    self.progress.begin(&format!("reading {}", spec.name), size_of(spec.read_path()));
                    let options = options.unwrap_or(&self.request.options);
                    match source::capture(spec, options, &mut recorder) {
                        Ok(capture) => {
                            next_moment += 1;
                            Outcome::Captured(Moment { capture, moment: next_moment - 1 })
                        }
                        Err(error) => missing_or_failed(spec, error)?,
                    }
                }
            };
            if let Outcome::Missing(path) = &outcome {
                warnings.push(format!(
                    "source {:?}: {} does not exist (optional)",
                    spec.name,
                    path.display()
                ));
            }
            let parent = parents.get(place).copied().flatten().map(|(snapshot, _)| snapshot.stamp);
            let record = record_of(spec, parent, captured_ns, outcome, recorder.finish(), warnings);
            records.push(record);
        }
        Ok(records)
    }

    /// Captures the sources that have to be held, by their places.
    fn held_sources(
        &self,
        options: &[CaptureOptions],
        recorders: &mut [TreeRecorder<'_>],
    ) -> Result<HashMap<usize, Outcome>, BackupError> {
        let sources = &self.request.sources;
        let mut outcomes = HashMap::new();
        let (mut members, mut places, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (place, ((spec, options), recorder)) in sources.iter().zip(options).zip(recorders).enumerate() {
            match source::staged(spec, options) {
                Ok(Some(staged)) => {
                    members.push(Member { staged, recorder, max_hold: spec.max_hold });
                    places.push(place);
                    names.push(spec.name.as_str());
                }
                Ok(None) => {}
                Err(error) => {
                    outcomes.insert(place, missing_or_failed(spec, error)?);
                }
            }
        }
        if !names.is_empty() {
            self.progress.begin(&format!("reading {}", names.join(", ")), None);
        }
        let moments = capture_together(&mut members, &self.request.options).map_err(|failed| {
            let name = names.get(failed.place).copied().unwrap_or_default();
            BackupError::from_capture(name, failed.error)
        })?;
        outcomes.extend(places.into_iter().zip(moments.into_iter().map(Outcome::Captured)));
        Ok(outcomes)
    }

    fn options_for(&self, spec: &SourceSpec) -> CaptureOptions {
        CaptureOptions { hold: spec.hold, max_hold: spec.max_hold, ..self.request.options.clone() }
    }

    fn recorder<'s>(&'s self, parent: Option<&SourceRecord>, memory: &'s RecorderMemory) -> TreeRecorder<'s> {
        let repository = self.writer.repository();
        let parent = parent.and_then(|record| {
            Some(Parent::new(repository, record.root.clone()?, record.captured_ns, record.consistency))
        });
        let cutter = cutter_of(repository);
        let scratch = &self.request.options.temporary_directory;
        TreeRecorder::new(self.writer, self.pool, cutter, parent, scratch, memory, self.progress)
    }
}

/// A missing path is no failure where the source is optional.
fn missing_or_failed(spec: &SourceSpec, error: CaptureError) -> Result<Outcome, BackupError> {
    match error {
        CaptureError::Missing { path } if spec.optional && is_absent(spec.read_path()) => {
            Ok(Outcome::Missing(path))
        }
        error => Err(BackupError::from_capture(&spec.name, error)),
    }
}

fn record_of(
    spec: &SourceSpec,
    parent: Option<Stamp>,
    captured_ns: i64,
    outcome: Outcome,
    recording: Recording,
    warnings: &mut Vec<String>,
) -> SourceRecord {
    let (Moment { capture, moment }, recording) = match outcome {
        Outcome::Captured(moment) => (moment, recording),
        Outcome::Missing(path) => {
            let capture = Capture::unheld(Consistency::Locked);
            (Moment { capture, moment: 0 }, missing(&path))
        }
    };
    if let Some(damage) = &recording.parent_damage {
        warnings.push(format!("source {:?}: the previous snapshot could not be used: {damage}", spec.name));
    }
    SourceRecord {
        name: spec.name.clone(),
        kind: spec.kind,
        path: spec.path.as_os_str().as_bytes().to_owned(),
        exclude: spec.exclude.clone(),
        parent,
        consistency: capture.consistency,
        // When a snapshot mounted elsewhere was made isn't known, but not before its newest change: what changed then may
        // have changed again in the same tick.
        captured_ns: if spec.source_path.is_some() {
            captured_ns.min(recording.newest_ns)
        } else {
            captured_ns
        },
        point_ns: capture.point_ns,
        moment,
        writer_pause_ms: capture.writer_pause.as_millis() as u64,
        counts: recording.counts,
        root: recording.root,
        sidecars: Vec::new(),
        proof: None,
        notes: recording.notes,
        more_notes: recording.more_notes,
        collections: Vec::new(),
        written_by: None,
    }
}

/// There is nothing at the source's own path; a part of it that is missing is another matter.
fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn missing(path: &Path) -> Recording {
    let detail = format!("{} did not exist", path.display());
    Recording {
        root: None,
        counts: Counts::default(),
        notes: vec![Note { path: Vec::new(), reason: NoteReason::Remark, detail }],
        more_notes: 0,
        newest_ns: i64::MIN,
        parent_damage: None,
    }
}

/// The newest snapshot of this profile that holds the source.
fn parent_of<'s>(
    snapshots: &'s Snapshots,
    request: &BackupRequest,
    spec: &SourceSpec,
) -> Option<(&'s Snapshot, &'s SourceRecord)> {
    // What a safety snapshot holds wasn't settled, nor held.
    let of_profile = snapshots.list.iter().rev().filter(|snapshot| {
        snapshot.manifest.profile == request.author.profile && !snapshot.manifest.is_safety()
    });
    of_profile
        .filter_map(|snapshot| Some((snapshot, snapshot.manifest.source(&spec.name)?)))
        .find(|(_, record)| record.kind == spec.kind && record.root.is_some())
}

/// The clock, but always after the profile's newest snapshot: `latest` must be the one taken last.
fn choose_stamp(clock_ns: i64, profile: &str, snapshots: &Snapshots, warnings: &mut Vec<String>) -> Stamp {
    let now = Stamp::from_nanos(clock_ns);
    let of_profile = snapshots.list.iter().filter(|snapshot| snapshot.manifest.profile == profile);
    let Some(newest) = of_profile.map(|snapshot| snapshot.stamp).max().filter(|newest| *newest >= now) else {
        return now;
    };
    // Two runs within one second are no reason to worry.
    if newest.unix() > now.unix() + 1 {
        let far = newest.unix().saturating_mul(1_000_000_000).saturating_sub(clock_ns) > AHEAD_NS;
        let hint = if far { "; it is more than a day ahead, look at the clock" } else { "" };
        warnings.push(format!(
            "the clock ({}) is behind the newest snapshot ({newest}); this one is named one second after it{hint}",
            now.rfc3339()
        ));
    }
    newest.next()
}

/// Repository and scratch directory lie outside every source.
pub fn check_overlap(request: &BackupRequest) -> Result<(), BackupError> {
    if let Ok(scratch) = fs::canonicalize(&request.options.temporary_directory) {
        for spec in &request.sources {
            if fs::canonicalize(spec.read_path()).is_ok_and(|path| scratch.starts_with(path)) {
                return Err(BackupError::ScratchInside { name: spec.name.clone(), scratch });
            }
        }
    }
    check_nesting(&request.sources)?;
    let Some(repository) = request.repository_path.as_ref().and_then(|path| fs::canonicalize(path).ok())
    else {
        return Ok(());
    };
    for spec in &request.sources {
        let Ok(path) = fs::canonicalize(spec.read_path()) else { continue };
        if path.starts_with(&repository) || repository.starts_with(&path) {
            return Err(BackupError::Overlap { name: spec.name.clone(), path, repository });
        }
    }
    Ok(())
}

/// No source lies in another one that doesn't leave it out.
fn check_nesting(sources: &[SourceSpec]) -> Result<(), BackupError> {
    let real = |spec: &SourceSpec| fs::canonicalize(&spec.path).unwrap_or_else(|_| spec.path.clone());
    let paths: Vec<PathBuf> = sources.iter().map(real).collect();
    for (outer, above) in sources.iter().zip(&paths) {
        let patterns =
            Excludes::new(&outer.exclude).map_err(|error| BackupError::from_capture(&outer.name, error))?;
        for (inner, path) in sources.iter().zip(&paths).filter(|(inner, _)| inner.name != outer.name) {
            let Ok(below) = path.strip_prefix(above) else { continue };
            let is_left_out = |part: &Path| {
                let part = part.as_os_str().as_bytes();
                !part.is_empty() && patterns.pattern_for(part, true).is_some()
            };
            if !below.ancestors().any(is_left_out) {
                let (outer, inner, path) = (outer.name.clone(), inner.name.clone(), path.clone());
                return Err(BackupError::Nested { outer, inner, path });
            }
        }
    }
    Ok(())
}

/// The size of a single file; a directory's isn't known before the walk.
fn size_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}
