//! A rate that what is sent doesn't exceed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes per second, for all that share it; or no limit.
#[derive(Debug)]
pub struct Limit {
    per_second: Option<u64>,
    /// When what was sent so far is due.
    due: Mutex<Option<Instant>>,
}

impl Limit {
    /// So many bytes a second.
    pub fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.filter(|rate| *rate > 0), due: Mutex::default() }
    }

    /// As fast as it goes.
    pub fn none() -> Self {
        Self::new(None)
    }

    /// Waits until so many more bytes may be sent.
    pub fn wait(&self, bytes: u64) {
        let Some(rate) = self.per_second else { return };
        let now = Instant::now();
        let wait = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = due.filter(|due| *due > now).unwrap_or(now);
            let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *due = Some(end);
            begin.saturating_duration_since(now)
        };
        std::thread::sleep(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_sent_takes_its_time() {
        let (limit, begin) = (Limit::new(Some(100_000)), Instant::now());
        for _ in 0..5 {
            limit.wait(5_000);
        }
        assert!(begin.elapsed() >= Duration::from_millis(195));
        Limit::none().wait(u64::MAX);
    }
}
