//! `data_level0.bin`, element by element: links, vectors, labels.

use super::context::{Context, place};
use super::fingerprint::SetSum;
use super::id_maps::{IdMaps, each_label};
use super::label_window::LabelWindow;
use super::offenders::Offenders;
use super::trouble::Outcome;
use super::workspace::{Difference, Side, label_name};
use crate::source::chroma::layout::{DATA, IndexHeader, LENGTHS, PICKLE};
use crate::source::interface::ReadAt;
use rusqlite::Connection;

const BLOCK_BYTES: u64 = 1 << 20;
/// Normalised vectors in f32 are this close to 1; what is further off was not normalised.
const NORM_TOLERANCE: f64 = 1e-3;

/// What to compare the elements with.
#[derive(Clone, Copy)]
pub struct Expected<'e> {
    pub header: &'e IndexHeader,
    pub maps: Option<&'e IdMaps>,
    /// Vectors are normalised, and `length.bin` holds their norms.
    pub cosine: bool,
}

/// Takes a live element's label and its vector's bytes.
pub type VisitVector<'v> = dyn FnMut(u64, &[u8]) -> Outcome<()> + 'v;

#[derive(Default)]
struct Found {
    live: SetSum,
    highest_label: u64,
    links: Offenders,
    not_finite: Offenders,
    zero: Offenders,
    norm: Offenders,
    duplicates: Offenders,
}

/// Judges all elements in one pass and gives the live ones to `visit`. Returns how many labels are live.
pub fn judge_elements(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    directory: &str,
    expected: Expected<'_>,
    visit: &mut VisitVector<'_>,
) -> Outcome<u64> {
    let header = expected.header;
    let data = context.open(directory, DATA)?;
    let lengths = context.open(directory, LENGTHS)?;
    let mut found = Found::default();
    let total = expected.maps.and_then(|maps| maps.total).and_then(|total| u64::try_from(total).ok());
    let mut window = LabelWindow::new(0, header.elements.max(total.unwrap_or(0)));
    let mut norms = Vec::new();
    each_block(&*data, header, &mut |first, block| {
        let count = block.len() as u64 / header.element_bytes;
        norms.resize(if expected.cosine { count as usize * 4 } else { 0 }, 0);
        lengths.read_exact_at(&mut norms, first * if expected.cosine { 4 } else { 0 })?;
        for (at, bytes) in block.chunks_exact(header.element_bytes as usize).enumerate() {
            let element = Element::of(bytes, header);
            let norm = norms.chunks_exact(4).nth(at).and_then(|bytes| bytes.first_chunk());
            found.take(first + at as u64, &element, header, norm.map(|bytes| f32::from_le_bytes(*bytes)));
            if window.insert(element.label) {
                found.duplicates.add(|| element.label.to_string());
            }
            if element.is_live {
                visit(element.label, element.vector)?;
            }
        }
        Ok(())
    })?;
    while let Some(next) = window.next(found.highest_label) {
        window = next;
        each_block(&*data, header, &mut |_, block| {
            for bytes in block.chunks_exact(header.element_bytes as usize) {
                let label = Element::of(bytes, header).label;
                if window.insert(label) {
                    found.duplicates.add(|| label.to_string());
                }
            }
            Ok(())
        })?;
    }
    found.tell(context, directory);
    if let Some(maps) = expected.maps {
        judge_total(context, directory, header, &found, total);
        if maps.labels != found.live {
            judge_labels(context, connection, directory, header, (maps, &found))?;
        }
    }
    Ok(found.live.count)
}

/// One element's parts (hnswlib's layout: count of links, flags, links; vector; label).
struct Element<'b> {
    links: &'b [u8],
    vector: &'b [u8],
    label: u64,
    is_live: bool,
}

impl<'b> Element<'b> {
    fn of(bytes: &'b [u8], header: &IndexHeader) -> Self {
        let (data, label) = (header.data_offset as usize, header.label_offset as usize);
        Self {
            links: bytes.get(..data).unwrap_or_default(),
            vector: bytes.get(data..label).unwrap_or_default(),
            label: bytes
                .get(label..)
                .and_then(<[u8]>::first_chunk)
                .map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            is_live: bytes.get(2).is_some_and(|flags| flags & 1 == 0),
        }
    }
}

impl Found {
    fn take(&mut self, number: u64, element: &Element<'_>, header: &IndexHeader, norm: Option<f32>) {
        self.highest_label = self.highest_label.max(element.label);
        if element.is_live {
            self.live.add(&element.label.to_le_bytes());
        }
        if let Some(problem) = problem_of_links(element.links, header) {
            self.links.add(|| format!("element {number}: {problem}"));
        }
        let (mut is_finite, mut is_zero) = (true, true);
        for word in element.vector.chunks_exact(4) {
            let bits = word.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) & 0x7fff_ffff;
            is_finite &= bits < 0x7f80_0000;
            is_zero &= bits == 0;
        }
        let label = element.label;
        if !is_finite {
            self.not_finite.add(|| format!("label {label}"));
        } else if is_zero && !element.vector.is_empty() {
            self.zero.add(|| format!("label {label}"));
        } else if let Some(norm) = norm {
            let square: f64 = floats(element.vector).map(|value| f64::from(value) * f64::from(value)).sum();
            if (square.sqrt() - 1.0).abs() > NORM_TOLERANCE || !norm.is_finite() || norm <= 0.0 {
                self.norm.add(|| format!("label {label} has norm {}, length.bin says {norm}", square.sqrt()));
            }
        }
    }

    fn tell(&self, context: &mut Context<'_>, directory: &str) {
        let path = place(directory, DATA);
        let errors = [
            ("hnsw_links_invalid", &self.links, "element(s) with bad links"),
            ("hnsw_vector_not_finite", &self.not_finite, "vector(s) with NaN or infinity"),
            ("hnsw_labels_duplicate", &self.duplicates, "label(s) used twice"),
        ];
        for (fact, offenders, what) in errors {
            if !offenders.is_empty() {
                context.error(fact, &path, offenders.tell(what));
            }
        }
        let warnings = [
            ("hnsw_vector_zero", &self.zero, "vector(s) of nothing but zeros"),
            ("hnsw_vector_norm", &self.norm, "vector(s) that are not normalised"),
        ];
        for (fact, offenders, what) in warnings {
            if !offenders.is_empty() {
                context.warning(fact, &path, offenders.tell(what));
            }
        }
    }
}

/// The f32 values of a vector.
pub fn floats(vector: &[u8]) -> impl Iterator<Item = f32> + '_ {
    vector.chunks_exact(4).filter_map(|bytes| bytes.first_chunk()).map(|bytes| f32::from_le_bytes(*bytes))
}

fn problem_of_links(links: &[u8], header: &IndexHeader) -> Option<String> {
    let count = links.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
    if u64::from(count) > header.max_links_level0 {
        return Some(format!("{count} links"));
    }
    let targets = links.get(4..).unwrap_or_default().chunks_exact(4).take(usize::from(count));
    targets
        .filter_map(|target| target.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))))
        .find(|target| *target >= header.elements)
        .map(|target| format!("a link to {target}"))
}

/// The Python versions count an id twice that was deleted and added again between two persists, so only a label above
/// the counter is impossible; one below it is worth a word.
fn judge_total(
    context: &mut Context<'_>,
    directory: &str,
    header: &IndexHeader,
    found: &Found,
    total: Option<u64>,
) {
    let detail = || {
        let shown = total.map_or_else(|| "none".to_owned(), |total| total.to_string());
        format!("the highest label is {}, total_elements_added is {shown}", found.highest_label)
    };
    let path = place(directory, PICKLE);
    match total {
        Some(total) if total == found.highest_label || (total == 0 && header.elements == 0) => {}
        Some(total) if total > found.highest_label => {
            context.warning("hnsw_total_mismatch", &path, detail());
        }
        _ => context.error("hnsw_total_mismatch", &path, detail()),
    }
}

fn judge_labels(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    directory: &str,
    header: &IndexHeader,
    (maps, found): (&IdMaps, &Found),
) -> Outcome<()> {
    let path = place(directory, DATA);
    let counts = format!("{} live labels, {} labels with an id", found.live.count, maps.labels.count);
    let Some(connection) = connection else {
        context.error("hnsw_label_missing", &path, counts);
        return Ok(());
    };
    let difference = Difference::new(connection)?;
    let data = context.open(directory, DATA)?;
    each_block(&*data, header, &mut |_, block| {
        for bytes in block.chunks_exact(header.element_bytes as usize) {
            let element = Element::of(bytes, header);
            if element.is_live {
                difference.insert(Side::One, &element.label.to_le_bytes())?;
            }
        }
        Ok(())
    })?;
    each_label(context, directory, &mut |label| difference.insert(Side::Other, &label.to_le_bytes()))?;
    let missing = difference.only_in(Side::Other, label_name)?;
    let extra = difference.only_in(Side::One, label_name)?;
    if !missing.is_empty() {
        let detail = format!("{}; {counts}", missing.tell("label(s) that have an id, but no live vector"));
        context.error("hnsw_label_missing", &path, detail);
    }
    if !extra.is_empty() {
        let detail = format!("{}; {counts}", extra.tell("live vector(s) without an id"));
        context.error("hnsw_label_extra", &path, detail);
    }
    // Neither: a label is there twice, which was told.
    Ok(())
}

/// Gives whole elements to `visit`, with the number of the first. The file is long enough.
fn each_block(
    file: &dyn ReadAt,
    header: &IndexHeader,
    visit: &mut dyn FnMut(u64, &[u8]) -> Outcome<()>,
) -> Outcome<()> {
    let per_block = (BLOCK_BYTES / header.element_bytes.max(1)).max(1);
    let mut block = Vec::new();
    let mut first = 0;
    while first < header.elements {
        let count = (header.elements - first).min(per_block);
        block.resize((count * header.element_bytes) as usize, 0);
        file.read_exact_at(&mut block, first * header.element_bytes)?;
        visit(first, &block)?;
        first += count;
    }
    Ok(())
}
