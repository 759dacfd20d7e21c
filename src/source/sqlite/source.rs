//! A source, or a file in a tree, that is one database.

use super::capture::DatabaseCapture;
use crate::source::interface::{Capture, CaptureError, CaptureOptions, Recorder, SourceSpec};
use crate::source::staged::{Freeze, Holding, Staged, Terms};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// One database, added as an entry of its own.
pub struct DatabaseSource<'a>(DatabaseCapture<'a>);

impl<'a> DatabaseSource<'a> {
    /// A source of kind sqlite.
    pub fn new(spec: &SourceSpec, options: &'a CaptureOptions) -> Result<Self, CaptureError> {
        let path = spec.read_path();
        let metadata = fs::metadata(path).map_err(|error| CaptureError::io("stat", path, error))?;
        if !metadata.is_file() {
            return Err(CaptureError::WrongKind { path: path.to_owned(), expected: "file" });
        }
        Ok(Self(DatabaseCapture::new(path, &spec.entry_name(), b"", options)?))
    }

    /// A database found in a tree, `place` being its path below the source.
    pub fn found(
        path: &Path,
        name: &[u8],
        place: &[u8],
        options: &'a CaptureOptions,
    ) -> Result<Self, CaptureError> {
        Ok(Self(DatabaseCapture::new(path, name, place, options)?))
    }
}

impl Staged for DatabaseSource<'_> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn rehearse(&mut self, recorder: &mut dyn Recorder) -> Result<Duration, CaptureError> {
        self.0.rehearse(recorder)
    }

    fn hold(&mut self, patience: Duration, go_on: &dyn Fn() -> bool) -> Result<Holding, CaptureError> {
        self.0.hold(patience, go_on)
    }

    fn note(&mut self) -> Result<Option<u64>, CaptureError> {
        self.0.note()
    }

    fn freeze(&mut self, recorder: &mut dyn Recorder, terms: &Terms<'_>) -> Result<Freeze, CaptureError> {
        self.0.freeze(recorder, terms)
    }

    fn release(&mut self) {
        self.0.release();
    }

    fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Capture, CaptureError> {
        let image = self.0.record(recorder)?;
        recorder.add(image.entry, image.taken)?;
        Ok(image.capture)
    }
}
