//! `prune`: forgets by policy, then frees space.

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::format_text::bytes;
use super::list::notes;
use super::report::Report;
use crate::config::parse_duration;
use crate::flow::{CountedBy, arrivals, verdicts};
use crate::progress::Progress;
use crate::prune::{PruneOptions, Pruned, preview, prune};
use crate::repository::{Repository, Snapshot, Snapshots};
use crate::retention::{Policy, Verdict};
use crate::stamp::{Stamp, now_nanos};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({
        "dry_run": false, "profile": null, "snapshots": [], "forgotten": [], "kept": 0, "deleted_files": 0, "freed_bytes": 0,
        "condemned_files": 0, "condemned_bytes": 0, "pardoned_files": 0, "held_files": 0, "rewritten_packs": 0, "moved_bytes": 0,
    })
}

/// Prunes, or says what it would do.
pub fn run(context: &Context, arguments: &args::Prune, progress: &dyn Progress) -> Result<Report, Failure> {
    let policy = policy(context, arguments)?;
    let grace = grace(context, arguments)?;
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let by_arrival = arguments.by_arrival || context.config.as_ref().is_some_and(|config| config.by_arrival);
    let verdicts = decided(context, &repository, &snapshots, &policy, by_arrival)?;
    let mut report = if arguments.dry_run {
        let stays = |snapshot: &&Snapshot| {
            verdicts.iter().all(|verdict| verdict.stamp != snapshot.stamp || verdict.stays())
        };
        let staying: Vec<&Snapshot> = snapshots.list.iter().filter(stays).collect();
        let pruned = preview(&repository, &staying, grace, progress)?;
        let going: Vec<Stamp> = verdicts.iter().filter(|one| !one.stays()).map(|one| one.stamp).collect();
        report(context, &verdicts, &going, &pruned, true)
    } else {
        repository.backend().remove_stale_temporaries();
        let (forgotten, pruned) = freed(context, &repository, &verdicts, grace, progress)?;
        report(context, &verdicts, &forgotten, &pruned, false)
    };
    report.warnings.extend(repository.warnings());
    report.warnings.extend(notes(&snapshots));
    Ok(report)
}

/// What `backup --prune` does behind a snapshot, by the config's policy.
pub fn afterwards(
    context: &Context,
    repository: &Repository,
    progress: &dyn Progress,
) -> Result<(Value, Vec<String>), Failure> {
    let snapshots: Snapshots = repository.snapshots()?;
    let by_arrival = context.config.as_ref().is_some_and(|config| config.by_arrival);
    let verdicts = decided(context, repository, &snapshots, &context.retention(), by_arrival)?;
    let (forgotten, pruned) = freed(context, repository, &verdicts, Some(context.grace()), progress)?;
    let report = report(context, &verdicts, &forgotten, &pruned, false);
    Ok((Value::Object(report.keys), report.warnings))
}

fn decided(
    context: &Context,
    repository: &Repository,
    snapshots: &Snapshots,
    policy: &Policy,
    by_arrival: bool,
) -> Result<Vec<Verdict>, Failure> {
    let needed = context.needed_by_restores(repository.id())?;
    let times = if by_arrival { arrivals(repository, snapshots)? } else { HashMap::new() };
    let counted_by = if by_arrival { CountedBy::Arrival(&times) } else { CountedBy::Stamp };
    let now = Stamp::from_nanos(now_nanos());
    Ok(verdicts(snapshots, &context.profile, policy, &counted_by, &needed, now))
}

fn freed(
    context: &Context,
    repository: &Repository,
    verdicts: &[Verdict],
    grace: Option<Duration>,
    progress: &dyn Progress,
) -> Result<(Vec<Stamp>, Pruned), Failure> {
    let options = PruneOptions { grace, patience: context.patience()? };
    let going: HashSet<Stamp> = verdicts.iter().filter(|one| !one.stays()).map(|one| one.stamp).collect();
    let mut forgotten = Vec::new();
    let pruned = prune(repository, &options, &going, &mut forgotten, progress).map_err(|error| {
        let mut failure = Failure::from(error);
        let stamps: Vec<String> = forgotten.iter().map(Stamp::to_string).collect();
        let left = match stamps.len() {
            0 => "nothing was forgotten or freed".to_owned(),
            count => format!("{count} snapshot(s) were forgotten; the next prune frees their space"),
        };
        failure.message = failure.message.replace("; nothing was published", "");
        failure.message.push_str(&format!("; {left}"));
        failure.keys.insert("forgotten".into(), json!(stamps));
        failure
    })?;
    Ok((forgotten, pruned))
}

fn policy(context: &Context, arguments: &args::Prune) -> Result<Policy, Failure> {
    let configured = context.retention();
    let args::Prune { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, .. } =
        arguments;
    let counts = [*keep_last, *keep_hourly, *keep_daily, *keep_weekly, *keep_monthly, *keep_yearly];
    let within = arguments.keep_within.as_deref().map(parse_duration).transpose().map_err(Failure::usage)?;
    let policy = Policy::chosen(counts, within, configured.safety).unwrap_or(configured);
    if policy.is_empty() {
        return Err(Failure::usage("this policy keeps nothing but the newest snapshot of each source")
            .hint("say so with --keep-last 1; nothing was forgotten"));
    }
    Ok(policy)
}

fn grace(context: &Context, arguments: &args::Prune) -> Result<Option<Duration>, Failure> {
    if arguments.now {
        return Ok(None);
    }
    let given = arguments.grace.as_deref().map(parse_duration).transpose().map_err(Failure::usage)?;
    Ok(Some(given.unwrap_or_else(|| context.grace())))
}

fn report(
    context: &Context,
    verdicts: &[Verdict],
    forgotten: &[Stamp],
    pruned: &Pruned,
    is_dry_run: bool,
) -> Report {
    let decided: Vec<Value> = verdicts
        .iter()
        .map(|verdict| json!({ "stamp": verdict.stamp.to_string(), "stays": verdict.stays(), "reasons": verdict.reasons }))
        .collect();
    let stamps: Vec<String> = forgotten.iter().map(Stamp::to_string).collect();
    let kept = verdicts.len() - verdicts.iter().filter(|verdict| !verdict.stays()).count();
    let keys = json!({
        "dry_run": is_dry_run,
        "profile": context.profile,
        "snapshots": decided,
        "forgotten": stamps,
        "kept": kept,
        "deleted_files": pruned.deleted_files,
        "freed_bytes": pruned.freed_bytes,
        "condemned_files": pruned.condemned_files,
        "condemned_bytes": pruned.condemned_bytes,
        "pardoned_files": pruned.pardoned_files,
        "held_files": pruned.held_files,
        "rewritten_packs": pruned.rewritten_packs,
        "moved_bytes": pruned.moved_bytes,
    });
    let mut lines = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| is_dry_run || context.global.verbose || !verdict.stays())
    {
        let why =
            if verdict.stays() { format!("keep    {}", verdict.reasons.join(", ")) } else { "forget".into() };
        lines.push(format!("{}  {why}", verdict.stamp));
    }
    let would = if is_dry_run { "would be " } else { "" };
    lines.push(format!(
        "{} snapshot(s) {would}forgotten, {kept} stay; {} {would}freed, {} {would}condemned until a later prune",
        forgotten.len(),
        bytes(pruned.freed_bytes),
        bytes(pruned.condemned_bytes)
    ));
    let mut report = Report::done(keys, lines);
    report.warnings.clone_from(&pruned.warnings);
    report
}
