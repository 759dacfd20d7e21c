//! `restore`: puts a snapshot back, beside or in place.

use super::args;
use super::browse::split_place;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, lines_of};
use super::format_text::{bytes, name};
use super::report::Report;
use crate::catalog::{NotFound, find};
use crate::config::parse_owner;
use crate::flow::{RestoreItem, restore_and_check};
use crate::format::{Entry, EntryKind, Finding, Note, NoteReason, Severity, SourceKind, SourceRecord};
use crate::progress::Progress;
use crate::repository::{Repository, Snapshot};
use crate::restore::{Extras, Owner, Placed, RestoreError, Target};
use crate::source::Excludes;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Every key of the JSON document; `<name>_restored` comes for each source of the snapshot.
pub fn skeleton() -> Value {
    json!({
        "stamp": null, "pre_restore_snapshot": null, "restored_integrity_ok": null,
        "guard": { "open_files": "not_checked", "locks": "not_checked" }, "holders": [],
        "written_bytes": 0, "removed": 0, "sources": {}, "errors": [], "findings": [],
    })
}

/// Restores what the arguments choose.
pub fn run(context: &Context, arguments: &args::Restore, progress: &dyn Progress) -> Result<Report, Failure> {
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let snapshot = find(&snapshots, &arguments.stamp, &context.profile, None)?;
    let in_place = arguments.target.is_none();
    let refused = refuse(context, arguments, snapshot, in_place);
    let items = plan(context, arguments, &repository, snapshot)?;
    if arguments.dry_run {
        return match refused {
            Some(refusal) if refusal.code != "confirmation_missing" => Err(refusal),
            other => Ok(dry_run(snapshot, &items, other)),
        };
    }
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    let owner = owner(context, arguments)?;
    let scratch = context.temporary_directory()?;
    prepare(arguments, &items)?;
    if in_place {
        // This version keeps no journal; who watches should know before the first byte is written.
        progress.begin("restoring in place: a crash before the end would leave a mix of old and new", None);
    }
    let mut total = Placed::default();
    let mut findings: Vec<Finding> = Vec::new();
    for item in &items {
        let restored = restore_and_check(&repository, item, owner, &scratch, progress)?;
        let Placed { files, directories, written_bytes, removed, problems } = restored.placed;
        total.files += files;
        total.directories += directories;
        total.written_bytes += written_bytes;
        total.removed += removed;
        total.problems.extend(problems);
        findings.extend(restored.findings);
    }
    let mut answer = conclude(snapshot, &items, total, findings, in_place);
    if let Ok(report) = &mut answer {
        report.warnings.extend(repository.warnings());
    }
    answer
}

/// Why an in-place restore must not begin.
fn refuse(
    context: &Context,
    arguments: &args::Restore,
    snapshot: &Snapshot,
    in_place: bool,
) -> Option<Failure> {
    let manifest = &snapshot.manifest;
    if !snapshot.is_valid() && !arguments.accept_invalid {
        let message = format!("snapshot {} did not pass its validation", snapshot.stamp);
        return Some(
            Failure::new(ExitCode::Refused, "snapshot_invalid", message)
                .hint("nothing was changed; --accept-invalid restores it all the same, `icecore show` tells what is wrong"),
        );
    }
    if in_place && manifest.profile != context.profile && !arguments.relocated {
        let message = format!(
            "snapshot {} is of profile {:?}, this is {:?}",
            snapshot.stamp, manifest.profile, context.profile
        );
        return Some(Failure::new(ExitCode::Refused, "other_profile", message).hint(
            "nothing was changed; --relocated restores it here, --profile or the config says who this is",
        ));
    }
    if in_place && !arguments.confirm_service_stopped {
        return Some(
            Failure::new(
                ExitCode::Refused,
                "confirmation_missing",
                "an in-place restore overwrites live files; it needs --confirm-service-stopped",
            )
            .hint("nothing was changed; stop the service first. -n shows what would be restored, --target DIR restores beside"),
        );
    }
    None
}

fn owner(context: &Context, arguments: &args::Restore) -> Result<Owner, Failure> {
    let given = arguments.chown.as_deref().map(parse_owner).transpose().map_err(Failure::usage)?;
    let configured = context.config.as_ref().and_then(|config| config.chown);
    Ok(given.or(configured).map_or(Owner::AsRecorded, |(uid, gid)| Owner::Fixed { uid, gid }))
}

/// What goes where.
fn plan(
    context: &Context,
    arguments: &args::Restore,
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<Vec<RestoreItem>, Failure> {
    let held: Vec<&SourceRecord> =
        snapshot.manifest.sources.iter().filter(|source| source.root.is_some()).collect();
    let known = |wanted: &str| held.iter().any(|source| source.name == wanted);
    let named = arguments
        .places
        .iter()
        .map(|place| split_place(place).0)
        .chain(arguments.without.iter().map(String::as_str));
    for wanted in named.chain(arguments.maps.iter().filter_map(|map| Some(map.split_once('=')?.0))) {
        if !known(wanted) {
            let has = held.iter().map(|source| source.name.clone()).collect();
            return Err(NotFound::NoSource { stamp: snapshot.stamp, name: wanted.to_owned(), has }.into());
        }
    }
    let is_chroma = |source: &SourceRecord| source.kind == SourceKind::Chroma;
    if arguments.chroma && !held.iter().any(|source| is_chroma(source)) {
        let message = format!("snapshot {} holds no Chroma store", snapshot.stamp);
        return Err(Failure::new(ExitCode::NoSnapshot, "chroma_snapshot_missing", message)
            .hint("`icecore list --having NAME` shows the snapshots that hold a source"));
    }
    let mut items = Vec::new();
    for source in held {
        let parts: Vec<&str> = arguments
            .places
            .iter()
            .map(|place| split_place(place))
            .filter(|(name, _)| *name == source.name)
            .map(|(_, path)| path)
            .collect();
        let by_default = arguments.places.is_empty() && !arguments.chroma;
        let chosen = by_default || !parts.is_empty() || (arguments.chroma && is_chroma(source));
        if !chosen || arguments.without.contains(&source.name) || (arguments.no_chroma && is_chroma(source)) {
            continue;
        }
        let Some(root) = &source.root else { continue };
        let place = destination(context, arguments, source, root)?;
        if parts.iter().all(|path| path.is_empty()) {
            let extras = left_out(source, "");
            let (name, kind) = (source.name.clone(), Some(source.kind));
            let target = Target { base: place, part: PathBuf::new() };
            items.push(RestoreItem { name, kind, entry: root.clone(), target, extras });
            continue;
        }
        for path in parts {
            // `a//b` and `a/./b` mean `a/b`; the way up is no way into a source.
            let part: PathBuf = Path::new(path).components().collect();
            let found = repository.entry_at(root, part.as_os_str().as_bytes())?;
            let whole = format!("{}/{path}", source.name);
            let entry = found.ok_or(NotFound::NoPath { stamp: snapshot.stamp, path: whole.clone() })?;
            let extras = left_out(source, &part.to_string_lossy());
            let target = Target { base: place.clone(), part };
            items.push(RestoreItem { name: whole, kind: None, entry, target, extras });
        }
    }
    if items.is_empty() {
        return Err(
            Failure::usage("nothing is left to restore").hint("`icecore show` lists the snapshot's sources")
        );
    }
    Ok(items)
}

/// What a source's snapshot left out, excluded or unreadable, stays as it is when `part` of it is restored.
fn left_out(source: &SourceRecord, part: &str) -> Extras {
    let Ok(patterns) = Excludes::new(&source.exclude) else { return Extras::Keep };
    if source.more_notes > 0 {
        return Extras::Keep;
    }
    let of_reason = |note: &&Note| matches!(note.reason, NoteReason::Excluded | NoteReason::Unreadable);
    let left_out = source.notes.iter().filter(of_reason).map(|note| note.path.clone()).collect();
    let part = if part.is_empty() { Vec::new() } else { format!("{part}/").into_bytes() };
    Extras::RemoveExcept { left_out, patterns, part }
}

/// `--target`, `--map`, the config's present path, or the recorded one.
fn destination(
    context: &Context,
    arguments: &args::Restore,
    source: &SourceRecord,
    root: &Entry,
) -> Result<PathBuf, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Failure::usage(error.to_string()));
    if let Some(target) = &arguments.target {
        let below = absolute(target)?.join(&source.name);
        let is_directory = root.kind == EntryKind::Directory;
        return Ok(if is_directory { below } else { below.join(OsStr::from_bytes(&root.name)) });
    }
    let mapped =
        arguments.maps.iter().filter_map(|map| map.split_once('=')).find(|(name, _)| *name == source.name);
    if let Some((_, path)) = mapped {
        return absolute(Path::new(path));
    }
    let configured =
        context.config.iter().flat_map(|config| &config.sources).find(|found| found.spec.name == source.name);
    Ok(configured
        .map_or_else(|| PathBuf::from(OsStr::from_bytes(&source.path)), |found| found.spec.path.clone()))
}

/// A target directory must be empty or new; the directories above each place must exist.
fn prepare(arguments: &args::Restore, items: &[RestoreItem]) -> Result<(), Failure> {
    for item in items {
        let fail = |action, path: &Path, error| Failure::from(RestoreError::io(action, path, error));
        if arguments.target.is_some() {
            let place = item.target.path();
            let occupied = match std::fs::read_dir(&place) {
                Ok(mut listing) => listing.next().is_some(),
                Err(_) => place.symlink_metadata().is_ok(),
            };
            if occupied {
                return Err(RestoreError::NotEmpty { path: place }.into());
            }
        }
        let base = &item.target.base;
        let needed =
            if item.target.part.as_os_str().is_empty() { base.parent() } else { Some(base.as_path()) };
        if let Some(above) = needed {
            std::fs::create_dir_all(above).map_err(|error| fail("create", above, error))?;
        }
    }
    Ok(())
}

fn dry_run(snapshot: &Snapshot, items: &[RestoreItem], refused: Option<Failure>) -> Report {
    let mut lines = Vec::new();
    let mut sources = Map::new();
    for item in items {
        let present = if item.target.path().symlink_metadata().is_ok() { "overwrite" } else { "create" };
        lines.push(format!("{present:<9} {:<16} -> {}", item.name, item.target.path().display()));
        sources.insert(
            item.name.clone(),
            json!({ "target": item.target.path().display().to_string(), "action": present, "reason": "dry run" }),
        );
    }
    lines.push("nothing was written".into());
    let mut report = Report::done(json!({ "stamp": snapshot.stamp.to_string(), "sources": sources }), lines);
    report.keys.extend(restored_keys(snapshot, &[]));
    report.warnings =
        refused.into_iter().map(|refusal| format!("it would be refused: {}", refusal.message)).collect();
    report
}

/// `<name>_restored` for every source of the snapshot.
fn restored_keys(snapshot: &Snapshot, done: &[RestoreItem]) -> Map<String, Value> {
    let key = |source: &SourceRecord| {
        let restored = done.iter().any(|item| split_place(&item.name).0 == source.name);
        (format!("{}_restored", source.name), json!(restored))
    };
    snapshot.manifest.sources.iter().map(key).collect()
}

fn conclude(
    snapshot: &Snapshot,
    items: &[RestoreItem],
    total: Placed,
    findings: Vec<Finding>,
    in_place: bool,
) -> Result<Report, Failure> {
    let sound = findings.iter().all(|finding| finding.severity != Severity::Error);
    let mut sources = Map::new();
    let mut lines = Vec::new();
    for item in items {
        sources.insert(
            item.name.clone(),
            json!({ "target": item.target.path().display().to_string(), "action": "restored", "reason": null }),
        );
        lines.push(format!("{:<16} -> {}", item.name, name(item.target.path().as_os_str().as_bytes())));
    }
    for source in &snapshot.manifest.sources {
        if !items.iter().any(|item| split_place(&item.name).0 == source.name) {
            let reason = if source.root.is_none() {
                "it was missing when the snapshot was taken"
            } else {
                "not chosen"
            };
            sources.insert(
                source.name.clone(),
                json!({ "target": null, "action": "left alone", "reason": reason }),
            );
            lines.push(format!("{:<16} left alone: {reason}", source.name));
        }
    }
    lines.push(format!(
        "{} file(s), {} director(ies), {} written, {} removed",
        total.files,
        total.directories,
        bytes(total.written_bytes),
        total.removed
    ));
    let where_ = if in_place { "in place" } else { "restored" };
    lines.push(format!("snapshot {} {where_}, checked", snapshot.stamp));
    let mut keys = super::failure::findings_json(&findings);
    keys.extend(restored_keys(snapshot, items));
    keys.insert("stamp".into(), json!(snapshot.stamp.to_string()));
    keys.insert("restored_integrity_ok".into(), json!(sound));
    keys.insert("written_bytes".into(), json!(total.written_bytes));
    keys.insert("removed".into(), json!(total.removed));
    keys.insert("sources".into(), json!(sources));
    let warnings = total.problems.clone();
    if !sound {
        let mut failure = Failure::new(
            ExitCode::RestoredButBad,
            "restored_invalid",
            "restored, but the result did not pass its check",
        )
        .hint("do not start the service on it; restore another snapshot");
        failure.details = lines_of(&findings);
        (failure.keys, failure.warnings) = (keys, warnings);
        return Err(failure);
    }
    let mut report = Report::done(Value::Object(keys), lines);
    report.warnings = warnings;
    if !total.problems.is_empty() {
        report.exit = ExitCode::Incomplete;
    }
    Ok(report)
}
