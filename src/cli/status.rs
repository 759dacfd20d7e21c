//! `status`: how fresh the backups are.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::list::notes;
use super::report::Report;
use super::restore::by_unfinished;
use crate::catalog::latest;
use crate::config::parse_duration;
use crate::format::SnapshotKind;
use crate::id::Id;
use crate::repository::Snapshot;
use crate::restore::OpenJournal;
use crate::stamp::{Stamp, now_nanos};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Clocks of hosts differ, but not by so much.
const DAY_S: i64 = 86_400;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "repository": null, "profile": null, "snapshots": 0, "latest": null, "age_s": null, "sources": {} })
}

/// Reports each source's newest valid snapshot.
pub fn run(context: &Context, arguments: &args::Status) -> Result<Report, Failure> {
    let limit = arguments.max_age.as_deref().map(parse_duration).transpose().map_err(Failure::usage)?;
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let now = Stamp::from_nanos(now_nanos());
    let age = |snapshot: &Snapshot| age_at(now, snapshot);
    let own = snapshots.list.iter().filter(|snapshot| snapshot.manifest.profile == context.profile);
    let own: Vec<_> = own.filter(|snapshot| snapshot.manifest.kind == SnapshotKind::Backup).collect();
    // With a config its sources count; without, those that snapshots have held.
    let names: BTreeSet<String> = match &context.config {
        Some(config) => config.sources.iter().map(|source| source.spec.name.clone()).collect(),
        None => {
            let sources = own.iter().flat_map(|snapshot| &snapshot.manifest.sources);
            sources.map(|source| source.name.clone()).collect()
        }
    };
    let demanded: BTreeSet<String> = context
        .config
        .iter()
        .flat_map(|config| &config.sources)
        .filter(|source| source.on_demand || source.spec.optional)
        .map(|source| source.spec.name.clone())
        .collect();
    let mut lines = vec![format!("{} snapshot(s) of profile {}", own.len(), context.profile)];
    let (mut sources, mut stale) = (Map::new(), Vec::new());
    for name in names {
        let newest = latest(&snapshots, &context.profile, Some(&name));
        let is_recent = |age: u64| limit.is_none_or(|limit| age <= limit.as_secs());
        let too_old = limit.is_some() && !newest.and_then(age).is_some_and(is_recent);
        if too_old && !demanded.contains(&name) {
            stale.push(name.clone());
        }
        let shown = match newest.map(|one| (one.stamp, age(one))) {
            None => "never".to_owned(),
            Some((stamp, None)) => format!("{stamp}, by a clock that was ahead"),
            Some((stamp, Some(age))) => format!("{stamp}, {} ago", duration(age)),
        };
        lines.push(format!("{name:<16} {shown}{}", if too_old { "  TOO OLD" } else { "" }));
        sources.insert(name, json!({ "latest": newest.map(|one| one.stamp.to_string()), "age_s": newest.and_then(age), "too_old": too_old }));
    }
    let newest = latest(&snapshots, &context.profile, None);
    let keys = json!({
        "repository": context.place()?.to_string(),
        "profile": context.profile,
        "snapshots": own.len(),
        "latest": newest.map(|one| one.stamp.to_string()),
        "age_s": newest.and_then(age),
        "sources": sources,
    });
    let too_old = limit.is_some() && (newest.is_none() || !stale.is_empty());
    if too_old {
        let what = if stale.is_empty() {
            "there is no valid snapshot".to_owned()
        } else {
            format!("too old: {}", stale.join(", "))
        };
        let mut failure = Failure::new(ExitCode::NoSnapshot, "too_old", what)
            .hint("look at the last backup's output, or run one now");
        if let Value::Object(keys) = keys {
            failure.keys = keys;
        }
        return Err(failure);
    }
    if let Some(open) = unfinished(context, repository.id())? {
        let failure = by_unfinished(context, &open, ExitCode::RestoreIncomplete);
        return Err(Failure { keys: Report::done(keys, Vec::new()).keys, ..failure });
    }
    let mut report = Report::done(keys, lines);
    report.warnings = notes(&snapshots);
    report.warnings.extend(newest.filter(|one| age(one).is_none()).map(|one| {
        format!(
            "snapshot {} was taken by a clock that was ahead of this one: how old it is can't be told",
            one.stamp
        )
    }));
    Ok(report)
}

/// In seconds; `None` where the clock that it was taken by was a day ahead or more. By that clock, since a stamp lies ahead of it where
/// the clock had gone back.
fn age_at(now: Stamp, snapshot: &Snapshot) -> Option<u64> {
    let age = now.unix() - Stamp::from_nanos(snapshot.manifest.clock_ns).unix();
    (age > -DAY_S).then_some(age.max(0).unsigned_abs())
}

/// An interrupted restore from this repository, or into a place of the config.
fn unfinished(context: &Context, repository: Id) -> Result<Option<OpenJournal>, Failure> {
    let sources = context.config.iter().flat_map(|config| &config.sources);
    let places: Vec<&Path> = sources.map(|source| source.spec.path.as_path()).collect();
    let mut unfinished = context.all_journals()?;
    unfinished.retain(OpenJournal::is_unfinished);
    let is_here = |open: &OpenJournal| places.iter().any(|place| open.concerns(place));
    let of_repository = |open: &OpenJournal| open.journal.repository == repository;
    let place = unfinished.iter().rposition(is_here).or_else(|| unfinished.iter().rposition(of_repository));
    Ok(place.map(|place| unfinished.swap_remove(place)))
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
