//! Long sequences (a file's chunk list, a directory's entries) as trees of nodes that grow with the change.
//!
//! Items are grouped into leaves, leaves into inner nodes, and so on up to one root. A node ends behind an item whose
//! key says so, never at a fixed count, so an insertion or deletion changes the node that it lies in and the path above
//! it; every other node keeps its id.

use super::chunk_ref::{ChunkRef, MAX_LEVEL, Root};
use super::entry::Entry;
use super::entry_reader::read_entries;
use super::error::FormatError;
use super::reader::{Reader, from_cbor, to_cbor};
use crate::id::Id;

/// A node ends behind an item whose key has these bits clear: every 128th on average.
const CUT_MASK: u64 = 127;
const MIN_ITEMS: usize = 16;
const MAX_ITEMS: usize = 1024;

const CHUNK_LEAF: u8 = 0;
const ENTRY_LEAF: u8 = 1;
const INNER: u8 = 2;

/// A node below an inner node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    pub id: Id,
    pub weight: u64,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Chunks(Vec<ChunkRef>),
    Entries(Vec<Entry>),
    Inner { level: u8, children: Vec<Child> },
}

impl Node {
    /// Reads one node; entries come in strictly ascending order of their names.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "node");
        let kind = reader.u8()?;
        let level = reader.u8()?;
        let payload = reader.take(reader.remaining())?;
        match (kind, level) {
            (CHUNK_LEAF, 0) => Ok(Self::Chunks(ChunkRef::decode_all(payload)?)),
            (ENTRY_LEAF, 0) => Ok(Self::Entries(decode_entries(payload)?)),
            (INNER, 1..=MAX_LEVEL) => Ok(Self::Inner { level, children: decode_children(payload)? }),
            _ => Err(FormatError::invalid("node", format!("kind {kind} at level {level}"))),
        }
    }
}

impl Node {
    /// The bytes of content that a node lists chunks of; 0 for any other node.
    pub fn chunk_bytes(bytes: &[u8]) -> u64 {
        match Self::decode(bytes) {
            Ok(Self::Chunks(chunks)) => chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
            _ => 0,
        }
    }
}

fn decode_entries(payload: &[u8]) -> Result<Vec<Entry>, FormatError> {
    let entries: Vec<Entry> = match read_entries(payload) {
        Some(entries) => entries,
        None => from_cbor(payload, "directory node")?,
    };
    if entries.iter().zip(entries.iter().skip(1)).all(|(left, right)| left.name < right.name) {
        Ok(entries)
    } else {
        Err(FormatError::invalid("directory node", "names out of order"))
    }
}

fn decode_children(payload: &[u8]) -> Result<Vec<Child>, FormatError> {
    let mut reader = Reader::new(payload, "inner node");
    let mut children = Vec::new();
    while reader.remaining() > 0 {
        let child = Child { id: reader.id()?, weight: reader.u64()? };
        // Nothing weighs nothing: nodes that claim it could keep a reader busy for ever.
        if child.weight == 0 {
            return Err(FormatError::invalid("inner node", "a child of weight 0"));
        }
        children.push(child);
    }
    if children.is_empty() { Err(FormatError::invalid("inner node", "no children")) } else { Ok(children) }
}

/// What can be kept in a sequence.
pub trait Item: Sized {
    /// Decides whether a node ends behind this item; must depend on the item's identity alone.
    fn key(&self) -> u64;
    /// What the item adds to its root's weight.
    fn weight(&self) -> u64;
    /// The bytes of a leaf that holds `items`.
    fn leaf(items: &[Self]) -> Vec<u8>;
}

impl Item for ChunkRef {
    fn key(&self) -> u64 {
        self.id.prefix()
    }
    fn weight(&self) -> u64 {
        u64::from(self.len)
    }
    fn leaf(items: &[Self]) -> Vec<u8> {
        let mut bytes = vec![CHUNK_LEAF, 0];
        bytes.extend_from_slice(&Self::encode_all(items));
        bytes
    }
}

impl Item for Entry {
    fn key(&self) -> u64 {
        Id::of(&self.name).prefix()
    }
    fn weight(&self) -> u64 {
        1
    }
    fn leaf(items: &[Self]) -> Vec<u8> {
        let mut bytes = vec![ENTRY_LEAF, 0];
        bytes.extend_from_slice(&to_cbor(&items));
        bytes
    }
}

fn inner(level: u8, children: &[Child]) -> Vec<u8> {
    let mut bytes = vec![INNER, level];
    for child in children {
        bytes.extend_from_slice(child.id.as_bytes());
        bytes.extend_from_slice(&child.weight.to_le_bytes());
    }
    bytes
}

fn ends_here(key: u64, count: usize) -> bool {
    count >= MAX_ITEMS || (count >= MIN_ITEMS && key & CUT_MASK == 0)
}

/// Builds a sequence's nodes from its items, in order, in memory that grows only with the tree's height.
pub struct SequenceBuilder<T> {
    leaf: Vec<T>,
    /// `levels[n]` holds the unfinished inner node of level n + 1.
    levels: Vec<Vec<Child>>,
}

impl<T: Item> Default for SequenceBuilder<T> {
    fn default() -> Self {
        Self { leaf: Vec::new(), levels: Vec::new() }
    }
}

impl<T: Item> SequenceBuilder<T> {
    /// Adds the next item. `keep` is given each finished node's bytes and answers with its id.
    pub fn push<E>(&mut self, item: T, keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>) -> Result<(), E> {
        let key = item.key();
        self.leaf.push(item);
        if ends_here(key, self.leaf.len()) { self.end_leaf(keep) } else { Ok(()) }
    }

    /// Ends the sequence; `None` if it is empty.
    pub fn finish<E>(mut self, keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>) -> Result<Option<Root>, E> {
        if !self.leaf.is_empty() {
            self.end_leaf(keep)?;
        }
        let mut level = 0u8;
        loop {
            let above = self.levels.len() > usize::from(level) + 1;
            let Some(children) = self.levels.get_mut(usize::from(level)) else { return Ok(None) };
            if let (false, [only]) = (above, children.as_slice()) {
                return Ok(Some(Root { id: only.id, level, weight: only.weight }));
            }
            let children = std::mem::take(children);
            level += 1;
            if !children.is_empty() {
                self.end_inner(level, children, keep)?;
            }
        }
    }

    fn end_leaf<E>(&mut self, keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>) -> Result<(), E> {
        let items = std::mem::take(&mut self.leaf);
        let weight = items.iter().map(Item::weight).sum();
        let id = keep(T::leaf(&items))?;
        self.add_child(0, Child { id, weight }, keep)
    }

    fn end_inner<E>(
        &mut self,
        level: u8,
        children: Vec<Child>,
        keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>,
    ) -> Result<(), E> {
        let weight = children.iter().map(|child| child.weight).sum();
        let id = keep(inner(level, &children))?;
        self.add_child(level, Child { id, weight }, keep)
    }

    /// Adds a finished node of `level` to the unfinished node above it.
    fn add_child<E>(
        &mut self,
        level: u8,
        child: Child,
        keep: &mut impl FnMut(Vec<u8>) -> Result<Id, E>,
    ) -> Result<(), E> {
        let place = usize::from(level);
        if self.levels.len() <= place {
            self.levels.resize_with(place + 1, Vec::new);
        }
        let Some(children) = self.levels.get_mut(place) else { return Ok(()) };
        children.push(child);
        if ends_here(child.id.prefix(), children.len()) {
            let children = std::mem::take(children);
            self.end_inner(level + 1, children, keep)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkRef, Node, Root, SequenceBuilder};
    use crate::id::Id;
    use std::collections::HashMap;

    fn build(items: &[ChunkRef]) -> (Option<Root>, HashMap<Id, Vec<u8>>) {
        let mut kept = HashMap::new();
        let mut keep = |bytes: Vec<u8>| -> Result<Id, ()> {
            let id = Id::of(&bytes);
            kept.insert(id, bytes);
            Ok(id)
        };
        let mut builder = SequenceBuilder::default();
        for item in items {
            builder.push(*item, &mut keep).unwrap();
        }
        let root = builder.finish(&mut keep).unwrap();
        (root, kept)
    }

    fn walk(id: Id, kept: &HashMap<Id, Vec<u8>>, out: &mut Vec<ChunkRef>) {
        match Node::decode(&kept[&id]).unwrap() {
            Node::Chunks(mut chunks) => out.append(&mut chunks),
            Node::Inner { children, .. } => children.iter().for_each(|child| walk(child.id, kept, out)),
            Node::Entries(_) => unreachable!("no entries here"),
        }
    }

    fn items(count: u32) -> Vec<ChunkRef> {
        (0..count).map(|number| ChunkRef { id: Id::of(&number.to_le_bytes()), len: number + 1 }).collect()
    }

    #[test]
    fn every_length_reads_back() {
        for count in [0, 1, 2, 15, 16, 17, 1000, 1025, 40_000] {
            let items = items(count);
            let (root, kept) = build(&items);
            let mut read = Vec::new();
            if let Some(root) = root {
                assert_eq!(root.weight, items.iter().map(|item| u64::from(item.len)).sum::<u64>());
                walk(root.id, &kept, &mut read);
            }
            assert_eq!(read, items);
        }
    }

    #[test]
    fn identical_items_make_a_bounded_tree() {
        let items = vec![ChunkRef { id: Id::of(b"zeros"), len: 1 }; 100_000];
        let (root, kept) = build(&items);
        let mut read = Vec::new();
        walk(root.unwrap().id, &kept, &mut read);
        assert_eq!(read.len(), items.len());
    }

    #[test]
    fn one_insertion_changes_one_path() {
        let mut items = items(40_000);
        let (_, before) = build(&items);
        items.insert(20_000, ChunkRef { id: Id::of(b"new"), len: 7 });
        let (_, after) = build(&items);
        let new = after.keys().filter(|id| !before.contains_key(id)).count();
        assert!(new <= 5, "{new} new nodes of {}", after.len());
    }
}
