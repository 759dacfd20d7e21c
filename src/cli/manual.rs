//! `completions` and `man`: made from the same definitions as `--help`.

use super::args::{self, Arguments};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::report::Report;
use clap::CommandFactory;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Prints a completion script.
pub fn completions(arguments: &args::Completions) -> Report {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "icecore", &mut text);
    Report::done(json!({}), String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}

/// Prints the main page, or writes all pages into a directory.
pub fn man(arguments: &args::Man) -> Result<Report, Failure> {
    let mut command = Arguments::command();
    command.build();
    let Some(directory) = &arguments.directory else {
        let page = render(&command);
        return Ok(Report::done(
            json!({}),
            String::from_utf8_lossy(&page).lines().map(str::to_owned).collect(),
        ));
    };
    let mut written = vec![write_page(directory, "icecore.1", &render(&command))?];
    for verb in command.get_subcommands() {
        let name = format!("icecore-{}.1", verb.get_name());
        written.push(write_page(directory, &name, &render(verb))?);
    }
    let lines = written.iter().map(|path| format!("{path} written")).collect();
    Ok(Report::done(json!({ "written": written }), lines))
}

fn render(command: &clap::Command) -> Vec<u8> {
    let mut page = Vec::new();
    // Writing into memory cannot fail.
    drop(clap_mangen::Man::new(command.clone()).render(&mut page));
    page
}

fn write_page(directory: &Path, name: &str, page: &[u8]) -> Result<String, Failure> {
    let path = directory.join(name);
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(page));
    written.map_err(|error| {
        Failure::new(
            ExitCode::Unexpected,
            "output_failed",
            format!("cannot write {}: {error}", path.display()),
        )
        .at(&path)
    })?;
    Ok(path.display().to_string())
}
