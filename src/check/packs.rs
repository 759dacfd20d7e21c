//! Packs and index files: each against its name, and against each other.

use super::problem::Problem;
use crate::backend::ErrorKind;
use crate::cores::on_all_cores;
use crate::format::{IndexFile, IndexedPack, Key, ListedPack, Pack};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Some of `of` equal parts of all packs, from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub first: u32,
    pub count: u32,
    pub of: u32,
}

impl Part {
    /// All packs.
    pub const WHOLE: Self = Self { first: 0, count: 1, of: 1 };

    /// A pack belongs to one part, whatever other packs there are.
    fn holds(self, pack: &Id) -> bool {
        let of = u64::from(self.of.max(1));
        (pack.prefix() % of + of - u64::from(self.first) % of) % of < u64::from(self.count)
    }
}

/// What is wrong with packs and index files.
#[derive(Default)]
pub struct Found {
    pub problems: Vec<Problem>,
    /// Chunks of which a copy is damaged, by how their ids begin.
    pub doubtful: HashSet<u64>,
    /// Packs that are damaged.
    pub damaged: Vec<Id>,
    pub index_files: u64,
    /// Packs that no index file lists.
    pub unlisted: Vec<Id>,
    /// Packs that an index file lists, and that are gone.
    pub void: u64,
    pub chunks: u64,
    pub read_bytes: u64,
}

/// Compares what index files and trailers say.
pub fn compare_indexes(repository: &Repository, progress: &dyn Progress) -> Result<Found, RepositoryError> {
    progress.begin("comparing index files and packs", None);
    let index = repository.index()?;
    let mut found = Found::default();
    let mut waiting: HashSet<Id> = index.packs().keys().copied().collect();
    let mut void: HashSet<Id> = HashSet::new();
    for (name, _) in index.files() {
        found.index_files += 1;
        let key = Key::Index(*name).path();
        let IndexFile { packs } = match index.read_file(name)? {
            Ok(file) => file,
            // A prune has put it together with others meanwhile.
            Err(_) if !repository.backend().has(&key)? => continue,
            Err(detail) => {
                found.problems.push(Problem::damaged(key, detail));
                continue;
            }
        };
        for listed in packs {
            RepositoryError::stop(progress)?;
            if waiting.remove(&listed.pack) {
                one_pack(repository, listed.pack, Some((&key, &listed)), &mut found)?;
            } else if !index.has_pack(&listed.pack) {
                void.insert(listed.pack);
            }
        }
    }
    for pack in waiting {
        if one_pack(repository, pack, None, &mut found)? {
            found.unlisted.push(pack);
        }
    }
    found.void = void.len() as u64;
    Ok(found)
}

/// A pack's trailer against what an index file lists. False if it can't be read.
fn one_pack(
    repository: &Repository,
    pack: Id,
    listed: Option<(&str, &ListedPack)>,
    found: &mut Found,
) -> Result<bool, RepositoryError> {
    let prefixes = |listed: &ListedPack| listed.chunks.iter().map(|chunk| chunk.prefix).collect::<Vec<_>>();
    match repository.read_trailer(pack) {
        Ok(trailer) => {
            found.chunks += trailer.records.len() as u64;
            if let Some((index, listed)) = listed
                && *listed != ListedPack::from(&trailer)
            {
                let detail = format!("it lists other chunks in pack {pack} than that pack's trailer");
                found.problems.push(Problem::damaged(index, detail));
                found.doubtful.extend(trailer.records.iter().map(|record| record.id.prefix()));
            }
            Ok(true)
        }
        Err(RepositoryError::Damaged { file, detail }) => {
            found.problems.push(Problem::damaged(file, detail));
            found.damaged.push(pack);
            found.doubtful.extend(listed.iter().flat_map(|(_, listed)| prefixes(listed)));
            Ok(false)
        }
        // A prune removed it meanwhile.
        Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads packs whole: each must have the bytes that its name says, and each chunk in it its id.
pub fn read_packs(
    repository: &Repository,
    part: Part,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<(), RepositoryError> {
    let packs = repository.index()?.packs();
    let known: HashSet<Id> = found.damaged.iter().copied().collect();
    let mut chosen: Vec<(Id, u64)> =
        packs.into_iter().filter(|(pack, _)| part.holds(pack) && !known.contains(pack)).collect();
    chosen.sort_unstable();
    let total = chosen.iter().map(|(_, size)| size).sum();
    progress.begin("reading packs", Some(total));
    found.read_bytes = total;
    let damaged: Mutex<Vec<(Id, String)>> = Mutex::default();
    on_all_cores(chosen.len(), |number| {
        RepositoryError::stop(progress)?;
        let Some((pack, size)) = chosen.get(number) else { return Ok(()) };
        match repository.prove_pack(pack) {
            Ok(_) => {}
            Err(error @ RepositoryError::Damaged { .. }) => {
                damaged.lock().unwrap_or_else(PoisonError::into_inner).push((*pack, error.to_string()));
            }
            Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        progress.advance(*size);
        Ok(())
    })?;
    let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    damaged.sort();
    for (pack, detail) in damaged {
        let bad = bad_chunks(repository, pack)?;
        // A difference whose base is damaged elsewhere is no fault of the pack that holds it.
        match repository.prove_name(&pack) {
            Ok(_) => {}
            Err(RepositoryError::Damaged { .. }) => {
                found.problems.push(Problem::damaged(Key::Pack(pack).path(), detail));
                found.damaged.push(pack);
            }
            Err(error) => return Err(error),
        }
        found.doubtful.extend(bad);
    }
    Ok(())
}

/// The chunks of a pack that don't read well there.
fn bad_chunks(repository: &Repository, pack: Id) -> Result<Vec<u64>, RepositoryError> {
    let IndexedPack { records, .. } = repository.read_trailer(pack)?;
    let (mut bad, mut offset) = (Vec::new(), Pack::FIRST_OFFSET);
    for record in &records {
        match repository.read_record(pack, offset, record) {
            Ok(_) => {}
            Err(RepositoryError::Damaged { .. }) => bad.push(record.id.prefix()),
            Err(error) => return Err(error),
        }
        offset += u64::from(record.stored_len);
    }
    Ok(bad)
}
