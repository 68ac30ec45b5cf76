//! Nodes that fetched an object from this one. Pure.
//!
//! Its owner does not know of their copies: they hear of its end from here, and pass it on to those that fetched it from
//! them.

use std::collections::{BTreeSet, HashMap};

use sparkray_common::{NodeId, ObjectId};

/// Fetched objects that are remembered before it is looked which of them are still here.
const LIMIT: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct FetchedBy {
    nodes: HashMap<ObjectId, BTreeSet<NodeId>>,
    /// Entries at which those of objects that are gone are thrown out.
    limit: usize,
}

impl FetchedBy {
    /// `node` fetches an object. `is_here`: whether anything leads to an object on this node.
    pub(super) fn note(&mut self, object: ObjectId, node: NodeId, is_here: impl Fn(ObjectId) -> bool) {
        if self.nodes.len() >= self.limit {
            // Objects whose fetch failed, and those of owners that died, are not freed by a message.
            self.nodes.retain(|object, _| is_here(*object));
            self.limit = (2 * self.nodes.len()).max(LIMIT);
        }
        self.nodes.entry(object).or_default().insert(node);
    }

    /// An object is no more; who fetched it.
    pub(super) fn take(&mut self, object: ObjectId) -> BTreeSet<NodeId> {
        self.nodes.remove(&object).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use sparkray_common::TaskId;

    use super::*;

    #[test]
    fn objects_that_are_gone_do_not_pile_up() {
        let mut fetched = FetchedBy::default();
        let node = NodeId::random();
        let here = ObjectId::for_result(TaskId::next(), 0);
        fetched.note(here, node, |_| true);
        for _ in 0..3 * LIMIT {
            let gone = ObjectId::for_result(TaskId::next(), 0);
            fetched.note(gone, node, |object| object == here);
            assert!(fetched.nodes.len() <= LIMIT);
        }
        assert_eq!(fetched.take(here), BTreeSet::from([node]));
        assert!(fetched.take(here).is_empty());
    }
}
