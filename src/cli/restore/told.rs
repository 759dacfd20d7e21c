//! What a restore says: one document with every key, or lines for a person.

use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, findings_json, lines_of};
use crate::cli::format_text::{bytes, name};
use crate::cli::report::Report;
use crate::flow::{Prospect, RestoreItem, Restored as Outcome};
use crate::format::{Finding, Manifest, Severity, SourceKind};
use crate::repository::Snapshot;
use crate::restore::{Action, Guard, Main, OpenJournal, Placed, Plan, Shortage, Step};
use crate::source::VALIDATOR_VERSION;
use crate::stamp::Stamp;
use serde_json::{Map, Value, json};
use std::os::unix::ffi::OsStrExt;

/// Every key of the JSON document; `<name>_restored` comes for each source of the snapshot.
pub fn skeleton() -> Value {
    json!({
        "stamp": null, "pre_restore_snapshot": null, "journal": null, "restored_integrity_ok": null,
        "guard": { "open_files": "not_checked", "locks": "not_checked" }, "holders": [],
        "written_bytes": 0, "read_bytes": 0, "removed": 0, "sources": {}, "plan": [], "errors": [], "findings": [],
    })
}

/// One thing that was, or was to be, restored.
pub struct Restored {
    name: String,
    source: String,
    target: String,
    shown: String,
}

impl Restored {
    /// Its names and place.
    pub fn of(item: &RestoreItem) -> Self {
        let target = item.target.path();
        Self {
            name: item.name(),
            source: item.source.clone(),
            shown: name(target.as_os_str().as_bytes()),
            target: target.display().to_string(),
        }
    }
}

/// Everything that there is to tell, as it comes together.
#[derive(Clone)]
pub struct Told {
    stamp: Stamp,
    /// What has to be typed to finish this restore, and to undo it, up to the journal's id.
    again: (String, String),
    /// Every source of the snapshot, and whether it held it.
    sources: Vec<(String, bool)>,
    pub placed: Placed,
    pub findings: Vec<Finding>,
    pub guard: Option<Guard>,
    pub journal: Option<OpenJournal>,
    pub read_bytes: u64,
    /// Sources that may hold databases, of which nobody has proven in full what the snapshot holds.
    quickly_proven: Vec<String>,
    pub warnings: Vec<String>,
}

/// The snapshot could not be placed for want of room.
pub fn no_space(shortage: &Shortage) -> Failure {
    let Shortage { place, needed_bytes, free_bytes } = shortage;
    let message = format!(
        "there is not enough room at {}: {} are needed, {} are free",
        place.display(),
        bytes(*needed_bytes),
        bytes(*free_bytes)
    );
    Failure::new(ExitCode::NoSpace, "no_space", message).at(place).hint(
        "nothing was changed; free some space, or name another --temp-dir if that is where it is missing",
    )
}

impl Told {
    /// Of a snapshot, before anything is done.
    pub fn of(context: &Context, stamp: Stamp, manifest: &Manifest) -> Self {
        let is_safety = manifest.is_safety();
        let held =
            manifest.sources.iter().map(|source| (source.name.clone(), source.root.is_some() || is_safety));
        Self {
            stamp,
            again: (context.again("--resume"), context.again("--rollback")),
            sources: held.collect(),
            placed: Placed::default(),
            findings: Vec::new(),
            guard: None,
            journal: None,
            read_bytes: 0,
            quickly_proven: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes which sources of the snapshot nobody has proven in full.
    pub fn proven_as(self, snapshot: &Snapshot) -> Self {
        let manifest = &snapshot.manifest;
        let records = manifest.sources.iter().filter(|record| {
            record.kind != SourceKind::Json
                && !manifest.is_safety()
                && !snapshot.is_proven_in_full(&record.name, VALIDATOR_VERSION)
        });
        let quickly_proven = records.map(|record| record.name.clone()).collect();
        Self { quickly_proven, ..self }
    }

    /// Takes over what came of it.
    pub fn take(&mut self, outcome: Outcome) {
        let Outcome { placed, findings, guard, journal, warnings } = outcome;
        (self.placed, self.findings, self.guard, self.journal) = (placed, findings, guard, journal);
        self.warnings.extend(warnings);
    }

    /// The safety snapshot in the repository that was taken before.
    fn safety(&self) -> Option<Stamp> {
        let journal = &self.journal.as_ref()?.journal;
        (!journal.has_undo).then_some(journal.before.stamp)
    }

    /// The keys that every answer has.
    fn keys(&self, done: &[Restored]) -> Map<String, Value> {
        let mut keys = findings_json(&self.findings);
        for (source, _) in &self.sources {
            let restored = done.iter().any(|restored| restored.source == *source);
            keys.insert(format!("{source}_restored"), json!(restored));
        }
        let holders: Vec<Value> = self.guard.iter().flat_map(|guard| &guard.holders).map(|holder| {
            json!({ "pid": holder.pid, "command": holder.command, "path": holder.path.display().to_string() })
        }).collect();
        keys.insert("stamp".into(), json!(self.stamp.to_string()));
        keys.insert("pre_restore_snapshot".into(), json!(self.safety().map(|stamp| stamp.to_string())));
        let journal = self.journal.as_ref().map(|open| open.path().display().to_string());
        keys.insert("journal".into(), json!(journal));
        if let Some(guard) = &self.guard {
            let (files, locks) = (Guard::word(guard.open_files), Guard::word(guard.locks));
            keys.insert("guard".into(), json!({ "open_files": files, "locks": locks }));
        }
        keys.insert("holders".into(), json!(holders));
        keys.insert("written_bytes".into(), json!(self.placed.written_bytes));
        keys.insert("read_bytes".into(), json!(self.read_bytes));
        keys.insert("removed".into(), json!(self.placed.removed));
        keys
    }

    fn sources_json(&self, done: &[Restored], action: &str) -> Map<String, Value> {
        let mut sources = Map::new();
        for restored in done {
            let described = json!({ "target": restored.target, "action": action, "reason": null });
            sources.insert(restored.name.clone(), described);
        }
        for (source, reason) in self.left_alone(done) {
            let described = json!({ "target": null, "action": "left alone", "reason": reason });
            sources.insert(source.clone(), described);
        }
        sources
    }

    fn left_alone<'t>(&'t self, done: &'t [Restored]) -> impl Iterator<Item = (&'t String, &'static str)> {
        let others =
            self.sources.iter().filter(|(source, _)| !done.iter().any(|done| done.source == *source));
        others.map(|(source, is_held)| {
            (source, if *is_held { "not chosen" } else { "it was missing when the snapshot was taken" })
        })
    }

    /// The command that finishes this restore.
    pub fn resume_command(&self) -> String {
        self.command(&self.again.0)
    }

    /// The command that undoes it.
    pub fn undo_command(&self) -> String {
        self.command(&self.again.1)
    }

    fn command(&self, again: &str) -> String {
        let journal = self.journal.as_ref().map(|open| format!(" --journal {}", open.id));
        format!("{again}{} --confirm-service-stopped", journal.unwrap_or_default())
    }

    /// A failure with everything that is known.
    pub fn into_failure(self, failure: Failure) -> Failure {
        let mut keys = self.keys(&[]);
        keys.extend(failure.keys.clone());
        let mut warnings = self.warnings;
        warnings.extend(failure.warnings.clone());
        Failure { keys, warnings, ..failure }
    }

    /// A failure after everything was placed.
    pub fn into_bad(self, done: &[Restored], failure: Failure) -> Failure {
        let mut keys = self.keys(done);
        keys.insert("sources".into(), json!(self.sources_json(done, "restored")));
        keys.insert("restored_integrity_ok".into(), json!(false));
        let mut warnings = self.warnings.clone();
        warnings.extend(self.placed.problems.clone());
        let details = lines_of(&self.findings);
        Failure { keys, warnings, details, ..failure }
    }

    /// The answer when all is in place and checked.
    pub fn conclude(self, items: &[RestoreItem], where_: &str) -> Result<Report, Failure> {
        let done: Vec<Restored> = items.iter().map(Restored::of).collect();
        self.conclude_done(&done, where_, None)
    }

    /// As `conclude`, with the way back.
    pub fn conclude_in_place(self, done: &[Restored]) -> Result<Report, Failure> {
        let undo = format!("to undo it: {}", self.undo_command());
        let undo = match self.safety() {
            Some(stamp) => format!("{undo}   (the state before: snapshot {stamp})"),
            None => undo,
        };
        let is_rolled_back = self
            .journal
            .as_ref()
            .is_some_and(|open| open.journal.state == crate::format::RestoreState::RolledBack);
        self.conclude_done(done, "in place", (!is_rolled_back).then_some(undo))
    }

    fn conclude_done(self, done: &[Restored], where_: &str, undo: Option<String>) -> Result<Report, Failure> {
        if self.findings.iter().any(|finding| finding.severity == Severity::Error) {
            let message = "restored, but the result did not pass its check";
            let failure = Failure::new(ExitCode::RestoredButBad, "restored_invalid", message)
                .hint("do not start the service on it; restore another snapshot");
            return Err(self.into_bad(done, failure));
        }
        let mut lines: Vec<String> =
            done.iter().map(|restored| format!("{:<16} -> {}", restored.name, restored.shown)).collect();
        lines.extend(
            self.left_alone(done).map(|(source, reason)| format!("{source:<16} left alone: {reason}")),
        );
        let Placed { written_files, kept_files, written_bytes, removed, .. } = &self.placed;
        lines.push(format!(
            "{written_files} file(s) written, {kept_files} left as they were, {} written, {} read, {removed} removed",
            bytes(*written_bytes),
            bytes(self.read_bytes),
        ));
        lines.push(format!("snapshot {} {where_}, checked", self.stamp));
        if done.iter().any(|restored| self.quickly_proven.contains(&restored.source)) {
            lines.push(format!(
                "it was proven quickly only, and full-text indexes weren't looked at: icecore validate {}",
                self.stamp
            ));
        }
        lines.extend(undo);
        let mut keys = self.keys(done);
        keys.insert("restored_integrity_ok".into(), json!(true));
        keys.insert("sources".into(), json!(self.sources_json(done, "restored")));
        let mut report = Report::done(Value::Object(keys), lines);
        report.warnings = self.warnings;
        report.warnings.extend(self.placed.problems.iter().cloned());
        report.warnings.extend(lines_of(&self.findings));
        if !self.placed.problems.is_empty() {
            report.exit = ExitCode::Incomplete;
        }
        Ok(report)
    }

    /// What would be done to each file.
    pub fn list(self, items: &[RestoreItem], prospect: &Prospect) -> Report {
        let all: Vec<Restored> = items.iter().map(Restored::of).collect();
        let (mut lines, mut listed) = (Vec::new(), Vec::new());
        for (restored, plan) in all.iter().zip(&prospect.plans) {
            lines.push(format!("{} -> {}", restored.name, restored.shown));
            list_plan(&restored.name, plan, &mut lines, &mut listed);
        }
        lines.extend(self.left_alone(&all).map(|(source, reason)| format!("{source} left alone: {reason}")));
        lines.push("nothing was changed".into());
        let mut keys = self.keys(&[]);
        let mut sources = self.sources_json(&all, "would be restored");
        sources.values_mut().for_each(|source| {
            if source["reason"].is_null() {
                source["reason"] = json!("dry run");
            }
        });
        keys.insert("sources".into(), json!(sources));
        keys.insert("plan".into(), json!(listed));
        let mut report = Report::done(Value::Object(keys), lines);
        report.warnings = self.warnings;
        report.warnings.extend(prospect.plans.iter().flat_map(|plan| plan.problems.iter().cloned()));
        report
    }
}

fn list_plan(source: &str, plan: &Plan, lines: &mut Vec<String>, listed: &mut Vec<Value>) {
    for step in &plan.steps {
        let word = word_of(step);
        let path = if step.path.is_empty() { ".".into() } else { name(&step.path) };
        let has_size = step.bytes > 0 || word == "write";
        let size = if has_size { format!("{:>10} bytes", step.bytes) } else { String::new() };
        lines.push(format!("  {word:<10} {size:>16}  {path}"));
        let path = String::from_utf8_lossy(&step.path);
        listed.push(json!({ "source": source, "path": path, "action": word, "bytes": step.bytes }));
        if let Action::Database(change) = &step.action {
            for beside in &change.stale {
                let beside = String::from_utf8_lossy(beside);
                lines.push(format!("  {:<10} {:>16}  {beside} (beside it)", "delete", ""));
                listed.push(json!({ "source": source, "path": beside, "action": "delete", "bytes": 0 }));
            }
        }
    }
}

fn word_of(step: &Step) -> &'static str {
    match &step.action {
        Action::Keep => "keep",
        Action::Delete => "delete",
        Action::Create => "create",
        Action::Replace => "replace",
        Action::Link { .. } => "link",
        Action::Write { .. } => "write",
        Action::Attributes => "attributes",
        Action::Database(change) => match change.main {
            Main::Overwrite { .. } => "write",
            Main::Make => "create",
            Main::Remove => "delete",
        },
    }
}
