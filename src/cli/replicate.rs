//! `replicate`: brings other places up to date, each by itself.

use super::args;
use super::connect::Way;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::format_text::bytes as bytes_text;
use super::init::is_empty_or_half_made;
use super::place::Place;
use super::report::Report;
use crate::backend::{Backend, Limit};
use crate::config::parse_rate;
use crate::format::Key;
use crate::id::Id;
use crate::progress::Progress;
use crate::replicate::{ReplicateError, Replicated, Source, Terms, Wanted, prove_alike, replicate, stamps};
use crate::repository::{IndexOptions, Repository, RepositoryError};
use crate::stamp::Stamp;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A connection that broke is made again after these pauses; whoever got further meanwhile begins with the first again.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "newest": null, "replicas": [] })
}

/// Where to.
struct Target {
    name: String,
    place: Place,
    way: Way,
    optional: bool,
}

impl Target {
    /// Two indexes are in memory at once, and each has a cache of its own.
    fn options(&self, context: &Context) -> IndexOptions {
        let usual = context.index_options();
        let name = Id::of(self.place.to_string().as_bytes()).hex();
        IndexOptions {
            cache_directory: usual.cache_directory.map(|cache| cache.join("replicas").join(name)),
            memory_limit_bytes: usual.memory_limit_bytes / 2,
        }
    }
}

/// Brings the targets up to date, or tells how far behind they are.
pub fn run(
    context: &Context,
    arguments: &args::Replicate,
    progress: &dyn Progress,
) -> Result<Report, Failure> {
    let targets = targets(context, &arguments.targets, arguments.limit.as_deref())?;
    let backend = context.backend()?;
    let mut outcomes = Vec::new();
    // Told once; each attempt opens it anew, for what is stored meanwhile.
    let (_, warning) = open_if_possible(context, &backend)?;
    for target in &targets {
        if progress.interrupted() {
            return Err(super::failure::interrupted());
        }
        let outcome = if arguments.status {
            status_of(context, &*backend, target)
        } else {
            let wanted = if arguments.all { Wanted::All } else { Wanted::Newer };
            bring(context, &backend, target, wanted, progress)
        };
        outcomes.push(outcome);
    }
    told(&*backend, &targets, outcomes, warning)
}

/// After a backup: the snapshot exists, whatever becomes of this.
pub fn afterwards(context: &Context, progress: &dyn Progress) -> Result<Report, Failure> {
    let arguments = args::Replicate { targets: Vec::new(), all: false, status: false, limit: None };
    run(context, &arguments, progress)
}

fn targets(context: &Context, named: &[String], limit: Option<&str>) -> Result<Vec<Target>, Failure> {
    let limit = limit.map(parse_rate).transpose().map_err(Failure::usage)?;
    let configured = context.config.iter().flat_map(|config| &config.replicas);
    let of_config = |replica: &crate::config::Replica| {
        Ok(Target {
            name: replica.name.clone(),
            place: Place::parse(&replica.url)?,
            way: Way {
                ssh: replica.ssh.clone(),
                remote_path: replica.remote_path.clone(),
                limit: limit.or(replica.limit),
            },
            optional: replica.optional,
        })
    };
    if named.is_empty() {
        let all: Vec<Target> = configured.map(of_config).collect::<Result<_, Failure>>()?;
        return if all.is_empty() {
            Err(Failure::usage("replicate to where?").hint(
                "name a directory, ssh://user@host/path or s3://bucket/prefix, or [[replica]] in the config",
            ))
        } else {
            Ok(all)
        };
    }
    let one = |text: &String| match configured.clone().find(|replica| replica.name == *text) {
        Some(replica) => of_config(replica),
        None => {
            let place = Place::parse(text)?;
            let way = Way { limit, ..Way::default() };
            Ok(Target { name: place.to_string(), place, way, optional: false })
        }
    };
    named.iter().map(one).collect()
}

/// Whoever only carries files needs no key.
fn open_if_possible(
    context: &Context,
    backend: &Arc<dyn Backend>,
) -> Result<(Option<Repository>, Option<String>), Failure> {
    match context.open_on(Arc::clone(backend)) {
        Ok(repository) => Ok((Some(repository), None)),
        Err(RepositoryError::Locked { .. }) if !context.has_key_source() => {
            let warning = "without the repository's key every file that is missing is sent, needed or not, and nothing is put \
                           together there from what it has";
            Ok((None, Some(warning.into())))
        }
        Err(error) => Err(error.into()),
    }
}

/// How an attempt ended.
enum Broken {
    ForGood(Failure),
    /// It is worth trying again; whether something had arrived by then.
    ForNow {
        failure: Failure,
        got_on: bool,
    },
}

fn bring(
    context: &Context,
    backend: &Arc<dyn Backend>,
    target: &Target,
    wanted: Wanted,
    progress: &dyn Progress,
) -> Result<Replicated, Failure> {
    if let Some(path) = target.place.local() {
        let real = |path: &Path| path.canonicalize().ok();
        let own = context.local_path().and_then(|own| real(&own));
        if own.is_some_and(|own| real(path).is_some_and(|path| path.starts_with(own))) {
            return Err(ReplicateError::Itself { location: path.display().to_string() }.into());
        }
        refuse_foreign(context, path)?;
    }
    let patience = context.patience()?;
    // Others limit what they send themselves.
    let pace = Limit::new(target.way.limit.filter(|_| target.place.local().is_some()));
    let mut pauses = PAUSES.iter();
    let (mut total, mut attempts) = (Replicated::default(), 0);
    loop {
        attempts += 1;
        progress.begin(&format!("replicating to {}", target.name), None);
        let connected =
            context.far_backend(&target.place, &target.way).map_err(|failure| match attempts == 1 {
                true => Broken::ForGood(failure),
                // Whoever was there once may come back.
                false => Broken::ForNow { failure, got_on: false },
            });
        let attempt = connected.and_then(|far| {
            // A connection to the source that broke is made anew.
            let again = |failure: Failure| match failure.code {
                "unreachable" => Broken::ForNow { failure, got_on: false },
                _ => Broken::ForGood(failure),
            };
            let backend = match context.place().map_err(Broken::ForGood)? {
                place if place.local().is_none() && attempts > 1 => {
                    context.backend_of(&place).map_err(again)?
                }
                _ => Arc::clone(backend),
            };
            let (repository, _) = open_if_possible(context, &backend).map_err(again)?;
            let source = Source { backend: &*backend, repository: repository.as_ref() };
            let terms = Terms { wanted, options: target.options(context), patience, pace: &pace };
            let mut done = Replicated::default();
            let result = replicate(&source, &far, &terms, &mut done, progress);
            let got_on = done.packs > 0;
            total.add(done);
            result.map_err(|error| match error.is_passing() {
                true => Broken::ForNow { failure: error.into(), got_on },
                false => Broken::ForGood(error.into()),
            })
        });
        match attempt {
            Ok(()) => return Ok(total),
            Err(Broken::ForGood(failure)) => return Err(failure),
            Err(Broken::ForNow { failure, got_on }) => {
                if got_on {
                    pauses = PAUSES.iter();
                }
                let Some(pause) = pauses.next() else { return Err(failure) };
                progress.begin(&format!("{} (trying again in {} s)", failure.message, pause.as_secs()), None);
                wait(*pause, progress);
            }
        }
        if progress.interrupted() {
            return Err(super::failure::interrupted());
        }
    }
}

fn wait(pause: Duration, progress: &dyn Progress) {
    let until = std::time::Instant::now() + pause;
    while std::time::Instant::now() < until && !progress.interrupted() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a directory that isn't there may have been meant for.
fn names_of(context: &Context) -> String {
    let replicas = context.config.iter().flat_map(|config| &config.replicas);
    let names: Vec<&str> = replicas.map(|replica| replica.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" Replicas of the config: {}", names.join(", ")) }
}

/// A directory that isn't there may be one whose disk isn't mounted; one with other things in it is somebody else's.
fn refuse_foreign(context: &Context, path: &Path) -> Result<(), Failure> {
    if path.join("config").exists() {
        return Ok(());
    }
    if std::fs::read_dir(path).is_err() {
        return Err(Failure::new(
            ExitCode::ReplicaFailed,
            "replica_missing",
            format!("there is no directory {}", path.display()),
        )
        .at(path)
        .hint(format!(
            "is its disk mounted? The first time, make the directory by hand; nothing was sent.{}",
            names_of(context)
        )));
    }
    if is_empty_or_half_made(path) {
        return Ok(());
    }
    Err(RepositoryError::NotEmpty { location: path.display().to_string() }.into())
}

/// How far behind a replica is, told by names alone.
fn status_of(context: &Context, here: &dyn Backend, target: &Target) -> Result<Replicated, Failure> {
    let there = context.far_backend(&target.place, &target.way)?;
    if !there.has(&Key::Config.path())? {
        let location = there.location();
        return Err(RepositoryError::Absent { location }.into());
    }
    prove_alike(here, &*there)?;
    let (own, theirs) = (stamps(here)?, stamps(&*there)?);
    let known: HashSet<&Stamp> = theirs.iter().collect();
    let missing = own.iter().filter(|stamp| !known.contains(stamp)).count();
    let mut done = Replicated {
        newest_here: own.last().copied(),
        newest_there: theirs.last().copied(),
        ..Replicated::default()
    };
    done.missing = Some(missing as u64);
    Ok(done)
}

/// Seconds between the newest snapshot here and the newest there.
fn lag(done: &Replicated) -> Option<i64> {
    Some(done.newest_here?.unix() - done.newest_there?.unix())
}

fn told(
    here: &dyn Backend,
    targets: &[Target],
    outcomes: Vec<Result<Replicated, Failure>>,
    warning: Option<String>,
) -> Result<Report, Failure> {
    let (mut lines, mut warnings, mut replicas, mut failed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    warnings.extend(warning);
    for (target, outcome) in targets.iter().zip(outcomes) {
        let mut replica = Map::new();
        replica.insert("name".into(), json!(target.name));
        replica.insert("url".into(), json!(target.place.to_string()));
        replica.insert("optional".into(), json!(target.optional));
        let (done, error) = match outcome {
            Ok(done) => (done, None),
            Err(failure) => (Replicated::default(), Some(failure)),
        };
        if let Some(failure) = error.as_ref().filter(|failure| matches!(failure.exit, ExitCode::Signal(_))) {
            return Err(Failure { message: failure.message.clone(), ..super::failure::interrupted() });
        }
        let text = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.to_string());
        let more = json!({
            "ok": error.is_none(),
            "snapshots": done.snapshots.iter().map(Stamp::to_string).collect::<Vec<_>>(),
            "packs": done.packs,
            "assembled_packs": done.assembled_packs,
            "sent_bytes": done.sent_bytes,
            "reused_bytes": done.reused_bytes,
            "newest": text(done.newest_there),
            "missing_snapshots": done.missing,
            "left_out_snapshots": done.left_out,
            "lag_seconds": lag(&done),
            "error": error.as_ref().map(Failure::json),
        });
        if let Value::Object(more) = more {
            replica.extend(more);
        }
        replicas.push(Value::Object(replica));
        warnings.extend(done.warnings.iter().cloned());
        match error {
            None => lines.push(line(target, &done)),
            // A laptop asleep, a disk that isn't there; not a place that holds something else.
            Some(failure)
                if target.optional && ["unreachable", "replica_missing"].contains(&failure.code) =>
            {
                warnings.push(format!("optional replica {}: {}", target.name, failure.message));
            }
            Some(failure) => failed.push((target.name.clone(), failure)),
        }
    }
    let newest = stamps(here)?.last().map(Stamp::to_string);
    let keys = json!({ "newest": newest, "replicas": replicas });
    let Some((name, first)) = failed.first() else {
        return Ok(Report { warnings, ..Report::done(keys, lines) });
    };
    let message = format!(
        "{} of {} replica(s) could not be brought up to date; {name}: {}",
        failed.len(),
        targets.len(),
        first.message
    );
    let mut failure = Failure::new(ExitCode::ReplicaFailed, "replica_failed", message);
    failure.path = first.path.clone();
    failure.hint = first.hint.clone();
    failure.details = lines;
    failure.details.extend(failed.iter().skip(1).map(|(name, other)| format!("{name}: {}", other.message)));
    failure.keys = if let Value::Object(keys) = keys { keys } else { Map::new() };
    failure.warnings = warnings;
    Err(failure)
}

fn line(target: &Target, done: &Replicated) -> String {
    let newest = done.newest_there.map_or_else(|| "none".to_owned(), |stamp| stamp.to_string());
    let behind = match lag(done) {
        Some(0) => "up to date".to_owned(),
        Some(seconds) => format!("{} behind", duration_text(seconds)),
        None => "no snapshot to compare".to_owned(),
    };
    if let Some(missing) = done.missing {
        return format!("{}: newest {newest}, {behind}, {missing} snapshot(s) not there", target.name);
    }
    let reused = match done.assembled_packs {
        0 => String::new(),
        packs => format!(", {packs} pack(s) put together there ({} not sent)", bytes_text(done.reused_bytes)),
    };
    let older = match done.left_out {
        0 => String::new(),
        count => format!("; {count} older ones aren't there (--all sends them)"),
    };
    format!(
        "{}: {} snapshot(s), {} pack(s), {} sent{reused}; newest {newest}, {behind}{older}",
        target.name,
        done.snapshots.len(),
        done.packs,
        bytes_text(done.sent_bytes)
    )
}

fn duration_text(seconds: i64) -> String {
    match seconds {
        seconds if seconds < 0 => format!("{} ahead", duration_text(-seconds)),
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

impl From<ReplicateError> for Failure {
    fn from(error: ReplicateError) -> Self {
        let message = error.to_string();
        let failed = |code, hint: &str| Failure::new(ExitCode::ReplicaFailed, code, &message).hint(hint);
        match error {
            ReplicateError::AnotherRepository { .. } => {
                failed("another_repository", "nothing was sent; name another place")
            }
            ReplicateError::NotAlike { .. } => {
                failed("not_alike", "nothing was sent; compare the two files `config` with what you know")
            }
            ReplicateError::NotEmpty { .. } => failed("not_empty", "nothing was sent; name an empty place"),
            ReplicateError::Itself { .. } => Failure::usage(message),
            ReplicateError::Interrupted => super::failure::interrupted(),
            ReplicateError::Source(error) | ReplicateError::Target(error) => {
                let failure = Self::from(error);
                let kept = "what has arrived stays, and the next run goes on there";
                let exit = match failure.exit {
                    ExitCode::Signal(signal) => ExitCode::Signal(signal),
                    _ => ExitCode::ReplicaFailed,
                };
                Self { exit, message: failure.message.replace("nothing was published", kept), ..failure }
            }
        }
    }
}
