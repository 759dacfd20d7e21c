//! Worker threads that hash, deduplicate and encode what one thread reads and cuts.

use crate::format::{ChunkRef, PackKind};
use crate::repository::{ChunkWriter, RepositoryError};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

/// Buffers that may wait beside those being worked on: enough to keep every core busy, little enough for memory.
const WAITING: usize = 2;

type Reply = Result<Vec<ChunkRef>, RepositoryError>;

/// A buffer that has been cut.
struct Job {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    reply: Sender<Reply>,
}

/// Where jobs go. The workers end when it is dropped.
pub struct Pool {
    jobs: SyncSender<Job>,
}

/// Chunks that will be known once a worker is done.
pub struct Promise(Receiver<Reply>);

impl Pool {
    /// Starts one worker per core.
    pub fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, writer: &'env ChunkWriter<'env>) -> Self {
        let (jobs, waiting) = sync_channel::<Job>(WAITING);
        let waiting = std::sync::Arc::new(Mutex::new(waiting));
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..cores {
            let waiting = std::sync::Arc::clone(&waiting);
            scope.spawn(move || work(&waiting, writer));
        }
        Self { jobs }
    }

    /// Hands over a buffer and the lengths of the chunks that it consists of. Waits while the workers are behind.
    pub fn submit(&self, bytes: Vec<u8>, lengths: Vec<usize>) -> Promise {
        let (reply, promise) = channel();
        // A worker that is gone takes the reply with it, and the promise says so.
        drop(self.jobs.send(Job { bytes, lengths, reply }));
        Promise(promise)
    }
}

impl Promise {
    /// Waits for the chunks.
    pub fn wait(self) -> Reply {
        let gone = |_| RepositoryError::damaged("a worker thread", "it ended early");
        self.0.recv().map_err(gone)?
    }
}

fn work(waiting: &Mutex<Receiver<Job>>, writer: &ChunkWriter<'_>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { bytes, lengths, reply }) = next else { return };
        drop(reply.send(keep_all(&bytes, &lengths, writer)));
    }
}

fn keep_all(bytes: &[u8], lengths: &[usize], writer: &ChunkWriter<'_>) -> Reply {
    let mut rest = bytes;
    let mut chunks = Vec::with_capacity(lengths.len());
    for length in lengths {
        let (chunk, after) = rest.split_at_checked(*length).unwrap_or((rest, &[]));
        chunks.push(ChunkRef { id: writer.put(PackKind::Data, chunk)?, len: chunk.len() as u32 });
        rest = after;
    }
    Ok(chunks)
}
