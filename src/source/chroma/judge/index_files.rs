//! One segment's directory by arithmetic: the files there are, their header and their lengths.

use super::context::{Context, place};
use crate::format::Entry;
use crate::source::chroma::layout::{DATA, HEADER, INDEX_FILES, IndexHeader, LENGTHS, PICKLE};
use std::io;

/// What a segment's directory holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct IndexFiles {
    /// The index was persisted at least once.
    pub has_pickle: bool,
    /// The pickle ends as one does; what it holds isn't known.
    pub has_whole_pickle: bool,
    /// Present if all files are there and long enough for it.
    pub header: Option<IndexHeader>,
}

/// Judges the directory of one segment.
pub fn judge_index_files(context: &mut Context<'_>, directory: &Entry) -> io::Result<IndexFiles> {
    let name = String::from_utf8_lossy(&directory.name).into_owned();
    let entries = context.files.list(directory)?;
    let find = |file: &str| entries.iter().find(|entry| entry.name == file.as_bytes());
    // Before the first persist the files may be in any state: Chroma makes them anew.
    let Some(pickle) = find(PICKLE) else { return Ok(IndexFiles::default()) };
    let mut found = IndexFiles { has_pickle: true, ..IndexFiles::default() };
    let newer: Vec<&str> = INDEX_FILES
        .into_iter()
        .filter(|file| find(file).is_some_and(|entry| entry.mtime_ns > pickle.mtime_ns))
        .collect();
    // The pickle is written last.
    if !newer.is_empty() {
        let detail =
            format!("written after {PICKLE}: {}; a persist may have been cut short", newer.join(", "));
        context.warning("persist_incomplete", &name, detail);
    }
    let missing: Vec<&str> = INDEX_FILES.into_iter().filter(|file| find(file).is_none()).collect();
    found.has_whole_pickle = ends_as_pickle(context, &name)?;
    if !missing.is_empty() {
        context.error("hnsw_file_missing", &name, format!("without {}", missing.join(", ")));
        return Ok(found);
    }
    found.header = judge_header(context, &name)?;
    if let Some(header) = &found.header
        && !has_whole_arrays(context, &name, header)?
    {
        found.header = None;
    }
    Ok(found)
}

/// Every pickle ends with the STOP opcode; a torn one mostly doesn't.
fn ends_as_pickle(context: &mut Context<'_>, directory: &str) -> io::Result<bool> {
    let pickle = context.open(directory, PICKLE)?;
    let mut stop = [0u8; 1];
    if let Some(last) = pickle.size().checked_sub(1) {
        pickle.read_exact_at(&mut stop, last)?;
    }
    if stop != *b"." {
        let detail = format!("{} bytes that do not end as a pickle does", pickle.size());
        context.error("hnsw_metadata_unreadable", &place(directory, PICKLE), detail);
    }
    Ok(stop == *b".")
}

fn judge_header(context: &mut Context<'_>, directory: &str) -> io::Result<Option<IndexHeader>> {
    let path = place(directory, HEADER);
    let file = context.open(directory, HEADER)?;
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(usize::MAX).min(IndexHeader::LEN + 1)];
    file.read_exact_at(&mut bytes, 0)?;
    let Some(header) = IndexHeader::parse(&bytes) else {
        context.error("hnsw_header_size", &path, format!("{} bytes instead of 100", file.size()));
        return Ok(None);
    };
    if header.version != 1 {
        context.error("hnsw_header_version", &path, format!("version {}", header.version));
        return Ok(None);
    }
    if let Some(problem) = header.problem() {
        context.error("hnsw_header_invalid", &path, problem);
        return Ok(None);
    }
    Ok(Some(header))
}

/// hnswlib doesn't look: what is missing in the files would be garbage in its memory.
fn has_whole_arrays(context: &mut Context<'_>, directory: &str, header: &IndexHeader) -> io::Result<bool> {
    let arrays = [(DATA, header.element_bytes, "hnsw_data_short"), (LENGTHS, 4, "hnsw_length_short")];
    for (name, bytes, fact) in arrays {
        let size = context.open(directory, name)?.size();
        let needed = header.elements.saturating_mul(bytes);
        if size < needed {
            let detail = format!("{size} bytes, {} elements need {needed}", header.elements);
            context.error(fact, &place(directory, name), detail);
            return Ok(false);
        }
    }
    Ok(true)
}
