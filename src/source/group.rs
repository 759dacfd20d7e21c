//! A group of sources that share one moment: held all or none, noted, frozen, let go, recorded, and tried again.

use super::interface::{Capture, CaptureError, Recorder};
use super::staged::{Freeze, Holding, Staged, Terms};
use crate::hold::Watchdog;
use crate::stamp::now_nanos;
use std::time::{Duration, Instant};

/// Bounds of `max_hold = auto`: twice what the rehearsal says, but not less, nor more. Chroma's writers wait 1000 s.
const HOLD_LEAST: Duration = Duration::from_secs(5);
pub const HOLD_MOST: Duration = Duration::from_secs(60);
/// How often a state is completed anew, and the pause before, which grows with each.
const TRIES: u32 = 8;
const BACK_OFF: Duration = Duration::from_millis(50);
/// In so many of the first tries what was committed since the rehearsal may be caught up with, before paying for reading
/// all of it while writers wait.
const CATCH_UPS: u32 = 2;
/// How long some are held while another is waited for.
const JOINT_PATIENCE: Duration = Duration::from_millis(500);
/// How long a moment is looked for at which nothing is committed in several databases that nobody has to wait for.
const NOTE_PATIENCE: Duration = Duration::from_millis(200);

/// A source on its way to its moment.
pub struct Member<'m> {
    pub staged: Box<dyn Staged + 'm>,
    pub recorder: &'m mut dyn Recorder,
    /// The longest that its writers may wait; `None` chooses by the rehearsal.
    pub max_hold: Option<Duration>,
}

/// A source's capture, and which of the moments it belongs to (counted from 0, in order).
pub struct Moment {
    pub capture: Capture,
    pub moment: u32,
}

/// The member that failed, by its place.
pub struct Failed {
    pub place: usize,
    pub error: CaptureError,
}

/// All members, and what came of them so far.
pub struct Groups<'g, 'm> {
    pub members: &'g mut [Member<'m>],
    /// How long each one's hold is expected to last.
    pub expected: Vec<Duration>,
    pub done: Vec<(usize, Moment)>,
    pub next_moment: u32,
}

/// What is held.
struct Held {
    watchdog: Watchdog,
    /// Members that nothing holds.
    unheld: Vec<usize>,
    /// One whose writers wait.
    waited_for: Option<usize>,
}

/// Why there was no moment this time.
enum Hindrance {
    Busy { place: usize, waited: Duration, detail: &'static str },
    Again { place: usize, reason: &'static str },
    Failed(Failed),
}

impl From<Failed> for Hindrance {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl Groups<'_, '_> {
    /// Captures these members at one moment. Returns those that must be captured alone: nothing holds them, or of
    /// several all could not be had at once.
    pub fn capture(&mut self, places: &[usize], patience: Duration) -> Result<Vec<usize>, Failed> {
        let alone = places.len() == 1;
        let mut reason = (places.first().copied().unwrap_or(0), "");
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(BACK_OFF * attempt);
                for place in places {
                    self.expected[*place] =
                        self.with(*place, |staged, recorder| staged.rehearse(recorder))?;
                }
            }
            match self.attempt(places, patience, attempt < CATCH_UPS) {
                Ok(unheld) => return Ok(unheld),
                Err(Hindrance::Again { place, reason: why }) => reason = (place, why),
                Err(
                    Hindrance::Busy { .. }
                    | Hindrance::Failed(Failed { error: CaptureError::TooSlow { .. }, .. }),
                ) if !alone => {
                    return Ok(places.to_vec());
                }
                Err(Hindrance::Failed(failed)) => return Err(failed),
                Err(Hindrance::Busy { place, waited, detail }) => {
                    let path = self.path(place);
                    let error = CaptureError::Busy { path, waited, detail: detail.to_owned() };
                    return Err(Failed { place, error });
                }
            }
        }
        if !alone {
            return Ok(places.to_vec());
        }
        let (place, why) = reason;
        let detail = format!("{why}, {TRIES} times");
        Err(Failed { place, error: CaptureError::KeptChanging { path: self.path(place), detail } })
    }

    /// Holds, notes, freezes, releases and records once.
    fn attempt(
        &mut self,
        places: &[usize],
        patience: Duration,
        may_catch_up: bool,
    ) -> Result<Vec<usize>, Hindrance> {
        let Held { watchdog, unheld, waited_for } = self.hold_all(places, patience)?;
        let mut frozen = places.to_vec();
        if places.len() > 1 {
            self.release_all(&unheld);
            frozen.retain(|place| !unheld.contains(place));
        }
        let outcome = self.note_all(&frozen).and_then(|()| self.freeze_all(&frozen, &watchdog, may_catch_up));
        let limit = self.limit(places);
        let in_time = watchdog.stop();
        self.release_all(&frozen);
        match outcome {
            Err(Hindrance::Failed(Failed { place, error: CaptureError::HeldTooLong })) => {
                Err(self.too_slow(waited_for.unwrap_or(place), limit).into())
            }
            _ if !in_time => Err(self.too_slow(waited_for.unwrap_or(0), limit).into()),
            Err(hindrance) => Err(hindrance),
            Ok(point_ns) => {
                self.record_all(&frozen, point_ns)?;
                Ok(if places.len() > 1 { unheld } else { Vec::new() })
            }
        }
    }

    fn path(&self, place: usize) -> std::path::PathBuf {
        self.members.get(place).map(|member| member.staged.path().to_owned()).unwrap_or_default()
    }

    fn with<T>(
        &mut self,
        place: usize,
        step: impl FnOnce(&mut dyn Staged, &mut dyn Recorder) -> Result<T, CaptureError>,
    ) -> Result<T, Failed> {
        let member = self.members.get_mut(place).ok_or(Failed { place, error: CaptureError::Interrupted })?;
        step(&mut *member.staged, member.recorder).map_err(|error| Failed { place, error })
    }

    /// All or none: while one of several is waited for, the others are held only for a short time, or an application
    /// that writes two databases in one go would wait for us while we wait for it.
    fn hold_all(&mut self, places: &[usize], patience: Duration) -> Result<Held, Hindrance> {
        let started = Instant::now();
        let mut order = places.to_vec();
        loop {
            let watchdog = Watchdog::new(self.limit(places));
            let mut held = Held { watchdog, unheld: Vec::new(), waited_for: None };
            let mut busy = None;
            for (turn, place) in order.iter().copied().enumerate() {
                let left = patience.saturating_sub(started.elapsed());
                let patience =
                    if turn == 0 { left } else { left.min(JOINT_PATIENCE).min(held.watchdog.left()) };
                let holding = self.with(place, |staged, recorder| {
                    let go_on = || recorder.check().is_ok();
                    let holding = staged.hold(patience, &go_on)?;
                    recorder.check()?;
                    Ok(holding)
                });
                match holding? {
                    Holding::Held(grip) => {
                        held.waited_for = held.waited_for.or(grip.as_ref().map(|_| place));
                        grip.into_iter().for_each(|grip| held.watchdog.watch(grip));
                    }
                    Holding::Unheld => held.unheld.push(place),
                    Holding::Busy(detail) => {
                        busy = Some((place, detail));
                        break;
                    }
                }
            }
            let Some((place, detail)) = busy else { return Ok(held) };
            self.release_all(places);
            if started.elapsed() >= patience {
                return Err(Hindrance::Busy { place, waited: started.elapsed(), detail });
            }
            // The busiest first: its gaps are the rarest.
            order.retain(|other| *other != place);
            order.insert(0, place);
        }
    }

    fn release_all(&mut self, places: &[usize]) {
        for place in places {
            if let Some(member) = self.members.get_mut(*place) {
                member.staged.release();
            }
        }
    }

    /// Notes the state of all members at one moment: two rounds that find the same.
    fn note_all(&mut self, places: &[usize]) -> Result<(), Hindrance> {
        let since = Instant::now();
        let mut before = None;
        while since.elapsed() < NOTE_PATIENCE {
            let mut notes = Vec::with_capacity(places.len());
            for place in places {
                notes.push(self.with(*place, |staged, _| staged.note())?);
            }
            // One that can go on by itself has its moment whenever it is looked at.
            if notes.iter().flatten().count() < 2 || before.as_ref() == Some(&notes) {
                return Ok(());
            }
            before = Some(notes);
        }
        let place = places.first().copied().unwrap_or(0);
        Err(Hindrance::Again { place, reason: "several logs were written without a pause" })
    }

    /// Returns the moment's time.
    fn freeze_all(
        &mut self,
        places: &[usize],
        watchdog: &Watchdog,
        may_catch_up: bool,
    ) -> Result<i64, Hindrance> {
        let point_ns = now_nanos();
        let in_time = || !watchdog.is_over();
        let terms = Terms { go_on: &in_time, may_catch_up };
        for place in places {
            let frozen = self.with(*place, |staged, recorder| staged.freeze(recorder, &terms))?;
            if let Freeze::Again(reason) = frozen {
                return Err(Hindrance::Again { place: *place, reason });
            }
        }
        Ok(point_ns)
    }

    fn limit(&self, places: &[usize]) -> Duration {
        let fixed = places.iter().filter_map(|place| self.members.get(*place)?.max_hold).min();
        let expected: Duration = places.iter().filter_map(|place| self.expected.get(*place)).sum();
        fixed.unwrap_or_else(|| (2 * expected).clamp(HOLD_LEAST, HOLD_MOST))
    }

    fn too_slow(&self, place: usize, limit: Duration) -> Failed {
        let expected = self.expected.get(place).copied().unwrap_or_default();
        Failed { place, error: CaptureError::TooSlow { path: self.path(place), limit, expected } }
    }

    fn record_all(&mut self, places: &[usize], point_ns: i64) -> Result<(), Failed> {
        let moment = self.next_moment;
        self.next_moment += 1;
        for place in places {
            let capture = self.with(*place, |staged, recorder| staged.record(recorder))?;
            self.done.push((*place, Moment { capture: Capture { point_ns, ..capture }, moment }));
        }
        Ok(())
    }
}
