//! What of a snapshot goes where.

use crate::catalog::NotFound;
use crate::cli::args;
use crate::cli::browse::split_place;
use crate::cli::context::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::config::parse_owner;
use crate::flow::RestoreItem;
use crate::format::{EntryKind, SourceKind, SourceRecord};
use crate::repository::{Repository, Snapshot};
use crate::restore::{Owner, Target};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The sources, and parts of sources, that the arguments mean.
pub fn choose(
    context: &Context,
    arguments: &args::Restore,
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<Vec<RestoreItem>, Failure> {
    check_names(arguments, snapshot)?;
    let mut items = Vec::new();
    for source in snapshot.manifest.sources.iter().filter(|source| is_held(snapshot, source)) {
        let parts: Vec<&str> = arguments
            .places
            .iter()
            .map(|place| split_place(place))
            .filter(|(name, _)| *name == source.name)
            .map(|(_, path)| path)
            .collect();
        if !is_chosen(arguments, source, !parts.is_empty()) {
            continue;
        }
        let base = destination(context, arguments, source)?;
        let parts = if parts.iter().any(|path| path.is_empty()) { Vec::new() } else { parts };
        // `a//b` and `a/./b` mean `a/b`; the way up is no way into a source.
        let parts: Vec<PathBuf> = parts.iter().map(|path| Path::new(path).components().collect()).collect();
        let whole = std::iter::once(PathBuf::new()).filter(|_| parts.is_empty());
        for part in whole.chain(outermost(&parts)) {
            let is_safety = snapshot.manifest.is_safety();
            let item = RestoreItem::of(
                repository,
                source,
                is_safety,
                &part,
                Target { base: base.clone(), part: part.clone() },
            )?;
            let path = format!("{}/{}", source.name, part.display());
            let mut item = item.ok_or(NotFound::NoPath { stamp: snapshot.stamp, path })?;
            item.verify = verify_of(context, arguments, &item);
            items.push(item);
        }
    }
    if items.is_empty() {
        return Err(
            Failure::usage("nothing is left to restore").hint("`icecore show` lists the snapshot's sources")
        );
    }
    Ok(items)
}

/// The paths that lie in none of the others, each once.
fn outermost(parts: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for part in parts {
        let is_inner =
            parts.iter().any(|other| part != other && part.starts_with(other)) || found.contains(part);
        if !is_inner {
            found.push(part.clone());
        }
    }
    found
}

/// The snapshot says what was there; that nothing was, only a safety snapshot says.
fn is_held(snapshot: &Snapshot, source: &SourceRecord) -> bool {
    source.root.is_some() || snapshot.manifest.is_safety()
}

fn is_chroma(source: &SourceRecord) -> bool {
    source.kind == SourceKind::Chroma
}

fn check_names(arguments: &args::Restore, snapshot: &Snapshot) -> Result<(), Failure> {
    let held = || snapshot.manifest.sources.iter().filter(|source| is_held(snapshot, source));
    let of_places = arguments.places.iter().map(|place| split_place(place).0);
    let of_maps = arguments.maps.iter().filter_map(|map| Some(map.split_once('=')?.0));
    for wanted in of_places.chain(arguments.without.iter().map(String::as_str)).chain(of_maps) {
        if !held().any(|source| source.name == wanted) {
            let has = held().map(|source| source.name.clone()).collect();
            return Err(NotFound::NoSource { stamp: snapshot.stamp, name: wanted.to_owned(), has }.into());
        }
    }
    let is_whole = |map: &&String| map.split_once('=').is_none_or(|(_, path)| path.is_empty());
    if let Some(map) = arguments.maps.iter().find(is_whole) {
        return Err(Failure::usage(format!("--map {map}: write NAME=PATH")));
    }
    let named = |map: &String| map.split_once('=').map(|(name, _)| name.to_owned());
    let mut names: Vec<_> = arguments.maps.iter().filter_map(named).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
        return Err(Failure::usage(format!("--map names {twice:?} twice")));
    }
    if arguments.chroma && !held().any(is_chroma) {
        let message = format!("snapshot {} holds no Chroma store", snapshot.stamp);
        return Err(Failure::new(ExitCode::NoSnapshot, "chroma_snapshot_missing", message).hint(
            "nothing was changed; `icecore list --having NAME` shows the snapshots that hold a source",
        ));
    }
    Ok(())
}

fn is_chosen(arguments: &args::Restore, source: &SourceRecord, is_named: bool) -> bool {
    let by_default = arguments.places.is_empty() && !arguments.chroma;
    let is_wanted = by_default || is_named || (arguments.chroma && is_chroma(source));
    let is_left_out = arguments.without.contains(&source.name) || (arguments.no_chroma && is_chroma(source));
    is_wanted && !is_left_out
}

/// `--target`, `--map`, the config's present path, or the recorded one.
fn destination(
    context: &Context,
    arguments: &args::Restore,
    source: &SourceRecord,
) -> Result<PathBuf, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Failure::usage(error.to_string()));
    if let Some(target) = &arguments.target {
        let below = absolute(target)?.join(&source.name);
        let root = source.root.as_ref().filter(|root| root.kind != EntryKind::Directory);
        return Ok(root.map_or(below.clone(), |root| below.join(OsStr::from_bytes(&root.name))));
    }
    let mapped =
        arguments.maps.iter().filter_map(|map| map.split_once('=')).find(|(name, _)| *name == source.name);
    if let Some((_, path)) = mapped {
        return absolute(Path::new(path));
    }
    let configured = context.configured(&source.name);
    Ok(configured
        .map_or_else(|| PathBuf::from(OsStr::from_bytes(&source.path)), |found| found.spec.path.clone()))
}

/// What a part, or what nobody claimed to be sound, holds the user's command can't judge.
pub fn verify_of(
    context: &Context,
    arguments: &args::Restore,
    item: &RestoreItem,
) -> Option<crate::hooks::HookCommand> {
    let applies = item.is_whole() && !item.goal.is_raw && !arguments.no_hooks;
    context.configured(&item.source).filter(|_| applies)?.verify.clone()
}

/// Whose everything shall be.
pub fn owner(context: &Context, arguments: &args::Restore) -> Result<Owner, Failure> {
    let given = arguments.chown.as_deref().map(parse_owner).transpose().map_err(Failure::usage)?;
    let configured = context.config.as_ref().and_then(|config| config.chown);
    Ok(given.or(configured).map_or(Owner::AsRecorded, |(uid, gid)| Owner::Fixed { uid, gid }))
}
