//! Chunks that were read lately and will be asked for again: nodes of chunk lists, and bases that neighbours have in common.

use crate::id::Id;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Proven chunks in memory, the oldest going first.
pub struct ChunkCache {
    kept: Mutex<Kept>,
    limit_bytes: usize,
}

#[derive(Default)]
struct Kept {
    chunks: HashMap<Id, Arc<Vec<u8>>>,
    order: VecDeque<Id>,
    bytes: usize,
}

impl ChunkCache {
    /// A cache that keeps so many bytes at most.
    pub fn new(limit_bytes: usize) -> Self {
        Self { kept: Mutex::default(), limit_bytes }
    }

    /// A chunk's bytes, if they are kept.
    pub fn get(&self, id: &Id) -> Option<Arc<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).chunks.get(id).map(Arc::clone)
    }

    /// Keeps a chunk's bytes, which were proven.
    pub fn keep(&self, id: Id, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        let bytes = Arc::new(bytes);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.chunks.insert(id, Arc::clone(&bytes)).is_none() {
            kept.order.push_back(id);
            kept.bytes += bytes.len();
        }
        while kept.bytes > self.limit_bytes
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.chunks.remove(&oldest).map_or(0, |gone| gone.len());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::ChunkCache;
    use crate::id::Id;

    #[test]
    fn the_oldest_go_first() {
        let cache = ChunkCache::new(3200);
        let ids: Vec<Id> = (0..40u32).map(|number| Id::of(&number.to_le_bytes())).collect();
        for id in &ids {
            cache.keep(*id, vec![0; 100]);
        }
        assert_eq!(ids.iter().filter(|id| cache.get(id).is_some()).count(), 32);
        assert!(cache.get(&ids[0]).is_none() && cache.get(&ids[39]).is_some());
    }
}
