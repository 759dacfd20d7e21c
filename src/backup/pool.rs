//! Worker threads that compare, hash, deduplicate and encode what one thread reads.

use super::buffers::{Buffer, Buffers};
use super::old::Old;
use crate::chunking::{Cuts, Cutter, replay};
use crate::format::{ChunkRef, PackKind};
use crate::id::Id;
use crate::repository::{Before, ChunkWriter, Lane, NewChunk, RepositoryError};
use crate::source::Patches;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// Buffers that may wait beside those being worked on: enough to keep every core busy, little enough for memory.
const WAITING: usize = 2;

type Reply = Result<Done, RepositoryError>;

/// What to do with a buffer.
pub enum Work {
    /// It has been cut; this was near each chunk before.
    Keep { lengths: Vec<usize>, near: Vec<Range<usize>>, old: Option<Arc<Old>> },
    /// It lies in the place of these chunks, and is cut where they are. What makes it these again is noted.
    InPlace { numbers: Range<usize>, old: Arc<Old>, patches: Arc<Patches> },
    /// It begins where these chunks were. `last`: with it the content ends.
    Replay { range: Range<usize>, old: Arc<Old>, cutter: Cutter, cuts: Cuts, last: bool },
}

struct Job {
    bytes: Arc<Buffer>,
    work: Work,
    reply: Sender<Reply>,
}

/// What came of a buffer.
pub struct Done {
    pub chunks: Vec<ChunkRef>,
    /// The bytes that the chunks cover, from its beginning.
    pub resolved: usize,
}

/// Where jobs go. When it is dropped the workers end, and so does the lane for full packs.
pub struct Pool {
    jobs: SyncSender<Job>,
    _lane: Lane,
    buffers: Buffers,
}

/// What will be known once a worker is done.
pub struct Promise(Receiver<Reply>);

/// A part of some content that was handed over.
pub enum Handed {
    Known(ChunkRef),
    Promised(Promise),
}

impl Pool {
    /// Starts one worker per core.
    pub fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, writer: &'env ChunkWriter<'env>) -> Self {
        let (jobs, waiting) = sync_channel::<Job>(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..cores {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || work(&waiting, writer));
        }
        Self { jobs, _lane: writer.lane(scope), buffers: Buffers::default() }
    }

    /// For what is handed over.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Hands over a buffer. Waits while the workers are behind.
    pub fn submit(&self, bytes: Arc<Buffer>, work: Work) -> Promise {
        let (reply, promise) = channel();
        // A worker that is gone takes the reply with it, and the promise says so.
        drop(self.jobs.send(Job { bytes, work, reply }));
        Promise(promise)
    }
}

impl Promise {
    /// Waits for the worker.
    pub fn wait(self) -> Reply {
        let gone = |_| RepositoryError::damaged("a worker thread", "it ended early");
        self.0.recv().map_err(gone)?
    }
}

fn work(waiting: &Mutex<Receiver<Job>>, writer: &ChunkWriter<'_>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { bytes, work, reply }) = next else { return };
        let done = match work {
            Work::Keep { lengths, near, old } => keep(&bytes, &lengths, &near, old.as_deref(), writer),
            Work::InPlace { numbers, old, patches } => keep_in_place(&bytes, numbers, &old, &patches, writer),
            Work::Replay { range, old, cutter, cuts, last } => {
                compare(&bytes, range, &old, (&cutter, cuts, last), writer)
            }
        };
        drop(bytes);
        drop(reply.send(done));
    }
}

fn keep(
    bytes: &[u8],
    lengths: &[usize],
    near: &[Range<usize>],
    old: Option<&Old>,
    writer: &ChunkWriter<'_>,
) -> Reply {
    let mut rest = bytes;
    let mut chunks = Vec::with_capacity(lengths.len());
    for (number, length) in lengths.iter().enumerate() {
        let (plain, after) = rest.split_at_checked(*length).unwrap_or((rest, &[]));
        let near = near.get(number).cloned().unwrap_or_default();
        let old = Before::Chunks(old.map_or(&[][..], |old| old.range(near)));
        chunks.push(NewChunk { id: writer.naming().id_of(plain), plain, old });
        rest = after;
    }
    put(chunks, bytes.len() - rest.len(), writer)
}

fn keep_in_place(
    bytes: &[u8],
    numbers: Range<usize>,
    old: &Old,
    patches: &Patches,
    writer: &ChunkWriter<'_>,
) -> Reply {
    let mut rest = bytes;
    let mut chunks = Vec::with_capacity(numbers.len());
    for (number, was) in numbers.clone().zip(old.range(numbers)) {
        let (plain, after) = rest.split_at_checked(was.len as usize).unwrap_or((rest, &[]));
        let id = writer.naming().id_of(plain);
        // What is kept already needs no base, and so its old bytes aren't read.
        let bases =
            if writer.knows(&id) { Default::default() } else { writer.bases(std::slice::from_ref(was)) };
        if let (Some(was), Ok(number)) = (bases.was(), u32::try_from(number)) {
            patches.note(number, plain, &was);
        }
        chunks.push(NewChunk { id, plain, old: Before::Read(bases) });
        rest = after;
    }
    put(chunks, bytes.len() - rest.len(), writer)
}

fn put(chunks: Vec<NewChunk<'_>>, resolved: usize, writer: &ChunkWriter<'_>) -> Reply {
    writer.put_all(PackKind::Data, &chunks)?;
    let chunks = chunks.iter().map(|chunk| ChunkRef { id: chunk.id, len: chunk.plain.len() as u32 });
    Ok(Done { chunks: chunks.collect(), resolved })
}

fn compare(
    bytes: &[u8],
    range: Range<usize>,
    old: &Old,
    (cutter, cuts, last): (&Cutter, Cuts, bool),
    writer: &ChunkWriter<'_>,
) -> Reply {
    let first = range.start;
    let mut read = HashMap::new();
    let mut old_bytes = |number: usize, id: &Id| {
        // What is kept already needs no base.
        if writer.knows(id) {
            return None;
        }
        let bases = writer.bases(old.range(first + number..first + number + 1));
        let was = bases.was();
        read.insert(number, bases);
        was
    };
    let replayed = replay(cutter, cuts, bytes, &old.recorded(range), last, &mut old_bytes);
    let changed = replayed.pieces.iter().filter(|piece| !piece.is_same);
    let new: Vec<NewChunk<'_>> = changed
        .map(|piece| {
            let plain = bytes.get(piece.start..piece.start + piece.len).unwrap_or_default();
            let offset = old.start(first) + piece.start as u64;
            let near = old.near(offset, plain.len() as u64, 0);
            let single = Some(piece.old.start).filter(|_| near.len() == 1 && piece.old.len() == 1);
            let before = single.and_then(|number| read.remove(&number));
            let old = before.map_or_else(|| Before::Chunks(old.range(near)), Before::Read);
            NewChunk { id: piece.id, plain, old }
        })
        .collect();
    writer.put_all(PackKind::Data, &new)?;
    let chunks = replayed.pieces.iter().map(|piece| ChunkRef { id: piece.id, len: piece.len as u32 });
    Ok(Done { chunks: chunks.collect(), resolved: replayed.resolved })
}
