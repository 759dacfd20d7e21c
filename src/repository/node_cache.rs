//! Nodes that were read lately: a chunk list is asked for several times in one run.

use crate::id::Id;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// What is kept at most.
const LIMIT_BYTES: usize = 16 << 20;

/// Proven nodes in memory, the oldest going first.
#[derive(Default)]
pub struct NodeCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    nodes: HashMap<Id, Arc<Vec<u8>>>,
    order: VecDeque<Id>,
    bytes: usize,
}

impl NodeCache {
    /// A node's bytes, if they are kept.
    pub fn get(&self, id: &Id) -> Option<Arc<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).nodes.get(id).map(Arc::clone)
    }

    /// Keeps a node's bytes, which were proven.
    pub fn keep(&self, id: Id, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        let bytes = Arc::new(bytes);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.nodes.insert(id, Arc::clone(&bytes)).is_none() {
            kept.order.push_back(id);
            kept.bytes += bytes.len();
        }
        while kept.bytes > LIMIT_BYTES
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.nodes.remove(&oldest).map_or(0, |gone| gone.len());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{LIMIT_BYTES, NodeCache};
    use crate::id::Id;

    #[test]
    fn the_oldest_go_first() {
        let cache = NodeCache::default();
        let ids: Vec<Id> = (0..40u32).map(|number| Id::of(&number.to_le_bytes())).collect();
        for id in &ids {
            cache.keep(*id, vec![0; LIMIT_BYTES / 32]);
        }
        assert_eq!(ids.iter().filter(|id| cache.get(id).is_some()).count(), 32);
        assert!(cache.get(&ids[0]).is_none() && cache.get(&ids[39]).is_some());
    }
}
