//! The state that a restore is about to overwrite: every file as it lies, whatever it is worth.

use super::draft::{Author, Begun, Draft, Reading, cutter_of, draft};
use super::error::BackupError;
use super::parent::Parent;
use super::pool::Pool;
use super::recorder::{RecorderMemory, Recording, TreeRecorder};
use crate::chunking::Cutter;
use crate::format::{Consistency, Entry, Note, NoteReason, SnapshotKind, SourceKind, SourceRecord};
use crate::progress::Progress;
use crate::repository::{ChunkWriter, Repository, Snapshots};
use crate::source::{
    self, Capture, CaptureError, CaptureOptions, Compared, HoldMode, SourceSpec, SqliteInTree,
};
use crate::stamp::now_nanos;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is to be saved.
pub struct RawSource {
    /// Its name in the snapshot.
    pub name: String,
    pub kind: SourceKind,
    /// Where it lies; nothing there is a state too.
    pub path: PathBuf,
    /// What the restore leaves alone.
    pub exclude: Vec<String>,
    /// Also the files that SQLite keeps beside it.
    pub with_sidecars: bool,
    /// What is about to be put there, with which it was compared.
    pub goal: Option<Entry>,
    pub compared: HashMap<Vec<u8>, Compared>,
}

/// Everything that saving needs.
struct Saver<'s> {
    writer: &'s ChunkWriter<'s>,
    pool: &'s Pool,
    cutter: Cutter,
    /// Where the goals' chunk lists are.
    goals: &'s Repository,
    options: &'s CaptureOptions,
    memory: &'s RecorderMemory,
    progress: &'s dyn Progress,
}

/// Stores the sources as they lie and drafts a safety snapshot of them. What is compared already and equal isn't read
/// again, nor stored: it is referred to by the goal's chunks. A path that can't be read becomes a note.
pub fn save_raw(
    writer: &ChunkWriter<'_>,
    goals: &Repository,
    snapshots: &Snapshots,
    sources: Vec<RawSource>,
    author: &Author,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Draft, BackupError> {
    let begun = Begun::now();
    let options = CaptureOptions {
        cold: true,
        raw: true,
        hold: HoldMode::Auto,
        max_hold: None,
        lock_wait: Duration::ZERO,
        temporary_directory: temporary_directory.to_owned(),
    };
    let memory = RecorderMemory::default();
    let sources = std::thread::scope(|scope| {
        let pool = Pool::start(scope, writer);
        let cutter = cutter_of(writer.repository());
        let saver =
            Saver { writer, pool: &pool, cutter, goals, options: &options, memory: &memory, progress };
        sources.into_iter().map(|source| saver.save(source)).collect::<Result<Vec<_>, _>>()
    })?;
    let reading = Reading { sources, warnings: Vec::new(), begun };
    draft(writer, snapshots, author, SnapshotKind::PreRestore, reading, progress)
}

impl Saver<'_> {
    fn save(&self, source: RawSource) -> Result<SourceRecord, BackupError> {
        let RawSource { name, kind, path, exclude, with_sidecars, goal, compared } = source;
        self.progress.begin(&format!("saving what is there of {name}"), None);
        let begun_ns = now_nanos();
        let fail = |error| BackupError::from_capture(&name, error);
        let parent = goal.map(|root| Parent::new(self.goals, root, i64::MIN, Consistency::Cold));
        let recording = self.record(&path, &exclude, parent, compared).map_err(fail)?;
        let missing = Note {
            path: Vec::new(),
            reason: NoteReason::Remark,
            detail: format!("there was nothing at {}", path.display()),
        };
        let mut notes = Vec::new();
        let mut sidecars = Vec::new();
        if with_sidecars {
            for beside in source::sidecars_of(&path) {
                let found = self.record(&beside, &[], None, HashMap::new()).map_err(fail)?;
                notes.extend(found.iter().flat_map(|found| found.notes.clone()));
                sidecars.extend(found.and_then(|found| found.root));
            }
        }
        let capture = Capture::unheld(Consistency::Cold);
        let (recorded_notes, more_notes, counts, root) = match recording {
            Some(Recording { notes, more_notes, counts, root, .. }) => (notes, more_notes, counts, root),
            None => (vec![missing], 0, Default::default(), None),
        };
        notes.extend(recorded_notes);
        Ok(SourceRecord {
            name,
            kind,
            path: path.as_os_str().as_bytes().to_owned(),
            exclude,
            parent: None,
            consistency: capture.consistency,
            captured_ns: begun_ns,
            point_ns: capture.point_ns,
            moment: 0,
            writer_pause_ms: 0,
            counts,
            root,
            sidecars,
            proof: None,
            notes,
            more_notes,
            collections: Vec::new(),
            written_by: None,
        })
    }

    /// `None`: there is nothing.
    fn record(
        &self,
        path: &Path,
        exclude: &[String],
        parent: Option<Parent<'_>>,
        compared: HashMap<Vec<u8>, Compared>,
    ) -> Result<Option<Recording>, CaptureError> {
        let spec = SourceSpec {
            name: String::new(),
            kind: SourceKind::Tree,
            path: path.to_owned(),
            source_path: None,
            hold: HoldMode::Auto,
            max_hold: None,
            optional: true,
            exclude: exclude.to_vec(),
            sqlite: SqliteInTree::Raw,
        };
        let scratch = &self.options.temporary_directory;
        let recorder = TreeRecorder::new(
            self.writer,
            self.pool,
            self.cutter.clone(),
            parent,
            scratch,
            self.memory,
            self.progress,
        );
        let mut recorder = recorder.with_compared(compared);
        match source::capture(&spec, self.options, &mut recorder) {
            Ok(_) => Ok(Some(recorder.finish())),
            Err(CaptureError::Missing { .. }) if path.symlink_metadata().is_err() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
