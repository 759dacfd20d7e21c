//! An entry: one file, directory, symlink or special file of a source.

use super::chunk_ref::{ChunkRef, Root};
use super::error::FormatError;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl EntryKind {
    /// The kind that `st_mode` tells (`inode(7)`); `None` for one that Linux doesn't have.
    pub fn of_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Symlink),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            _ => None,
        }
    }

    const ALL: [(Self, u8); 7] = [
        (Self::File, 0),
        (Self::Directory, 1),
        (Self::Symlink, 2),
        (Self::Fifo, 3),
        (Self::Socket, 4),
        (Self::CharDevice, 5),
        (Self::BlockDevice, 6),
    ];

    fn byte(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == byte).map(|(kind, _)| *kind)
    }
}

/// Where an entry's content lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Content {
    /// Nothing: an empty file or directory, or an entry that has no content.
    #[default]
    Empty,
    /// A file of few chunks lists them here.
    Chunks(Vec<ChunkRef>),
    /// A longer file's chunk list, or a directory's entries.
    Sequence(Root),
}

impl Content {
    /// A file with at most this many chunks lists them in its entry.
    pub const INLINE_CHUNKS: usize = 4;
}

/// A run of bytes that a sparse file really has; between the runs are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub len: u64,
}

/// The file's identity and change marks when it was read, by which a later backup knows that it is unchanged
/// (with the entry's own mtime). Absent where the content isn't simply the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub ctime_ns: i64,
}

/// The hard links of a file: entries of a source with the same device and inode are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    pub count: u64,
    pub dev: u64,
    pub ino: u64,
}

/// How a file's bytes became its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Captured {
    /// Byte for byte.
    #[default]
    Plain,
    /// As an SQLite database: the last committed state, journal or log applied.
    Sqlite,
}

/// One file, directory, symlink or special file. Times are nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WireEntry", into = "WireEntry")]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: EntryKind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_ns: i64,
    /// Bytes of a file's content (a directory: 0; a symlink: its target's length).
    pub size: u64,
    /// Set where other names lead to the same file.
    pub link: Option<Link>,
    /// A file's content is a database's settled image, not its bytes as they lie.
    pub captured: Captured,
    pub state: Option<FileState>,
    /// Extended attributes (POSIX ACLs among them), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A symlink's target; empty otherwise.
    pub target: Vec<u8>,
    /// A device's number; 0 otherwise.
    pub rdev: u64,
    /// `None`: the content is the whole file. `Some`: it is these runs one after another, the rest are holes.
    pub segments: Option<Vec<Segment>>,
    pub content: Content,
}

impl Entry {
    /// One that says nothing but its name and what it is.
    pub fn bare(name: Vec<u8>, kind: EntryKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            size: 0,
            link: None,
            captured: Captured::Plain,
            state: None,
            xattrs: Vec::new(),
            target: Vec::new(),
            rdev: 0,
            segments: None,
            content: Content::Empty,
        }
    }

    /// The bytes that the content holds: all of a plain file, the runs of a sparse one.
    pub fn content_bytes(&self) -> u64 {
        match &self.segments {
            Some(segments) => segments.iter().map(|segment| segment.len).sum(),
            None => self.size,
        }
    }
}

/// The entry as CBOR holds it: a map with one-letter keys, absent keys meaning empty.
#[derive(Serialize, Deserialize)]
pub(super) struct WireEntry {
    #[serde(rename = "n")]
    pub name: ByteBuf,
    #[serde(rename = "k")]
    pub kind: u8,
    #[serde(rename = "m")]
    pub mode: u32,
    #[serde(rename = "u")]
    pub uid: u32,
    #[serde(rename = "g")]
    pub gid: u32,
    #[serde(rename = "t")]
    pub mtime_ns: i64,
    #[serde(rename = "z", default, skip_serializing_if = "is_zero")]
    pub size: u64,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub link: Option<(u64, u64, u64)>,
    #[serde(rename = "a", default, skip_serializing_if = "is_zero")]
    pub captured: u64,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub state: Option<(u64, u64, u64, i64)>,
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(ByteBuf, ByteBuf)>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteBuf>,
    #[serde(rename = "r", default, skip_serializing_if = "is_zero")]
    pub rdev: u64,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Vec<(u64, u64)>>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ByteBuf>,
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<ByteBuf>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        let (chunks, sequence) = match &entry.content {
            Content::Empty => (None, None),
            Content::Chunks(refs) => (Some(ByteBuf::from(ChunkRef::encode_all(refs))), None),
            Content::Sequence(root) => (None, Some(ByteBuf::from(root.encode()))),
        };
        let segments = entry.segments;
        Self {
            name: ByteBuf::from(entry.name),
            kind: entry.kind.byte(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_ns: entry.mtime_ns,
            size: entry.size,
            link: entry.link.map(|link| (link.count, link.dev, link.ino)),
            captured: u64::from(entry.captured == Captured::Sqlite),
            state: entry.state.map(|state| (state.dev, state.ino, state.size, state.ctime_ns)),
            xattrs: entry
                .xattrs
                .into_iter()
                .map(|(name, value)| (ByteBuf::from(name), ByteBuf::from(value)))
                .collect(),
            target: (!entry.target.is_empty()).then(|| ByteBuf::from(entry.target)),
            rdev: entry.rdev,
            segments: segments.map(|runs| runs.iter().map(|run| (run.offset, run.len)).collect()),
            chunks,
            sequence,
        }
    }
}

impl TryFrom<WireEntry> for Entry {
    type Error = FormatError;

    fn try_from(wire: WireEntry) -> Result<Self, FormatError> {
        let invalid = |detail: &str| FormatError::invalid("entry", detail);
        let name = wire.name.into_vec();
        let hostile = name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if hostile || name.len() > 4096 {
            return Err(invalid("a name that no directory can hold"));
        }
        let kind = EntryKind::from_byte(wire.kind).ok_or_else(|| invalid("unknown kind"))?;
        let content = match (wire.chunks, wire.sequence) {
            (None, None) => Content::Empty,
            (Some(chunks), None) => Content::Chunks(ChunkRef::decode_all(&chunks)?),
            (None, Some(root)) => Content::Sequence(Root::decode(&root)?),
            (Some(_), Some(_)) => return Err(invalid("two contents")),
        };
        let segments = wire.segments.map(|runs| checked_segments(&runs, wire.size)).transpose()?;
        let target = wire.target.map(ByteBuf::into_vec).unwrap_or_default();
        if target.contains(&0) || (kind == EntryKind::Symlink) == target.is_empty() {
            return Err(invalid("a symlink's target"));
        }
        let entry = Self {
            name,
            kind,
            mode: wire.mode & 0o7777,
            uid: wire.uid,
            gid: wire.gid,
            mtime_ns: wire.mtime_ns,
            size: wire.size,
            link: wire.link.map(|(count, dev, ino)| Link { count, dev, ino }),
            captured: match wire.captured {
                0 => Captured::Plain,
                1 => Captured::Sqlite,
                _ => return Err(invalid("captured in an unknown way")),
            },
            state: wire.state.map(|(dev, ino, size, ctime_ns)| FileState { dev, ino, size, ctime_ns }),
            xattrs: wire
                .xattrs
                .into_iter()
                .map(|(name, value)| (name.into_vec(), value.into_vec()))
                .collect(),
            target,
            rdev: wire.rdev,
            segments,
            content,
        };
        let listed = match (&entry.content, kind) {
            (Content::Empty, EntryKind::File) => Some(0),
            (Content::Chunks(refs), EntryKind::File) => {
                Some(refs.iter().map(|chunk| u64::from(chunk.len)).sum())
            }
            (Content::Sequence(root), EntryKind::File) => Some(root.weight),
            (Content::Chunks(_), _) => return Err(invalid("chunks in what is no file")),
            (Content::Sequence(_), EntryKind::Directory) | (Content::Empty, _) => None,
            (Content::Sequence(_), _) => return Err(invalid("content in what has none")),
        };
        match listed {
            Some(listed) if listed != entry.content_bytes() => {
                Err(invalid("its chunks do not add up to its size"))
            }
            _ => Ok(entry),
        }
    }
}

/// Runs must be in order, apart, not empty and inside the file.
fn checked_segments(runs: &[(u64, u64)], size: u64) -> Result<Vec<Segment>, FormatError> {
    let mut end = 0u64;
    let mut segments = Vec::with_capacity(runs.len());
    for &(offset, len) in runs {
        let next = offset.checked_add(len).filter(|next| len > 0 && offset >= end && *next <= size);
        end =
            next.ok_or_else(|| FormatError::invalid("entry", "segments out of order or outside the file"))?;
        segments.push(Segment { offset, len });
    }
    Ok(segments)
}
