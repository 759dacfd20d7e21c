//! A capture in steps, so that several sources can be held at one moment.

use super::interface::{Capture, CaptureError, GoOn, Recorder};
use crate::hold::Grip;
use std::path::Path;
use std::time::Duration;

/// The answer to an attempt to hold.
pub enum Holding {
    /// The state can't change any more; the grip is there where writers wait meanwhile.
    Held(Option<Grip>),
    /// No lock keeps writers out: the state is compared before and after reading, alone.
    Unheld,
    /// Somebody is writing; what they are doing, as far as the locks tell.
    Busy(&'static str),
}

/// The answer to an attempt to complete the state.
pub enum Freeze {
    Complete,
    /// Let go, rehearse again and try again, because of this.
    Again(&'static str),
}

/// How a state may be completed.
pub struct Terms<'g> {
    /// Time is left.
    pub go_on: GoOn<'g>,
    /// Rather than reading much while writers wait, it may ask to be let go: the next rehearsal catches up.
    pub may_catch_up: bool,
}

/// A source whose capture goes in steps: rehearse, hold, note, freeze, release, record. Each `Again` goes back to the first.
pub trait Staged {
    /// What is held, for messages.
    fn path(&self) -> &Path;
    /// Reads without any lock what can be read before. Returns how long the hold is expected to last at most.
    fn rehearse(&mut self, recorder: &mut dyn Recorder) -> Result<Duration, CaptureError>;
    /// Tries for `patience` to hold the source still.
    fn hold(&mut self, patience: Duration, go_on: &dyn Fn() -> bool) -> Result<Holding, CaptureError>;
    /// Under the hold: notes how far the state goes, where writers may go on beyond it. Two equal answers one after the
    /// other: nothing was committed in between. `None` where the state stands still.
    fn note(&mut self) -> Result<Option<u64>, CaptureError>;
    /// Completes the state: reads, clones or notes what the rehearsal lacks. Returns soon once there is no time left, with
    /// `HeldTooLong`.
    fn freeze(&mut self, recorder: &mut dyn Recorder, terms: &Terms<'_>) -> Result<Freeze, CaptureError>;
    /// Lets writers go on.
    fn release(&mut self);
    /// Records what was frozen.
    fn record(&mut self, recorder: &mut dyn Recorder) -> Result<Capture, CaptureError>;
}
