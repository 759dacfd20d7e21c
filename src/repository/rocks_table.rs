//! The chunk index of a large repository: RocksDB in the cache directory. A cache, never the truth.
//!
//! Key: the first 8 bytes of the chunk's id, then the first 8 bytes of the index file that names it, so that each index file's
//! entries are a set of their own. Value: one or several places: pack id, offset, lengths, encoding, bases. The column family `sets` tells which index files are in, and which
//! packs each of them lists.

use super::location::Location;
use crate::format::{Encoding, IndexFile, Pack};
use crate::id::Id;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, IngestExternalFileOptions, IteratorMode, Options,
    ReadOptions, SliceTransform, SstFileWriter,
};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const SETS: &str = "sets";
/// Raised when keys or values change; another version's directory is made anew.
const LAYOUT: &str = "chunks-2";
const PREFIX: usize = 8;
const SET_PREFIX: usize = 8;
const PLACE_LEN: usize = Id::LEN + 8 + 4 + 4 + 1;
/// To go on by so many rows costs less than to look for the next one.
const NEAR: usize = 16;
const BLOCK_CACHE_BYTES: usize = 32 << 20;

/// Why the cache can't be used; the caller falls back to memory.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("another process is using the cache")]
    Locked,
    #[error("the cache is damaged: {0}")]
    Damaged(String),
    #[error("the cache directory cannot be used: {0}")]
    Unusable(#[from] std::io::Error),
}

impl From<rocksdb::Error> for CacheError {
    fn from(error: rocksdb::Error) -> Self {
        if error.kind() == rocksdb::ErrorKind::IOError && error.to_string().contains("lock") {
            Self::Locked
        } else {
            Self::Damaged(error.to_string())
        }
    }
}

/// An open cache.
pub struct RocksTable {
    db: DB,
    directory: PathBuf,
    loaded: HashMap<Id, Vec<Id>>,
    added: AtomicUsize,
}

impl RocksTable {
    /// Opens, or makes, the cache below `parent`.
    pub fn open(parent: &Path) -> Result<Self, CacheError> {
        let directory = parent.join(LAYOUT);
        fs::create_dir_all(&directory)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_open_files(64);
        options.set_keep_log_file_num(2);
        options.set_write_buffer_size(4 << 20);
        let families = vec![
            ColumnFamilyDescriptor::new("default", chunk_options()?),
            ColumnFamilyDescriptor::new(SETS, Options::default()),
        ];
        let db = DB::open_cf_descriptors(&options, &directory, families)?;
        let loaded = read_sets(&db)?;
        Ok(Self { db, directory, loaded, added: AtomicUsize::new(0) })
    }

    /// Removes a cache, whatever state it is in.
    pub fn destroy(parent: &Path) -> std::io::Result<()> {
        match fs::remove_dir_all(parent.join(LAYOUT)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Closes the cache and removes it.
    pub fn discard(self) -> std::io::Result<()> {
        let Self { db, directory, .. } = self;
        drop(db);
        fs::remove_dir_all(directory)
    }

    /// The index files whose chunks are in, with the packs that they list.
    pub fn loaded(&self) -> &HashMap<Id, Vec<Id>> {
        &self.loaded
    }

    /// Adds an index file's chunks by one sorted ingest (50 times cheaper than single puts), then marks the file as
    /// loaded. Interrupted between the two, it is loaded again.
    pub fn load(&mut self, name: Id, index: &IndexFile) -> Result<(), CacheError> {
        let mut rows = Vec::new();
        for indexed in &index.packs {
            let mut offset = Pack::FIRST_OFFSET;
            for chunk in &indexed.chunks {
                let mut value = Vec::with_capacity(PLACE_LEN);
                value.extend_from_slice(indexed.pack.as_bytes());
                value.extend_from_slice(&offset.to_le_bytes());
                value.extend_from_slice(&chunk.stored_len.to_le_bytes());
                value.extend_from_slice(&chunk.plain_len.to_le_bytes());
                value.push(chunk.encoding.byte());
                chunk.bases.iter().for_each(|base| value.extend_from_slice(&base.to_le_bytes()));
                rows.push((row_key(chunk.prefix, &name), value));
                offset += u64::from(chunk.stored_len);
            }
        }
        rows.sort_unstable();
        // Ids that begin alike, or one chunk twice, share a row.
        rows.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                earlier.1.append(&mut later.1);
            }
            is_same
        });
        if !rows.is_empty() {
            self.ingest(&rows)?;
        }
        let sets = self.db.cf_handle(SETS).ok_or_else(|| CacheError::Damaged("no set list".into()))?;
        let packs: Vec<Id> = index.packs.iter().map(|pack| pack.pack).collect();
        let value: Vec<u8> = packs.iter().flat_map(|pack| *pack.as_bytes()).collect();
        self.db.put_cf(&sets, name.as_bytes(), value)?;
        self.loaded.insert(name, packs);
        Ok(())
    }

    fn ingest(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), CacheError> {
        let number = self.added.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("load-{}-{number}.sst", std::process::id()));
        let options = chunk_options()?;
        let mut writer = SstFileWriter::create(&options);
        writer.open(&path)?;
        for (key, value) in rows {
            writer.put(key, value)?;
        }
        writer.finish()?;
        let mut ingest = IngestExternalFileOptions::default();
        ingest.set_move_files(true);
        self.db.ingest_external_file_opts(&ingest, vec![&path])?;
        Ok(())
    }

    /// Everywhere that a chunk may lie whose id begins like this, packs that are gone included.
    pub fn find(&self, prefix: u64) -> Result<Vec<Location>, CacheError> {
        let mut found = Vec::new();
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let wanted = prefix.to_le_bytes();
        let from = IteratorMode::From(&wanted, rocksdb::Direction::Forward);
        for row in self.db.iterator_opt(from, options) {
            let (key, value) = row?;
            if key.get(..PREFIX) != Some(wanted.as_slice()) {
                break;
            }
            decode_places(&value, &mut |location| found.push(location))?;
        }
        Ok(found)
    }

    /// As `find`, for many: `prefixes` ascend by their bytes. Gives each place with the number of the prefix it is for.
    pub fn each_in_order(
        &self,
        prefixes: &mut dyn Iterator<Item = u64>,
        take: &mut dyn FnMut(usize, Location),
    ) -> Result<(), CacheError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut rows = self.db.raw_iterator_opt(options);
        for (number, prefix) in prefixes.enumerate() {
            let wanted = prefix.to_le_bytes();
            let is_before = |key: Option<&[u8]>| key.is_some_and(|key| key < wanted.as_slice());
            let mut steps = 0;
            while steps < NEAR && is_before(rows.key()) {
                rows.next();
                steps += 1;
            }
            if number == 0 || is_before(rows.key()) {
                rows.seek(wanted);
            }
            while let Some((key, value)) = rows.item()
                && key.starts_with(&wanted)
            {
                decode_places(value, &mut |location| take(number, location))?;
                rows.next();
            }
        }
        Ok(rows.status()?)
    }
}

fn chunk_options() -> Result<Options, CacheError> {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(false);
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES)?);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX));
    options.set_compression_type(rocksdb::DBCompressionType::None);
    Ok(options)
}

fn read_sets(db: &DB) -> Result<HashMap<Id, Vec<Id>>, CacheError> {
    let sets = db.cf_handle(SETS).ok_or_else(|| CacheError::Damaged("no set list".into()))?;
    let mut loaded = HashMap::new();
    for row in db.iterator_cf(&sets, IteratorMode::Start) {
        let (key, value) = row?;
        let name = Id::from_slice(&key).ok_or_else(|| CacheError::Damaged("a set without a name".into()))?;
        loaded.insert(name, value.chunks_exact(Id::LEN).filter_map(Id::from_slice).collect());
    }
    Ok(loaded)
}

fn row_key(prefix: u64, index: &Id) -> Vec<u8> {
    let mut key = prefix.to_le_bytes().to_vec();
    key.extend(index.as_bytes().iter().take(SET_PREFIX));
    key
}

/// Gives each place of a row.
fn decode_places(mut value: &[u8], take: &mut dyn FnMut(Location)) -> Result<(), CacheError> {
    while !value.is_empty() {
        let (location, after) =
            decode_place(value).ok_or_else(|| CacheError::Damaged("a row of the wrong shape".into()))?;
        take(location);
        value = after;
    }
    Ok(())
}

fn decode_place(value: &[u8]) -> Option<(Location, &[u8])> {
    let (pack, rest) = value.split_at_checked(Id::LEN)?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (stored, rest) = rest.split_first_chunk::<4>()?;
    let (plain, rest) = rest.split_first_chunk::<4>()?;
    let (encoding, rest) = rest.split_first()?;
    let encoding = Encoding::from_byte(*encoding).ok()?;
    let (bases, rest) = rest.split_at_checked(PREFIX * usize::from(encoding.bases))?;
    let bases = bases.chunks_exact(PREFIX).filter_map(|base| base.first_chunk().copied());
    let location = Location {
        pack: Id::from_slice(pack)?,
        offset: u64::from_le_bytes(*offset),
        stored_len: u32::from_le_bytes(*stored),
        plain_len: u32::from_le_bytes(*plain),
        encoding,
        bases: bases.map(u64::from_le_bytes).collect(),
    };
    Some((location, rest))
}

#[cfg(test)]
mod tests {
    use super::RocksTable;
    use crate::format::{Encoding, IndexFile, ListedChunk, ListedPack, PackKind};
    use crate::id::Id;
    use proptest::prelude::{ProptestConfig, prop, proptest};

    /// Ids that begin alike, far from each other, and behind one another.
    fn prefix(number: u16) -> u64 {
        u64::from(number % 600).wrapping_mul(0x0123_4567_89AB_CDEF).swap_bytes()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Many that are asked for together are found like single ones, whichever files list them, however far apart they are.
        #[test]
        fn in_order_is_as_one_by_one(
            files in prop::collection::vec(prop::collection::vec(0u16..600, 0..300), 1..5),
            asked in prop::collection::vec(0u16..700, 0..120),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut table = RocksTable::open(directory.path()).unwrap();
            for (number, chunks) in files.iter().enumerate() {
                let (encoding, bases) = (Encoding::RAW, Box::default());
                let chunk = |number: &u16| ListedChunk {
                    prefix: prefix(*number), stored_len: 7, plain_len: 9, encoding, bases: Box::clone(&bases),
                };
                let id = Id::of(&number.to_le_bytes());
                let pack = ListedPack { pack: id, kind: PackKind::Data, chunks: chunks.iter().map(chunk).collect() };
                table.load(id, &IndexFile { packs: vec![pack] }).unwrap();
            }
            let mut asked: Vec<u64> = asked.into_iter().map(|number| prefix(number) + u64::from(number >= 650)).collect();
            asked.sort_unstable_by_key(|prefix| prefix.to_le_bytes());
            asked.dedup();
            let mut found = vec![Vec::new(); asked.len()];
            let mut take = |place: usize, location| found[place].push(location);
            table.each_in_order(&mut asked.iter().copied(), &mut take).unwrap();
            for (prefix, found) in asked.iter().zip(found) {
                assert_eq!(found, table.find(*prefix).unwrap());
            }
        }
    }
}
