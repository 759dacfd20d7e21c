//! What kind of source a path is, and which sources lie below a directory.

use super::chroma::DATABASE;
use super::sqlite::MAGIC;
use crate::format::SourceKind;
use crate::hold::open_file;
use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// How deep `find_sources` looks, and how many it is content with.
const DEPTH: usize = 5;
const ENOUGH: usize = 50;

/// `chroma.sqlite3` inside → chroma; SQLite header → sqlite; `.json` → json; else tree. A path that can't be read is
/// told by its name alone.
pub fn detect_kind(path: &Path) -> SourceKind {
    let ends_with = |extension: &str| path.extension().is_some_and(|found| found == extension);
    if path.is_dir() {
        return if path.join(DATABASE).is_file() { SourceKind::Chroma } else { SourceKind::Tree };
    }
    let mut start = [0u8; MAGIC.len()];
    let is_database = path.is_file()
        && open_file(path).is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok())
        && &start == MAGIC;
    let named_like_one =
        !path.exists() && ["db", "sqlite", "sqlite3"].iter().any(|extension| ends_with(extension));
    if is_database || named_like_one {
        SourceKind::Sqlite
    } else if ends_with("json") {
        SourceKind::Json
    } else {
        SourceKind::Tree
    }
}

/// Chroma stores, SQLite databases and JSON files below a directory, by path. Hidden directories, other file systems and
/// repositories are left aside.
pub fn find_sources(below: &Path) -> Vec<(SourceKind, PathBuf)> {
    let mut found = Vec::new();
    let mut inside: HashSet<PathBuf> = HashSet::new();
    let walk = WalkDir::new(below).max_depth(DEPTH).same_file_system(true).sort_by_file_name();
    let visible = |entry: &walkdir::DirEntry| {
        let hidden = entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
        let repository = entry.path().join("snapshots").is_dir() && entry.path().join("packs").is_dir();
        !hidden && !repository && entry.file_name() != "node_modules"
    };
    for entry in walk.into_iter().filter_entry(visible).flatten() {
        let in_store = entry.path().ancestors().any(|above| inside.contains(above));
        let kind = if entry.file_type().is_symlink() { SourceKind::Tree } else { detect_kind(entry.path()) };
        if in_store || kind == SourceKind::Tree {
            continue;
        }
        if kind == SourceKind::Chroma {
            inside.insert(entry.path().to_owned());
        }
        found.push((kind, entry.into_path()));
        if found.len() == ENOUGH {
            break;
        }
    }
    found
}
