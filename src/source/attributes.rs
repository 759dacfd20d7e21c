//! What the file system keeps about a file beside its bytes.

use crate::format::{Captured, Entry, EntryKind};
use crate::source::stat::Stat;
use std::ffi::CString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Attributes that the kernel makes up, or that belong to a file's place rather than to the file.
const SKIPPED: [&[u8]; 2] = [b"system.nfs4_acl", b"btrfs.compression"];

/// The extended attributes of what `path` leads to, sorted by name; POSIX ACLs are among them as
/// `system.posix_acl_access` and `system.posix_acl_default`. Attributes that can't be read are left out.
pub fn attributes_of(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    read_all(path, true)
}

/// As `attributes_of`, but of a symlink itself.
pub fn own_attributes_of(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    read_all(path, false)
}

fn read_all(path: &Path, follow: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Vec::new() };
    let list = |buffer: &mut [u8]| {
        if follow { rustix::fs::listxattr(&*path, buffer) } else { rustix::fs::llistxattr(&*path, buffer) }
    };
    let Some(names) = sized(list) else { return Vec::new() };
    let mut attributes: Vec<(Vec<u8>, Vec<u8>)> = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !SKIPPED.contains(name))
        .filter_map(|name| {
            let key = CString::new(name).ok()?;
            let value = sized(|buffer| {
                if follow {
                    rustix::fs::getxattr(&*path, &*key, buffer)
                } else {
                    rustix::fs::lgetxattr(&*path, &*key, buffer)
                }
            })?;
            Some((name.to_owned(), value))
        })
        .collect();
    attributes.sort();
    attributes
}

/// Most files have few and short attributes, or none; 64 KiB is the kernel's limit for a value and for a list of names.
const BUFFER_BYTES: [usize; 2] = [256, 64 << 10];

fn sized(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Option<Vec<u8>> {
    for size in BUFFER_BYTES {
        let mut buffer = vec![0; size];
        match ask(&mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Some(buffer);
            }
            Err(rustix::io::Errno::RANGE) => {}
            Err(_) => return None,
        }
    }
    None
}

/// An entry with what the file system tells: no size, no content, no attributes.
pub fn bare_entry(name: &[u8], stat: &Stat, kind: EntryKind) -> Entry {
    Entry {
        mode: stat.mode & 0o7777,
        uid: stat.uid,
        gid: stat.gid,
        mtime_ns: stat.mtime_ns,
        link: stat.link(kind == EntryKind::Directory),
        ..Entry::bare(name.to_owned(), kind)
    }
}

/// What was recorded of a regular file whose content and attributes are still the same.
pub fn still(before: &Entry, name: &[u8], stat: &Stat) -> Entry {
    Entry {
        size: before.size,
        state: Some(stat.state()),
        xattrs: before.xattrs.clone(),
        segments: before.segments.clone(),
        content: before.content.clone(),
        ..bare_entry(name, stat, EntryKind::File)
    }
}

/// `still` would make the same entry again.
pub fn is_told_by(before: &Entry, name: &[u8], stat: &Stat) -> bool {
    // All are named, so that a new one isn't forgotten; four are taken over.
    let Entry {
        name: its_name,
        kind,
        mode,
        uid,
        gid,
        mtime_ns,
        link,
        captured,
        state,
        target,
        rdev,
        size: _,
        xattrs: _,
        segments: _,
        content: _,
    } = before;
    (its_name.as_slice(), *kind, *mode) == (name, EntryKind::File, stat.mode & 0o7777)
        && (*uid, *gid, *mtime_ns) == (stat.uid, stat.gid, stat.mtime_ns)
        && (*state, *link) == (Some(stat.state()), stat.link(false))
        && (*captured, *rdev) == (Captured::Plain, 0)
        && target.is_empty()
}

/// The entry of a regular file that is captured as it lies; content follows. `path` serves to read attributes.
pub fn file_entry(name: &[u8], metadata: &Metadata, path: &Path) -> Entry {
    let stat = Stat::from(metadata);
    Entry {
        size: stat.size,
        state: Some(stat.state()),
        xattrs: attributes_of(path),
        ..bare_entry(name, &stat, EntryKind::File)
    }
}

/// The entry of a directory; its content follows.
pub fn directory_entry(name: &[u8], stat: &Stat, path: &Path) -> Entry {
    Entry { xattrs: attributes_of(path), ..bare_entry(name, stat, EntryKind::Directory) }
}

#[cfg(test)]
mod tests {
    use super::{is_told_by, still};
    use crate::format::{Captured, Entry, EntryKind, Link};
    use crate::source::stat::Stat;
    use proptest::prelude::proptest;

    proptest! {
        /// An entry is taken over as it is just where it would be made the same again.
        #[test]
        fn told_is_what_would_be_made_again(
            changes in 0u32..1 << 13, mode in 0u32..4, nlink in 1u64..3, odd in 0u8..5,
        ) {
            let stat = Stat {
                dev: 1, ino: 2, mode: 0o100_000 | mode, nlink, uid: 3, gid: 4, rdev: 0, size: 5, mtime_ns: 6, ctime_ns: 7,
            };
            let mut entry = still(&Entry::bare(b"a".to_vec(), EntryKind::File), b"a", &stat);
            entry.size = 5;
            // Most of the time a single change: one in many is easily overlooked among others.
            let changes = if odd > 0 { 1 << (changes % 13) } else { changes };
            let is_set = |bit: u32| changes >> bit & 1 == 1;
            for (bit, change) in [
                (|entry: &mut Entry| entry.name.push(b'b')) as fn(&mut Entry),
                |entry| entry.kind = EntryKind::Fifo,
                |entry| entry.mode ^= 1,
                |entry| entry.uid ^= 1,
                |entry| entry.gid ^= 1,
                |entry| entry.mtime_ns ^= 1,
                |entry| entry.captured = Captured::Sqlite,
                |entry| entry.state.iter_mut().for_each(|state| state.dev ^= 1),
                |entry| entry.state = None,
                |entry| entry.target.push(b'x'),
                |entry| entry.rdev = 1,
                |entry| entry.link = Some(Link { count: 9, dev: 1, ino: 2 }),
                |entry| entry.xattrs.push((b"user.a".to_vec(), Vec::new())),
            ].into_iter().enumerate() {
                if is_set(bit as u32) {
                    change(&mut entry);
                }
            }
            assert_eq!(is_told_by(&entry, b"a", &stat), still(&entry, b"a", &stat) == entry);
        }
    }
}
