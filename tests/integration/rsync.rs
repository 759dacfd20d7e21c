//! A plain `rsync -a` at any moment is a valid repository.

use crate::support::{Scratch, describe, document, has, noise, run};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn copies_taken_while_snapshots_are_published_hold_what_they_claim() {
    if !has("rsync") {
        return;
    }
    let scratch = Scratch::new();
    scratch.init();
    let stop = AtomicBool::new(false);
    let published = std::sync::Mutex::new(Vec::new());
    let mut copies = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..25u64 {
                scratch.file(&format!("tree/f{round}"), noise(400_000, round));
                let stamp = scratch.backup(&["tree"]);
                published.lock().unwrap().push((stamp, describe(&scratch.path("tree"), true)));
            }
            stop.store(true, Ordering::SeqCst);
        });
        while !stop.load(Ordering::SeqCst) {
            let known: Vec<String> =
                published.lock().unwrap().iter().map(|(stamp, _)| stamp.clone()).collect();
            let copy = scratch.path(&format!("copy-{copies}"));
            // 24: a file vanished while rsync looked (a temporary).
            let status =
                Command::new("rsync").arg("-a").arg(scratch.path("repo/")).arg(&copy).status().unwrap();
            assert!(matches!(status.code(), Some(0 | 24)));
            let (code, listed) = document(scratch.icecore().arg("-r").arg(&copy).args(["--json", "list"]));
            assert_eq!(code, 0, "{listed:#}");
            let held: Vec<&str> = listed["backups"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["stamp"].as_str().unwrap())
                .collect();
            assert!(
                known.iter().all(|stamp| held.contains(&stamp.as_str())),
                "what was there before the copy is in it"
            );
            let (code, validated) =
                document(scratch.icecore().arg("-r").arg(&copy).args(["--json", "validate", "--all"]));
            assert_eq!(code, 0, "{validated:#}");
            copies += 1;
        }
    });
    assert!(copies >= 2, "{copies} copies");
    // The same copy, brought up to date, and restored.
    let copy = scratch.path("copy-0");
    run(Command::new("rsync").arg("-a").arg(scratch.path("repo/")).arg(&copy));
    for (stamp, state) in published.into_inner().unwrap().iter().step_by(6) {
        let out = scratch.path(&format!("out-{stamp}"));
        run(scratch.icecore().arg("-r").arg(&copy).args(["restore", stamp, "-t"]).arg(&out));
        assert_eq!(&describe(&out.join("tree"), true), state);
    }
}
