//! `validate`: proves published snapshots again.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::{Failure, findings_json, lines_of};
use super::list::notes;
use super::report::Report;
use crate::catalog::find;
use crate::config::parse_duration;
use crate::format::{Finding, Level, ProofFile};
use crate::progress::Progress;
use crate::repository::{Repository, Snapshot};
use crate::source::VALIDATOR_VERSION;
use crate::stamp::{Stamp, now_nanos};
use crate::validate::{Outcome, validate};
use serde_json::{Value, json};

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "valid": null, "level": null, "snapshots": [], "errors": [], "findings": [] })
}

/// Validates one snapshot or all of them.
pub fn run(
    context: &Context,
    arguments: &args::Validate,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let level = if arguments.quick { Level::Quick } else { Level::Full };
    let limit = arguments.max_age.as_deref().map(parse_duration).transpose().map_err(Failure::usage)?;
    let repository = context.open()?;
    let _in_use = repository.lock_for_use(context.patience()?)?;
    let snapshots = repository.snapshots()?;
    let wanted: Vec<&Snapshot> = match &arguments.stamp {
        Some(stamp) => vec![find(&snapshots, stamp, &context.profile, None)?],
        None => snapshots.list.iter().collect(),
    };
    check_age(wanted.last().copied(), limit)?;
    let scratch = context.temporary_directory()?;
    let (mut findings, mut checked, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let mut damaged: Vec<String> = Vec::new();
    for snapshot in wanted {
        let outcome = validate(&repository, &snapshot.manifest, level, &scratch, progress)?;
        record(&repository, snapshot, level, &outcome);
        let verdict = if outcome.is_valid() { "valid" } else { "INVALID" };
        lines.push(format!("{} {verdict} ({})", snapshot.stamp, level.name()));
        checked.push(json!({ "stamp": snapshot.stamp.to_string(), "valid": outcome.is_valid() }));
        if outcome.damaged {
            damaged.push(format!("snapshot {} has lost data", snapshot.stamp));
        }
        findings.extend(outcome.findings);
    }
    if arguments.all {
        damaged.extend(
            snapshots.damaged.iter().map(|(file, detail)| format!("{file} hides a snapshot: {detail}")),
        );
    }
    let index = repository.index()?;
    damaged.extend(index.damaged_files().into_iter().map(|file| format!("{file} is damaged")));
    let mut report = conclude(&findings, damaged, checked, lines, level)?;
    report.warnings.extend(repository.warnings());
    report.warnings.extend(notes(&snapshots));
    if context.global.verbose {
        report.lines.push(format!("index: {}", index.describe()));
    }
    Ok(report)
}

fn check_age(newest: Option<&Snapshot>, limit: Option<std::time::Duration>) -> Result<(), Failure> {
    let (Some(newest), Some(limit)) = (newest, limit) else { return Ok(()) };
    let age = (Stamp::from_nanos(now_nanos()).unix() - newest.stamp.unix()).max(0);
    if age as u64 <= limit.as_secs() {
        return Ok(());
    }
    let message = format!("snapshot {} is {age} s old, {} s are allowed", newest.stamp, limit.as_secs());
    Err(Failure::new(ExitCode::NoSnapshot, "too_old", message)
        .hint("look at the last backup's output, or run one now"))
}

/// Where the repository can be written, the result is kept beside the snapshot.
fn record(repository: &Repository, snapshot: &Snapshot, level: Level, outcome: &Outcome) {
    let sources = snapshot.manifest.sources.iter().filter(|source| source.root.is_some());
    let proof = ProofFile {
        stamp: snapshot.stamp,
        manifest: snapshot.manifest_id,
        level,
        validator: VALIDATOR_VERSION,
        time_ns: now_nanos(),
        sources: sources.map(|source| source.name.clone()).collect(),
        findings: outcome.findings.clone(),
    };
    // A read-only repository is validated all the same.
    drop(repository.add_proof(&proof));
}

fn conclude(
    findings: &[Finding],
    damaged: Vec<String>,
    checked: Vec<Value>,
    lines: Vec<String>,
    level: Level,
) -> Result<Report, Failure> {
    let valid = checked.iter().all(|snapshot| snapshot["valid"] == json!(true)) && damaged.is_empty();
    let mut keys = findings_json(findings);
    keys.insert("valid".into(), json!(valid));
    keys.insert("level".into(), json!(level.name()));
    keys.insert("snapshots".into(), json!(checked));
    if valid {
        let mut report = Report::done(Value::Object(keys), lines);
        report.warnings = lines_of(findings);
        return Ok(report);
    }
    let mut failure = if damaged.is_empty() {
        Failure::new(ExitCode::Invalid, "snapshot_invalid", "a snapshot is not valid")
            .hint("it was stored as it was captured; restore an older one (`icecore list`)")
    } else {
        Failure::new(ExitCode::Damaged, "repository_damaged", "the repository is damaged")
            .hint("other snapshots may be whole; `icecore backup --reread` stores again what is missing and still in the source")
    };
    failure.details = damaged;
    failure.details.extend(lines);
    failure.details.extend(lines_of(findings));
    failure.keys = keys;
    Err(failure)
}
