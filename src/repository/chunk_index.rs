//! Which chunk lies where: loaded from `index/` and from the trailers of packs that no index lists.
//!
//! Chunks are found by how their ids begin. Whoever reads one proves it by its id; whoever wants to rely on one without
//! reading it asks the trailers, which have the whole ids.
//!
//! A small repository's index is a table in memory. Above a limit RocksDB in the cache directory takes over; when
//! another process has it, this one makes a private copy beside it; when it is missing, stale or damaged it is made
//! anew from `index/`. A hit counts only for a pack that the repository's own listing holds.

use super::condemned::read_doomed;
use super::error::RepositoryError;
use super::location::{Location, PackNumbers};
use super::memory_table::{IdMap, MemoryTable};
use super::rocks_table::{CacheError, RocksTable};
use super::trailers::{Trailers, read_trailer};
use crate::backend::{Backend, ErrorKind};
use crate::crypto::{SealedFile, Seals};
use crate::format::{DoomedKind, IndexFile, IndexedPack, Key, ListedPack};
use crate::id::Id;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// A chunk in memory takes about this much: id, place and the hash table's slack.
const MEMORY_BYTES_PER_CHUNK: u64 = 60;
/// Bytes of an index file per chunk.
const INDEX_BYTES_PER_CHUNK: u64 = 15;

/// Where the index may live.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Where caches go; `None`: memory only.
    pub cache_directory: Option<PathBuf>,
    /// A larger index than this goes to the cache directory.
    pub memory_limit_bytes: u64,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { cache_directory: None, memory_limit_bytes: 128 << 20 }
    }
}

#[derive(Default)]
struct Tables {
    /// Everything, or, beside RocksDB, what no index file lists yet.
    memory: MemoryTable,
    numbers: PackNumbers,
    rocks: Option<RocksTable>,
    /// A private cache is removed with its directory.
    private: Option<tempfile::TempDir>,
}

/// The index of an open repository. Safe to share between threads.
pub struct ChunkIndex {
    pub(super) backend: Arc<dyn Backend>,
    tables: RwLock<Tables>,
    pub(super) packs: RwLock<IdMap<u64>>,
    /// Packs that are condemned: they are read, but nothing new may rely on them.
    pub(super) doomed: RwLock<HashSet<Id>>,
    /// Packs that were found by their trailers: whoever left them may not have read them back.
    pub(super) unlisted: RwLock<HashSet<Id>>,
    /// Packs that this run found not to be what their names say, whatever a later look at what is condemned says.
    pub(super) distrusted: RwLock<HashSet<Id>>,
    pub(super) seals: Seals,
    pub(super) trailers: Trailers,
    index_files: Vec<(Id, u64)>,
    /// What was wrong but could be worked around.
    warnings: Mutex<Vec<String>>,
    damaged_files: Mutex<Vec<String>>,
    /// Why part of it is lacking.
    unloaded: OnceLock<RepositoryError>,
}

impl ChunkIndex {
    /// Reads the listings and loads the index.
    pub fn load(
        backend: &Arc<dyn Backend>,
        seals: &Seals,
        repository: Id,
        options: &IndexOptions,
    ) -> Result<Self, RepositoryError> {
        // Index files first: a pack that goes away between the listings is then void, never the other way round.
        let mut index_files =
            listing(&**backend, "index", |key| if let Key::Index(id) = key { Some(id) } else { None })?;
        let packs = listing_of_packs(&**backend)?;
        let (mut doomed, mut doomed_files) = (HashSet::new(), HashSet::new());
        for condemned in read_doomed(&**backend, seals)?.list {
            match condemned.kind {
                DoomedKind::Pack => drop(doomed.insert(condemned.id)),
                DoomedKind::Index => drop(doomed_files.insert(condemned.id)),
                DoomedKind::Manifest => {}
            }
        }
        // Another one says all that they say; if that one is gone, the trailers do.
        index_files.retain(|(id, _)| !doomed_files.contains(id));
        let index = Self {
            backend: Arc::clone(backend),
            tables: RwLock::default(),
            packs: RwLock::new(packs.into_iter().collect()),
            doomed: RwLock::new(doomed),
            unlisted: RwLock::default(),
            distrusted: RwLock::default(),
            seals: seals.clone(),
            trailers: Trailers::new(seals.clone()),
            index_files,
            warnings: Mutex::default(),
            damaged_files: Mutex::default(),
            unloaded: OnceLock::new(),
        };
        let chunks: u64 = index.index_files.iter().map(|(_, size)| size / INDEX_BYTES_PER_CHUNK).sum();
        let large = chunks * MEMORY_BYTES_PER_CHUNK > options.memory_limit_bytes;
        let mut tables = Tables::default();
        if let (true, Some(cache)) = (large, &options.cache_directory) {
            index.open_cache(&mut tables, &cache.join(repository.hex()));
        }
        if tables.rocks.is_none() {
            let most = options.memory_limit_bytes / MEMORY_BYTES_PER_CHUNK;
            tables.memory.reserve(usize::try_from(chunks.min(most)).unwrap_or(0));
        }
        *index.unlisted.write().unwrap_or_else(PoisonError::into_inner) = index.fill(&mut tables)?;
        *index.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
        Ok(index)
    }

    /// Itself, unless part of it is lacking: what isn't found may be there then.
    pub fn whole(&self) -> Result<&Self, RepositoryError> {
        self.unloaded.get().map_or(Ok(self), |error| Err(error.clone()))
    }

    fn open_cache(&self, tables: &mut Tables, directory: &std::path::Path) {
        let mut opened = RocksTable::open(directory);
        if let Err(CacheError::Damaged(detail)) = &opened {
            self.warn(format!(
                "the index cache in {} was damaged and is made anew: {detail}",
                directory.display()
            ));
            opened = RocksTable::destroy(directory)
                .map_err(CacheError::from)
                .and_then(|()| RocksTable::open(directory));
        }
        if let Err(CacheError::Locked) = &opened {
            let private = tempfile::Builder::new().prefix("private-").tempdir_in(directory);
            opened = private.map_err(CacheError::from).and_then(|private| {
                let table = RocksTable::open(private.path());
                tables.private = Some(private);
                table
            });
        }
        match opened {
            // Most of what it knows is gone from the repository: a new one is smaller.
            Ok(table) if self.is_mostly_stale(&table) => {
                drop(table);
                let again = RocksTable::destroy(directory).map_err(CacheError::from);
                tables.rocks = again.and_then(|()| RocksTable::open(directory)).ok();
            }
            Ok(table) => tables.rocks = Some(table),
            Err(error) => {
                self.warn(format!("working without the index cache in {}: {error}", directory.display()))
            }
        }
    }

    fn is_mostly_stale(&self, table: &RocksTable) -> bool {
        let present: HashSet<Id> = self.index_files.iter().map(|(id, _)| *id).collect();
        let stale = table.loaded().keys().filter(|id| !present.contains(*id)).count();
        stale > 8 && stale * 2 > table.loaded().len()
    }

    /// Loads every index file that isn't loaded, then the packs that none of them lists, and returns these.
    fn fill(&self, tables: &mut Tables) -> Result<HashSet<Id>, RepositoryError> {
        let mut listed = HashSet::new();
        for (name, _) in &self.index_files {
            if let Some(packs) = tables.rocks.as_ref().and_then(|rocks| rocks.loaded().get(name)) {
                listed.extend(packs);
                continue;
            }
            let key = Key::Index(*name).path();
            let index = match self.read_file(name)? {
                Ok(index) => index,
                Err(_) if !self.backend.has(&key)? => continue,
                Err(detail) => {
                    self.warn(format!(
                        "index file {key} is damaged ({detail}); its packs are read by their trailers"
                    ));
                    self.damaged_files.lock().unwrap_or_else(PoisonError::into_inner).push(key);
                    continue;
                }
            };
            listed.extend(index.packs.iter().map(|pack| pack.pack));
            self.load_file(tables, *name, &index);
        }
        self.read_unlisted_packs(tables, &listed)
    }

    fn load_file(&self, tables: &mut Tables, name: Id, index: &IndexFile) {
        if let Some(rocks) = &mut tables.rocks {
            match rocks.load(name, index) {
                Ok(()) => return,
                Err(error) => {
                    self.warn(format!("the index cache could not be extended, using memory: {error}"))
                }
            }
        }
        for pack in index.packs.iter().filter(|pack| self.has_pack(&pack.pack)) {
            tables.memory.insert(pack, &mut tables.numbers);
        }
    }

    /// A killed or concurrent run leaves packs that no index lists yet.
    fn read_unlisted_packs(
        &self,
        tables: &mut Tables,
        listed: &HashSet<Id>,
    ) -> Result<HashSet<Id>, RepositoryError> {
        let mut unlisted = HashSet::new();
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (pack, size) in packs.iter().filter(|(pack, _)| !listed.contains(*pack)) {
            match read_trailer(&*self.backend, &self.seals, *pack, *size) {
                Ok(indexed) => {
                    tables.memory.insert(&ListedPack::from(&indexed), &mut tables.numbers);
                    self.trailers.keep(indexed.pack, &indexed.records);
                    unlisted.insert(*pack);
                }
                Err(RepositoryError::Damaged { file, detail }) => {
                    self.warn(format!("{file} is damaged and left aside: {detail}"));
                    self.damaged_files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
                }
                Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(unlisted)
    }

    /// Where a chunk may lie whose id begins like this, or `None`.
    pub fn find(&self, prefix: u64) -> Option<Location> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut in_memory = tables.memory.find(prefix, &tables.numbers);
        let found = in_memory.find(|location| self.has_pack(&location.pack));
        drop(in_memory);
        drop(tables);
        found.or_else(|| self.find_all(prefix).into_iter().next())
    }

    /// Takes out the chunks of which something in memory says that they, and a whole copy of each of their bases, lie where
    /// they fit. Of the others the rest of the index may know.
    pub fn take_out_known(&self, prefixes: &mut Vec<u64>) {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let len = |number| tables.numbers.id(number).and_then(|pack| packs.get(&pack)).copied();
        let mut latest = (0, len(0));
        let mut fits = |number, end| {
            if latest.0 != number {
                latest = (number, len(number));
            }
            latest.1.is_some_and(|len| end <= len)
        };
        prefixes.retain(|prefix| !tables.memory.is_there(*prefix, &mut fits));
    }

    /// Everywhere that a chunk may lie whose id begins like this: where one copy is damaged another may be whole.
    pub fn find_all(&self, prefix: u64) -> Vec<Location> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Location> = tables.memory.find(prefix, &tables.numbers).collect();
        let looked_up = tables.rocks.as_ref().map(|rocks| rocks.find(prefix));
        drop(tables);
        match looked_up {
            None => {}
            Some(Ok(more)) => found.extend(more),
            Some(Err(error)) => {
                self.leave_cache(&error);
                let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
                found = tables.memory.find(prefix, &tables.numbers).collect();
            }
        }
        let mut places = HashSet::new();
        found.retain(|location| {
            self.has_pack(&location.pack) && places.insert((location.pack, location.offset))
        });
        // What is condemned may be gone while the others are still there.
        found.sort_by_key(|location| self.is_doomed(&location.pack));
        found
    }

    /// No part of it is in RocksDB.
    pub fn is_in_memory(&self) -> bool {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).rocks.is_none()
    }

    /// Gives, with its place among `prefixes`, each place that RocksDB knows of chunks whose ids begin with one of them; these
    /// ascend by their bytes. What is in memory isn't given; of a cache that fails not all is, and then everything is in memory.
    pub fn each_in_order(
        &self,
        prefixes: &mut dyn Iterator<Item = u64>,
        take: &mut dyn FnMut(usize, Location),
    ) {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let done = tables.rocks.as_ref().map(|rocks| rocks.each_in_order(prefixes, take));
        drop(tables);
        if let Some(Err(error)) = done {
            self.leave_cache(&error);
        }
    }

    /// A damaged cache costs time, never a chunk: everything is loaded again, into memory.
    fn leave_cache(&self, error: &CacheError) {
        self.warn(format!("the index cache failed and is left aside: {error}"));
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(broken) = tables.rocks.take() else { return };
        if let Err(error) = broken.discard() {
            self.warn(format!("it could not be removed: {error}"));
        }
        if let Err(error) = self.fill(&mut tables) {
            self.warn(format!("the index could not be loaded again: {error}"));
            let _ = self.unloaded.set(error);
        }
    }

    /// The packs that are there, with their sizes.
    pub fn packs(&self) -> IdMap<u64> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The index files that count, with their sizes.
    pub fn files(&self) -> &[(Id, u64)] {
        &self.index_files
    }

    /// Gives each pack that is there, once, with what an index file, or else its trailer, lists.
    pub fn each_pack(
        &self,
        take: &mut dyn FnMut(&ListedPack) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let mut waiting = self.packs();
        for (name, _) in &self.index_files {
            let Ok(index) = self.read_file(name)? else { continue };
            for listed in &index.packs {
                if waiting.remove(&listed.pack).is_some() {
                    take(listed)?;
                }
            }
        }
        for (pack, size) in waiting {
            match read_trailer(&*self.backend, &self.seals, pack, size) {
                Ok(indexed) => take(&ListedPack::from(&indexed))?,
                Err(RepositoryError::Damaged { .. }) => {}
                Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As `each_pack`, but everything that any index file or trailer says, also what others have said of the same pack.
    pub fn each_listing(
        &self,
        take: &mut dyn FnMut(&ListedPack) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        for (name, _) in &self.index_files {
            let Ok(index) = self.read_file(name)? else { continue };
            index.packs.iter().filter(|listed| self.has_pack(&listed.pack)).try_for_each(&mut *take)?;
        }
        self.each_pack(take)
    }

    /// An index file, or what is wrong with it.
    pub fn read_file(&self, name: &Id) -> Result<Result<IndexFile, String>, RepositoryError> {
        let bytes = match self.backend.get(&Key::Index(*name).path()) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Err("it is gone".into())),
            Err(error) if error.kind == ErrorKind::Lost => return Ok(Err(error.to_string())),
            other => other?,
        };
        if Id::of(&bytes) != *name {
            return Ok(Err("its content does not match its name".into()));
        }
        let opened = self.seals.open_file(SealedFile::Index, bytes).map_err(|error| error.to_string());
        Ok(opened.and_then(|bytes| IndexFile::decode(&bytes).map_err(|error| error.to_string())))
    }

    /// Where chunks lie that begin like this, with the whole ids by the packs' trailers; nothing where there is but one.
    pub fn copies(&self, prefix: u64) -> Result<Vec<(Location, Id)>, RepositoryError> {
        let (mut copies, found) = (Vec::new(), self.find_all(prefix));
        // Most are asked for in vain, and trailers are long.
        for location in found.iter().filter(|_| found.len() > 1).cloned() {
            let Some(len) = self.pack_len(&location.pack) else { continue };
            match self.trailers.id_at(&*self.backend, (location.pack, len), location.offset) {
                Ok(Some(id)) => copies.push((location, id)),
                Ok(None) | Err(RepositoryError::Damaged { .. }) => {}
                Err(RepositoryError::Backend(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(copies)
    }

    /// Adds a pack that this run has written.
    pub fn add(&self, indexed: &IndexedPack, pack_len: u64) {
        self.packs.write().unwrap_or_else(PoisonError::into_inner).insert(indexed.pack, pack_len);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let tables = &mut *tables;
        tables.memory.insert(&ListedPack::from(indexed), &mut tables.numbers);
        self.trailers.keep(indexed.pack, &indexed.records);
    }

    /// The pack was there when the repository was opened, or this run wrote it.
    pub fn has_pack(&self, pack: &Id) -> bool {
        self.packs.read().unwrap_or_else(PoisonError::into_inner).contains_key(pack)
    }

    /// The pack is there, and long enough to hold what is said to lie there.
    pub fn fits(&self, location: &Location) -> bool {
        let end = location.offset + u64::from(location.stored_len);
        self.pack_len(&location.pack).is_some_and(|len| end <= len)
    }

    /// Bytes of a pack by the listing.
    pub fn pack_len(&self, pack: &Id) -> Option<u64> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner).get(pack).copied()
    }

    /// How the index is kept, for the verbose report.
    pub fn describe(&self) -> String {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        match (&tables.rocks, &tables.private) {
            (None, _) => format!("{} chunks in memory", tables.memory.len()),
            (Some(rocks), None) => format!("RocksDB cache of {} index files", rocks.loaded().len()),
            (Some(rocks), Some(_)) => {
                format!("private RocksDB cache of {} index files", rocks.loaded().len())
            }
        }
    }

    /// What was worked around so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Repository files found damaged while loading.
    pub fn damaged_files(&self) -> Vec<String> {
        self.damaged_files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

fn listing(
    backend: &dyn Backend,
    directory: &str,
    pick: impl Fn(Key) -> Option<Id>,
) -> Result<Vec<(Id, u64)>, RepositoryError> {
    let listed = backend.list(directory)?;
    Ok(listed.into_iter().filter_map(|(path, size)| Some((pick(Key::parse(&path)?)?, size))).collect())
}

/// The packs that are there, with their sizes.
pub(super) fn listing_of_packs(backend: &dyn Backend) -> Result<Vec<(Id, u64)>, RepositoryError> {
    listing(backend, "packs", |key| if let Key::Pack(id) = key { Some(id) } else { None })
}
