//! `list`: the snapshots of a repository.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::format_text::bytes;
use super::report::Report;
use super::restore::by_unfinished;
use crate::catalog::latest;
use crate::format::Key;
use crate::format::{Level, Manifest, SnapshotKind};
use crate::repository::{Snapshot, Snapshots};
use serde_json::{Value, json};

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "backup_dir": null, "latest": null, "backups": [] })
}

/// Lists them, oldest first.
pub fn run(context: &Context, arguments: &args::List) -> Result<Report, Failure> {
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let place = context.place()?;
    let wanted = |snapshot: &&Snapshot| {
        let profile =
            context.global.profile.as_ref().is_none_or(|profile| snapshot.manifest.profile == *profile);
        let holds =
            |name: &String| snapshot.manifest.source(name).is_some_and(|source| source.root.is_some());
        profile && arguments.having.as_ref().is_none_or(holds)
    };
    let all: Vec<&Snapshot> = snapshots.list.iter().filter(wanted).collect();
    let skip = arguments.last.map_or(0, |last| all.len().saturating_sub(last));
    let shown: Vec<&Snapshot> = all.into_iter().skip(skip).collect();
    let newest = latest(&snapshots, &context.profile, arguments.having.as_deref());
    let backups: Vec<Value> = shown
        .iter()
        .map(|snapshot| snapshot_json(snapshot, &place.join(&Key::Snapshot(snapshot.stamp).path())))
        .collect();
    let keys = json!({
        "backup_dir": place.to_string(),
        "latest": newest.map(|snapshot| snapshot.stamp.to_string()),
        "backups": backups,
    });
    let mut report = Report::done(keys, lines(&shown));
    report.warnings = notes(&snapshots);
    let (journals, damaged) = context.journals();
    report.warnings.extend(damaged);
    for open in
        journals.iter().filter(|open| open.is_unfinished() && open.journal.repository == repository.id())
    {
        let failure = by_unfinished(context, open, ExitCode::RestoreIncomplete);
        report.warnings.push(format!("{}; {}", failure.message, failure.hint.unwrap_or_default()));
    }
    Ok(report)
}

/// What hides snapshots.
pub fn notes(snapshots: &Snapshots) -> Vec<String> {
    let arriving = snapshots
        .arriving
        .iter()
        .map(|stamp| format!("snapshot {stamp} is still arriving: its manifest is not here yet"));
    let damaged = snapshots
        .damaged
        .iter()
        .map(|(file, detail)| format!("{file} is damaged and hides a snapshot: {detail}"));
    arriving.chain(damaged).collect()
}

/// One snapshot as `list` and `show` give it.
pub fn snapshot_json(snapshot: &Snapshot, backup_root: &str) -> Value {
    let manifest = &snapshot.manifest;
    let sources: Vec<&str> = manifest
        .sources
        .iter()
        .filter(|source| source.root.is_some())
        .map(|source| source.name.as_str())
        .collect();
    json!({
        "stamp": snapshot.stamp.to_string(),
        "time": snapshot.stamp.rfc3339(),
        "profile": manifest.profile,
        "host": manifest.host,
        "kind": kind(manifest),
        "tags": manifest.tags,
        "pinned": snapshot.pinned,
        "sources": sources,
        "valid": snapshot.is_valid(),
        "validated": manifest.level().map(Level::name),
        "total_bytes": manifest.total_bytes(),
        "stored_bytes": manifest.stored_bytes,
        "backup_root": backup_root,
    })
}

/// The snapshot's kind in one word.
pub fn kind(manifest: &Manifest) -> &'static str {
    match manifest.kind {
        SnapshotKind::Backup => "backup",
        SnapshotKind::PreRestore => "pre-restore",
    }
}

fn lines(shown: &[&Snapshot]) -> Vec<String> {
    if shown.is_empty() {
        return vec!["no snapshots".into()];
    }
    let mut lines = vec![format!(
        "{:<17} {:<12} {:<8} {:>8} {:>8}  sources",
        "stamp", "profile", "proof", "total", "stored"
    )];
    for snapshot in shown {
        let manifest = &snapshot.manifest;
        let proof =
            if snapshot.is_valid() { manifest.level().map_or("none", Level::name) } else { "INVALID" };
        let names: Vec<&str> = manifest
            .sources
            .iter()
            .filter(|source| source.root.is_some())
            .map(|source| source.name.as_str())
            .collect();
        let mut remarks = String::new();
        if manifest.kind == SnapshotKind::PreRestore {
            remarks.push_str("  (safety)");
        }
        if snapshot.pinned {
            remarks.push_str("  (pinned)");
        }
        if !manifest.tags.is_empty() {
            remarks.push_str(&format!("  [{}]", manifest.tags.join(", ")));
        }
        lines.push(format!(
            "{:<17} {:<12} {:<8} {:>8} {:>8}  {}{remarks}",
            snapshot.stamp.to_string(),
            manifest.profile,
            proof,
            bytes(manifest.total_bytes()),
            bytes(manifest.stored_bytes),
            names.join(", ")
        ));
    }
    lines
}
