//! Shows progress: a bar on a terminal, a line per step with the UTC time elsewhere, nothing where it isn't wanted.

use crate::progress::{Progress, Stop};
use crate::stamp::{Stamp, now_nanos};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where steps are shown.
enum Face {
    None,
    Lines,
    Bar(Mutex<Option<ProgressBar>>),
}

/// The progress of one run, and whether a signal asked it to stop.
pub struct Shown {
    face: Face,
    signal: Arc<AtomicUsize>,
    stop: Stop,
}

impl Shown {
    /// Watches for signals; a second one ends the process at once.
    pub fn new(quiet: bool, no_progress: bool) -> Self {
        let face = if quiet || no_progress {
            Face::None
        } else if std::io::stderr().is_terminal() {
            Face::Bar(Mutex::new(None))
        } else {
            Face::Lines
        };
        let signal = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for number in [2, 15, 1] {
            // Order matters: the first signal finds `asked` false and only sets both; the second one ends the process.
            drop(signal_hook::flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked)));
            drop(signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize));
            drop(signal_hook::flag::register(number, Arc::clone(&asked)));
        }
        let stop = Stop::watching(Arc::clone(&signal));
        Self { face, signal, stop }
    }

    /// Becomes the number of the signal that asks to stop.
    pub fn flag(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.signal)
    }

    /// The signal that asked to stop, if any.
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|signal| *signal > 0)
    }

    /// Takes the bar away before the result is printed.
    pub fn finish(&self) {
        if let Face::Bar(bar) = &self.face
            && let Some(bar) = bar.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Shown {
    fn begin(&self, step: &str, total_bytes: Option<u64>) {
        match &self.face {
            Face::None => {}
            Face::Lines => {
                let now = Stamp::from_nanos(now_nanos()).rfc3339();
                drop(writeln!(std::io::stderr(), "{now} {step}"));
            }
            Face::Bar(slot) => {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(before) = slot.take() {
                    before.finish_and_clear();
                }
                let template = match total_bytes {
                    Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                    None => "{spinner} {msg} {bytes} {bytes_per_sec}",
                };
                let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_message(step.to_owned());
                *slot = Some(bar);
            }
        }
    }

    fn advance(&self, bytes: u64) {
        if let Face::Bar(bar) = &self.face
            && let Some(bar) = &*bar.lock().unwrap_or_else(PoisonError::into_inner)
        {
            bar.inc(bytes);
        }
    }

    fn stop(&self) -> &Stop {
        &self.stop
    }
}
