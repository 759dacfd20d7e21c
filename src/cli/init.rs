//! `init`: a repository, and if wanted a config to begin with.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::report::Report;
use super::selection::name_of;
use crate::backend::{Backend, LocalBackend};
use crate::format::Key;
use crate::repository::{Repository, RepositoryError};
use crate::source::find_sources;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "repository": null, "id": null, "created": false, "config": null })
}

/// Makes the repository, then the config.
pub fn run(context: &Context, arguments: &args::Init) -> Result<Report, Failure> {
    let path = context.repository_path()?;
    let (id, created) = make(&path, arguments.if_missing)?;
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let mut lines = if created {
        vec![format!("repository {} made", path.display())]
    } else {
        vec![format!("repository {} is there already", path.display())]
    };
    let mut written = Value::Null;
    if let Some(config) = &arguments.write_config {
        let found = write_config(config, &path, &context.profile)?;
        lines.push(format!("config {} written: {found} source(s) found, look it over", config.display()));
        written = json!(config.display().to_string());
    } else if created {
        lines.push(format!(
            "next: icecore -r {} backup NAME=PATH …, or `init --if-missing --write-config`",
            path.display()
        ));
    }
    Ok(Report::done(
        json!({ "repository": path.display().to_string(), "id": id, "created": created, "config": written }),
        lines,
    ))
}

fn make(path: &Path, if_missing: bool) -> Result<(String, bool), Failure> {
    let location = || path.display().to_string();
    let backend = LocalBackend::new(path);
    if backend.size(&Key::Config.path()).is_err() && !is_empty_or_half_made(path) {
        return Err(RepositoryError::NotEmpty { location: location() }.into());
    }
    let mut random = [0u8; 32];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.map_err(|error| {
        Failure::new(ExitCode::Unexpected, "no_randomness", format!("cannot read /dev/urandom: {error}"))
    })?;
    match Repository::create(Arc::new(backend), random) {
        Ok(config) => {
            for directory in Key::DIRECTORIES {
                LocalBackend::new(path).create_directory(directory)?;
            }
            Ok((config.repository, true))
        }
        Err(RepositoryError::AlreadyThere { .. }) if if_missing => {
            let opened = Repository::open(
                Arc::new(LocalBackend::new(path)),
                crate::repository::IndexOptions::default(),
            )?;
            Ok((opened.id().hex(), false))
        }
        Err(error) => Err(error.into()),
    }
}

/// An `init` that was killed leaves at most its README and `tmp/`.
fn is_empty_or_half_made(path: &Path) -> bool {
    let Ok(listing) = std::fs::read_dir(path) else { return true };
    listing
        .flatten()
        .all(|item| ["README", "tmp", "lost+found"].iter().any(|known| item.file_name() == *known))
}

fn write_config(path: &Path, repository: &Path, profile: &str) -> Result<usize, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(
            ExitCode::Unexpected,
            "config_not_written",
            format!("cannot write {}: {error}", path.display()),
        )
        .at(path)
        .hint("an existing config is never overwritten; the repository is ready")
    };
    let here = std::env::current_dir().map_err(fail)?;
    let found = find_sources(&here);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .take(64)
        .collect();
    let profile = if profile == "default" && !host.is_empty() { host } else { profile.to_owned() };
    let mut text = format!(
        "# What icecore backs up. `icecore backup -n` shows what this means.\n\n\
         # Snapshots are looked up by this name: `latest`, and what a backup takes over unchanged.\n\
         profile = {}\nrepository = {}\n",
        quoted(&profile),
        quoted(&repository.display().to_string())
    );
    let mut names: Vec<String> = Vec::new();
    for (kind, source) in &found {
        let mut name = name_of(&source.display().to_string());
        if names.contains(&name) {
            let _ = write!(name, "_{}", names.len() + 1);
        }
        let _ = write!(
            text,
            "\n[source.{name}]\nkind = \"{}\"\npath = {}\n",
            kind.name(),
            quoted(&source.display().to_string())
        );
        names.push(name);
    }
    text.push_str(CONFIG_TAIL);
    let mut file = std::fs::File::create_new(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(found.len())
}

/// A TOML basic string; its escapes are JSON's.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

const CONFIG_TAIL: &str = r#"
# A source may also have:
#   optional = true               missing is noted, not an error
#   on_demand = true              only with `backup --with NAME` (or --chroma)
#   exclude = ["*.tmp", "/cache"] gitignore patterns, relative to its path
#   sqlite = "raw"                databases inside a tree byte for byte, not held
#   hold = "lock"                 auto, lock, reflink, fs-snapshot, optimistic: how it is held still
#   max_hold = "10s"              the longest that its writers may wait
#   source_path = "/mnt/snap/app" read it here: a snapshot that a hook mounts
# Paths may hold ${NAME} and ${NAME:-default}.

# [validation]
# full_every = "24h"              how old a full proof may get before the next backup makes one

# [retention]                    what `icecore prune` keeps of each source; any keep_… replaces all of these
# keep_daily = 7
# keep_weekly = 4                 the newest of an ISO week, Sunday's if there is one
# keep_monthly = 6                the newest of the 1st, else the month's earliest
# keep_safety = "7d"              also keep_last, keep_hourly, keep_yearly, keep_within = "30d"
# grace = "24h"                   how long what was condemned stays before it is deleted

# [hooks]                        lines for /bin/sh, or ["program", "argument"]
# before = "docker compose pause app"
# after = "docker compose unpause app"    always runs; may run twice
# failed = "mail -s 'backup failed' root < /dev/null"
# timeout = "5m"
# lock_file = "/srv/app/ingest.lock"      locked (flock) while sources are read, as the application does
# lock_timeout = "60s"

# [restore]
# chown = "1000:1000"             whose the restored files shall be
"#;
