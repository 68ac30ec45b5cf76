//! The table of nodes: which there are, and which are dead.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use sparkray_common::NodeId;

use crate::record::NodeDescription;

/// Dead nodes that are still listed; older ones are forgotten.
const KEPT_DEAD_NODES: usize = 256;

/// One node.
#[derive(Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) description: NodeDescription,
    pub(crate) alive: bool,
}

/// All nodes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct NodeTable {
    nodes: BTreeMap<NodeId, Node>,
    /// Dead ones, oldest first.
    dead: VecDeque<NodeId>,
}

impl NodeTable {
    /// A node, alive or dead.
    pub(crate) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// Whether the node is part of the cluster.
    pub(crate) fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.alive)
    }

    /// All nodes, dead ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Those that are not dead.
    pub(crate) fn living(&self) -> impl Iterator<Item = &NodeDescription> {
        self.all().filter(|node| node.alive).map(|node| &node.description)
    }

    /// The ids of those that are not dead.
    pub(crate) fn living_ids(&self) -> Vec<NodeId> {
        self.living().map(|node| node.id).collect()
    }

    pub(super) fn join(&mut self, description: &NodeDescription) {
        let node = Node {
            description: description.clone(),
            alive: true,
        };
        self.nodes.insert(description.id, node);
    }

    pub(super) fn die(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.alive) else {
            return;
        };
        node.alive = false;
        self.dead.push_back(id);
        if self.dead.len() > KEPT_DEAD_NODES
            && let Some(forgotten) = self.dead.pop_front()
        {
            self.nodes.remove(&forgotten);
        }
    }
}
