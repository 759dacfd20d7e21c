//! Hard links: entries of a source that are one file, and files that have names elsewhere.

use super::target::join;
use crate::format::{Entry, EntryKind, Link};
use crate::repository::{Repository, RepositoryError};
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
}

/// The paths of each hard-linked file below a root, by what the snapshot knows it as.
pub fn names_of_links(
    repository: &Repository,
    root: &Entry,
) -> Result<HashMap<Inode, Vec<Vec<u8>>>, RepositoryError> {
    let mut found: HashMap<Inode, Vec<Vec<u8>>> = HashMap::new();
    let mut waiting = vec![(Vec::new(), root.clone())];
    while let Some((path, entry)) = waiting.pop() {
        if let Some(link) = entry.link {
            found.entry((link.dev, link.ino)).or_default().push(path.clone());
        }
        if entry.kind == EntryKind::Directory {
            let below = repository.entries(&entry.content)?;
            waiting.extend(below.into_iter().map(|entry| (join(&path, &entry.name), entry)));
        }
    }
    Ok(found)
}
