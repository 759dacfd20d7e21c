//! Walks from roots down to chunks, each node once.

use crate::format::{ChunkRef, Content, Entry, Manifest, Node};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError};
use std::collections::HashSet;

/// Nobody finds two nodes of which 16 bytes of their BLAKE3 are the same.
const KNOWN_BYTES: usize = 16;

/// What a walk comes to.
#[derive(Debug, Clone, Copy)]
pub enum Reached {
    Node(Id),
    /// Part of a file's content.
    Chunk(ChunkRef),
}

/// A node that can't be read: nobody knows what is below it.
#[derive(Debug)]
pub struct Lost {
    pub node: Id,
    pub error: RepositoryError,
}

/// A walk over many roots. What was below one root isn't walked again below another.
pub struct Walk<'r> {
    repository: &'r Repository,
    progress: &'r dyn Progress,
    known: HashSet<[u8; KNOWN_BYTES]>,
}

/// Everything that a snapshot begins with: its sources, and the files beside its databases.
pub fn roots(manifest: &Manifest) -> impl Iterator<Item = &Entry> {
    manifest.sources.iter().flat_map(|source| source.root.iter().chain(&source.sidecars))
}

impl<'r> Walk<'r> {
    pub fn new(repository: &'r Repository, progress: &'r dyn Progress) -> Self {
        Self { repository, progress, known: HashSet::new() }
    }

    /// Gives all nodes and chunks below a root that weren't come to before. Nodes that can't be read are told of, and passed
    /// over.
    pub fn below(
        &mut self,
        root: &Entry,
        take: &mut dyn FnMut(Reached) -> Result<(), RepositoryError>,
    ) -> Result<Vec<Lost>, RepositoryError> {
        let (mut lost, mut waiting) = (Vec::new(), Vec::new());
        Self::content(&root.content, &mut waiting, take)?;
        while let Some(id) = waiting.pop() {
            let is_new = id.as_bytes().first_chunk().is_none_or(|begin| self.known.insert(*begin));
            if !is_new {
                continue;
            }
            RepositoryError::stop(self.progress)?;
            take(Reached::Node(id))?;
            match self.repository.read_node(&id) {
                Ok(Node::Inner { children, .. }) => {
                    waiting.extend(children.iter().rev().map(|child| child.id));
                }
                Ok(Node::Chunks(chunks)) => {
                    for chunk in chunks {
                        take(Reached::Chunk(chunk))?;
                    }
                }
                Ok(Node::Entries(entries)) => {
                    for entry in &entries {
                        Self::content(&entry.content, &mut waiting, take)?;
                    }
                }
                Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::MissingChunk { .. })) => {
                    lost.push(Lost { node: id, error });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    fn content(
        content: &Content,
        waiting: &mut Vec<Id>,
        take: &mut dyn FnMut(Reached) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        match content {
            Content::Empty => Ok(()),
            Content::Chunks(chunks) => chunks.iter().try_for_each(|chunk| take(Reached::Chunk(*chunk))),
            Content::Sequence(root) => {
                waiting.push(root.id);
                Ok(())
            }
        }
    }
}
