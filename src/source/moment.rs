//! Takes staged captures to their moment: rehearses all, holds together those that fit, and one after another the rest.

use super::group::{Failed, Groups, HOLD_MOST, Member, Moment};
use super::interface::{Capture, CaptureError, CaptureOptions, Recorder};
use super::staged::Staged;
use std::time::Duration;

/// How long a common moment is looked for at all.
const JOINT_WAIT: Duration = Duration::from_secs(10);

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

#[cfg(test)]
mod tests {
    use super::{Capture, CaptureError, CaptureOptions, Member, Moment, capture_together};
    use crate::format::{Consistency, Entry, NoteReason};
    use crate::source::interface::{GoOn, HoldMode, Recorder, Retaken, Seen, Taken};
    use crate::source::staged::{Freeze, Holding, Staged, Terms};
    use crate::source::stat::Stat;
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
        fn keep(&mut self, _: &[u8], _: &[u8], _: &Stat) -> Result<bool, CaptureError> {
            Ok(false)
        }
        fn take(&mut self, _: &[u8], _: &mut dyn Read) -> Result<Taken, CaptureError> {
            Ok(Taken { token: 0, bytes: 0 })
        }
        fn take_compared(&mut self, _: &[u8], _: &File) -> Result<Option<Taken>, CaptureError> {
            Ok(None)
        }
        fn await_stored(&mut self, _: &Taken) -> Result<(), CaptureError> {
            Ok(())
        }
        fn retake(&mut self, _: Option<&Taken>, _: &File, _: GoOn<'_>) -> Result<Retaken, CaptureError> {
            Ok(Retaken { token: 0 })
        }
        fn settle(&mut self, _: &[u8], _: Retaken) -> Result<Taken, CaptureError> {
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
            raw: false,
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
