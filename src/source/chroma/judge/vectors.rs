//! The queue against the index: ids that both know, and vectors that must be equal.

use super::collections::{Collection, sequence_number};
use super::context::{Context, place};
use super::elements::floats;
use super::fingerprint::{Filter, fingerprint};
use super::id_maps::each_id;
use super::offenders::{Offenders, shown};
use super::trouble::Outcome;
use super::workspace::bytes_of;
use crate::source::chroma::layout::DATA;
use rusqlite::{Connection, OptionalExtension, Statement, params};

/// Of vectors that were normalised twice.
const TOLERANCE: f64 = 1e-5;

/// The ids of all collections that the workspace asks about.
pub fn asked_ids(connection: &Connection) -> Outcome<Filter> {
    let mut filter = Filter::new();
    let query = "SELECT id FROM tail UNION ALL SELECT id FROM expected WHERE seq IS NOT NULL";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        filter.insert(fingerprint(bytes_of(row.get_ref(0)?)));
    }
    Ok(filter)
}

/// Reads the pickle for the ids that the queue knows: marks those of `tail`, and fills `candidate`. Returns the labels
/// that are candidates.
pub fn look_up_ids(
    context: &Context<'_>,
    connection: &Connection,
    directory: &str,
    n: i64,
    asked: &Filter,
) -> Outcome<Option<Filter>> {
    let query = "SELECT EXISTS (SELECT 1 FROM tail WHERE n = ?1)
        OR EXISTS (SELECT 1 FROM expected WHERE n = ?1 AND seq IS NOT NULL)";
    if !connection.prepare(query)?.query_row([n], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let mut labels: Option<Filter> = None;
    let mut mark =
        connection.prepare("UPDATE tail SET indexed = 1 WHERE n = ?1 AND id = CAST(?2 AS TEXT)")?;
    let query = "SELECT seq, sure FROM expected WHERE n = ?1 AND id = CAST(?2 AS TEXT) AND seq IS NOT NULL";
    let mut expected = connection.prepare(query)?;
    let query = "SELECT m.seq_id FROM store.embeddings m, collection c
        WHERE c.n = ?1 AND m.segment_id = c.segment AND m.embedding_id = CAST(?2 AS TEXT)";
    let mut recorded = connection.prepare(query)?;
    let mut insert = connection.prepare("INSERT OR IGNORE INTO candidate VALUES(?1, ?2, ?3)")?;
    each_id(context, directory, &mut |id, label| {
        if !asked.may_hold(fingerprint(id)) {
            return Ok(());
        }
        mark.execute(params![n, id])?;
        let row =
            expected.query_row(params![n, id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)));
        let Some((seq, sure)) = row.optional()? else { return Ok(()) };
        // The metadata segment notes the record that added an id, so it knows whether an add was the first.
        let mut is_first = || -> Outcome<bool> {
            let row = recorded.query_row(params![n, id], |row| Ok(sequence_number(row.get_ref(0)?)));
            Ok(row.optional()?.flatten() == Some(seq))
        };
        if sure || is_first()? {
            insert.execute(params![n, label as i64, seq])?;
            labels.get_or_insert_with(Filter::new).insert(mixed(label));
        }
        Ok(())
    })?;
    Ok(labels)
}

/// Spreads a label over the bits that the filter takes.
fn mixed(label: u64) -> u128 {
    u128::from(label).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

/// Compares vectors of the index with the records that made them.
pub struct VectorComparison<'c> {
    recorded: Statement<'c>,
    n: i64,
    cosine: bool,
    labels: Filter,
    wrong: Offenders,
}

impl<'c> VectorComparison<'c> {
    /// `labels`: those to compare.
    pub fn new(
        connection: &'c Connection,
        n: usize,
        collection: &Collection,
        labels: Filter,
    ) -> Outcome<Self> {
        let recorded = connection.prepare(
            "SELECT q.seq_id, q.id, q.vector FROM candidate c JOIN store.embeddings_queue q ON q.seq_id = c.seq
            WHERE c.n = ?1 AND c.label = ?2 AND q.encoding = 'FLOAT32'",
        )?;
        Ok(Self { recorded, n: n as i64, cosine: collection.cosine, labels, wrong: Offenders::default() })
    }

    /// Takes a live element.
    pub fn take(&mut self, label: u64, vector: &[u8]) -> Outcome<()> {
        if !self.labels.may_hold(mixed(label)) {
            return Ok(());
        }
        let mut rows = self.recorded.query(params![self.n, label as i64])?;
        while let Some(row) = rows.next()? {
            let (seq, id, recorded) = (row.get::<_, i64>(0)?, row.get_ref(1)?, bytes_of(row.get_ref(2)?));
            if !is_same(recorded, vector, self.cosine) {
                self.wrong.add(|| format!("{} (record {seq}, label {label})", shown(bytes_of(id))));
            }
        }
        Ok(())
    }

    /// Tells what was found.
    pub fn finish(self, context: &mut Context<'_>, directory: &str) {
        if !self.wrong.is_empty() {
            let detail = self.wrong.tell("vector(s) that are not those of the queue");
            context.error("vector_mismatch", &place(directory, DATA), detail);
        }
    }
}

/// A recorded vector and the one in the index. In cosine space the index holds it normalised; which space a collection
/// has is told in several places, so an index vector of length 1 is compared that way in any.
fn is_same(recorded: &[u8], indexed: &[u8], cosine: bool) -> bool {
    if recorded == indexed {
        return true;
    }
    let norm = |vector| floats(vector).map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    let (recorded_norm, indexed_norm): (f64, f64) = (norm(recorded), norm(indexed));
    let comparable = recorded.len() == indexed.len() && recorded_norm > 0.0 && indexed_norm > 0.0;
    let is_normalised = (indexed_norm - 1.0).abs() < 1e-3;
    let close = |(one, other): (f32, f32)| {
        (f64::from(one) / recorded_norm - f64::from(other) / indexed_norm).abs() <= TOLERANCE
    };
    comparable && (cosine || is_normalised) && floats(recorded).zip(floats(indexed)).all(close)
}
