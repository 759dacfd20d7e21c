//! A thread that writes full packs and reads them back, beside those that fill them: whoever computes need not wait for the disk.

use super::open_pack::OpenPack;
use super::pack_writer::{ChunkWriter, lock};
use crate::id::Id;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;

/// What the thread has to do. Kept by those who hand packs over too.
#[derive(Default)]
pub(super) struct ToLane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// There is a thread, and more may come.
    is_open: bool,
    /// A full pack. It is memory: whoever finds another one here writes its pack itself.
    waiting: Option<OpenPack>,
    /// The thread writes or reads.
    is_busy: bool,
    /// Until the next pack it must leave the disk alone.
    is_resting: bool,
}

enum Work {
    Write(Box<OpenPack>),
    ReadBack(Id),
}

impl ToLane {
    /// Hands a pack over, or gives it back where there is no room or no thread.
    pub(super) fn hand_over(&self, pack: OpenPack) -> Option<OpenPack> {
        let mut state = lock(&self.state);
        state.is_resting = false;
        self.changed.notify_all();
        if !state.is_open || state.waiting.is_some() {
            return Some(pack);
        }
        state.waiting = Some(pack);
        None
    }

    /// Waits until the thread leaves the disk alone, which it does until the next pack is handed over.
    fn rest(&self) {
        let mut state = lock(&self.state);
        state.is_resting = true;
        while state.is_busy || (state.is_open && state.waiting.is_some()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A pack to be written, or else one that is to be read back. `None`: nothing will come any more.
    fn next(&self, unread: impl Fn() -> Option<Id>) -> Option<Work> {
        let mut state = lock(&self.state);
        state.is_busy = false;
        self.changed.notify_all();
        loop {
            let work = match state.waiting.take() {
                Some(pack) => Some(Work::Write(Box::new(pack))),
                None if !state.is_open => return None,
                None if state.is_resting => None,
                None => unread().map(Work::ReadBack),
            };
            if work.is_some() {
                state.is_busy = true;
                return work;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// There may be something to be read back.
    pub(super) fn wake(&self) {
        // Whoever looked and found nothing is waiting by now.
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    fn close(&self) {
        lock(&self.state).is_open = false;
        self.changed.notify_all();
    }
}

/// A thread that writes packs. When this is dropped it still writes what it was given, reads nothing back, and ends.
#[must_use]
pub struct Lane(Arc<ToLane>);

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Nobody waits for a thread that has ended, however it did.
struct Ended<'t>(&'t ToLane);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_open = false;
        state.is_busy = false;
        self.0.changed.notify_all();
    }
}

impl ChunkWriter<'_> {
    /// Starts a thread that writes full packs, and reads them back while none waits, until the lane is dropped. `finish`, which
    /// may only be called once the scope is over, tells what went wrong there.
    pub fn lane<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>) -> Lane {
        lock(&self.to_lane.state).is_open = true;
        scope.spawn(move || self.work_in_lane());
        Lane(Arc::clone(&self.to_lane))
    }

    /// Waits until no full pack is being written or read back any more, and keeps it so until the next one is full.
    pub fn rest(&self) {
        self.to_lane.rest();
    }

    fn work_in_lane(&self) {
        let _ended = Ended(&self.to_lane);
        while let Some(work) = self.to_lane.next(|| self.next_unread()) {
            let done = match work {
                Work::Write(pack) => self.write_pack(*pack),
                Work::ReadBack(pack) => self.read_back(pack).map(drop),
            };
            if self.noted(done).is_err() {
                return;
            }
        }
    }
}
