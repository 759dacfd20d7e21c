//! From arguments to exit code: parse, run the verb, print its answer.

use super::args::{Arguments, Global, Verb};
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::progress_bar::Shown;
use super::report::{Report, print};
use super::{
    backup, browse, check, forget, init, key, list, manual, prune, replicate, restore, serve, status,
    validate,
};
use clap::Parser;
use clap::error::ErrorKind;
use serde_json::{Value, json};

/// Deep directory trees are walked recursively; the memory is only used as far as it is needed.
const STACK_BYTES: usize = 512 << 20;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    raise_file_limit();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run);
    let ended = thread.map(std::thread::JoinHandle::join);
    let code = if let Ok(Ok(code)) = ended { code } else { ExitCode::Unexpected };
    std::process::ExitCode::from(code.number())
}

/// A directory tree holds one descriptor per level while it is walked.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it isn't allowed the present limit must do.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    let Arguments { global, verb } = arguments;
    let (name, skeleton) = describe(&verb);
    let (json, quiet) = (global.json, global.quiet);
    if let Verb::Serve(arguments) = &verb {
        // A signal ends it at once: it waits for its client most of the time.
        let answer = Context::new(global).and_then(|context| serve::run(&context, arguments));
        return print(name, skeleton, answer, json, true);
    }
    let shown = Shown::new(quiet || json, global.no_progress);
    let answer = perform(global, verb, &shown).map_err(|failure| with_signal(failure, &shown));
    shown.finish();
    print(name, skeleton, answer, json, quiet)
}

fn perform(global: Global, verb: Verb, shown: &Shown) -> Result<Report, Failure> {
    let mut context = Context::new(global)?;
    // What is to be proven is read where it lies.
    context.stop = shown.flag();
    context.reads_anew = matches!(verb, Verb::Check(_) | Verb::Repair(_) | Verb::Validate(_));
    let mut answer = match verb {
        Verb::Init(arguments) => init::run(&context, &arguments),
        Verb::Backup(arguments) => backup::run(&context, &arguments, shown),
        Verb::List(arguments) => list::run(&context, &arguments),
        Verb::Show(arguments) => browse::show(&context, &arguments),
        Verb::Ls(arguments) => browse::ls(&context, &arguments),
        Verb::Cat(arguments) => browse::cat(&context, &arguments),
        Verb::Diff(arguments) => browse::diff(&context, &arguments),
        Verb::Status(arguments) => status::run(&context, &arguments),
        Verb::Validate(arguments) => validate::run(&context, &arguments, shown),
        Verb::Restore(arguments) => restore::run(&context, &arguments, shown),
        Verb::Forget(arguments) => forget::forget(&context, &arguments),
        Verb::Pin(arguments) => forget::pin(&context, &arguments, true),
        Verb::Unpin(arguments) => forget::pin(&context, &arguments, false),
        Verb::Prune(arguments) => prune::run(&context, &arguments, shown),
        Verb::Check(arguments) => check::run(&context, &arguments, shown),
        Verb::Repair(arguments) => check::run_repair(&context, &arguments, shown),
        Verb::Key(arguments) => key::run(&context, &arguments),
        Verb::Replicate(arguments) => replicate::run(&context, &arguments, shown),
        Verb::Serve(arguments) => serve::run(&context, &arguments),
        Verb::Completions(arguments) => Ok(manual::completions(&arguments)),
        Verb::Man(arguments) => manual::man(&arguments),
    };
    let warnings = match &mut answer {
        Ok(report) => &mut report.warnings,
        Err(failure) => &mut failure.warnings,
    };
    warnings.splice(0..0, context.warnings);
    answer
}

/// The verb's name and every key that its JSON document has.
fn describe(verb: &Verb) -> (&'static str, Value) {
    match verb {
        Verb::Init(_) => ("init", init::skeleton()),
        Verb::Backup(_) => ("backup", backup::skeleton()),
        Verb::List(_) => ("list", list::skeleton()),
        Verb::Show(_) => ("show", json!({ "snapshot": null })),
        Verb::Ls(_) => ("ls", json!({ "stamp": null, "entries": [] })),
        Verb::Cat(_) => ("cat", json!({ "stamp": null, "path": null, "bytes": null, "output": null })),
        Verb::Diff(_) => ("diff", json!({ "old": null, "new": null, "differences": [] })),
        Verb::Status(_) => ("status", status::skeleton()),
        Verb::Validate(_) => ("validate", validate::skeleton()),
        Verb::Restore(_) => ("restore", restore::skeleton()),
        Verb::Forget(_) => ("forget", json!({ "forgotten": [] })),
        Verb::Pin(_) => ("pin", json!({ "stamps": [], "pinned": true })),
        Verb::Unpin(_) => ("unpin", json!({ "stamps": [], "pinned": false })),
        Verb::Prune(_) => ("prune", prune::skeleton()),
        Verb::Check(_) => ("check", check::skeleton()),
        Verb::Repair(_) => ("repair", check::repair_skeleton()),
        Verb::Key(_) => ("key", key::skeleton()),
        Verb::Replicate(_) => ("replicate", replicate::skeleton()),
        Verb::Serve(_) => ("serve", json!({})),
        Verb::Completions(_) => ("completions", json!({})),
        Verb::Man(_) => ("man", json!({ "written": [] })),
    }
}

fn with_signal(failure: Failure, shown: &Shown) -> Failure {
    match (failure.exit, shown.signal()) {
        (ExitCode::Signal(_), Some(signal)) => Failure { exit: ExitCode::Signal(signal), ..failure },
        _ => failure,
    }
}

/// Help and version go to stdout, mistakes to stderr; with --json both as a document.
fn explain(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if wants_json && !is_help {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        return print("usage", json!({}), Err(Failure::usage(message)), true, false);
    }
    drop(error.print());
    if is_help { ExitCode::Done } else { ExitCode::Usage }
}
