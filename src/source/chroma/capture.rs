//! Captures a store so that its HNSW files and its database belong to one moment.
//!
//! The HNSW files must not change between the first byte read of them and the moment of the database. They are read
//! first, without a lock; then the database is held, what moved meanwhile is read again, the database is read, and the
//! HNSW files are looked at once more. Chroma 1.x rewrites them without holding the database, so the last look decides.

use super::layout::{DATABASE, INDEX_FILES, PICKLE, is_segment_name, vector_segments};
use crate::format::{Content, Entry, FileState, NoteReason};
use crate::hold::{Sidecars, open_directory, open_file};
use crate::source::interface::{
    Capture, CaptureError, CaptureOptions, Recorder, Retaken, SourceSpec, Taken, file_id, mtime_ns,
};
use crate::source::sqlite::{ByPosition, Database, Image};
use crate::source::tree::{Walk, directory_entry, file_entry, root_name};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Files touched more recently than this may be in the middle of being written.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_POLL: Duration = Duration::from_millis(10);
/// How long to wait for quiet before the hold, and how long to go on under it.
const QUIET_WAIT: Duration = Duration::from_secs(2);
const HOLD_LIMIT: Duration = Duration::from_secs(5);
/// How often to let go and try again when the files never come to rest.
const TRIES: u32 = 5;

type Names<T> = BTreeMap<Vec<u8>, T>;
/// The segment directories that the database knows; `None` where it can't be asked.
type Segments = HashSet<Vec<u8>>;

/// One file of a segment, as it was last seen.
struct SegmentFile {
    path: PathBuf,
    state: FileState,
    mtime_ns: i64,
    content: Kept,
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
    let mut segments: Names<Names<SegmentFile>> = BTreeMap::new();
    for attempt in 1..=TRIES {
        await_quiet(&store);
        look_again(&store, &mut segments, recorder, None)?;
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
    segments: &mut Names<Names<SegmentFile>>,
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
        if unchanged.is_some()
            && let Some(image) = database.unchanged(name, name, recorder)?
        {
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
    segments: &mut Names<Names<SegmentFile>>,
    recorder: &mut dyn Recorder,
    wanted: Option<&Segments>,
) -> Result<(), CaptureError> {
    let found = list_segments(store, wanted)?;
    segments.retain(|name, _| found.contains_key(name));
    for (segment, files) in found {
        let seen = segments.entry(segment.clone()).or_default();
        seen.retain(|name, _| files.contains_key(name));
        for (name, (path, metadata)) in files {
            let (state, mtime_ns) = (file_id(&metadata), mtime_ns(&metadata));
            let earlier = match seen.remove(&name) {
                Some(file) if file.state == state && file.mtime_ns == mtime_ns => {
                    seen.insert(name, file);
                    continue;
                }
                other => other,
            };
            let place = [segment.as_slice(), b"/", &name].concat();
            if let Some(content) = read_segment_file(&path, &place, state, mtime_ns, earlier, recorder)? {
                seen.insert(name, SegmentFile { path, state, mtime_ns, content });
            }
        }
    }
    Ok(())
}

/// `None` if the file has just gone away (`delete_collection`).
fn read_segment_file(
    path: &Path,
    place: &[u8],
    state: FileState,
    mtime_ns: i64,
    earlier: Option<SegmentFile>,
    recorder: &mut dyn Recorder,
) -> Result<Option<Kept>, CaptureError> {
    if let Some(parent) = recorder.parent(place)?
        && parent.proves(&state, mtime_ns)
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
fn moved(
    store: &Path,
    segments: &Names<Names<SegmentFile>>,
    wanted: Option<&Segments>,
) -> Result<bool, CaptureError> {
    let found = list_segments(store, wanted)?;
    let same = |(segment, files): (&Vec<u8>, &Names<(PathBuf, Metadata)>)| {
        segments.get(segment).is_some_and(|seen| {
            seen.len() == files.len()
                && files.iter().all(|(name, (_, metadata))| {
                    seen.get(name).is_some_and(|file| {
                        file.state == file_id(metadata) && file.mtime_ns == mtime_ns(metadata)
                    })
                })
        })
    };
    Ok(found.len() != segments.len() || !found.iter().all(same) || !is_quiet(store))
}

fn list_segments(
    store: &Path,
    wanted: Option<&Segments>,
) -> Result<Names<Names<(PathBuf, Metadata)>>, CaptureError> {
    let mut segments = BTreeMap::new();
    for item in read_directory(store)? {
        let name = item.file_name().into_vec();
        let is_wanted = is_segment_name(&name) && wanted.is_none_or(|wanted| wanted.contains(&name));
        if is_wanted && item.file_type().is_ok_and(|kind| kind.is_dir()) {
            let mut files = BTreeMap::new();
            for file in read_directory(&item.path())? {
                // A file may go away between being listed and being looked at.
                if let Ok(metadata) = file.metadata()
                    && metadata.is_file()
                {
                    files.insert(file.file_name().into_vec(), (file.path(), metadata));
                }
            }
            segments.insert(name, files);
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

/// No vector file was touched just now, and each pickle, which is written last, is as new as the files before it.
fn is_quiet(store: &Path) -> bool {
    let Ok(segments) = list_segments(store, None) else { return true };
    segments.values().all(|files| {
        let modified =
            |name: &str| files.get(name.as_bytes()).and_then(|(_, metadata)| metadata.modified().ok());
        let newest = INDEX_FILES.iter().filter_map(|name| modified(name)).max();
        let pickle = modified(PICKLE);
        let recent = |time: SystemTime| SystemTime::now().duration_since(time).is_ok_and(|age| age < QUIET);
        let recently = newest.max(pickle).is_some_and(recent);
        let unfinished =
            pickle.is_some_and(|pickle| newest.is_some_and(|newest| pickle < newest && recent(newest)));
        !recently && !unfinished
    })
}

/// Hands over the entries in the order of their names.
fn emit(
    spec: &SourceSpec,
    store: &Path,
    options: &CaptureOptions,
    mut segments: Names<Names<SegmentFile>>,
    image: Image,
    wanted: Option<&Segments>,
    recorder: &mut dyn Recorder,
) -> Result<Capture, CaptureError> {
    let fail = |error| CaptureError::io("read", store, error);
    let metadata = fs::metadata(store).map_err(fail)?;
    let directory = open_directory(store).map_err(fail)?;
    let mut names: Vec<Vec<u8>> =
        read_directory(store)?.into_iter().map(|item| item.file_name().into_vec()).collect();
    names.sort_unstable();
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
        } else if let Some(files) = segments.remove(&name) {
            emit_segment(store, &name, files, recorder)?;
        } else if let Some(reason) = reason_to_skip(&name, wanted) {
            recorder.note(&name, NoteReason::Excluded, reason.into());
        } else {
            // Files of others beside the store don't weaken what is said of the store.
            Walk::new(spec, options, recorder)?.below(&directory, &name, &mut HashSet::new())?;
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
    files: Names<SegmentFile>,
    recorder: &mut dyn Recorder,
) -> Result<(), CaptureError> {
    let path = store.join(std::ffi::OsStr::from_bytes(segment));
    let Ok(metadata) = fs::metadata(&path) else {
        recorder.note(
            segment,
            NoteReason::Vanished,
            "the collection was deleted after it had been captured".into(),
        );
        return Ok(());
    };
    recorder.enter(segment)?;
    for (name, file) in files {
        let (taken, content, size) = match file.content {
            Kept::Parent(content, size) => (None, content, size),
            Kept::Taken(taken) => (Some(taken.clone()), Content::Empty, taken.bytes),
            Kept::Retaken(retaken) => {
                let taken = recorder.settle(retaken)?;
                (Some(taken.clone()), Content::Empty, taken.bytes)
            }
        };
        let now = fs::metadata(&file.path).unwrap_or_else(|_| metadata.clone());
        let (state, mtime_ns) = (Some(file.state), file.mtime_ns);
        let entry = Entry { state, mtime_ns, size, content, ..file_entry(&name, &now, &file.path) };
        recorder.add(entry, taken)?;
    }
    recorder.leave(directory_entry(segment, &metadata, &path))
}
