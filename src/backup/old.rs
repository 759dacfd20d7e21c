//! The chunks that a file had before, by where they lay and by what they were.

use crate::chunking::Recorded;
use crate::format::ChunkRef;
use crate::id::Id;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

/// A delta has so many bases at most.
const MOST_NEAR: usize = 4;
/// How far back what has moved is looked for.
const MOST_MOVED: u64 = 128 << 10;

/// What a file consisted of.
pub struct Old {
    chunks: Vec<ChunkRef>,
    starts: Vec<u64>,
    /// The nodes that list the chunks, and where each begins.
    nodes: Vec<(u64, Id)>,
    len: u64,
    numbers: OnceLock<HashMap<Id, usize>>,
}

impl Old {
    /// Of these chunks, in order, and of the nodes that list them.
    pub fn new(chunks: Vec<ChunkRef>, nodes: Vec<(u64, Id)>) -> Self {
        let mut len = 0;
        let mut starts = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            starts.push(len);
            len += u64::from(chunk.len);
        }
        Self { chunks, starts, nodes, len, numbers: OnceLock::new() }
    }

    /// The nodes that listed these bytes.
    pub fn nodes_of(&self, offset: u64, len: u64) -> Vec<ChunkRef> {
        let first = self.nodes.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let behind = self.nodes.partition_point(|(start, _)| *start < offset + len);
        let nodes = self.nodes.get(first..behind.max(first)).unwrap_or_default();
        nodes.iter().take(MOST_NEAR).map(|(_, id)| ChunkRef { id: *id, len: 0 }).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.chunks.len()
    }

    /// The lengths of all.
    pub fn lengths(&self) -> Vec<u32> {
        self.chunks.iter().map(|chunk| chunk.len).collect()
    }

    /// Some of them.
    pub fn range(&self, range: Range<usize>) -> &[ChunkRef] {
        self.chunks.get(range).unwrap_or_default()
    }

    /// Some of them, to be compared with.
    pub fn recorded(&self, range: Range<usize>) -> Vec<Recorded> {
        self.range(range).iter().map(|chunk| Recorded { id: chunk.id, len: chunk.len }).collect()
    }

    /// Where one begins; the length of all for the number behind the last.
    pub fn start(&self, number: usize) -> u64 {
        self.starts.get(number).copied().unwrap_or(self.len)
    }

    /// The chunk that begins there.
    pub fn at(&self, offset: u64) -> Option<usize> {
        self.starts.binary_search(&offset).ok()
    }

    /// The first chunk that is this one.
    pub fn find(&self, id: &Id) -> Option<usize> {
        let numbers = self.numbers.get_or_init(|| {
            let numbered = self.chunks.iter().enumerate().rev();
            numbered.map(|(number, chunk)| (chunk.id, number)).collect()
        });
        numbers.get(id).copied()
    }

    /// Chunks from `first` on, of about so many bytes together.
    pub fn batch(&self, first: usize, bytes: u64) -> Range<usize> {
        let end = self.starts.partition_point(|start| *start < self.start(first) + bytes);
        first..end.clamp((first + 1).min(self.count()), self.count().max(first))
    }

    /// What was about where these bytes are now, in a file that has `grown` since: what came before them may have pushed
    /// them on.
    pub fn near(&self, offset: u64, len: u64, grown: u64) -> Range<usize> {
        let from = offset.saturating_sub(grown.min(MOST_MOVED));
        let first = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let behind = self.starts.partition_point(|start| *start < offset + len);
        first..behind.clamp(first, first + MOST_NEAR).min(self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::Old;
    use crate::format::ChunkRef;
    use crate::id::Id;

    #[test]
    fn chunks_are_found_by_place_and_by_id() {
        let ids: Vec<Id> = (0..6u8).map(|number| Id::of(&[number % 5])).collect();
        let nodes = vec![(0, ids[1]), (25, ids[2]), (40, ids[3])];
        let old = Old::new(ids.iter().map(|id| ChunkRef { id: *id, len: 10 }).collect(), nodes);
        let listed = |offset, len| old.nodes_of(offset, len).iter().map(|node| node.id).collect::<Vec<_>>();
        assert_eq!(
            (listed(0, 25), listed(24, 2), listed(45, 50)),
            (vec![ids[1]], vec![ids[1], ids[2]], vec![ids[3]])
        );
        assert_eq!((old.at(20), old.at(21), old.at(60)), (Some(2), None, None));
        assert_eq!(
            (old.find(&ids[0]), old.find(&ids[5]), old.find(&Id::of(b"none"))),
            (Some(0), Some(0), None)
        );
        assert_eq!(
            (old.batch(0, 25), old.batch(1, 1), old.batch(5, 100), old.batch(6, 9)),
            (0..3, 1..2, 5..6, 6..6)
        );
        assert_eq!((old.near(20, 10, 0), old.near(25, 10, 0), old.near(30, 10, 15)), (2..3, 2..4, 1..4));
        assert_eq!((old.near(0, 60, 0), old.near(70, 10, 0), old.near(55, 100, 0)), (0..4, 5..6, 5..6));
        assert_eq!((old.start(0), old.start(5), old.start(9)), (0, 50, 60));
        assert_eq!(Old::new(Vec::new(), Vec::new()).near(5, 5, 0), 0..0);
    }
}
