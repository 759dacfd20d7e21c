//! The queue (Chroma's log of vectors): sound records, and what each collection still has to apply.

use super::collections::Collection;
use super::context::Context;
use super::offenders::{Offenders, shown};
use super::trouble::Outcome;
use super::workspace::bytes_of;
use crate::source::chroma::layout::DATABASE;
use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, params};
use std::collections::HashMap;

/// What the queue says about all collections.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// The newest record of all.
    pub newest: i64,
    /// Records above what the vector segment has applied, by collection.
    pub tails: Vec<u64>,
}

/// Reads the queue once, judges its records, and fills the workspace's `collection`, `topic`, `tail` and `expected`.
/// `applied` holds what each vector segment has applied.
pub fn judge_queue(
    context: &mut Context<'_>,
    connection: &Connection,
    collections: &[Collection],
    applied: &[i64],
) -> Outcome<Queue> {
    let mut insert = connection.prepare("INSERT INTO collection VALUES(?1, ?2, ?3, ?4)")?;
    for (n, (collection, vector_seq)) in collections.iter().zip(applied).enumerate() {
        let metadata_seq = collection.metadata_seq.unwrap_or(0);
        insert.execute(params![n as i64, vector_seq, metadata_seq, collection.metadata])?;
    }
    let queue = read_records(context, connection, collections, applied)?;
    connection.execute_batch(FILL_TAIL)?;
    connection.execute_batch(FILL_EXPECTED)?;
    Ok(queue)
}

/// Operations: 0 add, 1 update, 2 upsert, 3 delete. An update of an unknown id is ignored, so it decides nothing about
/// who is there.
const FILL_TAIL: &str = "
INSERT INTO tail(n, id, vector_op, metadata_op)
SELECT t.n, q.id,
    CASE WHEN q.seq_id > c.vector_seq AND (q.operation = 3 OR q.vector IS NOT NULL) THEN q.operation END,
    CASE WHEN q.seq_id > c.metadata_seq THEN q.operation END
FROM store.embeddings_queue q CROSS JOIN topic t ON t.topic = q.topic CROSS JOIN collection c ON c.n = t.n
WHERE q.operation IN (0, 2, 3) AND q.id IS NOT NULL AND q.seq_id > min(c.vector_seq, c.metadata_seq)
ORDER BY q.seq_id
ON CONFLICT(n, id) DO UPDATE SET vector_op = coalesce(excluded.vector_op, vector_op),
    metadata_op = coalesce(excluded.metadata_op, metadata_op)";

/// Follows each id through the records in their order. `seq` is the record whose vector the index must hold, NULL after a
/// delete and for what the tail touches. An add counts only if the id isn't there; for the first record of an id that can
/// depend on records that are purged: then it isn't `sure`.
const FILL_EXPECTED: &str = "
INSERT INTO expected(n, id, seq, op, sure, gone)
SELECT t.n, q.id, CASE WHEN q.operation <> 3 AND q.seq_id <= c.vector_seq THEN q.seq_id END,
    q.operation, q.operation <> 0, q.operation = 3
FROM store.embeddings_queue q CROSS JOIN topic t ON t.topic = q.topic CROSS JOIN collection c ON c.n = t.n
WHERE q.id IS NOT NULL AND (q.operation = 3 OR q.vector IS NOT NULL)
ORDER BY q.seq_id
ON CONFLICT(n, id) DO UPDATE SET
    seq = CASE WHEN excluded.seq IS NULL THEN NULL WHEN excluded.op = 0 AND NOT gone THEN seq
        WHEN excluded.op = 1 AND gone THEN NULL ELSE excluded.seq END,
    sure = CASE WHEN excluded.op = 0 AND NOT gone THEN sure ELSE 1 END,
    gone = CASE excluded.op WHEN 3 THEN 1 WHEN 1 THEN gone ELSE 0 END";

fn read_records(
    context: &mut Context<'_>,
    connection: &Connection,
    collections: &[Collection],
    applied: &[i64],
) -> Outcome<Queue> {
    let numbers: HashMap<&[u8], usize> =
        collections.iter().enumerate().map(|(n, collection)| (collection.id.as_bytes(), n)).collect();
    let mut queue = Queue { newest: 0, tails: vec![0; collections.len()] };
    let (mut invalid, mut homeless) = (Offenders::default(), Offenders::default());
    let mut add_topic = connection.prepare("INSERT OR IGNORE INTO topic VALUES(?1, ?2)")?;
    let query = "SELECT seq_id, operation, topic, encoding, length(vector), typeof(vector)
        FROM store.embeddings_queue ORDER BY seq_id";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let mut last: (Vec<u8>, Option<usize>) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)?;
        queue.newest = queue.newest.max(seq);
        let topic = bytes_of(row.get_ref(2)?);
        if topic != last.0 || last.1.is_none() {
            // `persistent://<tenant>/<database>/<collection id>`
            let id = topic.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            last = (topic.to_vec(), numbers.get(id).copied());
            if let Some(n) = last.1 {
                add_topic.execute(params![ToSqlOutput::Borrowed(row.get_ref(2)?), n as i64])?;
            }
        }
        let Some((n, collection)) = last.1.and_then(|n| Some((n, collections.get(n)?))) else {
            homeless.add(|| format!("{seq} of {}", shown(topic)));
            continue;
        };
        if seq > applied.get(n).copied().unwrap_or(0)
            && let Some(tail) = queue.tails.get_mut(n)
        {
            *tail += 1;
        }
        let vector = match row.get_ref(5)? {
            kind if bytes_of(kind) == b"null" => None,
            kind => Some((bytes_of(kind) == b"blob", row.get::<_, i64>(4)?.unsigned_abs())),
        };
        let operation = row.get::<_, Value>(1)?;
        if let Some(problem) = problem_of(&operation, bytes_of(row.get_ref(3)?), vector, collection.dimension)
        {
            invalid.add(|| format!("{seq} of {:?}: {problem}", collection.name));
        }
    }
    if !invalid.is_empty() {
        context.error("queue_encoding_invalid", DATABASE, invalid.tell("record(s) of the queue"));
    }
    // A collection is deleted before its records are: harmless, and gone with the next purge.
    if !homeless.is_empty() {
        let detail = homeless.tell("record(s) of collections that are not there");
        context.warning("queue_encoding_invalid", DATABASE, detail);
    }
    Ok(queue)
}

/// What is wrong with a record. A vector is given as whether it is a blob, and its length.
fn problem_of(
    operation: &Value,
    encoding: &[u8],
    vector: Option<(bool, u64)>,
    dimension: Option<u64>,
) -> Option<String> {
    if !matches!(operation, Value::Integer(0..=3)) {
        return Some(format!("operation {operation:?}"));
    }
    let (is_blob, len) = vector?;
    if !is_blob {
        return Some("its vector is no blob".to_owned());
    }
    if !matches!(encoding, b"FLOAT32" | b"INT32") {
        return Some(format!("encoding {}", shown(encoding)));
    }
    let expected = dimension.map(|dimension| dimension.saturating_mul(4));
    match expected {
        Some(expected) if expected != len => Some(format!("a vector of {len} bytes instead of {expected}")),
        None if len % 4 != 0 => Some(format!("a vector of {len} bytes")),
        _ => None,
    }
}
