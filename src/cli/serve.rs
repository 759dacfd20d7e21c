//! `serve --stdio`: the far end of `ssh://`.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::place::Place;
use super::report::Report;
use crate::backend::LocalBackend;
use crate::serve::{Allowed, serve};
use serde_json::json;
use std::io;

/// Answers until the other side ends. Nothing else is written to stdout.
pub fn run(context: &Context, arguments: &args::Serve) -> Result<Report, Failure> {
    let place = match &arguments.path {
        Some(path) => {
            Place::Local(std::path::absolute(path).map_err(|error| Failure::usage(error.to_string()))?)
        }
        None => context.place()?,
    };
    let Place::Local(path) = place else {
        return Err(Failure::usage("only a local repository can be served"));
    };
    let allowed = if arguments.append_only { Allowed::Adding } else { Allowed::Everything };
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    serve(&LocalBackend::new(path), allowed, &mut from, &mut to).map_err(|error| {
        Failure::new(ExitCode::Unexpected, "connection_failed", format!("the connection ended: {error}"))
    })?;
    Ok(Report::done(json!({}), Vec::new()))
}
