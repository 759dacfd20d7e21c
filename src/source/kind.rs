//! Each kind's way of being captured, judged and settled.

use super::interface::{
    Capture, CaptureError, CaptureOptions, JudgeOptions, Judgement, Recorder, SourceSpec, StoredFiles,
};
use super::{chroma, json, sqlite, tree};
use crate::format::{Captured, EntryKind, Level, SourceKind};
use crate::hold::Sidecars;
use std::io;
use std::path::{Path, PathBuf};

/// Raised whenever a check is added or sharpened, so that older proofs aren't inherited.
pub const VALIDATOR_VERSION: u32 = 1;

/// Captures a source. Nothing is written into it.
pub fn capture(
    spec: &SourceSpec,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    match spec.kind {
        SourceKind::Chroma => chroma::capture(spec, options, recorder),
        SourceKind::Sqlite => sqlite::capture(&spec.path, options, recorder),
        SourceKind::Json => json::capture(&spec.path, options, recorder),
        SourceKind::Tree => tree::capture(spec, options, recorder),
    }
}

/// Judges a captured copy of a source. An I/O error means that it could not be read, not that it is bad.
pub fn judge(
    kind: SourceKind,
    source: &str,
    files: &dyn StoredFiles,
    level: Level,
    temporary_directory: &Path,
) -> io::Result<Judgement> {
    let options = JudgeOptions { level, temporary_directory };
    let mut judgement = Judgement::default();
    match kind {
        SourceKind::Chroma => chroma::judge(&mut judgement, source, files, &options)?,
        SourceKind::Sqlite => {
            sqlite::judge_database(&mut judgement, source, b"", &*files.open(b"")?, &options)?;
        }
        SourceKind::Json => json::judge(&mut judgement, source, &*files.open(b"")?, &options)?,
        SourceKind::Tree => judge_tree(&mut judgement, source, files, Vec::new(), &options)?,
    }
    Ok(judgement)
}

/// Databases that were captured as such inside a tree must be sound.
fn judge_tree(
    judgement: &mut Judgement,
    source: &str,
    files: &dyn StoredFiles,
    path: Vec<u8>,
    options: &JudgeOptions<'_>,
) -> io::Result<()> {
    let entries = if path.is_empty() && files.root().kind != EntryKind::Directory {
        vec![files.root().clone()]
    } else {
        files.list(&path)?
    };
    for entry in entries {
        let below = match (&*path, files.root().kind) {
            (b"", EntryKind::Directory) => entry.name.clone(),
            (b"", _) => Vec::new(),
            _ => [&path, b"/".as_slice(), &entry.name].concat(),
        };
        if entry.kind == EntryKind::Directory {
            judge_tree(judgement, source, files, below, options)?;
        } else if entry.captured == Captured::Sqlite {
            sqlite::judge_database(judgement, source, &below, &*files.open(&below)?, options)?;
        }
    }
    Ok(())
}

/// Files beside a restored database that belong to the one before it: a stale journal would be rolled back into the new
/// one.
pub fn sidecars_to_remove(database: &Path) -> Vec<PathBuf> {
    let Sidecars { journal, wal, shm } = Sidecars::of(database);
    vec![journal, wal, shm]
}
