//! The power is cut in the middle of a restore, on a real file system (tests/power_cut; `scripts/power-cut` cuts more often).

use crate::support::{has, is_root, missing, python, run};
use std::path::Path;
use std::process::Command;

#[test]
fn a_restore_survives_power_cuts() {
    let Some(python) = python() else { return };
    if !is_root() || !has("fusermount3") {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        return missing("/dev/fuse is not there");
    }
    let work = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut/cut.py");
    let mut command = Command::new(python);
    command.arg(script).arg(env!("CARGO_BIN_EXE_icecore")).arg(work.path()).args(["--cuts", "12"]);
    let output = run(&mut command);
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
}
