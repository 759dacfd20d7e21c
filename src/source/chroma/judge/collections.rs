//! The collections of a store, as its database tells of them.

use super::trouble::Outcome;
use super::workspace::has_column;
use crate::source::chroma::layout::{DATABASE, METADATA_SEGMENT_TYPE, VECTOR_SEGMENT_TYPE};
use crate::source::interface::Judgement;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashMap, HashSet};

/// One collection.
#[derive(Debug, Clone, Default)]
pub struct Collection {
    pub id: String,
    pub name: String,
    /// Floats per vector; `None` until the first one is added.
    pub dimension: Option<u64>,
    /// Vectors are normalised when they are added.
    pub cosine: bool,
    /// The vector segment's id, which names its directory.
    pub vector: Option<String>,
    /// The vector segment is of the one type that has files.
    pub has_files: bool,
    pub metadata: Option<String>,
    /// The last record of the queue that the vector segment's files hold, by `max_seq_id`.
    pub vector_seq: Option<i64>,
    /// The last record that the metadata segment has applied.
    pub metadata_seq: Option<i64>,
}

/// Reads collections and segments, in the order of their names. Segments of unknown types and collections without their
/// two segments are told.
pub fn read_collections(
    judgement: &mut Judgement,
    source: &str,
    connection: &Connection,
) -> Outcome<Vec<Collection>> {
    let mut found = Vec::new();
    let mut statement =
        connection.prepare("SELECT id, name, dimension FROM store.collections ORDER BY name, id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let dimension = row.get::<_, Option<i64>>(2)?.and_then(|dimension| u64::try_from(dimension).ok());
        let collection =
            Collection { id: row.get(0)?, name: row.get(1)?, dimension, ..Collection::default() };
        found.push(collection);
    }
    let numbers: HashMap<String, usize> =
        found.iter().enumerate().map(|(number, collection)| (collection.id.clone(), number)).collect();
    let mut counts = vec![[0u64; 2]; found.len()];
    let mut statement = connection.prepare("SELECT id, type, scope, collection FROM store.segments")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, kind, scope) =
            (row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?);
        let owner = row.get::<_, Option<String>>(3)?;
        let number = owner.and_then(|owner| numbers.get(&owner).copied());
        let expected = match scope.as_str() {
            "VECTOR" => VECTOR_SEGMENT_TYPE,
            "METADATA" => METADATA_SEGMENT_TYPE,
            _ => "",
        };
        if kind != expected {
            let detail = format!("segment of scope {scope:?} and type {kind:?}");
            judgement.warning(source, "segment_type_unknown", id.as_bytes(), detail);
        }
        let places = number.and_then(|number| Some((found.get_mut(number)?, counts.get_mut(number)?)));
        let Some((collection, [vectors, metadata])) = places else { continue };
        match scope.as_str() {
            "VECTOR" => {
                *vectors += 1;
                collection.has_files = kind == VECTOR_SEGMENT_TYPE;
                collection.vector = Some(id);
            }
            "METADATA" => {
                *metadata += 1;
                collection.metadata = Some(id);
            }
            _ => {}
        }
    }
    for (collection, [vectors, metadata]) in found.iter().zip(&counts) {
        if (*vectors, *metadata) != (1, 1) {
            let detail = format!(
                "collection {:?} has {vectors} vector segment(s) and {metadata} metadata segment(s)",
                collection.name
            );
            // Up to 0.5 a collection and its segments are made one after another. Without a vector nothing is lost.
            if collection.dimension.is_none() && *vectors <= 1 && *metadata <= 1 {
                judgement.warning(source, "segment_missing", DATABASE.as_bytes(), detail);
            } else {
                judgement.error(source, "segment_missing", DATABASE.as_bytes(), detail);
            }
        }
    }
    Ok(found)
}

/// The ids of all segments, also of those without a collection.
pub fn read_segment_ids(connection: &Connection) -> Outcome<HashSet<String>> {
    let mut statement = connection.prepare("SELECT id FROM store.segments")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Reads what each segment has applied.
pub fn read_applied(connection: &Connection, collections: &mut [Collection]) -> Outcome<()> {
    let mut statement = connection.prepare("SELECT seq_id FROM store.max_seq_id WHERE segment_id = ?1")?;
    let mut applied = |segment: &Option<String>| -> Outcome<Option<i64>> {
        let Some(segment) = segment else { return Ok(None) };
        let row = statement.query_row([segment], |row| Ok(sequence_number(row.get_ref(0)?)));
        Ok(row.optional()?.flatten())
    };
    for collection in collections {
        collection.vector_seq = applied(&collection.vector)?;
        collection.metadata_seq = applied(&collection.metadata)?;
    }
    Ok(())
}

/// A sequence number: an INTEGER in 1.x, 8 big-endian bytes in the Python versions.
pub fn sequence_number(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(value) => Some(value),
        ValueRef::Blob(bytes) => i64::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok(),
        _ => None,
    }
}

/// Finds the collections whose vectors are normalised. `schema_str` decides in 1.x; the Python versions take
/// `hnsw:space` from the metadata, and their `config_json_str` names `l2` whatever was asked for.
pub fn read_spaces(connection: &Connection, collections: &mut [Collection]) -> Outcome<()> {
    let column = |name| -> Outcome<&str> {
        Ok(if has_column(connection, "collections", name)? { name } else { "NULL" })
    };
    let (schema, config) = (column("schema_str")?, column("config_json_str")?);
    let query = format!("SELECT {schema}, {config} FROM store.collections WHERE id = ?1");
    let mut documents = connection.prepare(&query)?;
    let query = "SELECT str_value FROM store.segment_metadata WHERE segment_id = ?1 AND key = 'hnsw:space'";
    let mut of_segment = connection.prepare(query)?;
    let query =
        "SELECT str_value FROM store.collection_metadata WHERE collection_id = ?1 AND key = 'hnsw:space'";
    let mut of_collection = connection.prepare(query)?;
    for collection in collections {
        let text = |row: &rusqlite::Row<'_>, at| row.get::<_, Option<String>>(at);
        let (schema, config) =
            documents.query_row([&collection.id], |row| Ok((text(row, 0)?, text(row, 1)?)))?;
        let in_schema = schema
            .and_then(|schema| space_at(&schema, &["/keys/#embedding/float_list/vector_index/config/space"]));
        let named = match (in_schema, &collection.vector) {
            (None, Some(vector)) => of_segment.query_row([vector], |row| text(row, 0)).optional()?.flatten(),
            (found, _) => found,
        };
        let named = match named {
            None => of_collection.query_row([&collection.id], |row| text(row, 0)).optional()?.flatten(),
            found => found,
        };
        let named = named.or_else(|| space_at(&config?, &["/hnsw/space", "/hnsw_configuration/space"]));
        collection.cosine = named.as_deref() == Some("cosine");
    }
    Ok(())
}

fn space_at(document: &str, pointers: &[&str]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(document).ok()?;
    pointers.iter().find_map(|pointer| document.pointer(pointer)?.as_str().map(str::to_owned))
}
