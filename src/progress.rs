//! How work tells what it is doing, and learns that it should stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Receives what a verb is doing. Shown only: figures that count come from the verb's own report.
pub trait Progress: Sync {
    /// A new step begins; `total_bytes` when its size is known.
    fn begin(&self, step: &str, total_bytes: Option<u64>);
    /// `bytes` more of the present step are done.
    fn advance(&self, bytes: u64);
    /// Whether the user asked to stop, to be taken along.
    fn stop(&self) -> &Stop;
    /// True once the user asked to stop (a signal). Work returns an error at the next safe point.
    fn interrupted(&self) -> bool {
        self.stop().is_asked()
    }
}

/// Whether the user asked to stop, for whoever can't hold on to a [`Progress`]: SQLite asks it in the middle of a query.
#[derive(Clone, Default)]
pub struct Stop(Option<Arc<AtomicUsize>>);

/// Nobody asks.
static NEVER: Stop = Stop(None);

impl Stop {
    /// Watches a number that becomes a signal's.
    pub fn watching(signal: Arc<AtomicUsize>) -> Self {
        Self(Some(signal))
    }

    pub fn is_asked(&self) -> bool {
        self.0.as_ref().is_some_and(|signal| signal.load(Ordering::Relaxed) != 0)
    }
}

/// Shows nothing and is never interrupted.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn stop(&self) -> &Stop {
        &NEVER
    }
}
