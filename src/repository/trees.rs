//! Walks chunk lists and directories that are kept as trees of nodes.

use super::error::RepositoryError;
use super::open::Repository;
use crate::format::{ChunkRef, Content, Entry, EntryKind, Node, Root};
use crate::id::Id;

impl Repository {
    /// All chunks of a file's content, in order.
    pub fn chunk_list(&self, content: &Content) -> Result<Vec<ChunkRef>, RepositoryError> {
        match content {
            Content::Empty => Ok(Vec::new()),
            Content::Chunks(chunks) => Ok(chunks.clone()),
            Content::Sequence(root) => {
                let mut chunks = Vec::new();
                self.visit(root, &mut |_, node| match node {
                    Node::Chunks(mut leaf) => {
                        chunks.append(&mut leaf);
                        Ok(())
                    }
                    _ => Err("entries in a chunk list"),
                })?;
                let listed: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
                if listed == root.weight {
                    Ok(chunks)
                } else {
                    Err(damaged(root, "its lengths do not add up"))
                }
            }
        }
    }

    /// The lowest nodes of a file's chunk list, each with the place in the content where it begins.
    pub fn chunk_nodes(&self, content: &Content) -> Result<Vec<(u64, Id)>, RepositoryError> {
        let Content::Sequence(root) = content else { return Ok(Vec::new()) };
        let (mut nodes, mut at) = (Vec::new(), 0);
        self.visit(root, &mut |id, node| {
            nodes.push((at, id));
            at += weight_of(&node);
            Ok(())
        })?;
        Ok(nodes)
    }

    /// All entries of a directory, in order of their names.
    pub fn entries(&self, content: &Content) -> Result<Vec<Entry>, RepositoryError> {
        let Content::Sequence(root) = content else { return Ok(Vec::new()) };
        let mut entries: Vec<Entry> = Vec::new();
        self.visit(root, &mut |_, node| match node {
            Node::Entries(leaf) => {
                let ascending =
                    entries.last().zip(leaf.first()).is_none_or(|(left, right)| left.name < right.name);
                entries.extend(leaf);
                if ascending { Ok(()) } else { Err("names out of order") }
            }
            _ => Err("chunks in a directory"),
        })?;
        Ok(entries)
    }

    /// The entry at `path` below `root` (empty: the root itself); `None` if there is none.
    pub fn entry_at(&self, root: &Entry, path: &[u8]) -> Result<Option<Entry>, RepositoryError> {
        let mut entry = root.clone();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let is_directory = entry.kind == EntryKind::Directory;
            let entries = if is_directory { self.entries(&entry.content)? } else { Vec::new() };
            match entries.into_iter().find(|entry| entry.name == name) {
                Some(found) => entry = found,
                None => return Ok(None),
            }
        }
        Ok(Some(entry))
    }

    fn node(&self, id: &Id, root: &Root) -> Result<Node, RepositoryError> {
        let bytes = match self.nodes().get(id) {
            Some(bytes) => bytes,
            None => self.nodes().keep(*id, self.read_chunk(id)?),
        };
        Node::decode(&bytes).map_err(|error| damaged(root, error))
    }

    /// One node by itself. Whether it fits those above it is for whoever reads a whole tree.
    pub fn read_node(&self, id: &Id) -> Result<Node, RepositoryError> {
        let bytes = self.read_chunk(id)?;
        Node::decode(&bytes).map_err(|error| RepositoryError::damaged(format!("node {id}"), error))
    }

    /// Gives each leaf below `root` to `take`, left to right. Levels must fall by one, so a hostile tree ends.
    fn visit(
        &self,
        root: &Root,
        take: &mut impl FnMut(Id, Node) -> Result<(), &'static str>,
    ) -> Result<(), RepositoryError> {
        let mut waiting = vec![(root.id, root.level, root.weight)];
        while let Some((id, level, weight)) = waiting.pop() {
            match self.node(&id, root)? {
                Node::Inner { level: found, children } if found == level => {
                    let below: Option<u64> =
                        children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.weight));
                    if below != Some(weight) {
                        return Err(damaged(root, "weights do not add up"));
                    }
                    waiting.extend(children.iter().rev().map(|child| (child.id, level - 1, child.weight)));
                }
                Node::Inner { .. } => return Err(damaged(root, "an inner node at the wrong level")),
                _ if level > 0 => return Err(damaged(root, "a leaf at an inner level")),
                leaf if weight_of(&leaf) != weight => return Err(damaged(root, "a leaf of another weight")),
                leaf => take(id, leaf).map_err(|detail| damaged(root, detail))?,
            }
        }
        Ok(())
    }
}

/// What a leaf holds: bytes of chunks, or entries.
fn weight_of(leaf: &Node) -> u64 {
    match leaf {
        Node::Chunks(chunks) => chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        Node::Entries(entries) => entries.len() as u64,
        Node::Inner { .. } => 0,
    }
}

fn damaged(root: &Root, detail: impl ToString) -> RepositoryError {
    RepositoryError::damaged(format!("tree {}", root.id), detail)
}
