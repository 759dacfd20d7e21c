//! The small files: each against its name, and whether it belongs to the repository at all.

use super::problem::Problem;
use crate::backend::ErrorKind;
use crate::format::Key;
use crate::id::Id;
use crate::repository::{Repository, RepositoryError, Snapshots};
use std::collections::HashSet;

/// What is wrong with small files, and what is only worth a word.
#[derive(Default)]
pub struct Files {
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
}

/// Looks at everything but packs and index files.
pub fn check_files(repository: &Repository, snapshots: &Snapshots) -> Result<Files, RepositoryError> {
    let mut files = Files::default();
    let backend = repository.backend();
    for (file, detail) in &snapshots.damaged {
        files.problems.push(Problem::damaged(file, format!("it hides a snapshot: {detail}")));
    }
    for stamp in &snapshots.arriving {
        files.notes.push(format!(
            "snapshot {stamp} has a name and no manifest: it is still arriving, or its manifest is lost"
        ));
    }
    if backend.size(&Key::Readme.path()).is_err() {
        files.notes.push(
            "README is gone: it tells whoever finds the repository how to restore without icecore".into(),
        );
    }
    let named: HashSet<Id> = snapshots.list.iter().map(|snapshot| snapshot.manifest_id).collect();
    for directory in ["keys", "packs", "index", "manifests", "snapshots", "proofs", "pins", "doomed"] {
        for (path, _) in backend.list(directory)? {
            match Key::parse(&path) {
                None => files.notes.push(format!("{path} doesn't belong to the repository and is ignored")),
                Some(key @ Key::Manifest(id)) if !named.contains(&id) => {
                    // The name that leads to it is told of already.
                    let detail = if is_sound(repository, &key)? {
                        "has no name in snapshots/"
                    } else {
                        "is damaged, and no name leads to it"
                    };
                    files.notes.push(format!("{path} {detail}"));
                }
                Some(key @ (Key::Proof(_) | Key::Doomed(_))) if !is_sound(repository, &key)? => {
                    let worth = if directory == "proofs" { "proves" } else { "condemns" };
                    let detail = format!("it doesn't prove itself, so that it {worth} nothing");
                    files.problems.push(Problem::damaged(path, detail));
                }
                Some(key @ Key::WrappedKey(_)) if !is_sound(repository, &key)? => {
                    let detail = "it doesn't prove itself, so that it unlocks nothing";
                    files.problems.push(Problem::damaged(path, detail.to_owned()));
                }
                Some(Key::Pin(stamp)) if snapshots.get(stamp).is_none() => {
                    files.notes.push(format!("{path} pins a snapshot that isn't there"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(files)
}

/// A small file has the bytes that its name says, and they can be decoded; so is what is gone by now.
pub fn is_sound(repository: &Repository, key: &Key) -> Result<bool, RepositoryError> {
    match repository.backend().get(&key.path()) {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind == ErrorKind::Lost => Ok(false),
        other => Ok(repository.proves_itself(key, other?)),
    }
}
