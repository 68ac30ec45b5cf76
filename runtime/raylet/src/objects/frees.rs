//! Which nodes are to hear what was freed. Pure.
//!
//! Invariant: an entry leaves this table when its node took it, or when the node is dead.

use std::collections::HashMap;

use sparkray_common::NodeId;
use sparkray_proto::FreeEntry;

#[derive(Debug)]
struct Untold {
    address: String,
    entries: Vec<FreeEntry>,
    /// A message is under way; what comes meanwhile travels with the next one.
    under_way: bool,
}

/// Frees that other nodes do not know of yet.
#[derive(Debug, Default)]
pub(crate) struct Frees {
    nodes: HashMap<NodeId, Untold>,
}

impl Frees {
    /// `node` is to hear of `entry`.
    pub(crate) fn note(&mut self, node: NodeId, address: &str, entry: FreeEntry) {
        let untold = self.nodes.entry(node).or_insert_with(|| Untold {
            address: address.to_owned(),
            entries: Vec::new(),
            under_way: false,
        });
        untold.entries.push(entry);
    }

    /// What to send now: node, address, entries. Each is followed by [`Self::told`].
    pub(crate) fn take_due(&mut self) -> Vec<(NodeId, String, Vec<FreeEntry>)> {
        let mut due = Vec::new();
        for (node, untold) in &mut self.nodes {
            if !untold.under_way && !untold.entries.is_empty() {
                untold.under_way = true;
                due.push((*node, untold.address.clone(), std::mem::take(&mut untold.entries)));
            }
        }
        due
    }

    /// A message to `node` is over. `left` is what it did not take: it goes with the next message while the node lives.
    pub(crate) fn told(&mut self, node: NodeId, left: Vec<FreeEntry>, is_alive: bool) {
        let Some(untold) = self.nodes.get_mut(&node) else {
            return;
        };
        untold.under_way = false;
        if is_alive {
            untold.entries.extend(left);
        }
        if untold.entries.is_empty() {
            self.nodes.remove(&node);
        }
    }

    /// A dead node has no copies.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8) -> FreeEntry {
        FreeEntry {
            object_id: vec![number].into(),
            locations: Vec::new(),
        }
    }

    #[test]
    fn what_a_living_node_did_not_take_is_told_again() {
        let mut frees = Frees::default();
        let node = NodeId::random();
        frees.note(node, "h:1", entry(1));
        let (_, address, first) = frees.take_due().remove(0);
        assert_eq!((address.as_str(), first.len()), ("h:1", 1));
        frees.note(node, "h:1", entry(2));
        assert!(frees.take_due().is_empty(), "one message at a time");
        frees.told(node, first, true);
        let (_, _, again) = frees.take_due().remove(0);
        assert_eq!(again, vec![entry(2), entry(1)]);
        frees.told(node, Vec::new(), true);
        assert!(frees.nodes.is_empty());
    }

    #[test]
    fn a_dead_node_is_told_nothing() {
        let mut frees = Frees::default();
        let node = NodeId::random();
        frees.note(node, "h:1", entry(1));
        let (_, _, entries) = frees.take_due().remove(0);
        frees.told(node, entries, false);
        frees.note(node, "h:1", entry(2));
        frees.forget(node);
        assert!(frees.nodes.is_empty() && frees.take_due().is_empty());
    }
}
