//! Real Chroma that writes all the while: what each snapshot restores is one moment, as Chroma itself judges.

use crate::support::{python, run};
use std::path::Path;
use std::process::Command;

#[test]
fn a_store_being_written_is_captured_as_one_moment() {
    let Some(python) = python() else { return };
    let storm = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chroma/storm.py");
    let mut command = Command::new(python);
    command.arg(storm).args(["--icecore", env!("CARGO_BIN_EXE_icecore"), "--snapshots", "8", "--churn"]);
    // It fails by itself if a restored store is broken, a backup is refused, or a call of the writer fails.
    let output = String::from_utf8(run(&mut command).stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(report["snapshots"], 8, "{report:#}");
    assert_eq!(report["broken"], 0, "{report:#}");
}
