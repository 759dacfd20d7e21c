//! `check` and `repair`: the repository itself.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::format_text::{bytes, name};
use super::report::Report;
use crate::check::{Affected, Checked, Part, ReadData, Repaired, Scope, check, repair};
use crate::progress::Progress;
use crate::repository::{Repository, Snapshot};
use crate::stamp::{Stamp, now_nanos};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// So many concerned files are told to a person; a script gets all.
const SHOWN: usize = 20;
/// So often a repository is checked from which something goes away meanwhile.
const TRIES: u32 = 4;

/// Every key of `check`'s JSON document.
pub fn skeleton() -> Value {
    json!({
        "valid": null, "errors": [], "findings": [], "affected": [], "more_affected": 0, "notes": [], "snapshots": 0, "packs": 0, "index_files": 0,
        "chunks": 0, "unreferenced_packs": 0, "unreferenced_bytes": 0, "read_bytes": 0, "part": null,
    })
}

/// Every key of `repair`'s.
pub fn repair_skeleton() -> Value {
    let mut keys = object(skeleton());
    let own =
        json!({ "actions": [], "quarantined": [], "salvaged_chunks": 0, "replaced_chunks": 0, "lost": [] });
    keys.extend(object(own));
    Value::Object(keys)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(keys) = value { keys } else { Map::new() }
}

/// Checks the repository.
pub fn run(context: &Context, arguments: &args::Check, progress: &dyn Progress) -> Result<Report, Failure> {
    let read_data = match &arguments.read_data {
        None => ReadData::None,
        Some(text) => ReadData::Part(part(text).map_err(Failure::usage)?),
    };
    let (repository, checked) = steady(context, Scope { read_data }, progress)?;
    let mut keys = keys(&checked);
    if let ReadData::Part(part) = read_data {
        keys.insert("part".into(), json!({ "first": part.first + 1, "count": part.count, "of": part.of }));
    }
    let warnings: Vec<String> = checked.notes.iter().cloned().chain(repository.warnings()).collect();
    if checked.is_sound() {
        let mut report = Report::done(Value::Object(keys), lines(&checked));
        report.warnings = warnings;
        return Ok(report);
    }
    let mut failure = Failure::new(ExitCode::Damaged, "repository_damaged", "the repository is damaged")
        .hint(
        "nothing was changed. `icecore repair` saves what can be saved, also from the live sources, and puts the rest aside. In a \
         copy that was made while backups ran copy again first: packs may be still arriving",
    );
    failure.details = problem_lines(&checked);
    failure.keys = keys;
    failure.warnings = warnings;
    Err(failure)
}

/// A prune that goes on beside a check may remove what is being looked at: then it is looked at again.
fn steady(
    context: &Context,
    scope: Scope,
    progress: &dyn Progress,
) -> Result<(Repository, Checked), Failure> {
    for _ in 1..TRIES {
        let repository = context.open()?;
        let before = (names(&repository, "snapshots")?, names(&repository, "packs")?);
        let checked = check(&repository, scope, progress);
        let after = (names(&repository, "snapshots")?, names(&repository, "packs")?);
        let is_all_there = before.0.is_subset(&after.0) && before.1.is_subset(&after.1);
        match checked {
            Ok(checked) if is_all_there || checked.is_sound() => return Ok((repository, checked)),
            Err(error) if is_all_there => return Err(error.into()),
            _ => {}
        }
    }
    let repository = context.open()?;
    let checked = check(&repository, scope, progress)?;
    Ok((repository, checked))
}

fn names(repository: &Repository, directory: &str) -> Result<HashSet<String>, Failure> {
    Ok(repository.backend().list(directory)?.into_iter().map(|(path, _)| path).collect())
}

/// Repairs the repository.
pub fn run_repair(
    context: &Context,
    arguments: &args::Repair,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let backend = context.backend()?;
    let open = || context.open_on(Arc::clone(&backend));
    if arguments.dry_run {
        let all = args::Check { read_data: Some("100".into()) };
        return run(context, &all, progress);
    }
    let replacements = |snapshot: &Snapshot, affected: &Affected, at: u64, len: u32| {
        live_bytes(context, snapshot, affected, at, len)
    };
    let (repaired, after) = repair(&open, &replacements, context.patience()?, progress).map_err(|error| {
        let failure = Failure::from(error);
        let kept = "whatever was put aside is in quarantine/, and `icecore repair` can be run again";
        Failure { message: failure.message.replace("nothing was published", kept), ..failure }
    })?;
    let mut keys = keys(&after);
    keys.extend(object(json!({
        "actions": repaired.actions,
        "quarantined": repaired.quarantined.iter().map(|(from, to)| json!({ "file": from, "now": to })).collect::<Vec<_>>(),
        "salvaged_chunks": repaired.salvaged_chunks,
        "replaced_chunks": repaired.replaced_chunks,
        "lost": repaired.lost.iter().map(Stamp::to_string).collect::<Vec<_>>(),
    })));
    let mut lines = told(&repaired);
    if after.is_sound() && repaired.lost.is_empty() {
        lines.push("the repository is sound".into());
        let mut report = Report::done(Value::Object(keys), lines);
        report.warnings = after.notes;
        return Ok(report);
    }
    let mut failure = Failure::new(ExitCode::Damaged, "data_lost", "some snapshots are lost, or have lost data and are marked as invalid").hint(
        "the next `icecore backup` stores what the sources still have, which mends what is the same; `icecore validate` \
         then takes the mark away. `icecore forget` removes snapshots that stay damaged",
    );
    failure.details = lines;
    failure.details.extend(problem_lines(&after));
    failure.keys = keys;
    failure.warnings = after.notes;
    Err(failure)
}

fn told(repaired: &Repaired) -> Vec<String> {
    let mut lines = repaired.actions.clone();
    lines.extend(repaired.quarantined.iter().map(|(from, to)| format!("{from} was moved to {to}")));
    if lines.is_empty() {
        lines.push("there was nothing to repair".into());
    }
    lines
}

/// Reads a live file where a snapshot's file has a lost chunk: at the config's path of the source, else the recorded one.
fn live_bytes(
    context: &Context,
    snapshot: &Snapshot,
    affected: &Affected,
    at: u64,
    len: u32,
) -> Option<Vec<u8>> {
    let source = snapshot.manifest.source(&affected.source)?;
    let recorded = || PathBuf::from(OsStr::from_bytes(&source.path));
    let base = context.configured(&source.name).map_or_else(recorded, |source| source.spec.path.clone());
    let path = if affected.path.is_empty() { base } else { base.join(OsStr::from_bytes(&affected.path)) };
    let place = match &affected.entry.segments {
        None => at,
        Some(segments) => {
            let mut before = 0;
            let holds = |segment: &&crate::format::Segment| {
                let is_here = at < before + segment.len;
                before += if is_here { 0 } else { segment.len };
                is_here
            };
            let segment = segments.iter().find(holds)?;
            segment.offset + (at - before)
        }
    };
    // A pipe in its place would be waited for.
    std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, place).ok()?;
    Some(bytes)
}

/// `10` or `10%`: that part of all packs, another one each day. `3/10`: the third of ten parts.
fn part(text: &str) -> Result<Part, String> {
    let wrong = || format!("--read-data={text}: write a percentage, as in 10%, or a part, as in 3/10");
    if let Some((number, of)) = text.split_once('/') {
        let (number, of): (u32, u32) = number.parse().ok().zip(of.parse().ok()).ok_or_else(wrong)?;
        let is_part = (1..=of).contains(&number);
        return if is_part { Ok(Part { first: number - 1, count: 1, of }) } else { Err(wrong()) };
    }
    let percent: u32 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
    if !(1..=100).contains(&percent) {
        return Err(wrong());
    }
    let day = Stamp::from_nanos(now_nanos()).day().unsigned_abs();
    Ok(Part { first: (day * u64::from(percent) % 100) as u32, count: percent, of: 100 })
}

fn keys(checked: &Checked) -> Map<String, Value> {
    let findings: Vec<Value> = checked
        .problems
        .iter()
        .map(|problem| json!({ "code": "repository_damaged", "severity": "error", "path": problem.file, "detail": problem.detail }))
        .collect();
    let affected: Vec<Value> = checked
        .affected
        .iter()
        .map(|one| {
            json!({
                "stamp": one.stamp.to_string(), "source": one.source, "path": name(&one.path), "lost_chunks": one.lost.len(),
                "list_lost": one.is_list_lost,
            })
        })
        .collect();
    let errors: Vec<String> =
        checked.problems.iter().map(|problem| format!("{}: {}", problem.file, problem.detail)).collect();
    object(json!({
        "valid": checked.is_sound(),
        "errors": errors,
        "findings": findings,
        "affected": affected,
        "more_affected": checked.more_affected,
        "notes": checked.notes,
        "snapshots": checked.snapshots.list.len(),
        "packs": checked.packs,
        "index_files": checked.index_files,
        "chunks": checked.chunks,
        "unreferenced_packs": checked.unreferenced_packs,
        "unreferenced_bytes": checked.unreferenced_bytes,
        "read_bytes": checked.read_bytes,
    }))
}

fn lines(checked: &Checked) -> Vec<String> {
    let read = match checked.read_bytes {
        0 => "no data was read (--read-data does)".to_owned(),
        read => format!("{} were read", bytes(read)),
    };
    vec![
        format!(
            "{} snapshot(s), {} pack(s), {} index file(s), {} chunk(s): sound; {read}",
            checked.snapshots.list.len(),
            checked.packs,
            checked.index_files,
            checked.chunks
        ),
        format!(
            "{} in {} pack(s) and parts of others are not needed (`icecore prune` frees them)",
            bytes(checked.unreferenced_bytes),
            checked.unreferenced_packs
        ),
    ]
}

fn problem_lines(checked: &Checked) -> Vec<String> {
    let mut lines: Vec<String> =
        checked.problems.iter().map(|problem| format!("{}: {}", problem.file, problem.detail)).collect();
    for one in checked.affected.iter().take(SHOWN) {
        let place = if one.path.is_empty() {
            one.source.clone()
        } else {
            format!("{}/{}", one.source, name(&one.path))
        };
        let what = if one.is_list_lost {
            "part of what it lists is lost".to_owned()
        } else {
            format!("{} chunk(s) lost", one.lost.len())
        };
        lines.push(format!("snapshot {}, {place}: {what}", one.stamp));
    }
    let more = checked.affected.len().saturating_sub(SHOWN) as u64 + checked.more_affected;
    if more > 0 {
        lines.push(format!("and {more} more (--json lists {})", checked.affected.len()));
    }
    lines
}
