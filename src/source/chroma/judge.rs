//! Proves that a stored Chroma directory is one that Chroma can open: layout arithmetic, and at the full level the
//! database and its agreement with the files.

use super::layout::{DATABASE, INDEX_FILES, IndexHeader, PICKLE, is_segment_name};
use crate::format::{CollectionCount, Entry, EntryKind, Level};
use crate::source::interface::{JudgeOptions, Judgement, ReadAt, StoredFiles};
use crate::source::sqlite::judge_database;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const BLOCK_BYTES: u64 = 1 << 20;

/// What the files of one segment say.
struct Segment {
    labels: Option<u64>,
    has_pickle: bool,
}

/// Judges a stored store.
pub fn judge(
    judgement: &mut Judgement,
    source: &str,
    files: &dyn StoredFiles,
    options: &JudgeOptions<'_>,
) -> io::Result<()> {
    let entries = files.list(files.root())?;
    if !entries.iter().any(|entry| entry.name == DATABASE.as_bytes()) {
        judgement.error(source, "db_missing", DATABASE.as_bytes(), "the store has no chroma.sqlite3");
        return Ok(());
    }
    for suffix in ["-journal", "-wal"] {
        let name = [DATABASE.as_bytes(), suffix.as_bytes()].concat();
        if entries.iter().any(|entry| entry.name == name && entry.size > 0) {
            judgement.error(source, "db_sidecar_present", &name, "the database is not settled");
        }
    }
    let mut segments = BTreeMap::new();
    for entry in &entries {
        if entry.kind == EntryKind::Directory && is_segment_name(&entry.name) {
            let segment = judge_segment(judgement, source, files, entry, options.level)?;
            segments.insert(String::from_utf8_lossy(&entry.name).into_owned(), segment);
        }
    }
    let database = files.open(DATABASE.as_bytes())?;
    let connection =
        judge_database(judgement, &format!("{source}_db"), DATABASE.as_bytes(), &*database, options)?;
    for finding in &mut judgement.findings {
        source.clone_into(&mut finding.source);
    }
    if let Some(connection) = connection
        && let Err(error) = judge_agreement(judgement, source, &connection, &segments)
    {
        judgement.warning(source, "schema_unknown", DATABASE.as_bytes(), error.to_string());
    }
    Ok(())
}

fn judge_segment(
    judgement: &mut Judgement,
    source: &str,
    files: &dyn StoredFiles,
    directory: &Entry,
    level: Level,
) -> io::Result<Segment> {
    let place = |name: &str| [directory.name.as_slice(), b"/", name.as_bytes()].concat();
    let present: BTreeSet<Vec<u8>> = files.list(directory)?.into_iter().map(|entry| entry.name).collect();
    let has_pickle = present.contains(PICKLE.as_bytes());
    let missing: Vec<&str> =
        INDEX_FILES.into_iter().filter(|name| !present.contains(name.as_bytes())).collect();
    // Before the first persist the files may be in any state: Chroma makes them anew.
    if !has_pickle {
        return Ok(Segment { labels: None, has_pickle });
    }
    if !missing.is_empty() {
        let detail = format!("without {}", missing.join(", "));
        judgement.error(source, "hnsw_file_missing", &directory.name, detail);
        return Ok(Segment { labels: None, has_pickle });
    }
    let pickle = files.open(&place(PICKLE))?;
    let mut stop = [0u8; 1];
    if let Some(last) = pickle.size().checked_sub(1) {
        pickle.read_exact_at(&mut stop, last)?;
    }
    // Every pickle ends with the STOP opcode; a torn one doesn't.
    if stop != *b"." {
        let detail = format!("{} bytes that do not end as a pickle does", pickle.size());
        judgement.error(source, "hnsw_metadata_unreadable", &place(PICKLE), detail);
    }
    let path = place("header.bin");
    let file = files.open(&path)?;
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(usize::MAX).min(IndexHeader::LEN + 1)];
    file.read_exact_at(&mut bytes, 0)?;
    let Some(header) = IndexHeader::parse(&bytes) else {
        judgement.error(source, "hnsw_header_size", &path, format!("{} bytes instead of 100", file.size()));
        return Ok(Segment { labels: None, has_pickle });
    };
    if header.version != 1 {
        judgement.error(source, "hnsw_header_version", &path, format!("version {}", header.version));
        return Ok(Segment { labels: None, has_pickle });
    }
    if let Some(problem) = header.problem() {
        judgement.error(source, "hnsw_header_invalid", &path, problem);
        return Ok(Segment { labels: None, has_pickle });
    }
    let labels = judge_arrays(judgement, source, files, &place, &header, level)?;
    Ok(Segment { labels, has_pickle })
}

fn judge_arrays(
    judgement: &mut Judgement,
    source: &str,
    files: &dyn StoredFiles,
    place: &dyn Fn(&str) -> Vec<u8>,
    header: &IndexHeader,
    level: Level,
) -> io::Result<Option<u64>> {
    let data = files.open(&place("data_level0.bin"))?;
    let needed = header.elements.saturating_mul(header.element_bytes);
    if data.size() < needed {
        let detail = format!("{} bytes, {} elements need {needed}", data.size(), header.elements);
        judgement.error(source, "hnsw_data_short", &place("data_level0.bin"), detail);
        return Ok(None);
    }
    let lengths = files.open(&place("length.bin"))?;
    if lengths.size() < header.elements.saturating_mul(4) {
        let detail = format!("{} bytes for {} elements", lengths.size(), header.elements);
        judgement.error(source, "hnsw_length_short", &place("length.bin"), detail);
        return Ok(None);
    }
    if level < Level::Full {
        return Ok(None);
    }
    let links = files.open(&place("link_lists.bin"))?;
    if let Some(problem) = walk_link_lists(&*links, header)? {
        judgement.error(source, "hnsw_link_lists_invalid", &place("link_lists.bin"), problem);
    }
    count_labels(&*data, header).map(Some)
}

/// Each element's upper links: a length that is a multiple of one level's list, then that many bytes, up to the end.
fn walk_link_lists(file: &dyn ReadAt, header: &IndexHeader) -> io::Result<Option<String>> {
    let list_bytes = header.max_links.saturating_mul(4).saturating_add(4);
    let mut at = 0u64;
    let mut block = Vec::new();
    let mut block_at = 0u64;
    for element in 0..header.elements {
        if at.saturating_add(4) > file.size() {
            return Ok(Some(format!("it ends before element {element} of {}", header.elements)));
        }
        if block.is_empty() || at < block_at || at + 4 > block_at + block.len() as u64 {
            block.resize((file.size() - at).min(BLOCK_BYTES) as usize, 0);
            file.read_exact_at(&mut block, at)?;
            block_at = at;
        }
        let word = block.get((at - block_at) as usize..).and_then(<[u8]>::first_chunk);
        let length = u64::from(word.map_or(0, |word| u32::from_le_bytes(*word)));
        if length % list_bytes != 0 {
            return Ok(Some(format!("element {element} has {length} bytes of upper links")));
        }
        at += 4 + length;
    }
    Ok((at > file.size()).then(|| "its last list is cut short".to_owned()))
}

/// Elements that are not flagged as deleted (bit 0 of the byte behind the link count).
fn count_labels(file: &dyn ReadAt, header: &IndexHeader) -> io::Result<u64> {
    let per_block = (BLOCK_BYTES / header.element_bytes.max(1)).max(1);
    let mut live = 0;
    let mut element = 0;
    let mut block = Vec::new();
    while element < header.elements {
        let count = (header.elements - element).min(per_block);
        block.resize((count * header.element_bytes) as usize, 0);
        file.read_exact_at(&mut block, element * header.element_bytes)?;
        let flags = block.iter().skip(2).step_by(header.element_bytes.max(1) as usize);
        live += flags.filter(|flags| **flags & 1 == 0).count() as u64;
        element += count;
    }
    Ok(live)
}

/// Collections, segments and directories fit together.
fn judge_agreement(
    judgement: &mut Judgement,
    source: &str,
    connection: &Connection,
    segments: &BTreeMap<String, Segment>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT id, name FROM collections ORDER BY name")?;
    let collections: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (id, name) in collections {
        let segment_of = |scope: &str| -> rusqlite::Result<Option<String>> {
            let query = "SELECT id FROM segments WHERE collection = ?1 AND scope = ?2";
            connection.query_row(query, [id.as_str(), scope], |row| row.get(0)).optional()
        };
        let (Some(vector), Some(metadata)) = (segment_of("VECTOR")?, segment_of("METADATA")?) else {
            let detail = format!("collection {name:?} lacks a segment");
            judgement.error(source, "segment_missing", DATABASE.as_bytes(), detail);
            continue;
        };
        let applied = connection
            .query_row("SELECT 1 FROM max_seq_id WHERE segment_id = ?1", [&vector], |_| Ok(()))
            .optional()?
            .is_some();
        let files = segments.get(&vector);
        match files {
            None if applied => {
                let detail = format!("collection {name:?} was persisted, but its directory is missing");
                judgement.error(source, "segment_dir_missing", vector.as_bytes(), detail);
            }
            Some(segment) if applied && !segment.has_pickle => {
                let detail = format!("collection {name:?} was persisted, but its {PICKLE} is missing");
                judgement.error(source, "hnsw_file_missing", vector.as_bytes(), detail);
            }
            _ => {}
        }
        let count = |query: &str, key: &str| {
            connection.query_row(query, [key], |row| row.get::<_, i64>(0)).map(|count| count.unsigned_abs())
        };
        judgement.collections.push(CollectionCount {
            live_ids: count("SELECT count(*) FROM embeddings WHERE segment_id = ?1", &metadata)?,
            queued: count("SELECT count(*) FROM embeddings_queue WHERE topic LIKE '%/' || ?1", &id)?,
            labels: files.and_then(|segment| segment.labels),
            name,
        });
    }
    Ok(())
}
