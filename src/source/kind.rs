//! Each kind's way of being captured, judged and settled.

use super::interface::{
    Capture, CaptureError, CaptureOptions, HoldMode, JudgeOptions, Judgement, Recorder, SourceSpec,
    StoredFiles,
};
use super::staged::Staged;
use super::{chroma, json, sqlite, tree};
use crate::format::SourceKind;
use crate::hold::Sidecars;
use std::io;
use std::path::{Path, PathBuf};

/// Raised whenever a check is added or sharpened, so that older proofs aren't inherited.
pub const VALIDATOR_VERSION: u32 = 2;

/// A source that is held still while it is captured, and can share that moment with others; `None` for the other kinds.
pub fn staged<'a>(
    spec: &SourceSpec,
    options: &'a CaptureOptions,
) -> Result<Option<Box<dyn Staged + 'a>>, CaptureError> {
    Ok(match spec.kind {
        SourceKind::Chroma => match chroma::SnapshotCapture::new(spec, options)? {
            Some(capture) => Some(Box::new(capture)),
            None => Some(Box::new(chroma::StoreCapture::new(spec, options)?)),
        },
        SourceKind::Sqlite => {
            if options.hold == HoldMode::FsSnapshot && !options.cold {
                let detail = "a single file is no btrfs subvolume".into();
                let path = spec.read_path().to_owned();
                return Err(CaptureError::CannotHold { path, hold: options.hold, detail });
            }
            Some(Box::new(sqlite::DatabaseSource::new(spec, options)?))
        }
        SourceKind::Json | SourceKind::Tree => None,
    })
}

/// Captures a source of a kind that isn't staged. Nothing is written into it.
pub fn capture(
    spec: &SourceSpec,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    match spec.kind {
        SourceKind::Json => json::capture(spec, options, recorder),
        SourceKind::Tree | SourceKind::Chroma | SourceKind::Sqlite => tree::capture(spec, options, recorder),
    }
}

/// Judges a captured copy of a source. An I/O error means that it could not be read, not that it is bad.
pub fn judge(
    kind: SourceKind,
    source: &str,
    files: &dyn StoredFiles,
    options: &JudgeOptions<'_>,
) -> io::Result<Judgement> {
    let mut judgement = Judgement::default();
    match kind {
        SourceKind::Chroma => {
            chroma::judge(&mut judgement, source, files, options)?;
            // Other databases that somebody keeps inside the store.
            judge_tree(&mut judgement, source, files, &[chroma::DATABASE.as_bytes()], options)?;
        }
        SourceKind::Sqlite => {
            sqlite::judge_database(&mut judgement, source, b"", &*files.open(b"")?, options)?;
        }
        SourceKind::Json => json::judge(&mut judgement, source, &*files.open(b"")?, options)?,
        SourceKind::Tree => judge_tree(&mut judgement, source, files, &[], options)?,
    }
    Ok(judgement)
}

/// Databases that were captured as such inside a tree must be sound; those at the paths `judged` are known to be.
fn judge_tree(
    judgement: &mut Judgement,
    source: &str,
    files: &dyn StoredFiles,
    judged: &[&[u8]],
    options: &JudgeOptions<'_>,
) -> io::Result<()> {
    for path in files.databases()?.iter().filter(|path| !judged.contains(&path.as_slice())) {
        sqlite::judge_database(judgement, source, path, &*files.open(path)?, options)?;
    }
    Ok(())
}

/// The files that SQLite keeps beside a database. Those of the database before would be applied to a restored one.
pub fn sidecars_of(database: &Path) -> [PathBuf; 3] {
    let Sidecars { journal, wal, shm } = Sidecars::of(database);
    [journal, wal, shm]
}

/// The database without which nobody can use the files around it, by its path below a source of this kind.
pub fn keystone_of(kind: SourceKind) -> Option<&'static str> {
    (kind == SourceKind::Chroma).then_some(chroma::DATABASE)
}
