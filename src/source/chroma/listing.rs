//! The segment directories of a store as `stat` tells them at one moment, and whether somebody is writing them.

use super::layout::{INDEX_FILES, PICKLE, is_segment_name};
use crate::source::interface::{CaptureError, file_id, mtime_ns};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Files touched more recently than this may be in the middle of being written.
pub const QUIET: Duration = Duration::from_millis(50);
/// A persist whose pickle isn't written yet goes on at most this long after its last write.
const IN_FLIGHT: Duration = Duration::from_secs(2);
pub const QUIET_POLL: Duration = Duration::from_millis(10);

pub type Names<T> = BTreeMap<Vec<u8>, T>;
/// The segment directories that the database knows.
pub type Wanted = HashSet<Vec<u8>>;

/// A segment directory that is there, and its files.
pub struct Listed {
    pub metadata: Metadata,
    pub files: Names<(PathBuf, Metadata)>,
}

/// All segment directories of a store, or those that are wanted.
pub struct Listing(pub Names<Listed>);

impl Listing {
    /// Looks at the store. What goes away between being listed and being looked at isn't there.
    pub fn of(store: &Path, wanted: Option<&Wanted>) -> Result<Self, CaptureError> {
        let mut segments = BTreeMap::new();
        for item in read_directory(store)? {
            let name = item.file_name().into_vec();
            let is_wanted = is_segment_name(&name) && wanted.is_none_or(|wanted| wanted.contains(&name));
            if is_wanted
                && let Ok(metadata) = item.metadata()
                && metadata.is_dir()
            {
                let mut files = BTreeMap::new();
                for file in read_directory(&item.path())? {
                    if let Ok(metadata) = file.metadata()
                        && metadata.is_file()
                    {
                        files.insert(file.file_name().into_vec(), (file.path(), metadata));
                    }
                }
                segments.insert(name, Listed { metadata, files });
            }
        }
        Ok(Self(segments))
    }

    /// No vector file was touched just now, and each pickle, which is written last, is as new as the files before it: a
    /// pickle that is older belongs to a persist in flight, whose writer may pause for a while, or to one that died long
    /// ago.
    pub fn is_quiet(&self) -> bool {
        self.0.values().all(|segment| {
            let index: Vec<&Metadata> =
                INDEX_FILES.iter().filter_map(|name| segment.metadata_of(name)).collect();
            let pickle = segment.metadata_of(PICKLE);
            let touched = index.iter().copied().chain(pickle).any(|metadata| is_recent(metadata, QUIET));
            let in_flight = pickle.is_some_and(|pickle| {
                index
                    .iter()
                    .any(|metadata| mtime_ns(metadata) > mtime_ns(pickle) && is_recent(metadata, IN_FLIGHT))
            });
            !touched && !in_flight
        })
    }

    /// The same files, and by all that `stat` tells none was written since.
    pub fn is_as(&self, other: &Self) -> bool {
        let same = |(name, segment): (&Vec<u8>, &Listed)| {
            other.0.get(name).is_some_and(|other| {
                let still = |(name, (_, metadata)): (&Vec<u8>, &(PathBuf, Metadata))| {
                    other.files.get(name).is_some_and(|(_, other)| is_same(metadata, other))
                };
                segment.files.len() == other.files.len() && segment.files.iter().all(still)
            })
        };
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }
}

impl Listed {
    fn metadata_of(&self, name: &str) -> Option<&Metadata> {
        self.files.get(name.as_bytes()).map(|(_, metadata)| metadata)
    }
}

/// By identity, size and times it is the same file, and wasn't written between the two looks.
pub fn is_same(one: &Metadata, other: &Metadata) -> bool {
    file_id(one) == file_id(other) && mtime_ns(one) == mtime_ns(other)
}

/// Touched less than `age` ago.
pub fn is_recent(metadata: &Metadata, age: Duration) -> bool {
    let since = |time: SystemTime| SystemTime::now().duration_since(time);
    metadata.modified().is_ok_and(|time| since(time).is_ok_and(|passed| passed < age))
}

/// Waits up to `patience` until nobody writes vector files.
pub fn await_quiet(
    store: &Path,
    patience: Duration,
    check: &dyn Fn() -> Result<(), CaptureError>,
) -> Result<(), CaptureError> {
    let started = Instant::now();
    while !Listing::of(store, None)?.is_quiet() && started.elapsed() < patience {
        check()?;
        std::thread::sleep(QUIET_POLL);
    }
    Ok(())
}

/// What a directory holds; nothing if it has just gone.
pub fn read_directory(path: &Path) -> Result<Vec<DirEntry>, CaptureError> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let listing = other.map_err(|error| CaptureError::io("list", path, error))?;
            listing.collect::<io::Result<_>>().map_err(|error| CaptureError::io("list", path, error))
        }
    }
}
