//! `backup`: one snapshot.

use super::args::{self, LevelArgument};
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, findings_json, lines_of};
use super::format_text::{bytes, millis, name};
use super::report::Report;
use super::restore::by_unfinished;
use super::selection::select;
use super::{prune, replicate};
use crate::backup::BackupRequest;
use crate::config::{FULL_EVERY, parse_duration};
use crate::flow::{PublishRequest, Published, prove_and_publish};
use crate::format::{
    Consistency, Key, Level, Manifest, Note, NoteReason, Severity, SourceKind, SourceRecord,
};
use crate::progress::Progress;
use crate::source::{CaptureOptions, HoldMode, SourceSpec};
use crate::stamp::rfc3339_millis;
use crate::validate::Depth;
use serde_json::{Map, Value, json};
use std::io::ErrorKind;
use std::time::Instant;

/// What a tag may consist of.
const MAX_TAG: usize = 100;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({
        "stamp": null, "backup_root": null, "manifest": null, "valid": null, "errors": [], "findings": [], "sources": {},
        "writer_pause_ms": 0, "new_bytes": 0, "stored_bytes": 0, "metadata_bytes": 0, "unreferenced_bytes": 0,
        "duration_ms": 0, "pruned": null, "replicas": null,
    })
}

/// Takes the snapshot.
pub fn run(context: &Context, arguments: &args::Backup, progress: &dyn Progress) -> Result<Report, Failure> {
    let started = Instant::now();
    let sources = select(context, arguments)?;
    let refuse_unfinished = |sources: &[SourceSpec]| {
        let open = context.unfinished_at(sources.iter().map(SourceSpec::read_path))?;
        open.map_or(Ok(()), |open| Err(by_unfinished(context, &open, ExitCode::Refused)))
    };
    refuse_unfinished(&sources)?;
    if arguments.dry_run {
        return dry_run(&sources);
    }
    let repository = context.open()?;
    // A restore that has the lock now may leave something.
    drop(repository.lock(&format!("backup-{}", context.profile), context.patience()?)?);
    refuse_unfinished(&sources)?;
    let request = request(context, arguments, sources)?;
    repository.backend().remove_stale_temporaries();
    let published = prove_and_publish(&repository, &request, progress).map_err(|unpublished| {
        let mut failure = Failure::from(unpublished.error);
        failure.warnings = unpublished.warnings;
        failure.keys.insert("duration_ms".into(), json!(started.elapsed().as_millis() as u64));
        failure
    })?;
    let root = context.place()?.join(&Key::Snapshot(published.manifest.stamp).path());
    let mut report = report(&published, &root, started.elapsed().as_millis() as u64);
    if arguments.prune {
        prune_afterwards(context, progress, &mut report);
    }
    if arguments.replicate {
        replicate_afterwards(context, progress, &mut report);
    }
    Ok(report)
}

/// The snapshot exists, whatever becomes of this.
fn replicate_afterwards(context: &Context, progress: &dyn Progress, report: &mut Report) {
    match replicate::afterwards(context, progress) {
        Ok(replicated) => {
            report.lines.splice(0..0, replicated.lines);
            report.warnings.extend(replicated.warnings);
            report
                .keys
                .insert("replicas".into(), replicated.keys.get("replicas").cloned().unwrap_or_default());
        }
        Err(failure) => {
            report.exit = failure.exit;
            report.warnings.push(format!("the snapshot is saved, but: {}", failure.message));
            report.warnings.extend(failure.warnings);
            report.keys.insert("replicas".into(), failure.keys.get("replicas").cloned().unwrap_or_default());
        }
    }
}

/// The snapshot exists, whatever becomes of this.
fn prune_afterwards(context: &Context, progress: &dyn Progress, report: &mut Report) {
    let pruned = context.open().and_then(|repository| prune::afterwards(context, &repository, progress));
    match pruned {
        Ok((keys, warnings)) => {
            report.keys.insert("pruned".into(), keys);
            report.warnings.extend(warnings);
        }
        Err(failure) => {
            report.warnings.push(format!("the snapshot was saved, but not pruned: {}", failure.message));
            if failure.exit != ExitCode::Busy {
                report.exit = ExitCode::Incomplete;
            }
        }
    }
}

fn request(
    context: &Context,
    arguments: &args::Backup,
    sources: Vec<SourceSpec>,
) -> Result<PublishRequest, Failure> {
    if let Some(tag) = arguments.tags.iter().find(|tag| tag.is_empty() || tag.len() > MAX_TAG) {
        return Err(Failure::usage(format!("--tag {tag:?}: one to {MAX_TAG} bytes")));
    }
    let lock_wait = parse_duration(&arguments.lock_wait).map_err(Failure::usage)?;
    let options = CaptureOptions {
        cold: arguments.cold,
        raw: false,
        hold: HoldMode::Auto,
        max_hold: None,
        lock_wait,
        temporary_directory: context.temporary_directory()?,
    };
    let backup = BackupRequest {
        sources,
        author: context.author(arguments.tags.clone()),
        options,
        repository_path: context.local_path(),
    };
    let full_every = context.config.as_ref().map_or(FULL_EVERY, |config| config.full_every);
    let depth = match arguments.validate {
        Some(LevelArgument::Quick) => Depth::Exactly(Level::Quick),
        Some(LevelArgument::Full) => Depth::Exactly(Level::Full),
        None => Depth::FullEvery(full_every),
    };
    // Hooks belong to the services of the config's sources.
    let config = context.config.as_ref().filter(|_| arguments.paths.is_empty() && !arguments.no_hooks);
    let hooks = config.map(|config| config.hooks.clone()).unwrap_or_default();
    Ok(PublishRequest { backup, depth, patience: context.patience()?, reread: arguments.reread, hooks })
}

/// What the backup would end with for the sake of a source.
fn stumbling_block(source: &SourceSpec) -> Option<Failure> {
    let error = std::fs::metadata(&source.path).err().filter(|_| source.source_path.is_none())?;
    let (name, path) = (&source.name, source.path.display());
    let failure = if error.kind() != ErrorKind::NotFound {
        let message = format!("source {name:?}: cannot look at {path}: {error}");
        Failure::new(ExitCode::Unexpected, "source_unreadable", message)
    } else if source.optional {
        return None;
    } else {
        let message = format!("source {name:?}: {path} does not exist");
        Failure::new(ExitCode::Unexpected, "source_missing", message)
            .hint("a source that may be missing is marked `optional = true`")
    };
    Some(failure.at(&source.path))
}

fn dry_run(sources: &[SourceSpec]) -> Result<Report, Failure> {
    let mut keys = Map::new();
    let mut lines = Vec::new();
    for source in sources {
        let exists = source.read_path().exists();
        let state = if exists {
            ""
        } else if source.source_path.is_some() {
            "  (not there now; a hook may mount it)"
        } else if source.optional {
            "  (missing, optional)"
        } else {
            "  MISSING"
        };
        lines.push(format!(
            "{:<16} {:<7} {}{state}",
            source.name,
            source.kind.name(),
            source.read_path().display()
        ));
        let described = json!({
            "kind": source.kind.name(), "path": source.path.display().to_string(), "exists": exists,
            "files": null, "bytes": null, "consistency": null, "captured": null, "moment": null, "writer_pause_ms": null,
            "validated": null,
        });
        keys.insert(source.name.clone(), described);
    }
    lines.push("nothing was read or stored".into());
    if let Some(mut failure) = sources.iter().find_map(stumbling_block) {
        failure.keys.insert("sources".into(), Value::Object(keys));
        failure.details = lines;
        return Err(failure);
    }
    Ok(Report::done(json!({ "sources": keys }), lines))
}

/// How a source was proven, in one word.
pub fn validated(source: &SourceRecord) -> Value {
    source.proof.as_ref().map_or(Value::Null, |proof| {
        json!(if proof.inherited_from.is_some() { "inherited" } else { proof.level.name() })
    })
}

fn report(published: &Published, backup_root: &str, duration_ms: u64) -> Report {
    let Published { manifest, manifest_id, findings, warnings } = published;
    let sources: Map<String, Value> =
        manifest.sources.iter().map(|source| (source.name.clone(), source_json(source))).collect();
    let mut keys = findings_json(findings);
    let more = json!({
        "stamp": manifest.stamp.to_string(),
        "backup_root": backup_root,
        "manifest": manifest_id.hex(),
        "valid": manifest.is_valid(),
        "sources": sources,
        "writer_pause_ms": manifest.sources.iter().map(|source| source.writer_pause_ms).max().unwrap_or(0),
        "new_bytes": manifest.new_bytes,
        "stored_bytes": manifest.stored_bytes,
        "metadata_bytes": manifest.metadata_bytes,
        "duration_ms": duration_ms,
    });
    if let Value::Object(more) = more {
        keys.extend(more);
    }
    let mut warnings = warnings.clone();
    warnings.extend(worth_a_word(manifest));
    warnings.extend(lines_of(findings).into_iter().filter(|line| line.starts_with("warning")));
    let incomplete = manifest.sources.iter().any(is_incomplete);
    let mut report = Report::done(Value::Object(keys), lines(manifest, duration_ms));
    report.warnings = warnings;
    if incomplete {
        report.exit = ExitCode::Incomplete;
    }
    report
}

fn is_incomplete(source: &SourceRecord) -> bool {
    source.notes.iter().any(|note| note.reason == NoteReason::Unreadable)
}

/// What could not be read, what was changing while it was, and what nothing could hold.
fn worth_a_word(manifest: &Manifest) -> Vec<String> {
    let mut words = Vec::new();
    for source in &manifest.sources {
        let failed = |note: &&Note| matches!(note.reason, NoteReason::Unreadable | NoteReason::Changing);
        let said = |note: &Note| format!("{}/{}: {}", source.name, name(&note.path), note.detail);
        words.extend(source.notes.iter().filter(failed).map(said));
        let is_held = matches!(source.kind, SourceKind::Chroma | SourceKind::Sqlite);
        if is_held && source.root.is_some() && source.consistency == Consistency::Optimistic {
            words.push(format!(
                "source {:?} was not held, only compared before and after reading: no lock reaches its writers (a network \
                 or FUSE file system), or none was wanted",
                source.name
            ));
        }
    }
    words
}

fn source_json(source: &SourceRecord) -> Value {
    let bad = source
        .proof
        .iter()
        .flat_map(|proof| &proof.findings)
        .any(|finding| finding.severity == Severity::Error);
    json!({
        "kind": source.kind.name(),
        "path": String::from_utf8_lossy(&source.path),
        "exists": source.root.is_some(),
        "files": source.counts.files,
        "unchanged_files": source.counts.unchanged_files,
        "bytes": source.counts.bytes,
        "consistency": source.consistency.name(),
        "captured": rfc3339_millis(source.point_ns),
        "moment": source.moment,
        "writer_pause_ms": source.writer_pause_ms,
        "validated": validated(source),
        "valid": !bad,
        "parent": source.parent.map(|stamp| stamp.to_string()),
    })
}

fn lines(manifest: &Manifest, duration_ms: u64) -> Vec<String> {
    let mut lines: Vec<String> = manifest
        .sources
        .iter()
        .map(|source| {
            if source.root.is_none() {
                return format!("{:<16} {:<7} missing (optional)", source.name, source.kind.name());
            }
            let pause = if source.writer_pause_ms > 0 {
                format!(", writers waited {}", millis(source.writer_pause_ms))
            } else {
                String::new()
            };
            format!(
                "{:<16} {:<7} {} file(s), {}, {}{pause}, validated: {}",
                source.name,
                source.kind.name(),
                source.counts.files,
                bytes(source.counts.bytes),
                source.consistency.name(),
                validated(source).as_str().unwrap_or("no")
            )
        })
        .collect();
    lines.push(format!(
        "{} new, {} stored, {} metadata, {}",
        bytes(manifest.new_bytes),
        bytes(manifest.stored_bytes),
        bytes(manifest.metadata_bytes),
        millis(duration_ms)
    ));
    lines.push(format!("snapshot {} saved", manifest.stamp));
    lines
}
