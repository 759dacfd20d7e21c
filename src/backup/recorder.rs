//! Takes what a source hands over: cuts it, has it stored, and builds the source's entry tree.

use super::buffers::BUFFER_BYTES;
use super::compared::{Keeping, Part, Range, parts};
use super::error::record;
use super::old::Old;
use super::open_directory::OpenDirectory;
use super::parent::Parent;
use super::pool::{Handed, Pool, Work};
use super::replaying::{Replaying, near};
use super::retake::{Piece, Retake};
use super::stream::Stream;
use crate::chunking::{Cuts, Cutter};
use crate::format::{
    ChunkRef, Content, Counts, Entry, EntryKind, Node, Note, NoteReason, PackKind, SequenceBuilder,
    SourceRecord,
};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{Before, ChunkWriter, NewChunk};
use crate::source::{CaptureError, Compared, GoOn, Recorder, Retaken, Seen, Stat, Taken, is_told_by, still};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FIRST_BUFFER_BYTES: usize = 64 << 10;
/// Entries whose content is still being worked on, before the walk waits for the oldest.
const PENDING_ENTRIES: usize = 512;

/// What the retakes and patches of all recorders together may keep in memory. The rest of retakes goes to scratch files, that of
/// patches is read again.
pub struct RecorderMemory(Arc<AtomicUsize>);

impl Default for RecorderMemory {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(64 << 20)))
    }
}

/// Records one source.
pub struct TreeRecorder<'r> {
    writer: &'r ChunkWriter<'r>,
    pool: &'r Pool,
    cutter: Cutter,
    progress: &'r dyn Progress,
    temporary_directory: &'r Path,
    memory: &'r RecorderMemory,
    parent: Option<Parent<'r>>,
    /// Files that were compared with the parent's before, by their paths below the source.
    compared: HashMap<Vec<u8>, Compared>,
    tokens: HashMap<u64, Parts>,
    retakes: HashMap<u64, Retake>,
    next_token: u64,
    open: Vec<OpenDirectory>,
    root: Option<Entry>,
    counts: Counts,
    notes: Vec<Note>,
    more_notes: u64,
    newest_ns: i64,
    /// The path of the innermost open directory below the source.
    directory: Vec<u8>,
}

/// A content that was handed over.
#[derive(Default)]
struct Parts {
    handed: Vec<Handed>,
    /// What the parent has in its place.
    old: Option<Arc<Old>>,
}

/// What was recorded of a source.
pub struct Recording {
    pub root: Option<Entry>,
    pub counts: Counts,
    pub notes: Vec<Note>,
    pub more_notes: u64,
    /// The newest change of any entry, by its change time.
    pub newest_ns: i64,
    /// Reading the parent failed, with the reason: everything was read from the source instead.
    pub parent_damage: Option<String>,
}

impl<'r> TreeRecorder<'r> {
    pub fn new(
        writer: &'r ChunkWriter<'r>,
        pool: &'r Pool,
        cutter: Cutter,
        parent: Option<Parent<'r>>,
        temporary_directory: &'r Path,
        memory: &'r RecorderMemory,
        progress: &'r dyn Progress,
    ) -> Self {
        Self {
            writer,
            pool,
            cutter,
            progress,
            temporary_directory,
            memory,
            parent,
            compared: HashMap::new(),
            tokens: HashMap::new(),
            retakes: HashMap::new(),
            next_token: 0,
            open: Vec::new(),
            root: None,
            counts: Counts::default(),
            notes: Vec::new(),
            more_notes: 0,
            newest_ns: i64::MIN,
            directory: Vec::new(),
        }
    }

    /// Uses comparisons with the parent that were made before.
    pub fn with_compared(self, compared: HashMap<Vec<u8>, Compared>) -> Self {
        Self { compared, ..self }
    }

    /// What came together.
    pub fn finish(self) -> Recording {
        let parent_damage = self.parent.and_then(|parent| parent.damage);
        let Self { root, counts, notes, more_notes, newest_ns, .. } = self;
        Recording { root, counts, notes, more_notes, newest_ns, parent_damage }
    }

    fn token(&mut self, handed: Vec<Handed>, old: Option<Arc<Old>>) -> u64 {
        self.next_token += 1;
        self.tokens.insert(self.next_token, Parts { handed, old });
        self.next_token
    }

    fn check_interrupt(&self) -> Result<(), CaptureError> {
        if self.progress.interrupted() { Err(CaptureError::Interrupted) } else { Ok(()) }
    }

    /// Waits for what was handed over under a token, and forgets it.
    fn chunks(&mut self, token: u64) -> Result<(Vec<ChunkRef>, Option<Arc<Old>>), CaptureError> {
        let Parts { handed, old } = self.tokens.remove(&token).unwrap_or_default();
        let mut chunks = Vec::with_capacity(handed.len());
        for part in handed {
            match part {
                Handed::Known(chunk) => chunks.push(chunk),
                Handed::Promised(promise) => chunks.append(&mut promise.wait().map_err(record)?.chunks),
            }
        }
        Ok((chunks, old))
    }

    /// Waits, and keeps the answer for later questions.
    fn known_chunks(&mut self, token: u64) -> Result<Vec<ChunkRef>, CaptureError> {
        let (chunks, old) = self.chunks(token)?;
        let handed = chunks.iter().copied().map(Handed::Known).collect();
        self.tokens.insert(token, Parts { handed, old });
        Ok(chunks)
    }

    /// What the parent has at a path.
    fn old(&mut self, path: &[u8], is_plain: bool) -> Option<Arc<Old>> {
        let parent = self.parent.as_mut()?;
        let chunks = parent.chunks(path, is_plain)?;
        (!chunks.is_empty()).then(|| Arc::new(Old::new(chunks, parent.nodes(path))))
    }

    /// Cuts and submits everything that `reader` gives, which lies at `offset`; `None`: as its beginning tells. Returns the
    /// bytes.
    fn consume(
        &mut self,
        reader: &mut dyn Read,
        mut cuts: Option<Cuts>,
        offset: u64,
        old: Option<&Arc<Old>>,
        handed: &mut Vec<Handed>,
    ) -> Result<u64, CaptureError> {
        let mut total = 0u64;
        let mut at = offset;
        let mut buffer = self.pool.buffers().get();
        let mut capacity = FIRST_BUFFER_BYTES;
        loop {
            self.check_interrupt()?;
            let read = buffer.fill(reader, capacity).map_err(CaptureError::Reading)? as u64;
            total += read;
            self.progress.advance(read);
            let last = buffer.len() < capacity;
            let cuts = *cuts.get_or_insert_with(|| self.cutter.cuts_of(&buffer));
            let lengths = self.cutter.cut(cuts, &buffer, last);
            let cut: usize = lengths.iter().sum();
            let mut next = None;
            if !last {
                capacity = BUFFER_BYTES.max(2 * self.cutter.longest());
                let next = next.insert(self.pool.buffers().get());
                next.reserve(capacity);
                next.extend(buffer.get(cut..).unwrap_or_default());
                buffer.truncate(cut);
            }
            if !lengths.is_empty() {
                let near = old.map_or_else(Vec::new, |old| near(old, &lengths, at, 0));
                let work = Work::Keep { lengths, near, old: old.cloned() };
                handed.push(Handed::Promised(self.pool.submit(Arc::new(buffer), work)));
                at += cut as u64;
            }
            let Some(next) = next else { return Ok(total) };
            buffer = next;
        }
    }

    fn keep_node(writer: &ChunkWriter<'_>, bytes: &[u8]) -> Result<Id, CaptureError> {
        writer.put(PackKind::Tree, bytes).map_err(record)
    }

    fn content(&mut self, taken: &Taken) -> Result<Content, CaptureError> {
        let (chunks, old) = self.chunks(taken.token)?;
        if chunks.is_empty() {
            return Ok(Content::Empty);
        }
        if chunks.len() <= Content::INLINE_CHUNKS {
            return Ok(Content::Chunks(chunks));
        }
        let writer = self.writer;
        let mut at = 0;
        let mut keep = |bytes: Vec<u8>| {
            let len = Node::chunk_bytes(&bytes);
            let nodes = old.as_ref().filter(|_| len > 0).map(|old| old.nodes_of(at, len));
            at += len;
            let id = writer.naming().id_of(&bytes);
            let node = NewChunk { id, plain: &bytes, old: Before::Chunks(&nodes.unwrap_or_default()) };
            writer.put_all(PackKind::Tree, &[node]).map_err(record)?;
            Ok::<_, CaptureError>(id)
        };
        let mut builder = SequenceBuilder::default();
        for chunk in chunks {
            builder.push(chunk, &mut keep)?;
        }
        Ok(builder.finish(&mut keep)?.map_or(Content::Empty, Content::Sequence))
    }

    /// Moves finished entries into the directory's tree, leaving at most `keep` waiting.
    fn drain(&mut self, directory: &mut OpenDirectory, keep: usize) -> Result<(), CaptureError> {
        let writer = self.writer;
        while let Some((mut entry, taken)) = directory.waited(keep) {
            if let Some(taken) = taken {
                entry.content = self.content(&taken)?;
            }
            directory.push(entry, &mut |bytes: Vec<u8>| Self::keep_node(writer, &bytes))?;
        }
        Ok(())
    }

    fn place(&mut self, mut entry: Entry, taken: Option<Taken>) -> Result<(), CaptureError> {
        match self.open.pop() {
            Some(mut directory) => {
                if taken.is_some() || !directory.keep(|before| *before == entry) {
                    directory.wait(entry, taken);
                    self.drain(&mut directory, PENDING_ENTRIES)?;
                }
                self.open.push(directory);
            }
            None => {
                if let Some(taken) = taken {
                    entry.content = self.content(&taken)?;
                }
                self.root = Some(entry);
            }
        }
        Ok(())
    }
}

impl Recorder for TreeRecorder<'_> {
    fn parent(&mut self, path: &[u8]) -> Result<Option<Seen>, CaptureError> {
        self.check_interrupt()?;
        Ok(self.parent.as_mut().and_then(|parent| parent.find(path)))
    }

    fn keep(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> Result<bool, CaptureError> {
        self.check_interrupt()?;
        let Some(parent) = &mut self.parent else { return Ok(false) };
        let Some(before) = parent.unchanged(path, stat) else { return Ok(false) };
        let is_same = is_told_by(before, name, stat);
        let directory = self.open.last_mut().filter(|_| is_same);
        if directory.is_some_and(|directory| directory.keep(|next| next.name == name)) {
            count(&mut self.counts, before, true);
            self.newest_ns = self.newest_ns.max(stat.ctime_ns);
        } else {
            let entry = still(before, name, stat);
            self.add(entry, None)?;
        }
        Ok(true)
    }

    fn take(&mut self, path: &[u8], reader: &mut dyn Read) -> Result<Taken, CaptureError> {
        let mut handed = Vec::new();
        let Some(old) = self.old(path, false) else {
            let bytes = self.consume(reader, None, 0, None, &mut handed)?;
            return Ok(Taken { token: self.token(handed, None), bytes });
        };
        let mut stream = Stream::new(reader, self.pool.buffers());
        let start = stream.next(FIRST_BUFFER_BYTES).map_err(CaptureError::Reading)?;
        let cuts = self.cutter.cuts_of(&start);
        stream.give_back(&start);
        let mut bytes = 0;
        if cuts == self.cutter.cuts_before(&old.lengths()) {
            let (pool, cutter, progress) = (self.pool, self.cutter.clone(), self.progress);
            let replaying = Replaying { pool, cutter, cuts, old: Arc::clone(&old), progress };
            bytes = replaying.run(&mut stream, &mut handed)?;
        }
        let cuts = Some(cuts);
        bytes += self.consume(&mut stream, cuts, bytes, Some(&old), &mut handed)?;
        Ok(Taken { token: self.token(handed, Some(old)), bytes })
    }

    fn take_compared(&mut self, path: &[u8], file: &File) -> Result<Option<Taken>, CaptureError> {
        let metadata = file.metadata().map_err(CaptureError::Reading)?;
        let Some(compared) = self.compared.remove(path).filter(|compared| compared.is_of(&metadata)) else {
            return Ok(None);
        };
        let Some(old) = self.old(path, true) else { return Ok(None) };
        let cuts = self.cutter.cuts_before(&old.lengths());
        let patches = compared.patches;
        patches.take_from(&self.memory.0);
        let keeping = Keeping { pool: self.pool, progress: self.progress, old: Arc::clone(&old), patches };
        let mut handed = Vec::with_capacity(old.count());
        let mut bytes = 0;
        for part in parts(old.range(0..old.count()), &compared.differing, metadata.len()) {
            match part {
                Part::Same(chunk) => {
                    bytes += u64::from(chunk.len);
                    handed.push(Handed::Known(chunk));
                }
                Part::Differing { offset, len, numbers } => {
                    let mut range = Range { file, offset, len };
                    let mut stream = Stream::new(&mut range, self.pool.buffers());
                    let kept = keeping.run(&mut stream, numbers, &mut handed)?;
                    let cuts = (offset + kept > 0).then_some(cuts);
                    bytes += kept;
                    bytes += self.consume(&mut stream, cuts, offset + kept, Some(&old), &mut handed)?;
                }
            }
        }
        Ok(Some(Taken { token: self.token(handed, Some(old)), bytes }))
    }

    fn await_stored(&mut self, taken: &Taken) -> Result<(), CaptureError> {
        self.known_chunks(taken.token)?;
        self.writer.rest();
        Ok(())
    }

    fn retake(
        &mut self,
        earlier: Option<&Taken>,
        file: &File,
        go_on: GoOn<'_>,
    ) -> Result<Retaken, CaptureError> {
        let mut chunks = Vec::new();
        if let Some(earlier) = earlier {
            chunks = self.known_chunks(earlier.token)?;
        }
        let memory = self.memory.0.load(Ordering::Relaxed);
        let go_on = || go_on() && !self.progress.interrupted();
        let read =
            Retake::read(self.writer.naming(), &chunks, file, memory, self.temporary_directory, &go_on);
        let retake = read.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut if self.progress.interrupted() => CaptureError::Interrupted,
            io::ErrorKind::TimedOut => CaptureError::HeldTooLong,
            _ => CaptureError::Reading(error),
        })?;
        self.memory.0.fetch_sub(retake.memory_bytes(), Ordering::Relaxed);
        self.next_token += 1;
        self.retakes.insert(self.next_token, retake);
        Ok(Retaken { token: self.next_token })
    }

    fn settle(&mut self, path: &[u8], retaken: Retaken) -> Result<Taken, CaptureError> {
        let Some(mut retake) = self.retakes.remove(&retaken.token) else {
            return Ok(Taken { token: self.token(Vec::new(), None), bytes: 0 });
        };
        self.memory.0.fetch_add(retake.memory_bytes(), Ordering::Relaxed);
        let pieces = std::mem::take(&mut retake.pieces);
        let mut handed = Vec::with_capacity(pieces.len());
        let mut bytes = 0;
        let cuts = self.cutter.cuts_before(&retake.lengths_before);
        let old = self.old(path, false);
        // Neighbouring new pieces are cut anew as a whole.
        for run in pieces.chunk_by(|a, b| matches!((a, b), (Piece::New { .. }, Piece::New { .. }))) {
            if let [Piece::Same(chunk)] = run {
                bytes += u64::from(chunk.len);
                handed.push(Handed::Known(*chunk));
            } else {
                let cuts = (bytes > 0).then_some(cuts);
                bytes += self.consume(&mut retake.run(run), cuts, bytes, old.as_ref(), &mut handed)?;
            }
        }
        Ok(Taken { token: self.token(handed, old), bytes })
    }

    fn discard(&mut self, retaken: Retaken) {
        if let Some(retake) = self.retakes.remove(&retaken.token) {
            self.memory.0.fetch_add(retake.memory_bytes(), Ordering::Relaxed);
        }
    }

    fn check(&self) -> Result<(), CaptureError> {
        self.check_interrupt()
    }

    fn enter(&mut self, name: &[u8]) -> Result<(), CaptureError> {
        self.check_interrupt()?;
        if !self.open.is_empty() {
            if !self.directory.is_empty() {
                self.directory.push(b'/');
            }
            self.directory.extend_from_slice(name);
        }
        let repository = self.writer.repository();
        let before = self.parent.as_mut().map(|parent| parent.directory(&self.directory, repository));
        self.open.push(OpenDirectory::new(before.unwrap_or_default()));
        Ok(())
    }

    fn add(&mut self, entry: Entry, taken: Option<Taken>) -> Result<(), CaptureError> {
        count(&mut self.counts, &entry, taken.is_none());
        self.newest_ns = self.newest_ns.max(entry.state.map_or(i64::MIN, |state| state.ctime_ns));
        self.place(entry, taken)
    }

    fn leave(&mut self, mut entry: Entry) -> Result<(), CaptureError> {
        let writer = self.writer;
        if let Some(mut directory) = self.open.pop() {
            self.drain(&mut directory, 0)?;
            entry.content = directory.finish(&mut |bytes: Vec<u8>| Self::keep_node(writer, &bytes))?;
            let above = self.directory.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            self.directory.truncate(above);
        }
        count(&mut self.counts, &entry, false);
        self.place(entry, None)
    }

    fn note(&mut self, path: &[u8], reason: NoteReason, detail: String) {
        let note = Note { path: path.to_owned(), reason, detail };
        if self.notes.len() < SourceRecord::MAX_NOTES {
            self.notes.push(note);
            return;
        }
        self.more_notes += 1;
        // What could not be read must be named, whatever was left out on purpose.
        let weighty = matches!(reason, NoteReason::Unreadable | NoteReason::Changing);
        let light = |note: &Note| matches!(note.reason, NoteReason::Excluded | NoteReason::Remark);
        if weighty && let Some(place) = self.notes.iter().rposition(light) {
            self.notes.remove(place);
            self.notes.push(note);
        }
    }
}

fn count(counts: &mut Counts, entry: &Entry, unchanged: bool) {
    match entry.kind {
        EntryKind::File => {
            counts.files += 1;
            counts.bytes += entry.size;
            counts.unchanged_files += u64::from(unchanged);
        }
        EntryKind::Directory => counts.directories += 1,
        _ => counts.others += 1,
    }
}
