//! Captures a store that is a btrfs subvolume: snapshot it under the hold, let go, read the snapshot.

use super::capture::{StoreCapture, open};
use super::listing::{Listing, QUIET_POLL, await_quiet};
use crate::format::Consistency;
use crate::hold::SubvolumeSnapshot;
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, GoOn, HoldMode, Recorder, SourceSpec, now_ns,
};
use crate::source::moment::capture_alone;
use crate::source::sqlite::DatabaseCapture;
use crate::source::staged::{Freeze, Holding, Staged};
use crate::source::tree::snapshot_of;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HELD_PATIENCE: Duration = Duration::from_secs(1);

/// A store that is snapshotted as a whole.
pub struct SnapshotCapture<'a> {
    spec: SourceSpec,
    options: &'a CaptureOptions,
    store: PathBuf,
    database: DatabaseCapture<'a>,
    snapshot: Option<SubvolumeSnapshot>,
    point_ns: i64,
    held: Option<Instant>,
    pause: Duration,
}

impl<'a> SnapshotCapture<'a> {
    /// `None` if the store can't be snapshotted and needn't be.
    pub fn new(spec: &SourceSpec, options: &'a CaptureOptions) -> Result<Option<Self>, CaptureError> {
        let (store, database) = open(spec, options)?;
        // Tried out before anybody waits for it.
        if snapshot_of(&store, options)?.is_none() {
            return Ok(None);
        }
        let (snapshot, held) = (None, None);
        let spec = spec.clone();
        Ok(Some(Self { spec, options, store, database, snapshot, point_ns: 0, held, pause: Duration::ZERO }))
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
        let holding = self.database.hold(patience, go_on)?;
        self.held = matches!(holding, Holding::Held(Some(_))).then(Instant::now);
        Ok(holding)
    }

    fn freeze(&mut self, recorder: &mut dyn Recorder, go_on: GoOn<'_>) -> Result<Freeze, CaptureError> {
        let started = Instant::now();
        while started.elapsed() < HELD_PATIENCE {
            recorder.check()?;
            if !go_on() {
                return Err(CaptureError::HeldTooLong);
            }
            let before = Listing::of(&self.store, None)?;
            if before.is_quiet() {
                self.snapshot = snapshot_of(&self.store, self.options)?;
                self.point_ns = now_ns();
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
        self.pause = self.held.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Capture, CaptureError> {
        let gone = || CaptureError::CannotHold {
            path: self.store.clone(),
            hold: HoldMode::FsSnapshot,
            detail: "the snapshot could not be made any more".into(),
        };
        let snapshot = self.snapshot.take().ok_or_else(gone)?;
        let spec = SourceSpec { source_path: Some(snapshot.path()), ..self.spec.clone() };
        let cold = CaptureOptions { cold: true, ..self.options.clone() };
        capture_alone(Box::new(StoreCapture::new(&spec, &cold)?), recorder, &cold)?;
        let (writer_pause, point_ns) = (self.pause, self.point_ns);
        Ok(Capture { consistency: Consistency::FsSnapshot, writer_pause, point_ns })
    }
}
