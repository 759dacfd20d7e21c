//! A restored source on disk, for its judge.

use crate::format::Entry;
use crate::repository::Repository;
use crate::source::{ReadAt, StoredFiles};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A longer path isn't given to SQLite.
const LONGEST_PATH: usize = 400;

/// What was restored at `target`: names and kinds by the snapshot, bytes by the disk.
pub struct PlacedFiles<'r> {
    pub repository: &'r Repository,
    pub root: Entry,
    pub target: PathBuf,
}

impl StoredFiles for PlacedFiles<'_> {
    fn root(&self) -> &Entry {
        &self.root
    }

    fn list(&self, directory: &Entry) -> io::Result<Vec<Entry>> {
        self.repository.entries(&directory.content).map_err(io::Error::other)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn ReadAt + '_>> {
        let path =
            if path.is_empty() { self.target.clone() } else { self.target.join(OsStr::from_bytes(path)) };
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        Ok(Box::new(OnDisk { file, size, path }))
    }
}

struct OnDisk {
    file: File,
    size: u64,
    path: PathBuf,
}

impl ReadAt for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn on_disk(&self) -> Option<&Path> {
        // SQLite takes paths of 512 bytes at most, and names them in URIs, which are text.
        let fits = self.path.as_os_str().len() < LONGEST_PATH && self.path.to_str().is_some();
        fits.then_some(self.path.as_path())
    }
}
