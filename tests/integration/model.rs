//! Random lives of a repository against a map of stamps to trees.

use crate::support::{Scratch, cases, describe, noise, put, settle};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::process::Stdio;

#[derive(Debug, Clone)]
enum Act {
    /// Writes a file anew.
    Change {
        file: u8,
        len: u32,
        seed: u8,
    },
    /// Changes some bytes in the middle of a file, or removes it.
    Touch {
        file: u8,
        at: u16,
    },
    Remove {
        file: u8,
    },
    Backup,
    /// A backup that is killed after so many milliseconds.
    KilledBackup {
        after: u8,
    },
    Forget {
        which: u8,
    },
    Prune {
        now: bool,
    },
    KilledPrune {
        after: u8,
    },
    /// A snapshot in place, and back.
    Restore {
        which: u8,
    },
    Repair,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..6u8, 0..200_000u32, any::<u8>()).prop_map(|(file, len, seed)| Act::Change { file, len, seed }),
        2 => (0..6u8, any::<u16>()).prop_map(|(file, at)| Act::Touch { file, at }),
        1 => (0..6u8).prop_map(|file| Act::Remove { file }),
        5 => Just(Act::Backup),
        1 => (0..60u8).prop_map(|after| Act::KilledBackup { after }),
        2 => any::<u8>().prop_map(|which| Act::Forget { which }),
        2 => any::<bool>().prop_map(|now| Act::Prune { now }),
        1 => (0..60u8).prop_map(|after| Act::KilledPrune { after }),
        1 => any::<u8>().prop_map(|which| Act::Restore { which }),
        1 => Just(Act::Repair),
    ];
    proptest::collection::vec(act, 4..24)
}

struct Life {
    scratch: Scratch,
    snapshots: BTreeMap<String, Vec<String>>,
}

impl Life {
    fn new() -> Self {
        let scratch = Scratch::new();
        scratch.init();
        scratch.file("tree/always", noise(50_000, 1));
        Self { scratch, snapshots: BTreeMap::new() }
    }

    fn tree(&self) -> Vec<String> {
        describe(&self.scratch.path("tree"), true)
    }

    fn killed(&self, arguments: &[&str], after: u8) {
        let mut command = self.scratch.icecore();
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(after)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn nth(&self, which: u8) -> Option<String> {
        let count = self.snapshots.len().max(1);
        self.snapshots.keys().nth(usize::from(which) % count).cloned()
    }

    fn act(&mut self, act: &Act) {
        let place = |file: u8| self.scratch.path(&format!("tree/d{}/f{file}", file % 2));
        match *act {
            Act::Change { file, len, seed } => {
                let path = place(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                put(&path, noise(len as usize, u64::from(seed)));
            }
            Act::Touch { file, at } => {
                if let Ok(mut bytes) = std::fs::read(place(file))
                    && !bytes.is_empty()
                {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= 0x55;
                    put(&place(file), bytes);
                }
            }
            Act::Remove { file } => drop(std::fs::remove_file(place(file))),
            Act::Backup => {
                settle();
                let stamp = self.scratch.backup(&["tree"]);
                self.snapshots.insert(stamp, self.tree());
            }
            Act::KilledBackup { after } => {
                settle();
                self.killed(&["backup", "tree"], after);
                // It may have been done before it was killed.
                for stamp in self.listed() {
                    if !self.snapshots.contains_key(&stamp) {
                        self.snapshots.insert(stamp, self.tree());
                    }
                }
            }
            Act::Forget { which } => {
                if let Some(stamp) = self.nth(which) {
                    self.scratch.ok(["forget", &stamp, "--safety"]);
                    self.snapshots.remove(&stamp);
                }
            }
            Act::Prune { now } => {
                let last: &[&str] = if now { &["--now"] } else { &["--grace", "0s"] };
                self.scratch.ok(["prune", "--keep-last", "1000"].iter().chain(last));
            }
            Act::KilledPrune { after } => self.killed(&["prune", "--keep-last", "1000", "--now"], after),
            Act::Restore { which } => {
                if let Some(stamp) = self.nth(which) {
                    let before = self.tree();
                    let told = self.scratch.ok(["restore", &stamp, "--confirm-service-stopped"]);
                    assert_eq!(self.tree(), self.snapshots[&stamp]);
                    let safety = told["pre_restore_snapshot"].as_str().unwrap().to_owned();
                    self.snapshots.insert(safety, before);
                    settle();
                }
            }
            Act::Repair => drop(self.scratch.ok(["repair"])),
        }
    }

    fn listed(&self) -> Vec<String> {
        let list = self.scratch.ok(["list"]);
        list["backups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["stamp"].as_str().unwrap().to_owned())
            .collect()
    }

    /// It holds what the model says, and all of it comes back.
    fn compare(&self) {
        assert_eq!(self.listed(), self.snapshots.keys().cloned().collect::<Vec<_>>());
        self.scratch.ok(["check", "--read-data"]);
        for (stamp, tree) in &self.snapshots {
            let out = format!("out-{stamp}");
            self.scratch.ok(["restore", stamp, "-t", &out]);
            assert_eq!(&describe(&self.scratch.path(&format!("{out}/tree")), true), tree, "{stamp}");
            std::fs::remove_dir_all(self.scratch.path(&out)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(8), max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_repository_holds_what_a_map_would(acts in acts()) {
        let mut life = Life::new();
        for act in &acts {
            life.act(act);
        }
        life.compare();
    }
}
