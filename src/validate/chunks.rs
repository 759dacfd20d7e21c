//! Reads stored chunks back on all cores.

use crate::cores::on_all_cores;
use crate::format::{ChunkRef, CollectionCount, Entry, EntryKind, Finding, Severity, SourceRecord};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// A damaged repository makes so many findings that the first of each source must do.
const MAX_FINDINGS: usize = 100;
/// Chunks that are read on all cores before the walk goes on.
const BATCH: usize = 4096;
/// Of these, what one core reads at a time.
const AT_ONCE: usize = 64;
/// Nobody finds two chunks of which 16 bytes of their BLAKE3 are the same.
const PROVEN_BYTES: usize = 16;

/// Chunks that were read and had their ids, by half of these: a hundred gigabytes are three million chunks.
#[derive(Default)]
pub struct Proven(HashSet<[u8; PROVEN_BYTES]>);

impl Proven {
    /// Notes a chunk; whether it is a new one.
    fn insert(&mut self, id: &Id) -> bool {
        id.as_bytes().first_chunk().is_none_or(|begin| self.0.insert(*begin))
    }
}

impl Extend<Id> for Proven {
    fn extend<T: IntoIterator<Item = Id>>(&mut self, ids: T) {
        for id in ids {
            self.insert(&id);
        }
    }
}

/// What proving one source found.
#[derive(Default)]
pub struct Found {
    pub findings: Vec<Finding>,
    pub collections: Vec<CollectionCount>,
    pub written_by: Option<String>,
    pub damaged: bool,
    /// Damage that is among the findings: the path, and what is damaged, or nothing for a missing chunk.
    told: HashSet<(String, String)>,
}

impl Found {
    /// Notes damage of the repository at a path. Of a path the first chunk that is missing, and each damaged file of the repository once.
    pub fn damage(&mut self, source: &SourceRecord, path: &[u8], error: &RepositoryError) {
        self.damaged = true;
        let (path, detail) = (String::from_utf8_lossy(path).into_owned(), error.to_string());
        let is_missing = matches!(error, RepositoryError::MissingChunk { .. });
        let told = (path.clone(), if is_missing { String::new() } else { detail.clone() });
        if self.findings.len() < MAX_FINDINGS && self.told.insert(told) {
            let (code, source) = (format!("{}_stored_data_damaged", source.name), source.name.clone());
            self.findings.push(Finding { code, severity: Severity::Error, source, path, detail });
        }
    }
}

/// Takes a file's path and entry.
pub type Visit<'v> = dyn FnMut(&[u8], &Entry) -> Result<(), RepositoryError> + 'v;

/// Walks all entries (which proves the entry trees), giving each file with its path.
pub fn each_file(
    repository: &Repository,
    root: &Entry,
    visit: &mut Visit<'_>,
) -> Result<(), (Vec<u8>, RepositoryError)> {
    let mut path = Vec::new();
    // Directories on the way: how long their paths are, and what they still have to give.
    let mut open: Vec<(usize, std::vec::IntoIter<Entry>)> = Vec::new();
    let mut next = Some(root.clone());
    while let Some(entry) = next {
        match entry.kind {
            EntryKind::Directory => match repository.entries(&entry.content) {
                Ok(below) => open.push((path.len(), below.into_iter())),
                Err(error) => return Err((path, error)),
            },
            EntryKind::File => visit(&path, &entry).map_err(|error| (path.clone(), error))?,
            _ => {}
        }
        next = None;
        while let (None, Some((len, below))) = (&next, open.last_mut()) {
            path.truncate(*len);
            next = below.next();
            match &next {
                Some(entry) => {
                    path.extend_from_slice(if path.is_empty() { b"" } else { b"/" });
                    path.extend_from_slice(&entry.name);
                }
                None => drop(open.pop()),
            }
        }
    }
    Ok(())
}

/// The repository is damaged, which is what a proof looks for.
pub fn is_damage(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. })
}

/// Damage on the way is a finding, another error the end of the proof.
fn ended(
    mut found: Found,
    source: &SourceRecord,
    walked: Result<(), (Vec<u8>, RepositoryError)>,
) -> Result<Found, RepositoryError> {
    match walked {
        Ok(()) => {}
        Err((path, error)) if is_damage(&error) => found.damage(source, &path, &error),
        Err((_, error)) => return Err(error),
    }
    Ok(found)
}

/// Each chunk is in a pack that is there and long enough. `see` gets each file.
pub fn quick_chunks(
    repository: &Repository,
    source: &SourceRecord,
    root: &Entry,
    see: &mut dyn FnMut(&[u8], &Entry),
) -> Result<Found, RepositoryError> {
    let mut found = Found::default();
    let (mut prefixes, mut is_whole) = (Vec::new(), true);
    let at_once = repository.looked_up_at_once()?;
    let walked = each_file(repository, root, &mut |path, entry| {
        see(path, entry);
        for chunk in repository.chunk_list(&entry.content)? {
            prefixes.push(chunk.id.prefix());
            if prefixes.len() >= at_once {
                is_whole = is_whole && repository.lacking(std::mem::take(&mut prefixes))?.is_empty();
                prefixes.clear();
            }
        }
        Ok(())
    });
    if let Err((_, error)) = &walked
        && !is_damage(error)
    {
        return ended(found, source, walked);
    }
    is_whole = is_whole && repository.lacking(prefixes)?.is_empty();
    let walked = if is_whole { walked } else { name_lacking(repository, source, root, &mut found) };
    ended(found, source, walked)
}

/// Names each file of which a chunk is missing, with the first such chunk.
fn name_lacking(
    repository: &Repository,
    source: &SourceRecord,
    root: &Entry,
    found: &mut Found,
) -> Result<(), (Vec<u8>, RepositoryError)> {
    each_file(repository, root, &mut |path, entry| {
        for chunk in repository.chunk_list(&entry.content)? {
            if !repository.has_chunk(&chunk.id)? {
                found.damage(source, path, &RepositoryError::MissingChunk { id: chunk.id });
                break;
            }
        }
        Ok(())
    })
}

/// Each chunk is read back and has its id, on all cores; not again those that were proven just now.
pub fn all_chunks(
    repository: &Repository,
    source: &SourceRecord,
    root: &Entry,
    proven: &mut Proven,
    progress: &dyn Progress,
) -> Result<Found, RepositoryError> {
    let mut found = Found::default();
    let mut batch: Vec<(Vec<u8>, ChunkRef)> = Vec::new();
    let mut walk = |path: &[u8], entry: &Entry| {
        for chunk in repository.chunk_list(&entry.content)? {
            if proven.insert(&chunk.id) {
                batch.push((path.to_owned(), chunk));
            }
            if batch.len() >= BATCH {
                read_batch(repository, source, &std::mem::take(&mut batch), &mut found, progress)?;
            }
        }
        Ok(())
    };
    let walked = each_file(repository, root, &mut walk);
    read_batch(repository, source, &batch, &mut found, progress)?;
    ended(found, source, walked)
}

fn read_batch(
    repository: &Repository,
    source: &SourceRecord,
    batch: &[(Vec<u8>, ChunkRef)],
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    let failed: Mutex<Vec<(usize, RepositoryError)>> = Mutex::default();
    let parts: Vec<&[(Vec<u8>, ChunkRef)]> = batch.chunks(AT_ONCE).collect();
    on_all_cores(parts.len(), |part| {
        RepositoryError::stop(progress)?;
        let ids: Vec<Id> =
            parts.get(part).into_iter().flat_map(|part| part.iter()).map(|(_, chunk)| chunk.id).collect();
        repository.read_chunks(&ids, &mut |number, read| {
            let number = part * AT_ONCE + number;
            progress.advance(batch.get(number).map_or(0, |(_, chunk)| u64::from(chunk.len)));
            match read {
                Err(error) if is_damage(&error) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((number, error));
                    Ok(())
                }
                other => other.map(drop),
            }
        })
    })?;
    for (number, error) in failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let path = batch.get(number).map(|(path, _)| path.clone()).unwrap_or_default();
        found.damage(source, &path, &error);
    }
    Ok(())
}
