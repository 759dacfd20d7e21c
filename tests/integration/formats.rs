//! Repositories of every format that was ever frozen can be read.

use crate::support::{Scratch, describe, document, files_below, python, run};
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/repositories")
}

#[test]
fn every_format_has_a_repository_that_comes_back() {
    for format in 0..=icecore::format::FORMAT_VERSION {
        let fixture = fixtures().join(format!("format-{format}"));
        assert!(fixture.is_dir(), "format {format} has no fixture in {}", fixtures().display());
        let scratch = Scratch::new();
        let repo = scratch.path("repo");
        run(Command::new("cp").arg("-r").arg(fixture.join("repository")).arg(&repo));
        scratch.ok(["check", "--read-data"]);
        scratch.ok(["validate", "--all"]);
        let list = scratch.ok(["list"]);
        let backups = list["backups"].as_array().unwrap();
        assert!(backups.len() >= 2);
        for one in backups {
            let stamp = one["stamp"].as_str().unwrap();
            let out = scratch.path(stamp);
            scratch.ok(["restore", stamp, "-t", stamp]);
            let expected = fixture.join("expected").join(stamp);
            let bytes = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
                let files = files_below(root).into_iter();
                files
                    .map(|path| (path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap()))
                    .collect()
            };
            assert!(bytes(&out) == bytes(&expected), "{stamp} of format {format}");
            if let Some(python) = python() {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/extract.py");
                let by_script = scratch.path(&format!("{stamp}-by-script"));
                run(Command::new(python).arg(script).arg(&repo).arg(stamp).arg(&by_script));
                assert!(bytes(&by_script) == bytes(&expected), "{stamp} of format {format}, by the script");
            }
            assert_eq!(describe(&out, false).len(), describe(&expected, false).len());
        }
        // It takes new snapshots and gives up old ones.
        scratch.file("notes/numbers", "1\n");
        scratch.ok(["backup", "notes"]);
        scratch.ok(["prune", "--keep-last", "1", "--now"]);
        scratch.ok(["check", "--read-data"]);
    }
}

#[test]
fn a_newer_format_is_refused() {
    let scratch = Scratch::new();
    scratch.init();
    let path = scratch.path("repo/config");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("\"format\": 0", "\"format\": 99");
    let body = text.split(",\n  \"blake3\"").next().unwrap();
    let hash = icecore::id::Id::of(body.as_bytes());
    crate::support::put(&path, format!("{body},\n  \"blake3\": \"{hash}\"\n}}\n"));
    let (code, refused) = document(scratch.icecore().args(["--json", "check"]));
    assert_eq!((code, refused["error"]["code"].as_str()), (10, Some("repository_unsupported")));
}
