//! One run over all sources: the draft of a snapshot.

use super::error::BackupError;
use super::parent::Parent;
use super::pool::Pool;
use super::recorder::{Recording, TreeRecorder};
use crate::chunking::{Cutter, Sizes};
use crate::format::{
    Chunking, Consistency, Counts, FORMAT_VERSION, Manifest, Note, NoteReason, SnapshotKind, SourceRecord,
};
use crate::progress::Progress;
use crate::repository::{ChunkWriter, Snapshot, Snapshots, Written};
use crate::source::{self, CaptureError, CaptureOptions, SourceSpec};
use crate::stamp::{Stamp, now_nanos};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A newest snapshot this far ahead of the clock is worth a word.
const AHEAD_NS: i64 = 24 * 3600 * 1_000_000_000;

/// What to back up, and as what.
pub struct BackupRequest {
    pub sources: Vec<SourceSpec>,
    pub profile: String,
    pub host: String,
    pub tool: String,
    pub kind: SnapshotKind,
    pub tags: Vec<String>,
    pub options: CaptureOptions,
    /// Where the repository lies, if on this machine: it must not be inside a source, nor a source inside it.
    pub repository_path: Option<PathBuf>,
}

/// A snapshot that isn't published. Its chunks are durable.
pub struct Draft {
    pub manifest: Manifest,
    pub written: Written,
    pub warnings: Vec<String>,
}

/// Reads every source and stores what is new. Sources are only read; the repository gains packs and index files.
pub fn backup(
    writer: &ChunkWriter<'_>,
    snapshots: &Snapshots,
    request: &BackupRequest,
    progress: &dyn Progress,
) -> Result<Draft, BackupError> {
    let started = Instant::now();
    check_overlap(request)?;
    let clock_ns = now_nanos();
    let mut warnings = Vec::new();
    let stamp = choose_stamp(clock_ns, &request.profile, snapshots, &mut warnings);
    let mut sources = Vec::new();
    std::thread::scope(|scope| -> Result<(), BackupError> {
        let pool = Pool::start(scope, writer);
        for spec in &request.sources {
            progress.begin(&format!("reading {}", spec.name), size_of(&spec.path));
            sources.push(one_source(writer, &pool, snapshots, request, spec, progress, &mut warnings)?);
        }
        Ok(())
    })?;
    if let Some(spec) = request.sources.first().filter(|_| sources.iter().all(|source| source.root.is_none()))
    {
        let error = CaptureError::Missing { path: spec.path.clone() };
        return Err(BackupError::from_capture(&spec.name, error));
    }
    let written = writer.finish()?;
    let manifest = Manifest {
        format: FORMAT_VERSION,
        stamp,
        repository: writer.repository().id(),
        clock_ns,
        profile: request.profile.clone(),
        host: request.host.clone(),
        kind: request.kind,
        tool: request.tool.clone(),
        tags: request.tags.clone(),
        sources,
        new_bytes: written.new_bytes,
        stored_bytes: written.stored_bytes,
        metadata_bytes: written.metadata_bytes,
        duration_ms: started.elapsed().as_millis() as u64,
    };
    Ok(Draft { manifest, written, warnings })
}

fn one_source(
    writer: &ChunkWriter<'_>,
    pool: &Pool,
    snapshots: &Snapshots,
    request: &BackupRequest,
    spec: &SourceSpec,
    progress: &dyn Progress,
    warnings: &mut Vec<String>,
) -> Result<SourceRecord, BackupError> {
    let found = parent_of(snapshots, request, spec);
    let parent =
        found.and_then(|(_, record)| Some(Parent::new(writer.repository(), record.root.clone()?, record)));
    let Chunking { min_bytes, average_bytes, max_bytes, .. } = *writer.repository().chunking();
    let cutter = Cutter::new(Sizes { min: min_bytes, average: average_bytes, max: max_bytes });
    let scratch = &request.options.temporary_directory;
    let mut recorder = TreeRecorder::new(writer, pool, cutter, parent, scratch, progress);
    let captured_ns = now_nanos();
    let captured = source::capture(spec, &request.options, &mut recorder);
    let (capture, recording) = match captured {
        Ok(capture) => (capture, recorder.finish()),
        Err(CaptureError::Missing { path }) if spec.optional && is_absent(&spec.path) => {
            warnings.push(format!("source {:?}: {} does not exist (optional)", spec.name, path.display()));
            (source::Capture::unheld(Consistency::Locked), missing(&path))
        }
        Err(error) => return Err(BackupError::from_capture(&spec.name, error)),
    };
    if let Some(damage) = &recording.parent_damage {
        warnings.push(format!("source {:?}: the previous snapshot could not be used: {damage}", spec.name));
    }
    Ok(SourceRecord {
        name: spec.name.clone(),
        kind: spec.kind,
        path: spec.path.as_os_str().as_bytes().to_owned(),
        exclude: spec.exclude.clone(),
        parent: found.map(|(snapshot, _)| snapshot.stamp),
        consistency: capture.consistency,
        captured_ns,
        writer_pause_ms: capture.writer_pause.as_millis() as u64,
        counts: recording.counts,
        root: recording.root,
        proof: None,
        notes: recording.notes,
        more_notes: recording.more_notes,
        collections: Vec::new(),
        written_by: None,
    })
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
        parent_damage: None,
    }
}

/// The newest snapshot of this profile that holds the source.
fn parent_of<'s>(
    snapshots: &'s Snapshots,
    request: &BackupRequest,
    spec: &SourceSpec,
) -> Option<(&'s Snapshot, &'s SourceRecord)> {
    let of_profile =
        snapshots.list.iter().rev().filter(|snapshot| snapshot.manifest.profile == request.profile);
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

fn check_overlap(request: &BackupRequest) -> Result<(), BackupError> {
    let Some(repository) = request.repository_path.as_ref().and_then(|path| fs::canonicalize(path).ok())
    else {
        return Ok(());
    };
    for spec in &request.sources {
        let Ok(path) = fs::canonicalize(&spec.path) else { continue };
        if path.starts_with(&repository) || repository.starts_with(&path) {
            return Err(BackupError::Overlap { name: spec.name.clone(), path, repository });
        }
    }
    Ok(())
}

/// The size of a single file; a directory's isn't known before the walk.
fn size_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}
