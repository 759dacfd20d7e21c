//! The judgement of one store: its files, its database, and that they agree.

use super::collections::{Collection, read_applied, read_collections, read_segment_ids, read_spaces};
use super::context::Context;
use super::database_rows::{judge_full_text, judge_metadata};
use super::index_files::judge_index_files;
use super::queue::{Queue, judge_queue};
use super::replay::{Sides, judge_replay, read_embeddings};
use super::schema::judge_schema;
use super::segments::{Segment, judge_index, judge_segment};
use super::sequence_numbers::{applied, judge_sequence_numbers};
use super::trouble::{Outcome, end_group};
use super::vectors::asked_ids;
use super::workspace::open_workspace;
use crate::format::{CollectionCount, Entry, EntryKind, Level};
use crate::source::chroma::layout::{DATABASE, is_segment_name};
use crate::source::interface::{JudgeOptions, Judgement, StoredFiles};
use crate::source::sqlite::{DatabaseFacts, judge_copy};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::io;

/// What is found in a store's database.
const FACTS: DatabaseFacts = DatabaseFacts {
    not_sqlite: "db_not_sqlite",
    size_mismatch: "db_size_mismatch",
    size_larger: "db_size_larger",
    corrupt: "db_corrupt",
};

/// Judges a stored store. At the quick level: that all files are there and long enough for each other; at the full level
/// all that makes Chroma fail, lose vectors, or answer with wrong ones. Codes and severities are those of
/// `docs/operations.md`. Groups of checks are independent: where a newer Chroma has other tables, the rest is judged.
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
    let mut workspace = None;
    let database = files.open(DATABASE.as_bytes())?;
    judge_copy(judgement, (source, &FACTS), DATABASE.as_bytes(), &*database, options, &mut |copy| {
        workspace = Some(open_workspace(copy, options.temporary_directory, options.stop));
        Ok(())
    })?;
    drop(database);
    let directories: BTreeMap<String, Entry> = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::Directory && is_segment_name(&entry.name))
        .map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry))
        .collect();
    let mut context = Context { judgement, source, files, scratch: options.temporary_directory };
    if options.level < Level::Full {
        for directory in directories.values() {
            judge_index_files(&mut context, directory)?;
        }
        return Ok(());
    }
    let connection = match workspace {
        Some(opened) => end_group(context.judgement, source, "opening", opened)?,
        None => None,
    };
    let collections = match &connection {
        Some(connection) => judge_tables(&mut context, connection)?,
        None => None,
    };
    match (&connection, collections) {
        (Some(connection), Some(collections)) => {
            judge_all(&mut context, connection, collections, directories)
        }
        // Nothing tells which directories belong to a collection.
        (connection, _) => judge_alone(&mut context, connection.as_ref(), &directories),
    }
}

/// Ends a group of checks, with its name for the findings.
fn group<T>(context: &mut Context<'_>, name: &str, result: Outcome<T>) -> io::Result<Option<T>> {
    end_group(context.judgement, context.source, name, result)
}

/// What the database says without its files.
fn judge_tables(context: &mut Context<'_>, connection: &Connection) -> io::Result<Option<Vec<Collection>>> {
    let schema = judge_schema(context.judgement, context.source, connection);
    group(context, "migrations", schema)?;
    let metadata = judge_metadata(context, connection);
    group(context, "metadata", metadata)?;
    let full_text = judge_full_text(context, connection);
    group(context, "full text", full_text)?;
    let collections = read_collections(context.judgement, context.source, connection);
    group(context, "collections and segments", collections)
}

fn judge_alone(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    directories: &BTreeMap<String, Entry>,
) -> io::Result<()> {
    for (name, directory) in directories {
        let collection = Collection { vector: Some(name.clone()), has_files: true, ..Collection::default() };
        let judged = judge_segment(context, connection, &collection, Some(directory))
            .and_then(|segment| judge_index(context, connection, (0, &collection), &segment, None));
        group(context, "index files", judged)?;
    }
    Ok(())
}

fn judge_all(
    context: &mut Context<'_>,
    connection: &Connection,
    mut collections: Vec<Collection>,
    directories: BTreeMap<String, Entry>,
) -> io::Result<()> {
    let known = read_segment_ids(connection);
    for name in group(context, "segments", known)?.into_iter().flat_map(|known| {
        directories.keys().filter(move |name| !known.contains(*name)).cloned().collect::<Vec<_>>()
    }) {
        context.warning("segment_dir_orphan", &name, "the directory belongs to no collection");
    }
    let read = read_applied(connection, &mut collections);
    let knows_applied = group(context, "max_seq_id", read)?.is_some();
    let read = read_spaces(connection, &mut collections);
    group(context, "spaces", read)?;
    let mut segments = Vec::with_capacity(collections.len());
    for collection in &collections {
        let directory = collection.vector.as_ref().and_then(|vector| directories.get(vector));
        let segment = judge_segment(context, Some(connection), collection, directory);
        segments.push(group(context, "index files", segment)?.unwrap_or_default());
    }
    let embeddings = read_embeddings(context, connection, &collections);
    let embeddings = group(context, "embeddings", embeddings)?;
    let reached: Vec<i64> = collections
        .iter()
        .zip(&segments)
        .map(|(found, segment)| applied(found, segment.maps.as_ref()))
        .collect();
    let queue = judge_queue(context, connection, &collections, &reached);
    let queue = group(context, "queue", queue)?;
    let asked = match &queue {
        Some(_) => group(context, "queue", asked_ids(connection))?,
        None => None,
    };
    for (n, (collection, segment)) in collections.iter().zip(&mut segments).enumerate() {
        let judged = judge_index(context, Some(connection), (n, collection), segment, asked.as_ref());
        segment.labels = group(context, "index", judged)?.flatten();
        let Some(queue) = queue.as_ref().filter(|_| knows_applied) else { continue };
        judge_sequence_numbers(context, collection, segment.maps.as_ref(), queue.newest);
        if let Some(embeddings) = embeddings.as_ref().and_then(|sums| sums.get(n)) {
            let sides = Sides { n, collection, maps: segment.maps.as_ref(), embeddings: *embeddings };
            let judged = judge_agreement(context, connection, &sides, segment);
            group(context, "replay", judged)?;
        }
    }
    count(context, &collections, &segments, embeddings.as_deref(), queue.as_ref());
    Ok(())
}

/// The replay, where both sides can be known.
fn judge_agreement(
    context: &mut Context<'_>,
    connection: &Connection,
    sides: &Sides<'_>,
    segment: &Segment,
) -> Outcome<()> {
    let collection = sides.collection;
    let is_comparable = collection.has_files && collection.metadata.is_some() && !segment.is_unreadable;
    // A persisted index that is gone was told already.
    let is_lost =
        !segment.files.has_pickle && collection.vector_seq.is_some() && collection.dimension.is_some();
    if !is_comparable || is_lost {
        return Ok(());
    }
    let is_whole = judge_replay(context, connection, sides)?;
    if !is_whole
        && !segment.has_directory
        && let Some(vector) = &collection.vector
    {
        let detail = format!("collection {:?} has ids that only its directory could hold", collection.name);
        context.error("segment_dir_missing", vector, detail);
    }
    Ok(())
}

fn count(
    context: &mut Context<'_>,
    collections: &[Collection],
    segments: &[Segment],
    embeddings: Option<&[super::fingerprint::SetSum]>,
    queue: Option<&Queue>,
) {
    for (n, (collection, segment)) in collections.iter().zip(segments).enumerate() {
        context.judgement.collections.push(CollectionCount {
            name: collection.name.clone(),
            live_ids: embeddings.and_then(|sums| sums.get(n)).map_or(0, |sum| sum.count),
            labels: segment.labels,
            queue_tail: queue.and_then(|queue| queue.tails.get(n)).copied().unwrap_or(0),
        });
    }
}
