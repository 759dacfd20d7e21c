//! Captures a store that is a btrfs subvolume: snapshot it under the hold, let go, read the snapshot.

use super::capture::{HELD_PATIENCE, StoreCapture, alone_if_written, open};
use super::listing::{Listing, QUIET_POLL, await_quiet};
use crate::format::Consistency;
use crate::hold::SnapshotPlace;
use crate::source::interface::{Capture, CaptureError, CaptureOptions, HoldMode, Recorder, SourceSpec};
use crate::source::moment::capture_alone;
use crate::source::sqlite::DatabaseCapture;
use crate::source::staged::{Freeze, Holding, Staged, Terms};
use crate::source::tree::snapshot_place;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A store that is snapshotted as a whole.
pub struct SnapshotCapture<'a> {
    spec: SourceSpec,
    options: &'a CaptureOptions,
    store: PathBuf,
    database: DatabaseCapture<'a>,
    place: SnapshotPlace,
}

impl<'a> SnapshotCapture<'a> {
    /// `None` if the store can't be snapshotted and needn't be.
    pub fn new(spec: &SourceSpec, options: &'a CaptureOptions) -> Result<Option<Self>, CaptureError> {
        let (store, database) = open(spec, options)?;
        let Some(place) = snapshot_place(&store, options)? else { return Ok(None) };
        // Tried out before anybody waits for it.
        match place.take(&store) {
            Err(_) if options.hold == HoldMode::Auto => return Ok(None),
            other => other.map_err(|error| CaptureError::io("snapshot", &store, error))?,
        }
        Ok(Some(Self { spec: spec.clone(), options, store, database, place }))
    }
}

impl Staged for SnapshotCapture<'_> {
    fn path(&self) -> &Path {
        &self.store
    }

    fn rehearse(&mut self, recorder: &mut dyn Recorder) -> Result<Duration, CaptureError> {
        await_quiet(&self.store, self.options.lock_wait, &|| recorder.check())?;
        Ok(HELD_PATIENCE)
    }

    fn hold(&mut self, patience: Duration, go_on: &dyn Fn() -> bool) -> Result<Holding, CaptureError> {
        alone_if_written(self.database.hold(patience, go_on)?)
    }

    /// The snapshot itself decides, not what a log held a moment before.
    fn note(&mut self) -> Result<Option<u64>, CaptureError> {
        Ok(None)
    }

    fn freeze(&mut self, recorder: &mut dyn Recorder, terms: &Terms<'_>) -> Result<Freeze, CaptureError> {
        let started = Instant::now();
        while started.elapsed() < HELD_PATIENCE {
            recorder.check()?;
            if !(terms.go_on)() {
                return Err(CaptureError::HeldTooLong);
            }
            let before = Listing::of(&self.store, None)?;
            if before.is_quiet() {
                let taken = self.place.take(&self.store);
                taken.map_err(|error| CaptureError::io("snapshot", &self.store, error))?;
                let after = Listing::of(&self.store, None)?;
                if after.is_as(&before) && after.is_quiet() {
                    return Ok(Freeze::Complete);
                }
            }
            std::thread::sleep(QUIET_POLL);
        }
        Ok(Freeze::Again("its vector files were being rewritten"))
    }

    fn release(&mut self) {
        self.database.release();
    }

    fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Capture, CaptureError> {
        let spec = SourceSpec { source_path: Some(self.place.snapshot()), ..self.spec.clone() };
        let cold = CaptureOptions { cold: true, ..self.options.clone() };
        let capture = capture_alone(Box::new(StoreCapture::new(&spec, &cold)?), recorder, &cold)?;
        let writer_pause = self.database.writer_pause();
        Ok(Capture { consistency: Consistency::FsSnapshot, writer_pause, ..capture })
    }
}
