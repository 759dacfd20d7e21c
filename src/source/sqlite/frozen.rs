//! A database's state between the hold and its recording.

use super::scratch_copy::{ByPosition, RollbackCopy};
use super::write_ahead_log::{CommittedPages, Merged};
use crate::format::{Consistency, Entry};
use crate::source::interface::{CaptureError, Recorder, Retaken, Taken};
use std::fs::File;
use std::path::Path;

/// What was frozen, to be recorded after the hold.
pub enum Frozen {
    /// By its marks it is what the parent has.
    Parent(Box<Entry>, Consistency),
    Taken(Taken),
    Differences(Retaken),
    Clone(File),
    ToRollBack(RollbackCopy),
    /// Database and log, still held so that both only grow; the state ends with this many frames of the log.
    Log {
        database: File,
        log: Option<File>,
        frames: u32,
    },
}

impl Frozen {
    /// Reads and records what is still to be read of the database at `path`, which is `place` below its source.
    pub fn record(
        self,
        path: &Path,
        place: &[u8],
        recorder: &mut dyn Recorder,
    ) -> Result<Taken, CaptureError> {
        let at = |error: CaptureError| error.at(path);
        match self {
            Self::Parent(..) => Err(CaptureError::Unusable {
                path: path.to_owned(),
                detail: "its state is the parent's".into(),
            }),
            Self::Taken(taken) => Ok(taken),
            Self::Differences(retaken) => recorder.settle(place, retaken),
            Self::Clone(file) => recorder.take(place, &mut ByPosition::new(&file)).map_err(at),
            Self::ToRollBack(copy) => {
                let file = copy.roll_back().map_err(|detail| CaptureError::Unusable {
                    path: path.to_owned(),
                    detail: format!("its journal could not be rolled back in a copy: {detail}"),
                })?;
                recorder.take(place, &mut ByPosition::new(&file)).map_err(at)
            }
            Self::Log { database, log, frames } => {
                take_merged(&database, log.as_ref(), frames, place, recorder).map_err(at)
            }
        }
    }
}

/// Takes database and log as one image; where the log holds no commit, the database is the image.
pub fn take_merged(
    database: &File,
    log: Option<&File>,
    frames: u32,
    place: &[u8],
    recorder: &mut dyn Recorder,
) -> Result<Taken, CaptureError> {
    if let Some(log) = log {
        let pages = CommittedPages::read(log, frames).map_err(CaptureError::Reading)?;
        if !pages.is_empty() {
            return recorder.take(place, &mut Merged::new(database, log, &pages));
        }
    }
    recorder.take(place, &mut ByPosition::new(database))
}
