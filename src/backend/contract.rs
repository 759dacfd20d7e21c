//! What every backend must do, run against each of them.

use super::{Backend, ErrorKind, LocalBackend, Lock, LockKind, MemoryBackend};
use std::sync::atomic::{AtomicUsize, Ordering};

fn reads_back_what_was_put(backend: &dyn Backend) {
    backend.put("index/a", b"hello").unwrap();
    backend.put("index/a", b"hello world").unwrap();
    assert_eq!(backend.get("index/a").unwrap(), b"hello world");
    assert_eq!(backend.get_range("index/a", 6, 5).unwrap(), b"world");
    assert_eq!(backend.get_range("index/a", 11, 0).unwrap(), b"");
    assert_eq!(backend.size("index/a").unwrap(), 11);
}

fn says_what_is_missing(backend: &dyn Backend) {
    backend.put("index/short", b"12345").unwrap();
    assert_eq!(backend.get("index/none").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(backend.size("index/none").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(backend.get_range("index/short", 3, 3).unwrap_err().kind, ErrorKind::Short);
    assert_eq!(backend.get_range("index/short", u64::MAX, 3).unwrap_err().kind, ErrorKind::Short);
}

fn one_of_many_creators_wins(backend: &dyn Backend) {
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8u8 {
            let winners = &winners;
            scope.spawn(move || match backend.put_new("snapshots/x", &[number]) {
                Ok(()) => {
                    winners.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => assert_eq!(error.kind, ErrorKind::Exists),
            });
        }
    });
    assert_eq!(winners.load(Ordering::SeqCst), 1);
}

fn lists_below_a_directory(backend: &dyn Backend) {
    for key in ["packs/ab/abc", "packs/cd/cde", "packs-else"] {
        backend.put(key, b"x").unwrap();
    }
    let mut listed = backend.list("packs").unwrap();
    listed.sort();
    assert_eq!(listed, [("packs/ab/abc".to_owned(), 1), ("packs/cd/cde".to_owned(), 1)]);
    assert!(backend.list("nothing").unwrap().is_empty());
}

fn deletes_and_forgives(backend: &dyn Backend) {
    backend.put("pins/p", b"").unwrap();
    backend.delete("pins/p").unwrap();
    backend.delete("pins/p").unwrap();
    assert_eq!(backend.get("pins/p").unwrap_err().kind, ErrorKind::NotFound);
}

fn locks_exclude(backend: &dyn Backend) {
    let alone = |name: &str| backend.try_lock(name, LockKind::Exclusive).unwrap();
    let Lock::Held(guard) = alone("prune") else { panic!("free at first") };
    assert!(matches!(alone("prune"), Lock::Busy { .. }));
    assert!(matches!(alone("other"), Lock::Held(_)));
    drop(guard);
    assert!(matches!(alone("prune"), Lock::Held(_)));
}

fn shared_locks_are_shared(backend: &dyn Backend) {
    let taken = |kind| backend.try_lock("writers", kind).unwrap();
    let Lock::Held(one) = taken(LockKind::Shared) else { panic!("free at first") };
    let Lock::Held(other) = taken(LockKind::Shared) else { panic!("shared") };
    drop(one);
    assert!(matches!(taken(LockKind::Exclusive), Lock::Busy { .. }));
    drop(other);
    let Lock::Held(_alone) = taken(LockKind::Exclusive) else { panic!("free again") };
    assert!(matches!(taken(LockKind::Shared), Lock::Busy { .. }));
}

const CONTRACT: [fn(&dyn Backend); 7] = [
    reads_back_what_was_put,
    says_what_is_missing,
    one_of_many_creators_wins,
    lists_below_a_directory,
    deletes_and_forgives,
    locks_exclude,
    shared_locks_are_shared,
];

#[test]
fn memory_keeps_the_contract() {
    for clause in CONTRACT {
        clause(&MemoryBackend::default());
    }
}

#[test]
fn local_keeps_the_contract() {
    for clause in CONTRACT {
        let directory = tempfile::tempdir().unwrap();
        clause(&LocalBackend::new(directory.path()));
        let left = std::fs::read_dir(directory.path().join("tmp")).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "temporaries are left behind");
    }
}
