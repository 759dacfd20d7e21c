//! Backup, validation, publication: a snapshot exists only if it was proven.

use crate::backup::{BackupError, BackupRequest, backup, check_overlap, draft};
use crate::format::{Finding, Level, Manifest, SnapshotKind, SourceKind};
use crate::hooks::{HookError, Hooks, Quiesced};
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{is_still_lasting, rescue};
use crate::repository::{ChunkWriter, Held, Repository, RepositoryError, Snapshot, Snapshots, Trust};
use crate::stamp::now_nanos;
use crate::validate::{Depth, ValidateOptions, prove_draft};
use std::collections::HashSet;
use std::time::Duration;

/// What to do.
pub struct PublishRequest {
    pub backup: BackupRequest,
    pub depth: Depth,
    /// How long to wait for another run of the same profile.
    pub patience: Duration,
    /// Take nothing over from earlier snapshots: read every file again, and every stored chunk that it would share.
    pub reread: bool,
    pub hooks: Hooks,
}

/// A snapshot that exists.
pub struct Published {
    pub manifest: Manifest,
    pub manifest_id: Id,
    pub findings: Vec<Finding>,
    pub warnings: Vec<String>,
}

/// Why nothing was published. Earlier snapshots are as they were.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{0}; nothing was published")]
    Hook(#[from] HookError),
    #[error(
        "{}; nothing was published",
        if *damaged { "stored data that it refers to is damaged or gone" } else { "the captured data is not valid" }
    )]
    Invalid { manifest: Box<Manifest>, findings: Vec<Finding>, damaged: bool },
}

/// No snapshot came of it; earlier ones are as they were.
#[derive(Debug)]
pub struct Unpublished {
    pub error: FlowError,
    pub warnings: Vec<String>,
}

/// Takes one snapshot. One run of a profile at a time; runs of other profiles go on beside it. Whatever makes it fail is
/// told to the hook `failed`.
pub fn prove_and_publish(
    repository: &Repository,
    request: &PublishRequest,
    progress: &dyn Progress,
) -> Result<Published, Unpublished> {
    let profile = &request.backup.author.profile;
    let locked = |lock: Result<Held, RepositoryError>| {
        lock.map_err(|error| Unpublished { error: error.into(), warnings: Vec::new() })
    };
    let _running = locked(repository.lock(&format!("backup-{profile}"), request.patience))?;
    let _writing = locked(repository.lock_for_use(request.patience))?;
    let mut warnings = Vec::new();
    prove_and_publish_alone(repository, request, &mut warnings, progress).map_err(|error| {
        if let Err(hook) = request.hooks.tell_failure(profile, &error.to_string()) {
            warnings.push(hook.to_string());
        }
        Unpublished { error, warnings }
    })
}

fn prove_and_publish_alone(
    repository: &Repository,
    request: &PublishRequest,
    warnings: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Published, FlowError> {
    let earlier = repository.latest_snapshots(&mut enough_for(request))?;
    let nothing = Snapshots::default();
    for (file, detail) in &earlier.damaged {
        warnings.push(format!("{file} is damaged and hides a snapshot: {detail}"));
    }
    let bad = earlier.list.iter().find(|snapshot| snapshot.has_lost_data());
    if let Some(bad) = bad {
        warnings.push(format!(
            "snapshot {} has lost data, so everything is read again and stored where it is damaged; when it is \
             mended validate it again, or forget it",
            bad.stamp
        ));
    }
    let profile = &request.backup.author.profile;
    let mut own = earlier.list.iter().filter(|snapshot| snapshot.manifest.profile == *profile);
    if let (None, Some(invalid)) = (bad, own.find(|snapshot| snapshot.was_found_bad())) {
        warnings.push(format!(
            "a validation found snapshot {} invalid, so this one is proven in full; forget that one when it is of no more use",
            invalid.stamp
        ));
    }
    let reread = request.reread || bad.is_some();
    let trust = if reread { Trust::Nothing } else { Trust::Index };
    let writer = ChunkWriter::new(repository, trust);
    // Stamps go by all snapshots; what may be taken over goes by what the request allows.
    let known = if reread { Snapshots { list: without_content(&earlier), ..nothing } } else { earlier };
    check_overlap(&request.backup)?;
    let quiesced = Quiesced::begin(&request.hooks, &request.backup.author.profile, warnings, progress);
    let quiesced = quiesced.map_err(|error| match error {
        HookError::Interrupted => FlowError::Backup(BackupError::Interrupted),
        error => FlowError::Hook(error),
    })?;
    let reading = backup(&writer, &known, &request.backup, progress);
    let ended = quiesced.end();
    if let (Err(_), Err(error)) = (&reading, &ended) {
        warnings.push(error.to_string());
    }
    let reading = reading?;
    ended?;
    let (author, kind) = (&request.backup.author, SnapshotKind::Backup);
    let draft = draft(&writer, &known, author, kind, reading, progress)?;
    warnings.extend(draft.warnings);
    let mut manifest = draft.manifest;
    add_new(warnings, repository.warnings());
    let mut relies_on = secure(&writer, &manifest, false, warnings, progress)?;
    let options = ValidateOptions {
        depth: request.depth,
        temporary_directory: &request.backup.options.temporary_directory,
    };
    let outcome = prove_draft(repository, &mut manifest, &known, &options, progress)?;
    add_new(warnings, repository.warnings());
    if !outcome.is_valid() {
        let (findings, damaged) = (outcome.findings, outcome.damaged);
        return Err(FlowError::Invalid { manifest: Box::new(manifest), findings, damaged });
    }
    if progress.interrupted() {
        return Err(BackupError::Interrupted.into());
    }
    // The proof takes a while, and a prune may have condemned something since.
    while !is_still_lasting(repository, &relies_on)? {
        relies_on = secure(&writer, &manifest, true, warnings, progress)?;
    }
    let manifest_id = repository.publish(&mut manifest)?;
    let warnings = std::mem::take(warnings);
    Ok(Published { manifest, manifest_id, findings: outcome.findings, warnings })
}

/// The repository tells all of its warnings each time.
fn add_new(warnings: &mut Vec<String>, told: Vec<String>) {
    let new: Vec<String> = told.into_iter().filter(|warning| !warnings.contains(warning)).collect();
    warnings.extend(new);
}

/// Makes sure that a draft relies on nothing that prunes have condemned or removed; returns the packs it relies on if there is
/// anything of the kind.
fn secure(
    writer: &ChunkWriter<'_>,
    manifest: &Manifest,
    is_doubtful: bool,
    warnings: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Option<HashSet<Id>>, RepositoryError> {
    let rescued = rescue(writer.repository(), manifest, writer, is_doubtful, progress)?;
    let Some(rescued) = rescued else { return Ok(None) };
    if rescued.stored_again > 0 {
        warnings.push(format!(
            "packs were condemned during this run: {} chunk(s) that lay there were stored again",
            rescued.stored_again
        ));
    }
    Ok(Some(rescued.packs))
}

/// Tells when the snapshots that were looked at, from the newest on, say all that a backup has to know: for each of its sources the
/// parent, and, unless such would be too old to count, a full proof. So its cost doesn't grow with the number of snapshots.
fn enough_for(request: &PublishRequest) -> impl FnMut(&Snapshot) -> bool {
    let sources = &request.backup.sources;
    let mut waiting: HashSet<(String, SourceKind)> =
        sources.iter().map(|source| (source.name.clone(), source.kind)).collect();
    let mut unproven = waiting.clone();
    let every = if let Depth::FullEvery(every) = request.depth { every } else { Duration::ZERO };
    let oldest = now_nanos().saturating_sub(i64::try_from(every.as_nanos()).unwrap_or(i64::MAX));
    let profile = &request.backup.author.profile;
    move |snapshot| {
        let manifest = &snapshot.manifest;
        if manifest.profile == *profile && !manifest.is_safety() {
            for source in manifest.sources.iter().filter(|source| source.root.is_some()) {
                let named = (source.name.clone(), source.kind);
                waiting.remove(&named);
                if source.proof.as_ref().is_some_and(|proof| proof.level == Level::Full)
                    && snapshot.is_valid()
                {
                    unproven.remove(&named);
                }
            }
        }
        waiting.is_empty() && (unproven.is_empty() || manifest.clock_ns < oldest)
    }
}

/// The snapshots with their sources' content forgotten: still there for names and times, no parents any more.
fn without_content(snapshots: &Snapshots) -> Vec<crate::repository::Snapshot> {
    let mut list = snapshots.list.clone();
    for source in list.iter_mut().flat_map(|snapshot| &mut snapshot.manifest.sources) {
        source.root = None;
    }
    list
}
