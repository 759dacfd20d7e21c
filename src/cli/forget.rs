//! `forget`, `pin`, `unpin`: which snapshots stay.

use super::args;
use super::context::{Context, needed_by};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::report::Report;
use super::restore::by_unfinished;
use crate::catalog::find;
use crate::repository::Snapshot;
use crate::restore::OpenJournal;
use crate::stamp::{Stamp, now_nanos};
use serde_json::json;

/// Removes snapshots' names and manifests. All stamps are looked up before the first is removed.
pub fn forget(context: &Context, arguments: &args::Forget) -> Result<Report, Failure> {
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let wanted: Vec<&Snapshot> = arguments
        .stamps
        .iter()
        .map(|stamp| {
            if stamp == "latest" {
                return Err(Failure::usage(
                    "forget needs stamps: `latest` means another snapshot afterwards",
                ));
            }
            Ok(find(&snapshots, stamp, &context.profile, None)?)
        })
        .collect::<Result<_, _>>()?;
    if let Some(pinned) = wanted.iter().find(|snapshot| snapshot.pinned) {
        let message = format!("snapshot {} is pinned", pinned.stamp);
        return Err(Failure::usage(message).hint("nothing was forgotten; `icecore unpin` it first"));
    }
    let kept = context.retention().safety;
    let youngest = Stamp::from_nanos(now_nanos()).unix().saturating_sub_unsigned(kept.as_secs());
    let is_kept = |snapshot: &&&Snapshot| {
        snapshot.manifest.is_safety() && snapshot.stamp.unix() > youngest && !arguments.safety
    };
    if let Some(safety) = wanted.iter().find(is_kept) {
        let message = format!(
            "snapshot {} is a safety snapshot, the way back from a restore, and younger than {} days",
            safety.stamp,
            kept.as_secs() / 86_400
        );
        return Err(Failure::usage(message).hint("nothing was forgotten; --safety forgets it all the same"));
    }
    let journals = context.all_journals()?;
    let is_open = |open: &&OpenJournal| open.is_open() && open.journal.repository == repository.id();
    for open in journals.iter().filter(is_open) {
        let needed = needed_by(open);
        if let Some(snapshot) = wanted.iter().find(|snapshot| needed.contains(&snapshot.stamp)) {
            let unfinished = by_unfinished(context, open, ExitCode::Refused);
            let message = format!("snapshot {} is needed: {}", snapshot.stamp, unfinished.message);
            return Err(Failure { message, ..unfinished }.hinting("nothing was forgotten"));
        }
    }
    let mut lines = Vec::new();
    for snapshot in &wanted {
        repository.forget(snapshot)?;
        lines.push(format!("snapshot {} forgotten", snapshot.stamp));
    }
    let stamps: Vec<String> = wanted.iter().map(|snapshot| snapshot.stamp.to_string()).collect();
    Ok(Report::done(json!({ "forgotten": stamps }), lines))
}

/// Pins or unpins snapshots.
pub fn pin(context: &Context, arguments: &args::Pin, pinned: bool) -> Result<Report, Failure> {
    let repository = context.open()?;
    let snapshots = repository.snapshots()?;
    let wanted: Vec<&Snapshot> = arguments
        .stamps
        .iter()
        .map(|stamp| find(&snapshots, stamp, &context.profile, None))
        .collect::<Result<_, _>>()?;
    for snapshot in &wanted {
        repository.set_pinned(snapshot.stamp, pinned)?;
    }
    let word = if pinned { "pinned" } else { "unpinned" };
    let lines = wanted.iter().map(|snapshot| format!("snapshot {} {word}", snapshot.stamp)).collect();
    let stamps: Vec<String> = wanted.iter().map(|snapshot| snapshot.stamp.to_string()).collect();
    Ok(Report::done(json!({ "stamps": stamps, "pinned": pinned }), lines))
}
