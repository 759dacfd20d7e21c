//! Many small requests to a place that is far away, several at a time: each of them waits for the network.

use super::open::Repository;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many requests are on their way at once.
const AT_ONCE: usize = 16;

impl Repository {
    /// The results of one request for each item, in their order. `key` is one that they ask for: what lies near is asked one by one.
    pub fn at_once<T: Sync, R: Send>(&self, key: &str, items: &[T], ask: impl Fn(&T) -> R + Sync) -> Vec<R> {
        if items.len() < 2 || self.backend().is_near(key) {
            return items.iter().map(ask).collect();
        }
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(items.len()) {
                scope.spawn(|| {
                    while let number = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(item) = items.get(number)
                    {
                        let answer = ask(item);
                        found.lock().unwrap_or_else(PoisonError::into_inner).push((number, answer));
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, answer)| answer).collect()
    }
}
