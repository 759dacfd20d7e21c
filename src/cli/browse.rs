//! `show`, `ls`, `cat`, `diff`: looking into snapshots.

use super::args;
use super::backup::validated;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, lines_of};
use super::format_text::{bytes, millis, name};
use super::list::{notes, snapshot_json};
use super::report::Report;
use crate::catalog::{Change, Difference, NotFound, differences, find, source_root};
use crate::format::{Entry, EntryKind, Key, NoteReason, SourceRecord};
use crate::repository::{FileReader, Repository, RepositoryError, Snapshot, Snapshots};
use crate::stamp::rfc3339_millis;
use serde_json::{Value, json};
use std::io::Write;

const BLOCK_BYTES: u64 = 1 << 20;
/// A person is shown this many notes; the JSON document has all.
const SHOWN_NOTES: usize = 20;

struct Opened {
    repository: Repository,
    snapshots: Snapshots,
}

fn open(context: &Context) -> Result<Opened, Failure> {
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    Ok(Opened { repository, snapshots })
}

/// `show`: all about one snapshot.
pub fn show(context: &Context, arguments: &args::Show) -> Result<Report, Failure> {
    let Opened { repository, snapshots } = open(context)?;
    let snapshot = find(&snapshots, &arguments.stamp, &context.profile, None)?;
    let root = context.place()?.join(&Key::Snapshot(snapshot.stamp).path());
    let mut described = snapshot_json(snapshot, &root);
    let proofs: Vec<Value> = repository
        .proof_files()?
        .into_iter()
        .map(|(_, proof)| proof)
        .filter(|proof| proof.manifest == snapshot.manifest_id)
        .map(|proof| json!({ "time": rfc3339_millis(proof.time_ns), "level": proof.level.name(), "valid": proof.is_valid() }))
        .collect();
    let manifest = &snapshot.manifest;
    if let Value::Object(keys) = &mut described {
        let sources: serde_json::Map<String, Value> =
            manifest.sources.iter().map(|source| (source.name.clone(), source_json(source))).collect();
        keys.insert("manifest".into(), json!(snapshot.manifest_id.hex()));
        keys.insert("repository_id".into(), json!(manifest.repository.hex()));
        keys.insert("clock".into(), json!(rfc3339_millis(manifest.clock_ns)));
        keys.insert("tool".into(), json!(manifest.tool));
        keys.insert("format".into(), json!(manifest.format));
        keys.insert("source_details".into(), json!(sources));
        keys.insert("proofs".into(), json!(proofs));
        keys.insert("new_bytes".into(), json!(manifest.new_bytes));
        keys.insert("metadata_bytes".into(), json!(manifest.metadata_bytes));
        keys.insert("duration_ms".into(), json!(manifest.duration_ms));
    }
    let mut report = Report::done(json!({ "snapshot": described }), show_lines(snapshot));
    report.warnings = notes(&snapshots);
    Ok(report)
}

fn source_json(source: &SourceRecord) -> Value {
    let notes: Vec<Value> = source
        .notes
        .iter()
        .map(|note| json!({ "path": String::from_utf8_lossy(&note.path), "reason": reason(note.reason), "detail": note.detail }))
        .collect();
    let collections: Vec<Value> = source
        .collections
        .iter()
        .map(|found| json!({ "name": found.name, "live_ids": found.live_ids, "labels": found.labels, "queue_tail": found.queue_tail }))
        .collect();
    json!({
        "kind": source.kind.name(),
        "path": String::from_utf8_lossy(&source.path),
        "exists": source.root.is_some(),
        "parent": source.parent.map(|stamp| stamp.to_string()),
        "consistency": source.consistency.name(),
        "captured": rfc3339_millis(source.point_ns),
        "moment": source.moment,
        "writer_pause_ms": source.writer_pause_ms,
        "files": source.counts.files,
        "directories": source.counts.directories,
        "others": source.counts.others,
        "bytes": source.counts.bytes,
        "unchanged_files": source.counts.unchanged_files,
        "validated": validated(source),
        "findings": source.proof.as_ref().map(|proof| &proof.findings),
        "notes": notes,
        "more_notes": source.more_notes,
        "collections": collections,
        "written_by": source.written_by,
    })
}

fn reason(reason: NoteReason) -> &'static str {
    match reason {
        NoteReason::Excluded => "excluded",
        NoteReason::Unreadable => "unreadable",
        NoteReason::Vanished => "vanished",
        NoteReason::Changing => "changing",
        NoteReason::Remark => "remark",
    }
}

fn show_lines(snapshot: &Snapshot) -> Vec<String> {
    let manifest = &snapshot.manifest;
    let mut lines = vec![
        format!("snapshot   {}{}", snapshot.stamp, if snapshot.pinned { "  (pinned)" } else { "" }),
        format!("profile    {} on {}", manifest.profile, manifest.host),
        format!("manifest   {}", snapshot.manifest_id),
        format!("made by    {}, {}", manifest.tool, millis(manifest.duration_ms)),
        format!(
            "size       {} in all, {} new, {} stored, {} metadata",
            bytes(manifest.total_bytes()),
            bytes(manifest.new_bytes),
            bytes(manifest.stored_bytes),
            bytes(manifest.metadata_bytes)
        ),
    ];
    if !manifest.tags.is_empty() {
        lines.push(format!("tags       {}", manifest.tags.join(", ")));
    }
    for source in &manifest.sources {
        lines.push(String::new());
        lines.push(format!("{} ({}) {}", source.name, source.kind.name(), name(&source.path)));
        lines.push(format!(
            "  {} file(s), {} director(ies), {}; {} unchanged since {}",
            source.counts.files,
            source.counts.directories,
            bytes(source.counts.bytes),
            source.counts.unchanged_files,
            source.parent.map_or_else(|| "nothing (no parent)".to_owned(), |stamp| stamp.to_string())
        ));
        lines.push(format!(
            "  captured {} (moment {}, {}, writers waited {}), validated: {}",
            rfc3339_millis(source.point_ns),
            source.moment,
            source.consistency.name(),
            millis(source.writer_pause_ms),
            validated(source).as_str().unwrap_or("no")
        ));
        if let Some(version) = &source.written_by {
            lines.push(format!("  written by {version}"));
        }
        for found in &source.collections {
            let labels = found.labels.map_or_else(|| "-".to_owned(), |labels| labels.to_string());
            lines.push(format!(
                "  collection {:?}: {} ids, {labels} in the index, {} waiting in the queue",
                found.name, found.live_ids, found.queue_tail
            ));
        }
        lines.extend(
            lines_of(source.proof.as_ref().map_or(&[], |proof| &proof.findings))
                .into_iter()
                .map(|line| format!("  {line}")),
        );
        for note in source.notes.iter().take(SHOWN_NOTES) {
            lines.push(format!("  {}: {}: {}", reason(note.reason), name(&note.path), note.detail));
        }
        let more = source.notes.len().saturating_sub(SHOWN_NOTES) as u64 + source.more_notes;
        if more > 0 {
            lines.push(format!("  and {more} more (--json lists up to {})", SourceRecord::MAX_NOTES));
        }
    }
    lines
}

/// Splits `NAME/PATH`.
pub fn split_place(place: &str) -> (&str, &str) {
    place.split_once('/').map_or((place, ""), |(source, path)| (source, path.trim_matches('/')))
}

fn entry_of(repository: &Repository, snapshot: &Snapshot, place: &str) -> Result<Entry, Failure> {
    let (source, path) = split_place(place);
    let root = source_root(snapshot, source)?;
    let found = repository.entry_at(root, path.as_bytes())?;
    found.ok_or_else(|| NotFound::NoPath { stamp: snapshot.stamp, path: place.to_owned() }.into())
}

/// `ls`: what a snapshot holds.
pub fn ls(context: &Context, arguments: &args::Ls) -> Result<Report, Failure> {
    let Opened { repository, snapshots } = open(context)?;
    let snapshot = find(&snapshots, &arguments.stamp, &context.profile, None)?;
    let mut found: Vec<(String, Entry)> = Vec::new();
    match &arguments.place {
        None => {
            for source in &snapshot.manifest.sources {
                if let Some(root) = &source.root {
                    found.push((source.name.clone(), root.clone()));
                    if arguments.recursive {
                        collect(&repository, &source.name, root, true, &mut found)?;
                    }
                }
            }
        }
        Some(place) => {
            let entry = entry_of(&repository, snapshot, place)?;
            if entry.kind == EntryKind::Directory {
                collect(&repository, place.trim_end_matches('/'), &entry, arguments.recursive, &mut found)?;
            } else {
                found.push((place.clone(), entry));
            }
        }
    }
    let entries: Vec<Value> = found.iter().map(|(path, entry)| entry_json(path, entry)).collect();
    let lines = found.iter().map(|(path, entry)| entry_line(path, entry)).collect();
    Ok(Report::done(json!({ "stamp": snapshot.stamp.to_string(), "entries": entries }), lines))
}

fn collect(
    repository: &Repository,
    place: &str,
    directory: &Entry,
    recursive: bool,
    found: &mut Vec<(String, Entry)>,
) -> Result<(), RepositoryError> {
    if directory.kind != EntryKind::Directory {
        return Ok(());
    }
    for entry in repository.entries(&directory.content)? {
        let path = format!("{place}/{}", name(&entry.name));
        found.push((path.clone(), entry.clone()));
        if recursive {
            collect(repository, &path, &entry, true, found)?;
        }
    }
    Ok(())
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice => "char-device",
        EntryKind::BlockDevice => "block-device",
    }
}

fn entry_json(path: &str, entry: &Entry) -> Value {
    json!({
        "path": path,
        "kind": kind_name(entry.kind),
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "bytes": entry.size,
        "mtime": rfc3339_millis(entry.mtime_ns),
        "target": (entry.kind == EntryKind::Symlink).then(|| String::from_utf8_lossy(&entry.target).into_owned()),
    })
}

fn entry_line(path: &str, entry: &Entry) -> String {
    let letter = match entry.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    };
    let target =
        if entry.kind == EntryKind::Symlink { format!(" -> {}", name(&entry.target)) } else { String::new() };
    let (mode, uid, gid, size) = (entry.mode, entry.uid, entry.gid, entry.size);
    format!(
        "{letter}{mode:04o} {uid:>5} {gid:>5} {size:>12} {} {path}{target}",
        rfc3339_millis(entry.mtime_ns)
    )
}

/// `cat`: the bytes of one file.
pub fn cat(context: &Context, arguments: &args::Cat) -> Result<Report, Failure> {
    if context.global.json && arguments.output.is_none() {
        return Err(Failure::usage(
            "with --json the file's bytes need --output FILE: stdout holds the document",
        ));
    }
    let Opened { repository, snapshots } = open(context)?;
    let snapshot = find(&snapshots, &arguments.stamp, &context.profile, None)?;
    let entry = entry_of(&repository, snapshot, &arguments.place)?;
    if entry.kind != EntryKind::File {
        let message = format!("{} is a {}, not a file", arguments.place, kind_name(entry.kind));
        return Err(Failure::usage(message)
            .hint("`icecore ls` shows what is in it, `icecore restore --target` takes it out"));
    }
    let reader = FileReader::open(&repository, &entry)?;
    let fail = |error: std::io::Error| {
        Failure::new(ExitCode::Unexpected, "output_failed", format!("cannot write the output: {error}"))
    };
    let mut output: Box<dyn Write> = match &arguments.output {
        Some(path) => Box::new(std::fs::File::create_new(path).map_err(|error| fail(error).at(path))?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut at = 0;
    while at < reader.size() {
        let mut block = vec![0; (reader.size() - at).min(BLOCK_BYTES) as usize];
        reader.read_exact_at(&mut block, at)?;
        output.write_all(&block).map_err(fail)?;
        at += block.len() as u64;
    }
    output.flush().map_err(fail)?;
    let keys = json!({
        "stamp": snapshot.stamp.to_string(), "path": arguments.place, "bytes": entry.size,
        "output": arguments.output.as_ref().map(|path| path.display().to_string()),
    });
    Ok(Report::done(keys, Vec::new()))
}

/// `diff`: what differs between two snapshots.
pub fn diff(context: &Context, arguments: &args::Diff) -> Result<Report, Failure> {
    let Opened { repository, snapshots } = open(context)?;
    let old = find(&snapshots, &arguments.old, &context.profile, None)?;
    let new = find(&snapshots, &arguments.new, &context.profile, None)?;
    let mut names: Vec<&str> =
        old.manifest.sources.iter().chain(&new.manifest.sources).map(|source| source.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let (mut lines, mut documents) = (Vec::new(), Vec::new());
    for source in names {
        let root =
            |snapshot: &'_ Snapshot| snapshot.manifest.source(source).and_then(|source| source.root.clone());
        for difference in differences(&repository, root(old).as_ref(), root(new).as_ref())? {
            let path = if difference.path.is_empty() {
                source.to_owned()
            } else {
                format!("{source}/{}", name(&difference.path))
            };
            let (sign, word) = change_name(&difference);
            lines.push(format!("{sign} {path}{}", size_change(&difference)));
            documents.push(json!({
                "change": word, "path": path, "kind": kind_name(difference.kind),
                "old_bytes": difference.old_size, "new_bytes": difference.new_size,
            }));
        }
    }
    if lines.is_empty() {
        lines.push("no differences".into());
    }
    let keys =
        json!({ "old": old.stamp.to_string(), "new": new.stamp.to_string(), "differences": documents });
    Ok(Report::done(keys, lines))
}

fn change_name(difference: &Difference) -> (char, &'static str) {
    match difference.change {
        Change::Added => ('+', "added"),
        Change::Removed => ('-', "removed"),
        Change::Modified => ('M', "modified"),
        Change::Metadata => ('m', "metadata"),
    }
}

fn size_change(difference: &Difference) -> String {
    match (difference.old_size, difference.new_size) {
        (Some(old), Some(new)) if old != new => format!("  ({} -> {})", bytes(old), bytes(new)),
        _ => String::new(),
    }
}
