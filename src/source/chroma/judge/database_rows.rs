//! Rows of the metadata tables that belong to nothing, and documents without their full-text rows.

use super::context::Context;
use super::offenders::{Offenders, shown};
use super::trouble::Outcome;
use super::workspace::{bytes_of, has_column};
use crate::source::chroma::layout::DATABASE;
use rusqlite::Connection;

/// Metadata of ids that are gone.
pub fn judge_metadata(context: &mut Context<'_>, connection: &Connection) -> Outcome<()> {
    let mut orphans = Offenders::default();
    for table in ["embedding_metadata", "embedding_metadata_array"] {
        // Arrays came with 1.5.
        if table == "embedding_metadata_array" && !has_column(connection, table, "id")? {
            continue;
        }
        let query = format!(
            "SELECT id, key FROM store.{table} m WHERE NOT EXISTS (SELECT 1 FROM store.embeddings e WHERE e.id = m.id)"
        );
        let mut statement = connection.prepare(&query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, Option<i64>>(0)?.unwrap_or(0);
            let key = bytes_of(row.get_ref(1)?);
            orphans.add(|| format!("{} of row {id} in {table}", shown(key)));
        }
    }
    if !orphans.is_empty() {
        context.warning("metadata_orphan", DATABASE, orphans.tell("value(s) of ids that are not there"));
    }
    Ok(())
}

/// Each document has its row in the full-text table. Stores of the Python versions may have more: an upsert leaves one.
pub fn judge_full_text(context: &mut Context<'_>, connection: &Connection) -> Outcome<()> {
    let count = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let indexed = count("SELECT count(*) FROM store.embedding_fulltext_search_docsize")?;
    let documents = count("SELECT count(*) FROM store.embedding_metadata WHERE key = 'chroma:document'")?;
    if indexed != documents {
        let detail = format!("{documents} documents, {indexed} in the full-text index");
        context.warning("fts_rows_mismatch", DATABASE, detail);
    }
    Ok(())
}
