//! Lets go of locks when their time is over, also when whoever took them hangs in a read.

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A descriptor through which locks are held. It shares its open file description with the holder's own, so that
/// unlocking here unlocks there (`F_OFD_SETLK` in fcntl(2)).
pub struct Grip {
    file: File,
}

impl Grip {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    fn let_go(&self) {
        let everything = libc::flock {
            l_type: libc::F_UNLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        // Unlocking can't fail on a descriptor that is open.
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&everything));
    }
}

/// What the holder and the watchdog agree upon.
#[derive(Default)]
struct Agreement {
    grips: Vec<Grip>,
    /// When the locks are taken away; counted from the first of them.
    at: Option<Instant>,
    /// The holder was done in time.
    done: bool,
    /// The locks were taken away.
    fired: bool,
}

/// A thread that unlocks what it is given, at the latest a given time after the first, unless it is told before that all
/// is done.
pub struct Watchdog {
    shared: Arc<(Mutex<Agreement>, Condvar)>,
    limit: Duration,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches over nothing yet.
    pub fn new(limit: Duration) -> Self {
        Self { shared: Arc::default(), limit, thread: None }
    }

    /// Watches over locks that were just taken.
    pub fn watch(&mut self, grip: Grip) {
        let limit = self.limit;
        self.agreement(|agreement| {
            agreement.at.get_or_insert_with(|| Instant::now() + limit);
            agreement.grips.push(grip);
        });
        if self.thread.is_none() {
            let theirs = Arc::clone(&self.shared);
            self.thread = Some(std::thread::spawn(move || watch(&theirs)));
        }
    }

    /// What is left of the time; all of it while nobody has to wait.
    pub fn left(&self) -> Duration {
        self.agreement(|agreement| {
            agreement.at.map_or(self.limit, |at| at.saturating_duration_since(Instant::now()))
        })
    }

    /// The time is over: what is read from now on is worth nothing.
    pub fn is_over(&self) -> bool {
        self.left().is_zero() || self.agreement(|agreement| agreement.fired)
    }

    /// Ends the watch; `false` if the locks had been taken away.
    pub fn stop(self) -> bool {
        self.agreement(|agreement| {
            agreement.done = true;
            !agreement.fired
        })
    }

    fn agreement<T>(&self, use_it: impl FnOnce(&mut Agreement) -> T) -> T {
        use_it(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.agreement(|agreement| agreement.done = true);
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        self.agreement(|agreement| agreement.grips.clear());
    }
}

fn watch(shared: &(Mutex<Agreement>, Condvar)) {
    let mut agreement = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    while !agreement.done {
        let left = agreement.at.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        if left.is_zero() {
            agreement.fired = true;
            agreement.grips.iter().for_each(Grip::let_go);
            return;
        }
        agreement = shared.1.wait_timeout(agreement, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}
