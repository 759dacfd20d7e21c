//! The vector files of a store: read before the hold, read again or cloned under it where they moved, recorded after it.

use super::listing::{Listing, Names, QUIET, Wanted, is_recent, is_same};
use crate::format::{Content, Entry};
use crate::hold::{CloneSpace, open_file};
use crate::source::attributes::{directory_entry, file_entry};
use crate::source::interface::{CaptureError, GoOn, Recorder, Retaken, Taken, file_id, mtime_ns};
use crate::source::sqlite::ByPosition;
use crate::source::stat::Stat;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// All segments, as they were last seen.
#[derive(Default)]
pub struct Segments(Names<Segment>);

/// A segment's directory with its files, as they were last seen.
struct Segment {
    metadata: Metadata,
    files: Names<SegmentFile>,
}

/// One file of a segment, as it was last seen.
struct SegmentFile {
    path: PathBuf,
    /// Below the store.
    place: Vec<u8>,
    metadata: Metadata,
    /// It had been touched so shortly before it was read that a further change might not show.
    racy: bool,
    content: Kept,
}

/// Where a file's content is.
enum Kept {
    /// The parent snapshot has it.
    Parent(Content, u64),
    Taken(Taken),
    /// Read under a hold, and what it was compared with.
    Retaken {
        base: Option<Taken>,
        retaken: Retaken,
    },
    /// Cloned under a hold.
    Clone(File),
}

/// How files are read now.
#[derive(Clone, Copy)]
pub enum Reading<'r> {
    /// Writers go on meanwhile, so there is time.
    Unheld,
    /// Writers wait: nothing is encoded.
    Held { clones: Option<&'r CloneSpace>, go_on: GoOn<'r> },
}

impl SegmentFile {
    fn is_still(&self, metadata: &Metadata) -> bool {
        !self.racy && is_same(&self.metadata, metadata)
    }
}

impl Segments {
    /// Reads every file that is new or has moved since it was last seen, and forgets those that are gone.
    pub fn look_again(
        &mut self,
        listing: Listing,
        reading: Reading<'_>,
        recorder: &mut dyn Recorder,
    ) -> Result<(), CaptureError> {
        self.0.retain(|name, _| listing.0.contains_key(name));
        for (segment, listed) in listing.0 {
            let new = || Segment { metadata: listed.metadata.clone(), files: BTreeMap::new() };
            let seen = self.0.entry(segment.clone()).or_insert_with(new);
            seen.metadata = listed.metadata.clone();
            seen.files.retain(|name, _| listed.files.contains_key(name));
            for (name, (path, metadata)) in listed.files {
                if seen.files.get(&name).is_some_and(|file| file.is_still(&metadata)) {
                    continue;
                }
                let earlier = seen.files.remove(&name).map(|file| file.content);
                let place = [segment.as_slice(), b"/", &name].concat();
                let racy = is_recent(&metadata, QUIET);
                if let Some(content) = read_file(&path, &place, &metadata, earlier, reading, recorder)? {
                    seen.files.insert(name, SegmentFile { path, place, metadata, racy, content });
                }
            }
        }
        Ok(())
    }

    /// A file has another size than when it was read, but its old times: somebody is truncating it at this moment, and
    /// its times come later (seen on ext4 for up to 8 ms).
    pub fn is_in_motion(&self, listing: &Listing) -> bool {
        self.0.iter().any(|(name, seen)| {
            listing.0.get(name).is_some_and(|now| {
                seen.files.iter().any(|(name, file)| {
                    now.files.get(name).is_some_and(|(_, metadata)| {
                        let (seen, now) = (file_id(&file.metadata), file_id(metadata));
                        let same_times =
                            mtime_ns(&file.metadata) == mtime_ns(metadata) && seen.ctime_ns == now.ctime_ns;
                        same_times && seen.ino == now.ino && seen.size != now.size
                    })
                })
            })
        })
    }

    /// Something is no longer as it was when it was read, or is being written.
    pub fn moved(&self, store: &Path, wanted: Option<&Wanted>) -> Result<bool, CaptureError> {
        let now = Listing::of(store, wanted)?;
        let same = self.0.len() == now.0.len()
            && self.0.iter().all(|(name, seen)| {
                now.0.get(name).is_some_and(|now| {
                    let still = |(name, file): (&Vec<u8>, &SegmentFile)| {
                        now.files.get(name).is_some_and(|(_, metadata)| file.is_still(metadata))
                    };
                    seen.files.len() == now.files.len() && seen.files.iter().all(still)
                })
            });
        Ok(!same || !now.is_quiet())
    }

    /// Hashes and stores what was read so far, so that nothing of it has to be waited for under a hold.
    pub fn settle(&mut self, recorder: &mut dyn Recorder) -> Result<(), CaptureError> {
        for file in self.0.values_mut().flat_map(|segment| segment.files.values_mut()) {
            let kept = std::mem::replace(&mut file.content, Kept::Parent(Content::Empty, 0));
            file.content = kept.settled(&file.path, &file.place, recorder)?;
            if let Kept::Taken(taken) = &file.content {
                recorder.await_stored(taken)?;
            }
        }
        Ok(())
    }

    /// The names of the segment directories.
    pub fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.0.keys()
    }

    /// Hands over one segment's directory, if there is one of that name.
    pub fn record(
        &mut self,
        store: &Path,
        name: &[u8],
        recorder: &mut dyn Recorder,
    ) -> Result<bool, CaptureError> {
        let Some(segment) = self.0.remove(name) else { return Ok(false) };
        let path = store.join(OsStr::from_bytes(name));
        recorder.enter(name)?;
        for (name, file) in segment.files {
            let (taken, content, size) = match file.content.settled(&file.path, &file.place, recorder)? {
                Kept::Parent(content, size) => (None, content, size),
                Kept::Taken(taken) => (Some(taken.clone()), Content::Empty, taken.bytes),
                Kept::Retaken { .. } | Kept::Clone(_) => continue,
            };
            let entry = Entry { size, content, ..file_entry(&name, &file.metadata, &file.path) };
            recorder.add(entry, taken)?;
        }
        recorder.leave(directory_entry(name, &Stat::from(&segment.metadata), &path))?;
        Ok(true)
    }
}

impl Kept {
    /// With nothing left to be read or encoded: the parent's, or taken.
    fn settled(self, path: &Path, place: &[u8], recorder: &mut dyn Recorder) -> Result<Self, CaptureError> {
        Ok(match self {
            Self::Retaken { retaken, .. } => Self::Taken(recorder.settle(place, retaken)?),
            Self::Clone(file) => {
                let taken = recorder.take(place, &mut ByPosition::new(&file));
                Self::Taken(taken.map_err(|error| error.at(path))?)
            }
            other => other,
        })
    }
}

/// `None` if the file has just gone away (`delete_collection`).
fn read_file(
    path: &Path,
    place: &[u8],
    metadata: &Metadata,
    earlier: Option<Kept>,
    reading: Reading<'_>,
    recorder: &mut dyn Recorder,
) -> Result<Option<Kept>, CaptureError> {
    let base = match earlier {
        Some(Kept::Taken(taken)) => Some(taken),
        Some(Kept::Retaken { base, retaken }) => {
            recorder.discard(retaken);
            base
        }
        _ => None,
    };
    // What moved since the rehearsal can't be the parent's; asking the repository would let writers wait for it.
    if matches!(reading, Reading::Unheld)
        && let Some(parent) = recorder.parent(place)?
        && parent.proves(&file_id(metadata), mtime_ns(metadata))
    {
        return Ok(Some(Kept::Parent(parent.entry.content, parent.entry.size)));
    }
    let file = match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| CaptureError::io("open", path, error))?,
    };
    let at = |error: CaptureError| error.at(path);
    Ok(Some(match (reading, base) {
        (Reading::Unheld, None) => {
            Kept::Taken(recorder.take(place, &mut ByPosition::new(&file)).map_err(at)?)
        }
        (Reading::Unheld, Some(base)) => {
            let retaken = recorder.retake(Some(&base), &file, &|| true).map_err(at)?;
            Kept::Taken(recorder.settle(place, retaken)?)
        }
        (Reading::Held { clones, go_on }, base) => {
            match clones.and_then(|clones| clones.clone_of(&file).ok()) {
                Some(clone) => Kept::Clone(clone),
                None => {
                    let retaken = recorder.retake(base.as_ref(), &file, go_on).map_err(at)?;
                    Kept::Retaken { base, retaken }
                }
            }
        }
    }))
}
