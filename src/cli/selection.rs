//! Which sources a backup takes: the config's or the paths given, on-demand ones or not.

use super::args;
use super::context::Context;
use super::failure::Failure;
use crate::config::{check_name, parse_max_hold};
use crate::format::SourceKind;
use crate::source::{HoldMode, SourceSpec, SqliteInTree, detect_kind};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The sources that the arguments mean.
pub fn select(context: &Context, arguments: &args::Backup) -> Result<Vec<SourceSpec>, Failure> {
    let kinds = parse_kinds(&arguments.kinds)?;
    let mut sources = if arguments.paths.is_empty() {
        configured(context, arguments)?
    } else {
        given(context, &arguments.paths, arguments)?
    };
    for (name, kind) in kinds.clone() {
        let source = sources.iter_mut().find(|source| source.name == name);
        source
            .ok_or_else(|| Failure::usage(format!("--kind {name}=…: no source {name:?} in this backup")))?
            .kind = kind;
    }
    for text in &arguments.source_paths {
        let (name, path) = text.split_once('=').unwrap_or((text, ""));
        let source = sources.iter_mut().find(|source| source.name == name && !path.is_empty());
        let wrong =
            || Failure::usage(format!("--source-path {text}: write NAME=PATH for a source of this backup"));
        let path = std::path::absolute(path).map_err(|error| Failure::usage(format!("{path:?}: {error}")));
        let (source, path) = (source.ok_or_else(wrong)?, path?);
        if !kinds.contains_key(name) && !arguments.paths.is_empty() {
            source.kind = detect_kind(&path);
        }
        source.source_path = Some(path);
    }
    let hold = arguments.hold.as_deref().map(|name| {
        let unknown = || Failure::usage(format!("--hold {name}: there are {}", HoldMode::names()));
        HoldMode::parse(name).ok_or_else(unknown)
    });
    let max_hold = arguments.max_hold.as_deref().map(parse_max_hold).transpose().map_err(Failure::usage)?;
    if let Some(hold) = hold.transpose()? {
        sources.iter_mut().for_each(|source| source.hold = hold);
    }
    if let Some(max_hold) = max_hold {
        sources.iter_mut().for_each(|source| source.max_hold = max_hold);
    }
    if arguments.no_chroma {
        sources.retain(|source| source.kind != SourceKind::Chroma);
    }
    if sources.is_empty() {
        return Err(Failure::usage("nothing to back up").hint(
            "name paths, as in `icecore backup db=/srv/app/app.db`, or sources in icecore.toml (see `icecore init --help`)",
        ));
    }
    Ok(sources)
}

fn configured(context: &Context, arguments: &args::Backup) -> Result<Vec<SourceSpec>, Failure> {
    let all = context.config.as_ref().map(|config| config.sources.as_slice()).unwrap_or_default();
    for name in arguments.with_source.iter().chain(&arguments.only).chain(&arguments.without) {
        if !all.iter().any(|source| source.spec.name == *name) {
            let names: Vec<&str> = all.iter().map(|source| source.spec.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "the config has no source {name:?}; it has {}",
                names.join(", ")
            )));
        }
    }
    let wanted = all.iter().filter(|source| {
        let name = &source.spec.name;
        let demanded = arguments.with_source.contains(name)
            || (arguments.chroma && source.spec.kind == SourceKind::Chroma);
        let chosen = if arguments.only.is_empty() {
            !source.on_demand || demanded
        } else {
            arguments.only.contains(name) || demanded
        };
        chosen && !arguments.without.contains(name)
    });
    let wanted: Vec<_> = wanted.collect();
    if let Some(source) = wanted.iter().find(|source| source.kind_is_guessed) {
        let name = &source.spec.name;
        return Err(Failure::usage(format!(
            "what kind of source is {name:?}? Its source_path is not there yet"
        ))
        .hint("say `kind = …` in the config: what is mounted later can't be looked at"));
    }
    Ok(wanted.into_iter().map(|source| source.spec.clone()).collect())
}

/// Where a path is expected a source was named.
fn is_only_a_name(context: &Context, text: &str) -> bool {
    let mut configured = context.config.iter().flat_map(|config| &config.sources);
    configured.any(|source| source.spec.name == text) && std::fs::symlink_metadata(text).is_err()
}

fn given(context: &Context, paths: &[String], arguments: &args::Backup) -> Result<Vec<SourceSpec>, Failure> {
    if !arguments.with_source.is_empty() || !arguments.only.is_empty() || !arguments.without.is_empty() {
        return Err(Failure::usage(
            "--with, --only and --without choose among the config's sources; paths were given instead",
        ));
    }
    let mut sources: Vec<SourceSpec> = Vec::new();
    if let Some(named) = paths.iter().find(|path| is_only_a_name(context, path)) {
        return Err(Failure::usage(format!(
            "there is no {named} here, but a source of the config has that name"
        ))
        .hint(format!(
            "`icecore backup --only {named}` takes it, `icecore backup` all sources of the config"
        )));
    }
    for text in paths {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if check_name(name).is_ok() => (name.to_owned(), PathBuf::from(path)),
            Some((name, _)) if !text.starts_with('/') && !PathBuf::from(text).exists() => {
                return Err(Failure::usage(check_name(name).err().unwrap_or_default()));
            }
            _ => (name_of(text), PathBuf::from(text)),
        };
        if sources.iter().any(|source| source.name == name) {
            return Err(Failure::usage(format!(
                "two sources are called {name:?}; name them, as in NAME=PATH"
            )));
        }
        let path =
            std::path::absolute(&path).map_err(|error| Failure::usage(format!("{text:?}: {error}")))?;
        let kind = detect_kind(&path);
        let (exclude, sqlite, optional) = (arguments.exclude.clone(), SqliteInTree::Hold, false);
        let (source_path, hold, max_hold) = (None, HoldMode::Auto, None);
        let spec = SourceSpec { name, kind, path, source_path, hold, max_hold, optional, exclude, sqlite };
        sources.push(spec);
    }
    Ok(sources)
}

/// A source name from a path: the file name without its extension, with `_` for what a name can't have.
pub fn name_of(path: &str) -> String {
    let stem = std::path::Path::new(path).file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
    let clean: String = stem
        .unwrap_or_default()
        .chars()
        .map(|letter| if letter.is_ascii_lowercase() || letter.is_ascii_digit() { letter } else { '_' })
        .collect();
    let name = clean.trim_matches('_');
    if name.starts_with(|first: char| first.is_ascii_lowercase()) {
        name.to_owned()
    } else {
        format!("source_{name}").trim_end_matches('_').to_owned()
    }
}

fn parse_kinds(kinds: &[String]) -> Result<BTreeMap<String, SourceKind>, Failure> {
    let parse = |text: &String| {
        let parsed =
            text.split_once('=').and_then(|(name, kind)| Some((name.to_owned(), SourceKind::parse(kind)?)));
        parsed.ok_or_else(|| {
            Failure::usage(format!(
                "--kind {text}: write NAME=KIND, where KIND is chroma, sqlite, json or tree"
            ))
        })
    };
    kinds.iter().map(parse).collect()
}
