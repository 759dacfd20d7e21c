//! What `index_metadata.pickle` says: ids, their labels, and counters.

use super::context::{Context, place};
use super::fingerprint::SetSum;
use super::offenders::shown;
use super::pickle_reader::read_pickle;
use super::pickle_stack::{Item, Scalar};
use super::trouble::{Outcome, Trouble};
use super::workspace::{Difference, Side};
use crate::source::chroma::layout::PICKLE;
use rusqlite::Connection;

/// The pickle in numbers of fixed size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdMaps {
    pub dimensionality: Option<i64>,
    /// The highest label given so far, or more (the Python versions count some additions twice).
    pub total: Option<i64>,
    /// In 0.4 what `max_seq_id` has later.
    pub max_seq_id: Option<i64>,
    /// The newest record applied to an id; 1.x doesn't keep it.
    pub newest_seq: Option<i64>,
    /// Keys of `id_to_label`.
    pub ids: SetSum,
    /// Keys of `label_to_id`.
    pub labels: SetSum,
    pairs: SetSum,
    inverse_pairs: SetSum,
    has_maps: [bool; 2],
}

/// Reads a segment's pickle and judges it by itself. `None` if it can't be read.
pub fn judge_id_maps(
    context: &mut Context<'_>,
    connection: Option<&Connection>,
    directory: &str,
) -> Outcome<Option<IdMaps>> {
    let path = place(directory, PICKLE);
    let file = context.open(directory, PICKLE)?;
    let mut maps = IdMaps::default();
    let mut pair = Vec::new();
    let mut read = read_pickle(&*file, context.scratch, &mut |item| maps.take(&item, &mut pair));
    if read.is_ok() && (maps.has_maps != [true, true] || maps.total.is_none()) {
        read = Err(Trouble::malformed("it lacks id_to_label, label_to_id or total_elements_added"));
    }
    match read {
        Ok(()) => {}
        Err(Trouble::Malformed(detail)) => {
            context.error("hnsw_metadata_unreadable", &path, detail);
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    if maps.pairs != maps.inverse_pairs {
        let mut detail = format!("{} ids, {} labels", maps.pairs.count, maps.inverse_pairs.count);
        if let Some(connection) = connection {
            let difference = Difference::new(connection)?;
            read_pickle(&*file, context.scratch, &mut |item| {
                if let Some((side, label, id)) = pair_of(&item)? {
                    fill_pair(&mut pair, label, id);
                    difference.insert(side, &pair)?;
                }
                Ok(())
            })?;
            let one = difference.only_in(Side::One, pair_name)?;
            let other = difference.only_in(Side::Other, pair_name)?;
            detail = format!("{}; {}", one.tell("only in id_to_label"), other.tell("only in label_to_id"));
        }
        context.error("hnsw_metadata_inconsistent", &path, detail);
    }
    Ok(Some(maps))
}

/// Gives each id and its label to `visit`. The pickle was found readable.
pub fn each_id(
    context: &Context<'_>,
    directory: &str,
    visit: &mut dyn FnMut(&[u8], u64) -> Outcome<()>,
) -> Outcome<()> {
    let file = context.open(directory, PICKLE)?;
    read_pickle(&*file, context.scratch, &mut |item| match pair_of(&item)? {
        Some((Side::One, label, id)) => visit(id, label),
        _ => Ok(()),
    })
}

/// Gives each label that has an id to `visit`. The pickle was found readable.
pub fn each_label(
    context: &Context<'_>,
    directory: &str,
    visit: &mut dyn FnMut(u64) -> Outcome<()>,
) -> Outcome<()> {
    let file = context.open(directory, PICKLE)?;
    read_pickle(&*file, context.scratch, &mut |item| match pair_of(&item)? {
        Some((Side::Other, label, _)) => visit(label),
        _ => Ok(()),
    })
}

/// An entry of `id_to_label` (one side) or of `label_to_id` (the other).
fn pair_of<'i>(item: &Item<'i>) -> Outcome<Option<(Side, u64, &'i [u8])>> {
    let (side, label, id) = match (item.dictionary, item.key, item.value) {
        (Some(b"id_to_label"), Scalar::Text(id), Scalar::Int(label)) => (Side::One, label, id),
        (Some(b"label_to_id"), Scalar::Int(label), Scalar::Text(id)) => (Side::Other, label, id),
        (Some(b"id_to_label" | b"label_to_id"), ..) => {
            return Err(Trouble::malformed("an entry that is no id and label"));
        }
        _ => return Ok(None),
    };
    let label = u64::try_from(label).map_err(|_| Trouble::malformed("a label below 0"))?;
    Ok(Some((side, label, id)))
}

fn fill_pair(pair: &mut Vec<u8>, label: u64, id: &[u8]) {
    pair.clear();
    pair.extend_from_slice(&label.to_le_bytes());
    pair.extend_from_slice(id);
}

fn pair_name(pair: &[u8]) -> String {
    let (label, id) =
        pair.split_first_chunk().map_or((0, pair), |(label, id)| (u64::from_le_bytes(*label), id));
    format!("{} = {label}", shown(id))
}

impl IdMaps {
    fn take(&mut self, item: &Item<'_>, pair: &mut Vec<u8>) -> Outcome<()> {
        match (item.dictionary, item.key, item.value) {
            (None, Scalar::Text(key), value) => return self.take_field(key, value),
            (Some(b"id_to_seq_id"), _, Scalar::Int(seq)) => self.newest_seq = self.newest_seq.max(Some(seq)),
            _ => {}
        }
        let Some((side, label, id)) = pair_of(item)? else { return Ok(()) };
        fill_pair(pair, label, id);
        match side {
            Side::One => {
                self.ids.add(id);
                self.pairs.add(pair);
            }
            Side::Other => {
                self.labels.add(&label.to_le_bytes());
                self.inverse_pairs.add(pair);
            }
        }
        Ok(())
    }

    fn take_field(&mut self, key: &[u8], value: Scalar<'_>) -> Outcome<()> {
        let number = match value {
            Scalar::Int(value) => Some(value),
            _ => None,
        };
        let [has_ids, has_labels] = &mut self.has_maps;
        match key {
            b"dimensionality" => self.dimensionality = number,
            b"total_elements_added" => self.total = number,
            b"max_seq_id" => self.max_seq_id = number,
            b"id_to_label" => *has_ids = value == Scalar::Other,
            b"label_to_id" => *has_labels = value == Scalar::Other,
            _ => {}
        }
        Ok(())
    }
}
