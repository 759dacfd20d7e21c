//! Replay: what the vector segment knows once the queue is applied must be what the metadata segment knows then.

use super::collections::Collection;
use super::context::Context;
use super::fingerprint::SetSum;
use super::id_maps::{IdMaps, each_id};
use super::offenders::{Offenders, shown};
use super::trouble::Outcome;
use super::workspace::{Difference, Side, bytes_of, id_name};
use crate::source::chroma::layout::DATABASE;
use rusqlite::{Connection, params};
use std::collections::HashMap;

/// Reads all ids of the metadata segments, once; a set for each collection. Ids of segments that are gone are told.
pub fn read_embeddings(
    context: &mut Context<'_>,
    connection: &Connection,
    collections: &[Collection],
) -> Outcome<Vec<SetSum>> {
    let numbers: HashMap<&[u8], usize> = collections
        .iter()
        .enumerate()
        .filter_map(|(n, collection)| Some((collection.metadata.as_ref()?.as_bytes(), n)))
        .collect();
    let mut sums = vec![SetSum::default(); collections.len()];
    let mut orphans = Offenders::default();
    let mut statement = connection.prepare("SELECT segment_id, embedding_id FROM store.embeddings")?;
    let mut rows = statement.query([])?;
    let mut last: (Vec<u8>, Option<usize>) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let (segment, id) = (bytes_of(row.get_ref(0)?), bytes_of(row.get_ref(1)?));
        if segment != last.0 || last.1.is_none() {
            last = (segment.to_vec(), numbers.get(segment).copied());
        }
        match last.1.and_then(|n| sums.get_mut(n)) {
            Some(sum) => sum.add(id),
            None => orphans.add(|| format!("{} of segment {}", shown(id), shown(segment))),
        }
    }
    if !orphans.is_empty() {
        context.warning("embedding_orphan", DATABASE, orphans.tell("id(s) of segments that are not there"));
    }
    Ok(sums)
}

/// One collection's two sides before the replay.
#[derive(Clone, Copy)]
pub struct Sides<'s> {
    pub n: usize,
    pub collection: &'s Collection,
    /// What the pickle says; `None` if nothing was persisted.
    pub maps: Option<&'s IdMaps>,
    /// The metadata segment's ids.
    pub embeddings: SetSum,
}

/// Compares the sides after the replay; the workspace's `tail` is filled and marked. True if no id lacks its vector.
pub fn judge_replay(context: &mut Context<'_>, connection: &Connection, sides: &Sides<'_>) -> Outcome<bool> {
    let mut vectors = sides.maps.map(|maps| maps.ids).unwrap_or_default();
    let mut embeddings = sides.embeddings;
    each_tail(connection, sides, &mut |change| {
        for (set, op, is_there) in [
            (&mut vectors, change.vector_op, change.is_indexed),
            (&mut embeddings, change.metadata_op, change.is_known),
        ] {
            match (op, is_there) {
                (Some(0 | 2), false) => set.add(change.id),
                (Some(3), true) => set.remove(change.id),
                _ => {}
            }
        }
        Ok(())
    })?;
    if vectors == embeddings {
        return Ok(true);
    }
    name_differences(context, connection, sides)
}

/// The last deciding operations on one id.
struct Change<'i> {
    id: &'i [u8],
    vector_op: Option<i64>,
    metadata_op: Option<i64>,
    is_indexed: bool,
    is_known: bool,
}

fn each_tail(
    connection: &Connection,
    sides: &Sides<'_>,
    visit: &mut dyn FnMut(Change<'_>) -> Outcome<()>,
) -> Outcome<()> {
    let query = "SELECT id, vector_op, metadata_op, indexed,
            EXISTS (SELECT 1 FROM store.embeddings e WHERE e.segment_id = ?2 AND e.embedding_id = tail.id)
        FROM tail WHERE n = ?1";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query(params![sides.n as i64, sides.collection.metadata])?;
    while let Some(row) = rows.next()? {
        visit(Change {
            id: bytes_of(row.get_ref(0)?),
            vector_op: row.get(1)?,
            metadata_op: row.get(2)?,
            is_indexed: row.get(3)?,
            is_known: row.get(4)?,
        })?;
    }
    Ok(())
}

fn name_differences(context: &mut Context<'_>, connection: &Connection, sides: &Sides<'_>) -> Outcome<bool> {
    let difference = Difference::new(connection)?;
    let directory = sides.collection.vector.clone().unwrap_or_default();
    if sides.maps.is_some() {
        each_id(context, &directory, &mut |id, _| difference.insert(Side::One, id))?;
    }
    let mut statement =
        connection.prepare("SELECT embedding_id FROM store.embeddings WHERE segment_id = ?1")?;
    let mut rows = statement.query([&sides.collection.metadata])?;
    while let Some(row) = rows.next()? {
        difference.insert(Side::Other, bytes_of(row.get_ref(0)?))?;
    }
    each_tail(connection, sides, &mut |change| {
        for (side, op) in [(Side::One, change.vector_op), (Side::Other, change.metadata_op)] {
            match op {
                Some(0 | 2) => difference.insert(side, change.id)?,
                Some(3) => difference.remove(side, change.id)?,
                _ => {}
            }
        }
        Ok(())
    })?;
    let name = &sides.collection.name;
    let extra = difference.only_in(Side::One, id_name)?;
    if !extra.is_empty() {
        let what = format!("id(s) of collection {name:?} with a vector, but without metadata");
        context.error("vector_extra", &directory, extra.tell(&what));
    }
    let missing = difference.only_in(Side::Other, id_name)?;
    if !missing.is_empty() {
        let what = format!("id(s) of collection {name:?} without a vector");
        context.error("vector_missing", &directory, missing.tell(&what));
    }
    if extra.is_empty() && missing.is_empty() {
        let detail = format!("collection {name:?} has an id more than once");
        context.error("vector_extra", &directory, detail);
    }
    Ok(missing.is_empty())
}
