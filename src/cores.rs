//! Does numbered pieces of work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Calls `work` with each number below `count`, in no order, on one thread per core. The first error ends it: pieces that
/// were begun are finished, no other is.
pub fn on_all_cores<E: Send>(count: usize, work: impl Fn(usize) -> Result<(), E> + Sync) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<E>> = Mutex::new(None);
    let go_on = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && number < count
        {
            if let Err(error) = work(number) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                next.store(count, Ordering::Relaxed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    if count < 2 || cores < 2 {
        go_on();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..cores.min(count) {
                scope.spawn(go_on);
            }
        });
    }
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::on_all_cores;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_number_is_worked_on_once_until_one_fails() {
        let sum = AtomicUsize::new(0);
        let add = |number: usize| {
            sum.fetch_add(number, Ordering::Relaxed);
            if number == 5000 { Err("five thousand") } else { Ok(()) }
        };
        assert_eq!(on_all_cores(1000, add), Ok(()));
        assert_eq!(sum.load(Ordering::Relaxed), 999 * 1000 / 2);
        assert_eq!(on_all_cores(1_000_000, add), Err("five thousand"));
    }
}
