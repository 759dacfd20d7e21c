//! Captures a store so that its HNSW files and its database belong to one moment.
//!
//! The HNSW files must not change between the first byte read of them and the moment of the database. They are read
//! first, without a lock; then the database is held, what moved meanwhile is read again, the database is read, and the
//! HNSW files are looked at once more. Chroma 1.x rewrites them without holding the database, so the last look decides.

use super::layout::{DATABASE, INDEX_FILES, PICKLE, is_segment_name, vector_segments};
use crate::format::{Content, Entry, NoteReason};
use crate::hold::{Sidecars, open_directory, open_file};
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, Recorder, Retaken, SourceSpec, Taken, file_id, mtime_ns,
};
use crate::source::sqlite::{ByPosition, Database, Image};
use crate::source::tree::{Walk, directory_entry, file_entry, root_name};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Files touched more recently than this may be in the middle of being written.
const QUIET: Duration = Duration::from_millis(50);
/// A persist whose pickle isn't written yet goes on at most this long after its last write.
const IN_FLIGHT: Duration = Duration::from_secs(2);
const QUIET_POLL: Duration = Duration::from_millis(10);
/// How long to wait for quiet before the hold, and how long to go on under it.
const QUIET_WAIT: Duration = Duration::from_secs(3);
const HOLD_LIMIT: Duration = Duration::from_secs(5);
/// How often to let go and try again when the files never come to rest.
const TRIES: u32 = 5;

type Names<T> = BTreeMap<Vec<u8>, T>;
/// The segment directories that the database knows; `None` where it can't be asked.
type Segments = HashSet<Vec<u8>>;

/// A segment's directory with its files, as they were last seen.
struct Segment {
    metadata: Metadata,
    files: Names<SegmentFile>,
}

/// One file of a segment, as it was last seen.
struct SegmentFile {
    path: PathBuf,
    metadata: Metadata,
    /// It had been touched so shortly before it was read that a further change might not show.
    racy: bool,
    content: Kept,
}

impl SegmentFile {
    /// It is, by all that `stat` tells, the file that was read.
    fn is_still(&self, metadata: &Metadata) -> bool {
        let same =
            file_id(&self.metadata) == file_id(metadata) && mtime_ns(&self.metadata) == mtime_ns(metadata);
        same && !self.racy
    }
}

/// Where a file's content is.
enum Kept {
    /// The parent snapshot has it.
    Parent(Content, u64),
    Taken(Taken),
    Retaken(Retaken),
}

/// Captures a source that is a Chroma store.
pub fn capture(
    spec: &SourceSpec,
    options: &CaptureOptions,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let store =
        fs::canonicalize(&spec.path).map_err(|error| CaptureError::io("resolve", &spec.path, error))?;
    let path = store.join(DATABASE);
    if !path.is_file() {
        return Err(CaptureError::Missing { path });
    }
    let database = Database::new(&path, options)?;
    let mut segments: Names<Segment> = BTreeMap::new();
    for attempt in 1..=TRIES {
        await_quiet(&store);
        look_again(&store, &mut segments, recorder, None)?;
        await_stored(&segments, recorder)?;
        if let Some((image, wanted)) = hold_once(&store, &database, &mut segments, recorder)? {
            return emit(spec, &store, options, segments, image, wanted.as_ref(), recorder);
        }
        std::thread::sleep(QUIET * attempt);
    }
    let detail = format!("its vector files were rewritten during each of {TRIES} captures");
    Err(CaptureError::KeptChanging { path: store, detail })
}

/// One hold: `None` if the vector files did not come to rest, or no lock holds and the database moved.
fn hold_once(
    store: &Path,
    database: &Database<'_>,
    segments: &mut Names<Segment>,
    recorder: &mut dyn Recorder,
) -> Result<Option<(Image, Option<Segments>)>, CaptureError> {
    let name = DATABASE.as_bytes();
    let unchanged = database.unchanged(name, name, recorder)?;
    let rehearsal = if unchanged.is_some() { None } else { database.rehearse(recorder)? };
    let mut held = database.hold()?;
    let since = Instant::now();
    let wanted = if held.excludes_writers() { vector_segments(&store.join(DATABASE)).ok() } else { None };
    while since.elapsed() < HOLD_LIMIT {
        look_again(store, segments, recorder, wanted.as_ref())?;
        if !is_quiet(store) {
            std::thread::sleep(QUIET_POLL);
            continue;
        }
        // Nothing can have been committed if the marks are, under the hold, still the parent's.
        if unchanged.is_some() {
            let Some(image) = database.unchanged(name, name, recorder)? else { return Ok(None) };
            if moved(store, segments, wanted.as_ref())? {
                continue;
            }
            drop(held);
            return Ok(Some((image, wanted)));
        }
        let Some(unsettled) = held.read(rehearsal.as_ref(), recorder)? else { return Ok(None) };
        if moved(store, segments, wanted.as_ref())? {
            continue;
        }
        let unsettled = held.release(unsettled);
        return Ok(Some((database.settle(name, unsettled, recorder)?, wanted)));
    }
    Ok(None)
}

/// Reads every segment file that is new or has moved since it was last seen, and forgets those that are gone.
fn look_again(
    store: &Path,
    segments: &mut Names<Segment>,
    recorder: &mut dyn Recorder,
    wanted: Option<&Segments>,
) -> Result<(), CaptureError> {
    let found = list_segments(store, wanted)?;
    segments.retain(|name, _| found.contains_key(name));
    for (segment, (directory, files)) in found {
        let new = || Segment { metadata: directory.clone(), files: BTreeMap::new() };
        let seen = segments.entry(segment.clone()).or_insert_with(new);
        seen.metadata = directory.clone();
        seen.files.retain(|name, _| files.contains_key(name));
        for (name, (path, metadata)) in files {
            if seen.files.get(&name).is_some_and(|file| file.is_still(&metadata)) {
                continue;
            }
            let earlier = seen.files.remove(&name);
            let place = [segment.as_slice(), b"/", &name].concat();
            let racy = is_recent(&metadata, QUIET);
            if let Some(content) = read_segment_file(&path, &place, &metadata, earlier, recorder)? {
                seen.files.insert(name, SegmentFile { path, metadata, racy, content });
            }
        }
    }
    Ok(())
}

/// What was read before the hold is hashed and stored before the hold, too.
fn await_stored(segments: &Names<Segment>, recorder: &mut dyn Recorder) -> Result<(), CaptureError> {
    for file in segments.values().flat_map(|segment| segment.files.values()) {
        if let Kept::Taken(taken) = &file.content {
            recorder.await_stored(taken)?;
        }
    }
    Ok(())
}

/// `None` if the file has just gone away (`delete_collection`).
fn read_segment_file(
    path: &Path,
    place: &[u8],
    metadata: &Metadata,
    earlier: Option<SegmentFile>,
    recorder: &mut dyn Recorder,
) -> Result<Option<Kept>, CaptureError> {
    if let Some(parent) = recorder.parent(place)?
        && parent.proves(&file_id(metadata), mtime_ns(metadata))
    {
        return Ok(Some(Kept::Parent(parent.entry.content, parent.entry.size)));
    }
    let file = match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| CaptureError::io("open", path, error))?,
    };
    let mut reader = ByPosition::new(&file);
    let at = |error: CaptureError| error.at(path);
    Ok(Some(match earlier.map(|file| file.content) {
        Some(Kept::Taken(taken)) => Kept::Retaken(recorder.retake(&taken, &mut reader).map_err(at)?),
        Some(Kept::Retaken(retaken)) => {
            let taken = recorder.settle(retaken)?;
            Kept::Retaken(recorder.retake(&taken, &mut reader).map_err(at)?)
        }
        _ => Kept::Taken(recorder.take(&mut reader).map_err(at)?),
    }))
}

/// Something is no longer as it was when it was read.
fn moved(store: &Path, segments: &Names<Segment>, wanted: Option<&Segments>) -> Result<bool, CaptureError> {
    let found = list_segments(store, wanted)?;
    let same = |(name, (_, files)): (&Vec<u8>, &Listed)| {
        segments.get(name).is_some_and(|seen| {
            let still = |(name, (_, metadata)): (&Vec<u8>, &(PathBuf, Metadata))| {
                seen.files.get(name).is_some_and(|file| file.is_still(metadata))
            };
            seen.files.len() == files.len() && files.iter().all(still)
        })
    };
    Ok(found.len() != segments.len() || !found.iter().all(same) || !is_quiet(store))
}

/// A segment directory that is there, and its files.
type Listed = (Metadata, Names<(PathBuf, Metadata)>);

fn list_segments(store: &Path, wanted: Option<&Segments>) -> Result<Names<Listed>, CaptureError> {
    let mut segments = BTreeMap::new();
    for item in read_directory(store)? {
        let name = item.file_name().into_vec();
        let is_wanted = is_segment_name(&name) && wanted.is_none_or(|wanted| wanted.contains(&name));
        // A directory may go away between being listed and being looked at.
        if is_wanted
            && let Ok(directory) = item.metadata()
            && directory.is_dir()
        {
            let mut files = BTreeMap::new();
            for file in read_directory(&item.path())? {
                // A file may go away between being listed and being looked at.
                if let Ok(metadata) = file.metadata()
                    && metadata.is_file()
                {
                    files.insert(file.file_name().into_vec(), (file.path(), metadata));
                }
            }
            segments.insert(name, (directory, files));
        }
    }
    Ok(segments)
}

fn read_directory(path: &Path) -> Result<Vec<DirEntry>, CaptureError> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let listing = other.map_err(|error| CaptureError::io("list", path, error))?;
            listing.collect::<io::Result<_>>().map_err(|error| CaptureError::io("list", path, error))
        }
    }
}

fn await_quiet(store: &Path) {
    let started = Instant::now();
    while !is_quiet(store) && started.elapsed() < QUIET_WAIT {
        std::thread::sleep(QUIET_POLL);
    }
}

/// Touched less than `age` ago.
fn is_recent(metadata: &Metadata, age: Duration) -> bool {
    let since = |time: SystemTime| SystemTime::now().duration_since(time);
    metadata.modified().is_ok_and(|time| since(time).is_ok_and(|passed| passed < age))
}

/// No vector file was touched just now, and each pickle, which is written last, is as new as the files before it: a pickle
/// that is older belongs to a persist in flight, whose writer may pause for a while, or to one that died long ago.
fn is_quiet(store: &Path) -> bool {
    let Ok(segments) = list_segments(store, None) else { return true };
    segments.values().all(|(_, files)| {
        let index: Vec<&Metadata> = INDEX_FILES
            .iter()
            .filter_map(|name| files.get(name.as_bytes()))
            .map(|(_, metadata)| metadata)
            .collect();
        let pickle = files.get(PICKLE.as_bytes()).map(|(_, metadata)| metadata);
        let touched = index.iter().copied().chain(pickle).any(|metadata| is_recent(metadata, QUIET));
        let in_flight = pickle.is_some_and(|pickle| {
            index
                .iter()
                .any(|metadata| mtime_ns(metadata) > mtime_ns(pickle) && is_recent(metadata, IN_FLIGHT))
        });
        !touched && !in_flight
    })
}

/// Hands over the entries in the order of their names.
fn emit(
    spec: &SourceSpec,
    store: &Path,
    options: &CaptureOptions,
    mut segments: Names<Segment>,
    image: Image,
    wanted: Option<&Segments>,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let fail = |error| CaptureError::io("read", store, error);
    let metadata = fs::metadata(store).map_err(fail)?;
    let directory = open_directory(store).map_err(fail)?;
    // What was captured is kept, also if its directory has gone since (`delete_collection`).
    let mut names: BTreeSet<Vec<u8>> =
        read_directory(store)?.into_iter().map(|item| item.file_name().into_vec()).collect();
    names.extend(segments.keys().cloned());
    names.insert(DATABASE.as_bytes().to_vec());
    let mut databases = HashSet::new();
    let name = root_name(&spec.path);
    recorder.enter(&name)?;
    let mut image = Some(image);
    let mut capture = Capture::unheld(crate::format::Consistency::Locked);
    for name in names {
        if name == DATABASE.as_bytes() {
            if let Some(image) = image.take() {
                capture = capture.and(&image.capture);
                recorder.add(image.entry, image.taken)?;
            }
        } else if let Some(segment) = segments.remove(&name) {
            emit_segment(store, &name, segment, recorder)?;
        } else if let Some(reason) = reason_to_skip(&name, wanted) {
            recorder.note(&name, NoteReason::Excluded, reason.into());
        } else {
            // Files of others beside the store don't weaken what is said of the store.
            Walk::new(spec, options, recorder)?.below(&directory, &name, &mut databases)?;
        }
    }
    recorder.leave(directory_entry(&name, &metadata, store))?;
    Ok(capture)
}

fn reason_to_skip(name: &[u8], wanted: Option<&Segments>) -> Option<&'static str> {
    let is_sidecar = name
        .strip_prefix(DATABASE.as_bytes())
        .is_some_and(|suffix| Sidecars::SUFFIXES.iter().any(|known| known.as_bytes() == suffix));
    if is_sidecar {
        Some("part of the database beside it, whose settled image is kept")
    } else if is_segment_name(name) && wanted.is_some_and(|wanted| !wanted.contains(name)) {
        Some("a segment directory that belongs to no collection (left by delete_collection)")
    } else {
        None
    }
}

fn emit_segment(
    store: &Path,
    segment: &[u8],
    captured: Segment,
    recorder: &mut dyn Recorder,
) -> Result<(), CaptureError> {
    let path = store.join(std::ffi::OsStr::from_bytes(segment));
    recorder.enter(segment)?;
    for (name, file) in captured.files {
        let (taken, content, size) = match file.content {
            Kept::Parent(content, size) => (None, content, size),
            Kept::Taken(taken) => (Some(taken.clone()), Content::Empty, taken.bytes),
            Kept::Retaken(retaken) => {
                let taken = recorder.settle(retaken)?;
                (Some(taken.clone()), Content::Empty, taken.bytes)
            }
        };
        let entry = Entry { size, content, ..file_entry(&name, &file.metadata, &file.path) };
        recorder.add(entry, taken)?;
    }
    recorder.leave(directory_entry(segment, &captured.metadata, &path))
}
