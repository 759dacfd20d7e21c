//! Hard links: entries of a source that are one file, and files that have names elsewhere.

use crate::format::{Entry, Link};
use nix::sys::stat::FileStat;
use std::collections::HashMap;

/// A file's device and inode.
pub type Inode = (u64, u64);

/// The first name of a group in the order of the snapshot, and the file that lies there now and will stay.
struct First {
    path: Vec<u8>,
    inode: Option<Inode>,
}

/// The groups of hard links that a walk has come across.
#[derive(Default)]
pub struct HardLinks {
    groups: HashMap<Inode, First>,
}

impl HardLinks {
    /// The name of the same file that came before this one; if none did, this is the first, and `inode` what will be kept
    /// there.
    pub fn first_of(&mut self, entry: &Entry, path: &[u8], inode: Option<Inode>) -> Option<Vec<u8>> {
        let Link { dev, ino, .. } = entry.link?;
        if let Some(first) = self.groups.get(&(dev, ino)) {
            return Some(first.path.clone());
        }
        self.groups.insert((dev, ino), First { path: path.to_owned(), inode });
        None
    }

    /// What lies at the first name of the same file.
    pub fn inode_of_first(&self, entry: &Entry) -> Option<Inode> {
        let Link { dev, ino, .. } = entry.link?;
        self.groups.get(&(dev, ino))?.inode
    }

    /// The file has more names than the snapshot's, or shares them with another group of it: written in place it would
    /// change under these too.
    pub fn has_other_names(&self, present: &FileStat, entry: &Entry) -> bool {
        if present.st_nlink < 2 {
            return false;
        }
        let Some(link) = entry.link else { return true };
        self.inode_of_first(entry) != Some((present.st_dev, present.st_ino)) && present.st_nlink > link.count
    }
}
