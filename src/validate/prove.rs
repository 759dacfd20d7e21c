//! Proves drafts and published snapshots, and decides what an earlier proof is still worth.

use super::chunks::{Found, Proven, all_chunks, is_damage, quick_chunks};
use super::stored_files::RepositoryFiles;
use crate::format::{CollectionCount, Entry, Finding, Level, Manifest, Proof, Severity, SourceRecord};
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError, Snapshot, Snapshots};
use crate::source::{FullTexts, JudgeOptions, Judgement, VALIDATOR_VERSION, judge};
use crate::stamp::now_nanos;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How thorough a validation should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Exactly(Level),
    /// Full where the source has no full proof younger than this, else quick.
    FullEvery(Duration),
}

/// Where and how to work.
pub struct ValidateOptions<'a> {
    pub depth: Depth,
    pub temporary_directory: &'a Path,
}

/// What a validation found.
pub struct Outcome {
    pub findings: Vec<Finding>,
    /// Some finding is damage of the repository itself.
    pub damaged: bool,
}

impl Outcome {
    /// No error was found.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }
}

/// Proves a draft, whose packs were read back, before it is published: each source is judged, and its proof is put into the
/// manifest. A source whose content an earlier snapshot had proven in full inherits that proof.
pub fn prove_draft(
    repository: &Repository,
    manifest: &mut Manifest,
    earlier: &Snapshots,
    options: &ValidateOptions<'_>,
    progress: &dyn Progress,
) -> Result<Outcome, RepositoryError> {
    let mut outcome = Outcome { findings: Vec::new(), damaged: false };
    let profile = manifest.profile.clone();
    // While a snapshot is known to be bad, nothing that may share its chunks is taken on trust.
    let is_own = |snapshot: &Snapshot| snapshot.manifest.profile == manifest.profile;
    let suspicious = earlier.list.iter().any(|one| one.has_lost_data() || is_own(one) && one.was_found_bad());
    let depth = if suspicious { Depth::Exactly(Level::Full) } else { options.depth };
    for source in &mut manifest.sources {
        let Some(root) = source.root.clone() else { continue };
        if let Some(inherited) = inherit(source, &root, earlier).filter(|_| !suspicious) {
            let missing = quick_chunks(repository, source, &root, &mut |_, _| {})?;
            if missing.findings.is_empty() {
                source.collections = inherited.collections;
                source.written_by = inherited.written_by;
                source.proof = Some(inherited.proof);
                continue;
            }
        }
        let level = level_for(source, &profile, earlier, depth);
        let found = prove_source(repository, source, level, options.temporary_directory, progress)?;
        source.collections = found.collections;
        source.written_by = found.written_by;
        outcome.damaged |= found.damaged;
        outcome.findings.extend(found.findings.iter().cloned());
        source.proof = Some(Proof {
            level,
            validator: VALIDATOR_VERSION,
            time_ns: now_nanos(),
            inherited_from: None,
            findings: found.findings,
        });
    }
    Ok(outcome)
}

/// Proves a published snapshot again.
pub fn validate(
    repository: &Repository,
    manifest: &Manifest,
    level: Level,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Outcome, RepositoryError> {
    let mut outcome = Outcome { findings: Vec::new(), damaged: false };
    for source in manifest.sources.iter().filter(|source| source.root.is_some()) {
        // Nobody claims that what a safety snapshot holds is sound: its bytes are proven, not their meaning.
        let found = if manifest.is_safety() {
            prove_stored(repository, source, level, Default::default(), progress)?
        } else {
            prove_source(repository, source, level, temporary_directory, progress)?
        };
        outcome.damaged |= found.damaged;
        outcome.findings.extend(found.findings);
    }
    Ok(outcome)
}

struct Inherited {
    proof: Proof,
    collections: Vec<CollectionCount>,
    written_by: Option<String>,
}

fn inherit(source: &SourceRecord, root: &Entry, earlier: &Snapshots) -> Option<Inherited> {
    earlier.list.iter().rev().find_map(|snapshot| {
        // A snapshot that a later validation found bad has nothing to leave.
        let sound = snapshot.is_valid().then_some(snapshot)?;
        let before = sound.manifest.source(&source.name).filter(|before| before.kind == source.kind)?;
        let proof = before.proof.as_ref()?;
        let same = before.root.as_ref().is_some_and(|earlier| {
            earlier.content == root.content && earlier.size == root.size && earlier.captured == root.captured
        });
        (same && proof.is_full(VALIDATOR_VERSION)).then(|| {
            let inherited_from = proof.inherited_from.or(Some(snapshot.stamp));
            Inherited {
                proof: Proof { inherited_from, ..proof.clone() },
                collections: before.collections.clone(),
                written_by: before.written_by.clone(),
            }
        })
    })
}

fn level_for(source: &SourceRecord, profile: &str, earlier: &Snapshots, depth: Depth) -> Level {
    let every = match depth {
        Depth::Exactly(level) => return level,
        Depth::FullEvery(every) => i64::try_from(every.as_nanos()).unwrap_or(i64::MAX),
    };
    let since = now_nanos().saturating_sub(every);
    let recent =
        earlier.list.iter().filter(|snapshot| snapshot.manifest.profile == profile).any(|snapshot| {
            let own = snapshot.manifest.source(&source.name).and_then(|before| before.proof.as_ref());
            let at_publication =
                own.is_some_and(|proof| proof.is_full(VALIDATOR_VERSION) && proof.time_ns >= since);
            let afterwards = snapshot.later_proof.as_ref().is_some_and(|proof| {
                proof.is_full_of(&source.name, VALIDATOR_VERSION) && proof.time_ns >= since
            });
            at_publication || afterwards
        });
    if recent { Level::Quick } else { Level::Full }
}

/// The judge goes first: what it reads is proven on the way, and isn't read again. Full-text indexes are compared with their
/// texts beside that, and beside reading the rest.
fn prove_source(
    repository: &Repository,
    source: &SourceRecord,
    level: Level,
    temporary_directory: &Path,
    progress: &dyn Progress,
) -> Result<Found, RepositoryError> {
    let Some(root) = &source.root else { return Ok(Found::default()) };
    progress.begin(&format!("judging {} ({})", source.name, level.name()), None);
    let files = RepositoryFiles::new(repository, source, root, level, progress);
    let stop = progress.stop();
    let full_texts = FullTexts::new(stop.clone());
    let options = JudgeOptions { level, full_texts: Some(&full_texts), temporary_directory, stop };
    let unread = |error: io::Error| match error.downcast::<RepositoryError>() {
        Ok(error) => error,
        Err(error) => {
            let directory = temporary_directory.to_owned();
            RepositoryError::Scratch { directory, source: Arc::new(error) }
        }
    };
    let judged = judge(source.kind, &source.name, &files, &options).map_err(unread);
    // A judge that was stopped may take that for trouble.
    RepositoryError::stop(progress)?;
    let judged = match judged {
        Err(error) if !is_damage(&error) => return Err(error),
        judged => judged,
    };
    let mut found = prove_stored(repository, source, level, files.proven(), progress)?;
    if full_texts.is_running() {
        progress.begin(&format!("comparing full-text indexes of {}", source.name), None);
    }
    // Also where nobody wants to know any more: the copy must be gone before another source's is made.
    let about_texts = full_texts.wait();
    RepositoryError::stop(progress)?;
    let about_texts = about_texts.map_err(unread)?;
    match judged {
        // Of damaged bytes nobody knows what they mean.
        _ if found.damaged => {}
        Ok(Judgement { findings, collections, written_by }) => {
            found.findings.extend(findings.into_iter().chain(about_texts));
            found.collections = collections;
            found.written_by = written_by;
        }
        Err(error) => found.damage(source, b"", &error),
    }
    Ok(found)
}

/// Proves that everything a source consists of is stored well.
fn prove_stored(
    repository: &Repository,
    source: &SourceRecord,
    level: Level,
    (mut proven, mut walked): (Proven, Option<Found>),
    progress: &dyn Progress,
) -> Result<Found, RepositoryError> {
    progress.begin(&format!("validating {} ({})", source.name, level.name()), Some(source.counts.bytes));
    let mut found = Found::default();
    for entry in source.root.iter().chain(&source.sidecars) {
        let part = match level {
            Level::Quick => match walked.take() {
                Some(walked) => walked,
                None => quick_chunks(repository, source, entry, &mut |_, _| {})?,
            },
            Level::Full => all_chunks(repository, source, entry, &mut proven, progress)?,
        };
        found.damaged |= part.damaged;
        found.findings.extend(part.findings);
    }
    Ok(found)
}
