//! One regular file of a tree: recognised, read while it may be changing, handed over.

use super::log_file::{is_line_log, whole_records};
use super::sparse::{Ranges, segments};
use crate::format::{Entry, NoteReason, Segment};
use crate::source::attributes::file_entry;
use crate::source::interface::{Capture, CaptureError, CaptureOptions, Recorder, Taken, file_id, mtime_ns};
use crate::source::moment::capture_alone;
use crate::source::sqlite;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// How often a file is read again that shrank or was rewritten meanwhile.
const TRIES: u32 = 3;

/// An opened regular file and its two names: the one for people, and one that works however long the path is.
pub struct Regular<'a> {
    pub name: &'a [u8],
    /// Below the source, for notes.
    pub relative: &'a [u8],
    /// Leads to the file whatever the length of its real path.
    pub path: &'a Path,
    pub file: File,
}

/// What happened to it.
pub enum Recorded {
    Plain,
    /// It is a database; its sidecars belong to it.
    Database(Capture),
    /// Its length was cut, or it changed while it was read.
    Changing,
}

impl Regular<'_> {
    /// Records the file, as a database if it is one and `databases` says so.
    pub fn record(
        self,
        databases: bool,
        options: &CaptureOptions,
        recorder: &mut dyn Recorder,
    ) -> Result<Recorded, CaptureError> {
        if databases && self.is_database() {
            // The real name: SQLite's sidecars are looked for beside it.
            let real = fs::read_link(self.path).unwrap_or_else(|_| self.path.to_owned());
            let found = sqlite::DatabaseSource::found(&real, self.name, self.relative, options)?;
            return Ok(Recorded::Database(capture_alone(Box::new(found), recorder, options)?));
        }
        let mut last_try = None;
        for attempt in 1..=TRIES {
            let before = self.file.metadata().map_err(|error| self.fail(error))?;
            let (entry, taken, complete) = self.read(&before, options, recorder)?;
            let after = self.file.metadata().map_err(|error| self.fail(error))?;
            // An append behind what was read leaves what was read as it is; anything else may have torn it.
            let same = file_id(&before) == file_id(&after) && mtime_ns(&before) == mtime_ns(&after);
            if complete && same {
                let cut = entry.size < before.size();
                let entry = Entry { state: if cut { None } else { entry.state }, ..entry };
                recorder.add(entry, Some(taken))?;
                return Ok(if cut { Recorded::Changing } else { Recorded::Plain });
            }
            let grew = complete && after.size() > before.size();
            last_try = Some((entry, taken));
            if grew || attempt == TRIES {
                let (reason, detail) = if grew {
                    (NoteReason::Remark, "it grew while it was read; what was there first is kept")
                } else {
                    (
                        NoteReason::Changing,
                        "it changed each time it was read: the copy may hold parts of several states",
                    )
                };
                recorder.note(self.relative, reason, detail.into());
                break;
            }
        }
        if let Some((entry, taken)) = last_try {
            let entry = Entry { state: None, ..entry };
            recorder.add(entry, Some(taken))?;
        }
        Ok(Recorded::Changing)
    }

    fn read(
        &self,
        before: &Metadata,
        options: &CaptureOptions,
        recorder: &mut dyn Recorder,
    ) -> Result<(Entry, Taken, bool), CaptureError> {
        let fail = |error| self.fail(error);
        let mut size = before.size();
        if is_line_log(self.name) && !options.raw {
            size = whole_records(&self.file, size).map_err(fail)?;
        }
        let sparse = segments(&self.file, before, size).map_err(fail)?;
        let ranges = sparse.clone().unwrap_or_else(|| vec![Segment { offset: 0, len: size }]);
        let expected: u64 = ranges.iter().map(|range| range.len).sum();
        let known = if sparse.is_none() && size == before.size() {
            recorder.take_compared(self.relative, &self.file).map_err(|error| error.at(self.path))?
        } else {
            None
        };
        let taken = match known {
            Some(taken) => taken,
            None => {
                let mut ranges = Ranges::new(&self.file, ranges);
                recorder.take(self.relative, &mut ranges).map_err(|error| error.at(self.path))?
            }
        };
        let complete = taken.bytes == expected;
        let mut entry = file_entry(self.name, before, self.path);
        // A file that shrank is kept as short as it was read.
        (entry.size, entry.segments) = if complete { (size, sparse) } else { (taken.bytes, None) };
        Ok((entry, taken, complete))
    }

    fn is_database(&self) -> bool {
        let mut start = [0u8; sqlite::MAGIC.len()];
        self.file.read_exact_at(&mut start, 0).is_ok() && &start == sqlite::MAGIC
    }

    fn fail(&self, error: io::Error) -> CaptureError {
        CaptureError::io("read", self.path, error)
    }
}
