//! Captures that real Chroma judged, kept in the source tree: the validator refuses each broken one, by the same codes,
//! and no whole one (tests/fixtures/chroma/README.md).

use crate::support::{Scratch, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Codes of a document's findings that are errors, without the source's name.
fn errors_of(document: &Value) -> BTreeSet<&str> {
    let findings = document["findings"].as_array().unwrap().iter();
    let errors = findings.filter(|found| found["severity"] == "error");
    errors.map(|found| found["code"].as_str().unwrap().strip_prefix("store_").unwrap()).collect()
}

#[test]
fn what_real_chroma_called_broken_is_refused() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma");
    let text = std::fs::read_to_string(directory.join("expected.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (mut broken, mut whole) = (0, 0);
    for entry in &entries {
        let name = entry["file"].as_str().unwrap();
        let scratch = Scratch::new();
        scratch.init();
        run(Command::new("tar").arg("xzf").arg(directory.join(name)).arg("-C").arg(scratch.path("")));
        let (code, document) = scratch.json(["backup", "store=store", "--cold", "--validate", "full"]);
        let found = errors_of(&document);
        let expected: BTreeSet<_> =
            entry["errors"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
        if expected.is_empty() {
            whole += 1;
            assert_eq!(code, 0, "{name}: {document:#}");
        } else {
            broken += 1;
            assert_eq!(code, 20, "{name}: {document:#}");
            assert!(expected.is_subset(&found), "{name}: {expected:?} aren't all among {found:?}");
        }
    }
    // Both kinds of every version, and nothing that isn't listed.
    let versions: BTreeSet<_> = entries
        .iter()
        .map(|entry| (entry["chroma"].as_str(), entry["errors"] == Value::Array(Vec::new())))
        .collect();
    assert_eq!(versions.len(), 6, "{versions:?}");
    assert!(broken >= 8 && whole >= 3, "{broken} broken, {whole} whole");
    let archives = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let archives = archives.filter(|path| path.extension().is_some_and(|end| end == "gz")).count();
    assert_eq!(archives, entries.len());
}
