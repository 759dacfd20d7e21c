//! How work tells what it is doing, and learns that it should stop.

/// Receives what a verb is doing. Shown only: figures that count come from the verb's own report.
pub trait Progress: Sync {
    /// A new step begins; `total_bytes` when its size is known.
    fn begin(&self, step: &str, total_bytes: Option<u64>);
    /// `bytes` more of the present step are done.
    fn advance(&self, bytes: u64);
    /// True once the user asked to stop (a signal). Work returns an error at the next safe point.
    fn interrupted(&self) -> bool;
}

/// Shows nothing and is never interrupted.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn interrupted(&self) -> bool {
        false
    }
}
