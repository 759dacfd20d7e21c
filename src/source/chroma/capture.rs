//! Captures a store so that its HNSW files and its database belong to one moment.
//!
//! The HNSW files must not change between the first byte read of them and the moment of the database. They are read
//! first, without a lock; then the database is held, what moved meanwhile is read again, the database is read, and the
//! HNSW files are looked at once more. Chroma 1.x rewrites them without holding the database, so the last look decides.

use super::layout::{DATABASE, is_segment_name, vector_segments};
use super::listing::{Listing, QUIET_POLL, Wanted, await_quiet, read_directory};
use super::segments::{Reading, Segments};
use crate::format::{Consistency, NoteReason};
use crate::hold::{Sidecars, open_directory};
use crate::source::attributes::directory_entry;
use crate::source::interface::{Capture, CaptureError, CaptureOptions, Recorder, SourceSpec};
use crate::source::sqlite::DatabaseCapture;
use crate::source::staged::{Freeze, Holding, Staged, Terms};
use crate::source::stat::Stat;
use crate::source::tree::Walk;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a persist in flight is waited for under the hold; measured: it ends within 200 ms for small stores.
pub const HELD_PATIENCE: Duration = Duration::from_secs(1);

/// How long vector files are given to come to rest directly before the hold.
const QUIET_WAIT: Duration = Duration::from_secs(1);

/// A store on its way through a capture's steps.
pub struct StoreCapture<'a> {
    spec: SourceSpec,
    options: &'a CaptureOptions,
    store: PathBuf,
    database: DatabaseCapture<'a>,
    segments: Segments,
    /// What the database said under the hold; `None` where it can't be asked.
    wanted: Option<Wanted>,
}

impl<'a> StoreCapture<'a> {
    /// The store that `spec` means.
    pub fn new(spec: &SourceSpec, options: &'a CaptureOptions) -> Result<Self, CaptureError> {
        let (store, database) = open(spec, options)?;
        Ok(Self { spec: spec.clone(), options, store, database, segments: Segments::default(), wanted: None })
    }

    fn listing(&self) -> Result<Listing, CaptureError> {
        Listing::of(&self.store, self.wanted.as_ref())
    }
}

/// A store's real directory and its database.
pub fn open<'a>(
    spec: &SourceSpec,
    options: &'a CaptureOptions,
) -> Result<(PathBuf, DatabaseCapture<'a>), CaptureError> {
    let path = spec.read_path();
    let store = fs::canonicalize(path).map_err(|error| CaptureError::io("resolve", path, error))?;
    let path = store.join(DATABASE);
    let metadata = fs::metadata(&path).map_err(|error| CaptureError::io("open", &path, error))?;
    if !metadata.is_file() {
        return Err(CaptureError::Missing { path });
    }
    let name = DATABASE.as_bytes();
    let database = DatabaseCapture::new(&path, name, name, options)?;
    Ok((store, database))
}

impl Staged for StoreCapture<'_> {
    fn path(&self) -> &Path {
        &self.store
    }

    fn rehearse(&mut self, recorder: &mut dyn Recorder) -> Result<Duration, CaptureError> {
        await_quiet(&self.store, self.options.lock_wait, &|| recorder.check())?;
        self.segments.settle(recorder)?;
        self.segments.look_again(Listing::of(&self.store, None)?, Reading::Unheld, recorder)?;
        self.segments.settle(recorder)?;
        self.database.rehearse(recorder)
    }

    fn hold(&mut self, patience: Duration, go_on: &dyn Fn() -> bool) -> Result<Holding, CaptureError> {
        self.wanted = None;
        // What can be waited for now needn't be waited for by writers.
        await_quiet(&self.store, QUIET_WAIT.min(patience), &|| {
            if go_on() { Ok(()) } else { Err(CaptureError::Interrupted) }
        })?;
        alone_if_written(self.database.hold(patience, go_on)?)
    }

    fn note(&mut self) -> Result<Option<u64>, CaptureError> {
        self.database.note()
    }

    fn freeze(&mut self, recorder: &mut dyn Recorder, terms: &Terms<'_>) -> Result<Freeze, CaptureError> {
        let go_on = terms.go_on;
        let started = Instant::now();
        if self.database.excludes_writers() {
            self.wanted = vector_segments(&self.store.join(DATABASE)).ok();
        }
        let mut frozen = false;
        loop {
            if !go_on() {
                return Err(CaptureError::HeldTooLong);
            }
            let clones = self.database.clones();
            let listing = self.listing()?;
            let quiet = listing.is_quiet() && !self.segments.is_in_motion(&listing);
            if quiet {
                self.segments.look_again(listing, Reading::Held { clones, go_on }, recorder)?;
                // Where writers go on, the state is that of now: behind the vectors that were read.
                self.database.note()?;
                // Held so, the database stays as it was frozen; otherwise it must be read after the vectors.
                if !(frozen && self.database.excludes_writers())
                    && let Freeze::Again(reason) = self.database.freeze(recorder, terms)?
                {
                    return Ok(Freeze::Again(reason));
                }
                frozen = true;
                if !self.segments.moved(&self.store, self.wanted.as_ref())? {
                    return Ok(Freeze::Complete);
                }
            }
            if started.elapsed() > HELD_PATIENCE {
                return Ok(Freeze::Again("its vector files were being rewritten"));
            }
            std::thread::sleep(QUIET_POLL);
        }
    }

    fn release(&mut self) {
        self.database.release();
    }

    /// Hands over the entries in the order of their names.
    fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Capture, CaptureError> {
        let fail = |error| CaptureError::io("read", &self.store, error);
        let image = self.database.record(recorder)?;
        let metadata = fs::metadata(&self.store).map_err(fail)?;
        let directory = open_directory(&self.store).map_err(fail)?;
        // What was captured is kept, also if its directory has gone since (`delete_collection`).
        let mut names: BTreeSet<Vec<u8>> =
            read_directory(&self.store)?.into_iter().map(|item| item.file_name().into_vec()).collect();
        names.extend(self.segments.names().cloned());
        names.insert(DATABASE.as_bytes().to_vec());
        let mut databases = HashSet::new();
        let name = self.spec.entry_name();
        recorder.enter(&name)?;
        let capture = image.capture.clone();
        let mut image = Some(image);
        for name in names {
            if name == DATABASE.as_bytes() {
                if let Some(image) = image.take() {
                    recorder.add(image.entry, image.taken)?;
                }
            } else if self.segments.record(&self.store, &name, recorder)? {
            } else if let Some(reason) = reason_to_skip(&name, self.wanted.as_ref()) {
                recorder.note(&name, NoteReason::Excluded, reason.into());
            } else {
                // Files of others beside the store don't weaken what is said of the store.
                Walk::new(&self.spec, self.options, recorder)?.below(&directory, &name, &mut databases)?;
            }
        }
        recorder.leave(directory_entry(&name, &Stat::from(&metadata), &self.store))?;
        Ok(Capture { consistency: capture.consistency.max(Consistency::Locked), ..capture })
    }
}

/// Vectors must be read before the state of their database is noted. Where writers go on meanwhile (a store that was
/// switched to WAL mode) that takes time, so the store can't share its moment with others.
pub fn alone_if_written(holding: Holding) -> Result<Holding, CaptureError> {
    Ok(match holding {
        Holding::Held(None) => Holding::Unheld,
        other => other,
    })
}

fn reason_to_skip(name: &[u8], wanted: Option<&Wanted>) -> Option<&'static str> {
    let is_sidecar = name
        .strip_prefix(DATABASE.as_bytes())
        .is_some_and(|suffix| Sidecars::SUFFIXES.iter().any(|known| known.as_bytes() == suffix));
    if is_sidecar {
        Some("part of the database beside it, whose settled image is kept")
    } else if is_segment_name(name) && wanted.is_some_and(|wanted| !wanted.contains(name)) {
        Some("a segment directory that belongs to no collection (left by delete_collection, or made since)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::StoreCapture;
    use crate::format::{Entry, NoteReason, SourceKind};
    use crate::source::interface::{
        CaptureError, CaptureOptions, GoOn, HoldMode, Recorder, Retaken, Seen, SourceSpec, SqliteInTree,
        Taken,
    };
    use crate::source::moment::capture_alone;
    use crate::source::stat::Stat;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::Read;
    use std::path::PathBuf;
    use std::time::Duration;

    const SEGMENT: &str = "11111111-2222-3333-4444-555555555555";

    /// Keeps everything in memory, and lets Chroma write a vector file while the database is read under the hold.
    #[derive(Default)]
    struct Meddling {
        contents: Vec<Vec<u8>>,
        recorded: BTreeMap<Vec<u8>, Vec<u8>>,
        written_meanwhile: Option<PathBuf>,
    }

    impl Meddling {
        fn keep(&mut self, reader: &mut dyn Read) -> u64 {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            self.contents.push(bytes);
            self.contents.len() as u64 - 1
        }
    }

    impl Recorder for Meddling {
        fn parent(&mut self, _: &[u8]) -> Result<Option<Seen>, CaptureError> {
            Ok(None)
        }
        fn keep(&mut self, _: &[u8], _: &[u8], _: &Stat) -> Result<bool, CaptureError> {
            Ok(false)
        }
        fn take(&mut self, _: &[u8], reader: &mut dyn Read) -> Result<Taken, CaptureError> {
            Ok(Taken { token: self.keep(reader), bytes: 0 })
        }
        fn take_compared(&mut self, _: &[u8], _: &File) -> Result<Option<Taken>, CaptureError> {
            Ok(None)
        }
        fn await_stored(&mut self, _: &Taken) -> Result<(), CaptureError> {
            Ok(())
        }
        fn retake(
            &mut self,
            _: Option<&Taken>,
            mut file: &File,
            _: GoOn<'_>,
        ) -> Result<Retaken, CaptureError> {
            let token = self.keep(&mut file);
            let is_database = self.contents.last().is_some_and(|bytes| bytes.starts_with(b"SQLite"));
            if is_database && let Some(path) = self.written_meanwhile.take() {
                #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
                std::fs::write(path, "after the first look").unwrap();
            }
            Ok(Retaken { token })
        }
        fn settle(&mut self, _: &[u8], retaken: Retaken) -> Result<Taken, CaptureError> {
            Ok(Taken { token: retaken.token, bytes: 0 })
        }
        fn discard(&mut self, _: Retaken) {}
        fn check(&self) -> Result<(), CaptureError> {
            Ok(())
        }
        fn enter(&mut self, _: &[u8]) -> Result<(), CaptureError> {
            Ok(())
        }
        fn add(&mut self, entry: Entry, taken: Option<Taken>) -> Result<(), CaptureError> {
            let content = taken.and_then(|taken| self.contents.get(taken.token as usize)).cloned();
            self.recorded.insert(entry.name, content.unwrap_or_default());
            Ok(())
        }
        fn leave(&mut self, _: Entry) -> Result<(), CaptureError> {
            Ok(())
        }
        fn note(&mut self, _: &[u8], _: NoteReason, _: String) {}
    }

    #[test]
    fn a_vector_file_that_moves_while_the_database_is_read_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        let segment = store.join(SEGMENT);
        std::fs::create_dir_all(&segment).unwrap();
        let connection = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
        let sql =
            format!("CREATE TABLE segments(id, scope); INSERT INTO segments VALUES('{SEGMENT}', 'VECTOR')");
        connection.execute_batch(&sql).unwrap();
        for name in ["header.bin", "data_level0.bin", "index_metadata.pickle"] {
            #[expect(clippy::disallowed_methods, reason = "a test's own scratch file")]
            std::fs::write(segment.join(name), "at first").unwrap();
        }
        let mut recorder = Meddling {
            written_meanwhile: Some(segment.join("index_metadata.pickle")),
            ..Meddling::default()
        };
        let spec = SourceSpec {
            name: "store".into(),
            kind: SourceKind::Chroma,
            path: store,
            source_path: None,
            hold: HoldMode::Lock,
            max_hold: None,
            optional: false,
            exclude: Vec::new(),
            sqlite: SqliteInTree::Hold,
        };
        let options = CaptureOptions {
            cold: false,
            raw: false,
            hold: HoldMode::Lock,
            max_hold: None,
            lock_wait: Duration::from_secs(5),
            temporary_directory: directory.path().to_owned(),
        };
        let staged = Box::new(StoreCapture::new(&spec, &options).unwrap());
        capture_alone(staged, &mut recorder, &options).unwrap();
        assert!(recorder.written_meanwhile.is_none());
        let found = |name: &str| String::from_utf8_lossy(&recorder.recorded[name.as_bytes()]).into_owned();
        assert_eq!(found("index_metadata.pickle"), "after the first look");
        assert_eq!(found("data_level0.bin"), "at first");
    }
}
