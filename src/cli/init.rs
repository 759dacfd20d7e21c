//! `init`: a repository, and if wanted a config to begin with.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::key::new_files as key_files;
use super::place::Place;
use super::report::Report;
use super::selection::name_of;
use crate::backend::LocalBackend;
use crate::crypto::RepositoryKey;
use crate::format::Key;
use crate::repository::{KeyFiles, Repository, RepositoryError};
use crate::source::find_sources;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "repository": null, "id": null, "created": false, "config": null, "fingerprint": null, "keys": [] })
}

/// Makes the repository, then the config.
pub fn run(context: &Context, arguments: &args::Init) -> Result<Report, Failure> {
    let place = context.place()?;
    let made = make(context, &place, arguments)?;
    let Made { created, .. } = made;
    let place = match place.local().map(std::fs::canonicalize) {
        Some(Ok(path)) => Place::Local(path),
        _ => place,
    };
    let mut lines = if created {
        vec![format!("repository {place} made")]
    } else {
        vec![format!("repository {place} is there already")]
    };
    let mut warnings = Vec::new();
    if !made.is_exclusive {
        warnings.push(
            "this store lets several writers make the same object (If-None-Match isn't atomic): two backups that end in the same second \
             could overwrite each other's name; let only one host write to it"
                .to_owned(),
        );
    }
    if let Some(fingerprint) = &made.fingerprint {
        lines.push(format!("it is encrypted; its key's fingerprint is {fingerprint}"));
        lines.push(
            "keep what opens it (identity or passphrase) somewhere else: without it nothing can be restored"
                .into(),
        );
    }
    let mut written = Value::Null;
    if let Some(config) = &arguments.write_config {
        let found = write_config(config, &place, &made, context)?;
        lines.push(format!("config {} written: {found} source(s) found, look it over", config.display()));
        written = json!(config.display().to_string());
    } else if created {
        lines.push(format!(
            "next: icecore -r {place} backup NAME=PATH …, or `init --if-missing --write-config`"
        ));
    }
    let report = Report::done(
        json!({
            "repository": place.to_string(),
            "id": made.id,
            "created": created,
            "config": written,
            "fingerprint": made.fingerprint,
            "keys": made.keys,
        }),
        lines,
    );
    Ok(Report { warnings, ..report })
}

struct Made {
    id: String,
    created: bool,
    /// Of several who make the same file one wins.
    is_exclusive: bool,
    fingerprint: Option<String>,
    /// The names of the wrapped keys.
    keys: Vec<String>,
}

fn make(context: &Context, place: &Place, arguments: &args::Init) -> Result<Made, Failure> {
    let backend = context.backend()?;
    let is_there = backend.has(&Key::Config.path())?;
    if let Some(path) = place.local().filter(|path| !is_there && !is_empty_or_half_made(path)) {
        return Err(RepositoryError::NotEmpty { location: path.display().to_string() }.into());
    }
    if is_there {
        if !arguments.if_missing {
            return Err(RepositoryError::AlreadyThere { location: place.to_string() }.into());
        }
        let (id, encryption) = Repository::identify(&*backend)?;
        if (!arguments.recipients.is_empty() || arguments.passphrase) && encryption.is_none() {
            return Err(Failure::usage(format!(
                "{place} holds a repository already, which is not encrypted"
            ))
            .hint(
                "make a new one elsewhere: what is stored can't be encrypted afterwards; nothing was changed",
            ));
        }
        let fingerprint = encryption.map(|encryption| encryption.key);
        return Ok(Made { id: id.hex(), created: false, is_exclusive: true, fingerprint, keys: Vec::new() });
    }
    let is_exclusive = backend.prove_exclusive()?;
    let mut random = [0u8; 32];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.map_err(|error| {
        Failure::new(ExitCode::Unexpected, "no_randomness", format!("cannot read /dev/urandom: {error}"))
    })?;
    let is_encrypted = !arguments.recipients.is_empty() || arguments.passphrase;
    let key = is_encrypted.then(RepositoryKey::random).transpose().map_err(RepositoryError::from)?;
    let files = match &key {
        Some(key) => key_files(context, key, &arguments.recipients, arguments.passphrase)?,
        None => KeyFiles::new(),
    };
    let config =
        Repository::create_locked(Arc::clone(&backend), random, key.as_ref().map(|key| (key, &files)))?;
    if let Some(path) = place.local() {
        for directory in Key::DIRECTORIES {
            LocalBackend::new(path).create_directory(directory)?;
        }
    }
    let keys = files.iter().map(|(name, _)| name.to_string()).collect();
    Ok(Made {
        id: config.repository,
        created: true,
        is_exclusive,
        fingerprint: key.map(|key| key.fingerprint()),
        keys,
    })
}

/// An `init`, or a first copy, that was killed leaves at most its README, keys, `tmp/` and `locks/`.
pub fn is_empty_or_half_made(path: &Path) -> bool {
    let Ok(listing) = std::fs::read_dir(path) else { return true };
    listing.flatten().all(|item| {
        ["README", "tmp", "lost+found", "keys", "locks"].iter().any(|known| item.file_name() == *known)
    })
}

fn write_config(path: &Path, place: &Place, made: &Made, context: &Context) -> Result<usize, Failure> {
    let profile = context.profile.as_str();
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
        quoted(&place.to_string())
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
    if let Some(fingerprint) = &made.fingerprint {
        let _ = write!(
            text,
            "\n[encryption]\n# Nothing but a repository with this key is used.\nkey = {}\n",
            quoted(fingerprint)
        );
        match context.identity().and_then(|path| std::path::absolute(path).ok()) {
            Some(path) => {
                let _ = writeln!(text, "identity = {}", quoted(&path.display().to_string()));
            }
            None => text
                .push_str("# identity = \"/root/icecore.key\"     or passphrase_file, passphrase_command\n"),
        }
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
