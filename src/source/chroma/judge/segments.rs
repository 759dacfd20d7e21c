//! One vector segment: its directory, its pickle, its index.

use super::collections::Collection;
use super::context::{Context, place};
use super::elements::{Expected, judge_elements};
use super::fingerprint::Filter;
use super::id_maps::{IdMaps, judge_id_maps};
use super::index_files::{IndexFiles, judge_index_files};
use super::link_lists::judge_link_lists;
use super::trouble::Outcome;
use super::vectors::{VectorComparison, look_up_ids};
use crate::format::Entry;
use crate::source::chroma::layout::{HEADER, PICKLE};
use rusqlite::Connection;

/// What is known of a vector segment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment {
    pub has_directory: bool,
    pub files: IndexFiles,
    /// What the pickle says; `None` without one.
    pub maps: Option<IdMaps>,
    /// There is a pickle that can't be read.
    pub is_unreadable: bool,
    /// Live labels of the index; `None` if there is none that can be read.
    pub labels: Option<u64>,
}

/// Judges a segment's directory and its pickle. A segment of another type has none.
pub fn judge_segment(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    collection: &Collection,
    directory: Option<&Entry>,
) -> Outcome<Segment> {
    let (Some(name), true) = (&collection.vector, collection.has_files) else {
        return Ok(Segment::default());
    };
    // Without a dimension there never was a vector.
    let was_persisted = collection.vector_seq.is_some() && collection.dimension.is_some();
    let Some(directory) = directory else {
        if was_persisted {
            let detail =
                format!("collection {:?} was persisted, but its directory is missing", collection.name);
            context.error("segment_dir_missing", name, detail);
        }
        return Ok(Segment::default());
    };
    let mut segment =
        Segment { has_directory: true, files: judge_index_files(context, directory)?, ..Segment::default() };
    if !segment.files.has_pickle {
        if was_persisted {
            let detail =
                format!("collection {:?} was persisted, but its {PICKLE} is missing", collection.name);
            context.error("hnsw_file_missing", name, detail);
        }
        return Ok(segment);
    }
    if segment.files.has_whole_pickle {
        segment.maps = judge_id_maps(context, connection, name)?;
    }
    segment.is_unreadable = segment.maps.is_none();
    judge_dimensions(context, collection, name, &segment);
    Ok(segment)
}

fn judge_dimensions(context: &mut Context<'_>, collection: &Collection, directory: &str, segment: &Segment) {
    let Some(dimension) = collection.dimension else { return };
    let said = segment.maps.and_then(|maps| maps.dimensionality);
    if let Some(said) = said.filter(|said| u64::try_from(*said) != Ok(dimension)) {
        let detail = format!("{said} dimensions, collection {:?} has {dimension}", collection.name);
        context.error("hnsw_dimension_mismatch", &place(directory, PICKLE), detail);
    }
    let built = segment.files.header.filter(|header| header.elements > 0).map(|header| header.dimension());
    if let Some(built) = built.filter(|built| *built != dimension) {
        let detail = format!("{built} dimensions, collection {:?} has {dimension}", collection.name);
        context.error("hnsw_dimension_mismatch", &place(directory, HEADER), detail);
    }
}

/// Judges a segment's elements and links, and compares its vectors with the queue, whose ids are `asked`. Returns the
/// number of live labels.
pub fn judge_index(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    (n, collection): (usize, &Collection),
    segment: &Segment,
    asked: Option<&Filter>,
) -> Outcome<Option<u64>> {
    let directory = collection.vector.as_deref().unwrap_or_default();
    let candidates = match (connection, asked, &segment.maps) {
        (Some(connection), Some(asked), Some(_)) => {
            look_up_ids(context, connection, directory, n as i64, asked)?
        }
        _ => None,
    };
    let Some(header) = &segment.files.header else { return Ok(None) };
    // Without a queue nothing is known to compare with.
    let mut comparison = match (connection, candidates) {
        (Some(connection), Some(labels)) => Some(VectorComparison::new(connection, n, collection, labels)?),
        _ => None,
    };
    let expected = Expected { header, maps: segment.maps.as_ref(), cosine: collection.cosine };
    let labels = judge_elements(context, connection, directory, expected, &mut |label, vector| {
        comparison.as_mut().map_or(Ok(()), |comparison| comparison.take(label, vector))
    })?;
    if let Some(comparison) = comparison {
        comparison.finish(context, directory);
    }
    judge_link_lists(context, directory, header)?;
    Ok(Some(labels))
}
