//! Takes staged captures to their moment: rehearses all, holds together those that fit, and one after another the rest.

use super::interface::{Capture, CaptureError, CaptureOptions, Recorder, now_ns};
use super::staged::{Freeze, Holding, Staged, Terms};
use crate::hold::Watchdog;
use std::time::{Duration, Instant};

/// Bounds of `max_hold = auto`: twice what the rehearsal says, but not less, nor more. Chroma's writers wait 1000 s.
const HOLD_LEAST: Duration = Duration::from_secs(5);
const HOLD_MOST: Duration = Duration::from_secs(60);
/// How often a state is completed anew, and the pause before, which grows with each.
const TRIES: u32 = 8;
const BACK_OFF: Duration = Duration::from_millis(50);
/// In so many of the first tries what was committed since the rehearsal may be caught up with, before paying for reading
/// all of it while writers wait.
const CATCH_UPS: u32 = 2;
/// How long some are held while another is waited for, and how long a common moment is looked for at all.
const JOINT_PATIENCE: Duration = Duration::from_millis(500);
const JOINT_WAIT: Duration = Duration::from_secs(10);
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

/// Captures all members. Those that are held together share a moment number; all are held together if twice what they
/// need fits into the shortest `max_hold`.
pub fn capture_together(members: &mut [Member<'_>], options: &CaptureOptions) -> Result<Vec<Moment>, Failed> {
    let mut expected = Vec::new();
    for (place, member) in members.iter_mut().enumerate() {
        expected.push(member.staged.rehearse(member.recorder).map_err(|error| Failed { place, error })?);
    }
    let fixed = members.iter().filter_map(|member| member.max_hold).min();
    let total: Duration = expected.iter().sum();
    let fits = 2 * total <= fixed.unwrap_or(HOLD_MOST);
    let together = members.len() > 1 && fits && !options.cold;
    let mut groups = Groups { members, expected, done: Vec::new(), next_moment: 0 };
    let all: Vec<usize> = (0..groups.members.len()).collect();
    let mut left = all.clone();
    if together {
        left = groups.capture(&all, JOINT_WAIT.min(options.lock_wait))?;
    }
    for place in left {
        groups.capture(&[place], options.lock_wait)?;
    }
    groups.done.sort_by_key(|(place, _)| *place);
    Ok(groups.done.into_iter().map(|(_, moment)| moment).collect())
}

/// Captures one source by itself.
pub fn capture_alone(
    staged: Box<dyn Staged + '_>,
    recorder: &mut dyn Recorder,
    options: &CaptureOptions,
) -> Result<Capture, CaptureError> {
    let mut members = [Member { staged, recorder, max_hold: options.max_hold }];
    let done = capture_together(&mut members, options).map_err(|failed| failed.error)?;
    let [Moment { capture, .. }] = done.try_into().map_err(|_| CaptureError::Interrupted)?;
    Ok(capture)
}

struct Groups<'g, 'm> {
    members: &'g mut [Member<'m>],
    expected: Vec<Duration>,
    done: Vec<(usize, Moment)>,
    next_moment: u32,
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
    fn capture(&mut self, places: &[usize], patience: Duration) -> Result<Vec<usize>, Failed> {
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
        let point_ns = now_ns();
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

#[cfg(test)]
mod tests {
    use super::{Capture, CaptureError, CaptureOptions, Member, Moment, capture_together};
    use crate::format::{Consistency, Entry, NoteReason};
    use crate::source::interface::{GoOn, HoldMode, Recorder, Retaken, Seen, Taken};
    use crate::source::staged::{Freeze, Holding, Staged, Terms};
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::Read;
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;

    /// Records nothing.
    struct Nothing;

    impl Recorder for Nothing {
        fn parent(&mut self, _: &[u8]) -> Result<Option<Seen>, CaptureError> {
            Ok(None)
        }
        fn take(&mut self, _: &mut dyn Read) -> Result<Taken, CaptureError> {
            Ok(Taken { token: 0, bytes: 0 })
        }
        fn await_stored(&mut self, _: &Taken) -> Result<(), CaptureError> {
            Ok(())
        }
        fn retake(&mut self, _: Option<&Taken>, _: &File, _: GoOn<'_>) -> Result<Retaken, CaptureError> {
            Ok(Retaken { token: 0 })
        }
        fn settle(&mut self, _: Retaken) -> Result<Taken, CaptureError> {
            Ok(Taken { token: 0, bytes: 0 })
        }
        fn discard(&mut self, _: Retaken) {}
        fn check(&self) -> Result<(), CaptureError> {
            Ok(())
        }
        fn enter(&mut self, _: &[u8]) -> Result<(), CaptureError> {
            Ok(())
        }
        fn add(&mut self, _: Entry, _: Option<Taken>) -> Result<(), CaptureError> {
            Ok(())
        }
        fn leave(&mut self, _: Entry) -> Result<(), CaptureError> {
            Ok(())
        }
        fn note(&mut self, _: &[u8], _: NoteReason, _: String) {}
    }

    /// What a source does, step by step, written into a common log.
    struct Scripted {
        name: &'static str,
        expected: Duration,
        /// Busy or `Again` this often before it works.
        busy: u32,
        again: u32,
        unheld: bool,
        /// It has a log, to which something is appended this often.
        logged: bool,
        moving: u32,
        log: Rc<RefCell<Vec<String>>>,
    }

    impl Scripted {
        fn say(&self, step: &str) {
            self.log.borrow_mut().push(format!("{} {step}", self.name));
        }
    }

    impl Staged for Scripted {
        fn path(&self) -> &Path {
            Path::new(self.name)
        }
        fn rehearse(&mut self, _: &mut dyn Recorder) -> Result<Duration, CaptureError> {
            self.say("rehearse");
            Ok(self.expected)
        }
        fn hold(&mut self, patience: Duration, _: &dyn Fn() -> bool) -> Result<Holding, CaptureError> {
            if self.busy > 0 {
                self.busy -= 1;
                std::thread::sleep(patience.min(Duration::from_millis(1)));
                return Ok(Holding::Busy("somebody writes"));
            }
            self.say("hold");
            Ok(if self.unheld { Holding::Unheld } else { Holding::Held(None) })
        }
        fn note(&mut self) -> Result<Option<u64>, CaptureError> {
            if self.moving > 0 {
                self.moving -= 1;
            }
            Ok(self.logged.then_some(u64::from(self.moving)))
        }
        fn freeze(&mut self, _: &mut dyn Recorder, _: &Terms<'_>) -> Result<Freeze, CaptureError> {
            self.say("freeze");
            if self.again > 0 {
                self.again -= 1;
                return Ok(Freeze::Again("it moved"));
            }
            Ok(Freeze::Complete)
        }
        fn release(&mut self) {
            self.say("release");
        }
        fn record(&mut self, _: &mut dyn Recorder) -> Result<Capture, CaptureError> {
            self.say("record");
            Ok(Capture::unheld(Consistency::Locked))
        }
    }

    type Change = fn(&mut Scripted);

    /// The moments of two scripted sources `a` and `b`, or who failed of what, and what happened.
    fn run(
        changes: [Change; 2],
        max_hold: Option<Duration>,
    ) -> (Result<Vec<u32>, (usize, CaptureError)>, String) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let [mut one, mut two] = ["a", "b"].map(|name| Scripted {
            name,
            expected: Duration::from_millis(10),
            busy: 0,
            again: 0,
            unheld: false,
            logged: false,
            moving: 0,
            log: Rc::clone(&log),
        });
        changes[0](&mut one);
        changes[1](&mut two);
        let (mut first, mut second) = (Nothing, Nothing);
        let options = CaptureOptions {
            cold: false,
            hold: HoldMode::Auto,
            max_hold,
            lock_wait: Duration::from_millis(300),
            temporary_directory: "/tmp".into(),
        };
        let mut members = [
            Member { staged: Box::new(one), recorder: &mut first, max_hold },
            Member { staged: Box::new(two), recorder: &mut second, max_hold },
        ];
        let done = capture_together(&mut members, &options);
        let moments = |moments: Vec<Moment>| moments.iter().map(|moment| moment.moment).collect();
        let done = done.map(moments).map_err(|failed| (failed.place, failed.error));
        drop(members);
        let log = log.borrow().join(", ");
        (done, log)
    }

    #[test]
    fn what_fits_is_held_together() {
        let (moments, log) = run([|_| (), |_| ()], None);
        assert_eq!(moments.unwrap(), [0, 0]);
        let held = "a rehearse, b rehearse, a hold, b hold, a freeze, b freeze, a release, b release, a record, b record";
        assert_eq!(log, held);
    }

    #[test]
    fn what_does_not_fit_goes_one_after_another() {
        let (moments, log) = run([|a| a.expected = Duration::from_secs(31), |_| ()], None);
        assert_eq!(moments.unwrap(), [0, 1]);
        assert!(log.contains("a freeze, a release, a record, b hold"), "{log}");
    }

    #[test]
    fn whoever_moved_sends_all_back() {
        let (moments, log) = run([|_| (), |b| b.again = 1], None);
        assert_eq!(moments.unwrap(), [0, 0]);
        let again =
            "b freeze, a release, b release, a rehearse, b rehearse, a hold, b hold, a freeze, b freeze";
        assert!(log.contains(again), "{log}");
    }

    #[test]
    fn while_one_is_busy_the_others_are_let_go() {
        let (moments, log) = run([|_| (), |b| b.busy = 2], None);
        assert_eq!(moments.unwrap(), [0, 0]);
        assert!(
            log.contains("b rehearse, a hold, a release, b release, a release, b release, b hold, a hold"),
            "{log}"
        );
    }

    #[test]
    fn what_nothing_holds_comes_after_the_others() {
        let (moments, log) = run([|a| a.unheld = true, |_| ()], None);
        assert_eq!(moments.unwrap(), [1, 0]);
        assert!(
            log.ends_with("b freeze, b release, b record, a hold, a freeze, a release, a record"),
            "{log}"
        );
    }

    #[test]
    fn logs_that_grow_are_noted_at_one_moment() {
        let logged: Change = |member| (member.logged, member.moving) = (true, 3);
        let (moments, log) = run([logged, logged], None);
        assert_eq!(moments.unwrap(), [0, 0]);
        assert!(log.contains("b hold, a freeze"), "{log}");
        let (moments, _) = run([logged, |b| (b.logged, b.moving) = (true, u32::MAX)], None);
        assert_eq!(moments.unwrap(), [0, 1]);
    }

    #[test]
    fn one_that_is_always_busy_fails_alone() {
        let (moments, _) = run([|_| (), |b| b.busy = u32::MAX], None);
        assert!(matches!(moments, Err((1, CaptureError::Busy { .. }))), "{moments:?}");
        let (moments, _) = run([|_| (), |b| b.again = u32::MAX], None);
        assert!(matches!(moments, Err((1, CaptureError::KeptChanging { .. }))), "{moments:?}");
    }
}
