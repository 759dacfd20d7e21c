//! How far each segment says to have applied the queue.

use super::collections::Collection;
use super::context::Context;
use super::id_maps::IdMaps;

/// The last record that the vector segment's files hold: `max_seq_id`, or in 0.4 the pickle; 0 if nothing was persisted.
pub fn applied(collection: &Collection, maps: Option<&IdMaps>) -> i64 {
    collection.vector_seq.or_else(|| maps?.max_seq_id).unwrap_or(0)
}

/// The vector segment is not ahead of the queue, nor the pickle's ids of the vector segment.
pub fn judge_sequence_numbers(
    context: &mut Context<'_>,
    collection: &Collection,
    maps: Option<&IdMaps>,
    newest_in_queue: i64,
) {
    let directory = collection.vector.clone().unwrap_or_default();
    let applied = applied(collection, maps);
    let end = newest_in_queue.max(collection.metadata_seq.unwrap_or(0));
    if applied > end {
        let detail = format!(
            "collection {:?}: the vectors have applied record {applied}, the log ends at {end}",
            collection.name
        );
        context.error("seq_ahead_of_log", &directory, detail);
    }
    // The Python versions note each id's record; 1.x leaves the pickle's map empty.
    if let Some(newest) = maps.and_then(|maps| maps.newest_seq)
        && newest > applied
    {
        let detail = format!(
            "collection {:?}: the pickle holds record {newest}, the database says {applied}",
            collection.name
        );
        context.error("hnsw_seq_ahead", &directory, detail);
    }
}
