//! What a verb has to say: one JSON document, or lines for a person.

use super::exit_code::ExitCode;
use super::failure::Failure;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Raised when a key changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// A verb's answer.
pub struct Report {
    pub exit: ExitCode,
    /// The verb's own keys.
    pub keys: Map<String, Value>,
    pub lines: Vec<String>,
    pub warnings: Vec<String>,
}

impl Report {
    /// Done, with these keys (a JSON object) and lines.
    pub fn done(keys: Value, lines: Vec<String>) -> Self {
        let keys = if let Value::Object(keys) = keys { keys } else { Map::new() };
        Self { exit: ExitCode::Done, keys, lines, warnings: Vec::new() }
    }
}

/// What names and command lines hold can't move the cursor, nor begin a line of its own.
fn on_one_line(text: &str) -> String {
    let escaped = |character: char| match character {
        '\n' => " | ".to_owned(),
        character if character.is_control() => character.escape_default().to_string(),
        character => character.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Prints the answer: to stdout the JSON document or the lines, to stderr (never beside JSON) warnings and errors.
/// `skeleton` holds every key that the verb promises, so that none is ever left out.
pub fn print(
    verb: &str,
    skeleton: Value,
    answer: Result<Report, Failure>,
    json: bool,
    quiet: bool,
) -> ExitCode {
    let mut document = Map::new();
    if let Value::Object(keys) = skeleton {
        document.extend(keys);
    }
    let (exit, lines, warnings, error) = match answer {
        Ok(report) => {
            document.extend(report.keys);
            (report.exit, report.lines, report.warnings, None)
        }
        Err(mut failure) => {
            document.extend(std::mem::take(&mut failure.keys));
            (failure.exit, Vec::new(), std::mem::take(&mut failure.warnings), Some(failure))
        }
    };
    let mut stdout = std::io::stdout().lock();
    let mut stderr = std::io::stderr().lock();
    // A closed pipe is the reader's choice; there is nobody left to tell.
    if json {
        document.insert("schema".into(), json!(SCHEMA));
        document.insert("verb".into(), json!(verb));
        document.insert("ok".into(), json!(exit == ExitCode::Done));
        document.insert("exit_code".into(), json!(exit.number()));
        document.insert("warnings".into(), json!(warnings));
        document.insert("error".into(), error.map_or(Value::Null, |failure| failure.json()));
        drop(writeln!(stdout, "{}", Value::Object(document)));
    } else {
        for warning in warnings {
            drop(writeln!(stderr, "icecore: warning: {}", on_one_line(&warning)));
        }
        if !quiet {
            for line in lines {
                drop(writeln!(stdout, "{line}"));
            }
        }
        if let Some(failure) = error {
            drop(writeln!(stderr, "icecore: {}", on_one_line(&failure.message)));
            for detail in &failure.details {
                drop(writeln!(stderr, "  {}", on_one_line(detail)));
            }
            if let Some(hint) = &failure.hint {
                drop(writeln!(stderr, "  {hint}"));
            }
        }
    }
    drop(stdout.flush());
    exit
}
