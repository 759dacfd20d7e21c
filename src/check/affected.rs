//! Which snapshots, sources and files need chunks that are lost.

use crate::format::{ChunkRef, Content, Entry, EntryKind, Node, SourceRecord};
use crate::id::Id;
use crate::progress::Progress;
use crate::repository::{Repository, RepositoryError, Snapshot};
use crate::stamp::Stamp;
use std::collections::{HashMap, HashSet};

/// So many places of one file are told.
const MOST_LOST: usize = 100_000;

/// A file, or a directory whose listing is lost, that a snapshot can't give back whole.
#[derive(Debug, Clone)]
pub struct Affected {
    pub stamp: Stamp,
    pub source: String,
    /// Below the source; empty for the source itself.
    pub path: Vec<u8>,
    /// The file's entry, and the places in its content of the chunks that are lost.
    pub entry: Entry,
    pub lost: Vec<(u64, ChunkRef)>,
    /// Part of a chunk list or of a directory is lost: nobody knows what it listed.
    pub is_list_lost: bool,
}

/// Finds them. Subtrees that are whole are looked at once, however many snapshots share them.
pub struct Tracer<'r> {
    repository: &'r Repository,
    progress: &'r dyn Progress,
    /// Chunks and nodes that can't be read.
    lost: &'r HashSet<Id>,
    whole: HashMap<Id, bool>,
}

impl<'r> Tracer<'r> {
    pub fn new(repository: &'r Repository, lost: &'r HashSet<Id>, progress: &'r dyn Progress) -> Self {
        Self { repository, progress, lost, whole: HashMap::new() }
    }

    /// What of a snapshot is concerned.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> Result<Vec<Affected>, RepositoryError> {
        let mut found = Vec::new();
        for source in &snapshot.manifest.sources {
            for entry in source.root.iter().chain(&source.sidecars) {
                self.entry(snapshot.stamp, source, Vec::new(), entry, &mut found)?;
            }
        }
        Ok(found)
    }

    fn entry(
        &mut self,
        stamp: Stamp,
        source: &SourceRecord,
        path: Vec<u8>,
        entry: &Entry,
        found: &mut Vec<Affected>,
    ) -> Result<(), RepositoryError> {
        if self.is_whole(&entry.content)? {
            return Ok(());
        }
        let mut affected = Affected {
            stamp,
            source: source.name.clone(),
            path,
            entry: entry.clone(),
            lost: Vec::new(),
            is_list_lost: false,
        };
        let (mut at, mut below, mut unlisted) = (0u64, Vec::new(), 0);
        let is_file = entry.kind == EntryKind::File;
        let mut waiting = match &entry.content {
            Content::Sequence(root) => vec![(root.id, root.weight)],
            Content::Chunks(chunks) => {
                self.list(chunks, &mut at, &mut affected);
                Vec::new()
            }
            Content::Empty => Vec::new(),
        };
        while let Some((id, weight)) = waiting.pop() {
            RepositoryError::stop(self.progress)?;
            // A crafted tree may come to the same loss again and again.
            if affected.lost.len() >= MOST_LOST {
                break;
            }
            if self.lost.contains(&id) {
                affected.is_list_lost = true;
                at += weight;
                unlisted += 1;
                if unlisted >= MOST_LOST {
                    break;
                }
                continue;
            }
            if is_file && self.is_node_whole(id)? {
                at += weight;
                continue;
            }
            match self.repository.read_node(&id)? {
                Node::Inner { children, .. } => {
                    waiting.extend(children.iter().rev().map(|child| (child.id, child.weight)))
                }
                Node::Chunks(chunks) => self.list(&chunks, &mut at, &mut affected),
                Node::Entries(entries) => below.extend(entries),
            }
        }
        for entry in below {
            let slash: &[u8] = if affected.path.is_empty() { b"" } else { b"/" };
            let path = [&affected.path, slash, &entry.name].concat();
            self.entry(stamp, source, path, &entry, found)?;
        }
        if affected.is_list_lost || !affected.lost.is_empty() {
            found.push(affected);
        }
        Ok(())
    }

    fn list(&self, chunks: &[ChunkRef], at: &mut u64, affected: &mut Affected) {
        for chunk in chunks {
            if self.lost.contains(&chunk.id) {
                affected.lost.push((*at, *chunk));
            }
            *at += u64::from(chunk.len);
        }
    }

    fn is_whole(&mut self, content: &Content) -> Result<bool, RepositoryError> {
        match content {
            Content::Empty => Ok(true),
            Content::Chunks(chunks) => Ok(chunks.iter().all(|chunk| !self.lost.contains(&chunk.id))),
            Content::Sequence(root) => self.is_node_whole(root.id),
        }
    }

    fn is_node_whole(&mut self, id: Id) -> Result<bool, RepositoryError> {
        if let Some(known) = self.whole.get(&id) {
            return Ok(*known);
        }
        let is_whole = !self.lost.contains(&id)
            && match self.repository.read_node(&id)? {
                Node::Inner { children, .. } => {
                    let mut is_whole = true;
                    for child in &children {
                        is_whole &= self.is_node_whole(child.id)?;
                    }
                    is_whole
                }
                Node::Chunks(chunks) => chunks.iter().all(|chunk| !self.lost.contains(&chunk.id)),
                Node::Entries(entries) => {
                    let mut is_whole = true;
                    for entry in &entries {
                        is_whole &= self.is_whole(&entry.content)?;
                    }
                    is_whole
                }
            };
        self.whole.insert(id, is_whole);
        Ok(is_whole)
    }
}
