//! The whole check: files, packs, what snapshots need, and whom damage concerns.

use super::affected::{Affected, Tracer};
use super::files::check_files;
use super::packs::{Found, Part, compare_indexes, read_packs};
use super::problem::Problem;
use crate::id::Id;
use crate::progress::Progress;
use crate::reach::{Reached, Survey, Walk, roots};
use crate::repository::{Repository, RepositoryError, Snapshot, Snapshots};
use std::collections::HashSet;

/// How much data is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadData {
    /// Names, sizes, trailers and trees only.
    None,
    Part(Part),
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    pub read_data: ReadData,
}

/// What was found.
pub struct Checked {
    pub snapshots: Snapshots,
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
    pub affected: Vec<Affected>,
    /// So many more than are listed.
    pub more_affected: u64,
    pub packs: u64,
    pub index_files: u64,
    pub chunks: u64,
    /// Bytes of packs that no snapshot needs (about: some garbage may be taken for needed).
    pub unreferenced_bytes: u64,
    pub unreferenced_packs: u64,
    pub read_bytes: u64,
    pub(super) found: Found,
}

impl Checked {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.affected.is_empty()
    }
}

/// Checks a repository. Takes no lock and changes nothing.
pub fn check(
    repository: &Repository,
    scope: Scope,
    progress: &dyn Progress,
) -> Result<Checked, RepositoryError> {
    inspect(repository, scope, HashSet::new(), progress)
}

/// As `check`, but what is in doubt already is read in any case.
pub(super) fn inspect(
    repository: &Repository,
    scope: Scope,
    doubtful: HashSet<u64>,
    progress: &dyn Progress,
) -> Result<Checked, RepositoryError> {
    let snapshots = repository.snapshots()?;
    let files = check_files(repository, &snapshots)?;
    let mut found = compare_indexes(repository, progress)?;
    found.doubtful.extend(doubtful);
    if let ReadData::Part(part) = scope.read_data {
        read_packs(repository, part, &mut found, progress)?;
    }
    let index = repository.index()?;
    if !found.doubtful.is_empty() {
        // What is made to a base that is in doubt is in doubt too.
        let doubtful = &mut found.doubtful;
        index.each_pack(&mut |pack| {
            for chunk in &pack.chunks {
                if chunk.bases.iter().any(|base| doubtful.contains(base)) {
                    doubtful.insert(chunk.prefix);
                }
            }
            Ok(())
        })?;
    }
    let mut lost: HashSet<Id> = HashSet::new();
    let staying: Vec<&Snapshot> = snapshots.list.iter().collect();
    let (mut needed, mut lacking) = (Vec::new(), HashSet::new());
    let at_once = repository.looked_up_at_once()?;
    let mut look = |_, reached: Reached| {
        let Reached::Chunk(chunk) = reached else { return Ok(()) };
        if found.doubtful.contains(&chunk.id.prefix()) && !reads(repository, &chunk.id)? {
            lost.insert(chunk.id);
        }
        needed.push(chunk.id.prefix());
        if needed.len() >= at_once {
            lacking.extend(repository.lacking(std::mem::take(&mut needed))?);
        }
        Ok(())
    };
    let survey = Survey::new(repository, &staying, &repository.condemned()?, &mut look, progress)?;
    lacking.extend(repository.lacking(needed)?);
    if !lacking.is_empty() {
        find_needed(repository, &staying, &lacking, &mut lost, progress)?;
    }
    lost.extend(survey.lost.iter().map(|(_, node)| node.node));
    let (affected, more_affected) = trace(repository, &staying, &lost, progress)?;
    let mut problems = files.problems;
    problems.append(&mut found.problems);
    problems.dedup();
    if !lost.is_empty() {
        problems
            .push(Problem::damaged("packs", format!("{} chunk(s) that snapshots need are lost", lost.len())));
    }
    let mut notes = files.notes;
    if !found.unlisted.is_empty() {
        notes.push(format!(
            "{} pack(s) are in no index file and are read by their trailers",
            found.unlisted.len()
        ));
    }
    if found.void > 0 {
        notes.push(format!("index files speak of {} pack(s) that are gone", found.void));
    }
    let unneeded = survey.packs.iter().filter(|pack| pack.live_chunks == 0);
    Ok(Checked {
        problems,
        notes,
        affected,
        more_affected,
        packs: survey.packs.len() as u64,
        index_files: found.index_files,
        chunks: found.chunks,
        unreferenced_bytes: survey.packs.iter().map(|pack| pack.stored - pack.live).sum(),
        unreferenced_packs: unneeded.count() as u64,
        read_bytes: found.read_bytes,
        snapshots,
        found,
    })
}

/// Adds the whole ids of the chunks that snapshots need and that begin like these.
fn find_needed(
    repository: &Repository,
    snapshots: &[&Snapshot],
    prefixes: &HashSet<u64>,
    found: &mut HashSet<Id>,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    progress.begin("finding which chunks are lost", None);
    let mut walk = Walk::new(repository, progress);
    for root in snapshots.iter().flat_map(|snapshot| roots(&snapshot.manifest)) {
        walk.below(root, &mut |reached| {
            let Reached::Chunk(chunk) = reached else { return Ok(()) };
            if prefixes.contains(&chunk.id.prefix()) {
                found.insert(chunk.id);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn reads(repository: &Repository, id: &Id) -> Result<bool, RepositoryError> {
    match repository.read_chunk(id) {
        Ok(_) => Ok(true),
        Err(RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// More files than these are counted only.
const MOST_AFFECTED: usize = 10_000;

/// What of these snapshots needs what is lost, the newest first, and how much more there is.
fn trace(
    repository: &Repository,
    snapshots: &[&Snapshot],
    lost: &HashSet<Id>,
    progress: &dyn Progress,
) -> Result<(Vec<Affected>, u64), RepositoryError> {
    let (mut affected, mut more) = (Vec::new(), 0);
    if lost.is_empty() {
        return Ok((affected, more));
    }
    progress.begin("finding what is concerned", None);
    let mut tracer = Tracer::new(repository, lost, progress);
    for snapshot in snapshots.iter().rev() {
        let mut found = tracer.snapshot(snapshot)?;
        // Of every snapshot at least one, so that it is known to be concerned.
        let room = MOST_AFFECTED.saturating_sub(affected.len()).max(1);
        more += found.len().saturating_sub(room) as u64;
        found.truncate(room);
        affected.extend(found);
    }
    Ok((affected, more))
}
