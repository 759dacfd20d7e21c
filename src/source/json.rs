//! A JSON file: read until it parses and reads the same twice.

use crate::format::{Consistency, NoteReason};
use crate::hold::open_file;
use crate::id::{Id, IdHasher};
use crate::source::attributes::file_entry;
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, JudgeOptions, Judgement, ReadAt, Recorder, SourceSpec, file_id,
    mtime_ns,
};
use serde::de::IgnoredAny;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Duration;

const TRIES: u32 = 10;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Captures a source that is one JSON file.
pub fn capture(
    spec: &SourceSpec,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let path = spec.read_path();
    let fail = |error| CaptureError::io("read", path, error);
    let metadata = fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(CaptureError::WrongKind { path: path.to_owned(), expected: "file" });
    }
    let name = spec.entry_name();
    let consistency = if options.cold { Consistency::Cold } else { Consistency::Optimistic };
    if let Some(seen) = recorder.parent(b"")?
        && seen.proves(&file_id(&metadata), mtime_ns(&metadata))
    {
        let mut entry = file_entry(&name, &metadata, path);
        (entry.size, entry.content) = (seen.entry.size, seen.entry.content);
        recorder.add(entry, None)?;
        return Ok(Capture::unheld(consistency));
    }
    let mut invalid = None;
    for _ in 0..TRIES {
        // Opened anew each time: an application that replaces the file leaves the old one behind.
        let (first, problem) = parse(path).map_err(fail)?;
        let file = open_file(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let mut second = Digest { inner: file, hasher: IdHasher::default() };
        if let Some(problem) = problem {
            invalid = Some(problem);
        } else {
            invalid = None;
            let taken = recorder.take(b"", &mut second).map_err(|error| error.at(path))?;
            if second.finish() == first {
                let mut entry = file_entry(&name, &metadata, path);
                entry.size = taken.bytes;
                recorder.add(entry, Some(taken))?;
                return Ok(Capture::unheld(consistency));
            }
        }
        std::thread::sleep(RETRY_PAUSE);
    }
    match invalid {
        Some(detail) => Err(CaptureError::InvalidJson { path: path.to_owned(), detail }),
        None => {
            let detail = format!("{TRIES} times it read differently the second time");
            recorder.note(b"", NoteReason::Remark, detail.clone());
            Err(CaptureError::KeptChanging { path: path.to_owned(), detail })
        }
    }
}

/// Parses the file without keeping it, and returns what `Digest::finish` of its bytes is.
fn parse(path: &Path) -> io::Result<(Id, Option<String>)> {
    let mut reader = BufReader::new(Digest { inner: open_file(path)?, hasher: IdHasher::default() });
    let problem = problem_of(&mut reader)?;
    io::copy(&mut reader, &mut io::sink())?;
    Ok((reader.into_inner().finish(), problem))
}

fn problem_of(reader: &mut dyn Read) -> io::Result<Option<String>> {
    let parsed: Result<IgnoredAny, serde_json::Error> = serde_json::from_reader(reader);
    match parsed {
        Ok(_) => Ok(None),
        Err(error) if error.is_io() => Err(error.into()),
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// Hashes what passes through, to compare two readings.
struct Digest<R> {
    inner: R,
    hasher: IdHasher,
}

impl<R> Digest<R> {
    fn finish(&self) -> Id {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Digest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Judges a stored JSON file: it parses.
pub fn judge(
    judgement: &mut Judgement,
    source: &str,
    file: &dyn ReadAt,
    _options: &JudgeOptions<'_>,
) -> io::Result<()> {
    let mut reader = BufReader::new(Sequential { file, at: 0 });
    if let Some(problem) = problem_of(&mut reader)? {
        judgement.error(source, "invalid_json", b"", problem);
    }
    Ok(())
}

struct Sequential<'f> {
    file: &'f dyn ReadAt,
    at: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (self.file.size() - self.at).min(buffer.len() as u64) as usize;
        let part = buffer.get_mut(..count).unwrap_or_default();
        self.file.read_exact_at(part, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
