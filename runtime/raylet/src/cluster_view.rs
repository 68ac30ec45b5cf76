//! What this raylet knows of the other nodes: a hint, never a promise. Pure.

use std::collections::BTreeMap;

use sparkray_common::{NodeId, ResourceSet};
use sparkray_proto::{ClusterView as ViewMessage, MessageError, NodeView};

/// Another node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeEntry {
    /// `host:port` of its raylet.
    pub(crate) address: String,
    /// What it has.
    pub(crate) total: ResourceSet,
    /// What it said to be free, less what was sent to it since.
    pub(crate) available: ResourceSet,
    /// Leases that wait there.
    pub(crate) queued: u32,
}

/// The other nodes that are alive.
#[derive(Debug)]
pub(crate) struct ClusterView {
    own: NodeId,
    nodes: BTreeMap<NodeId, NodeEntry>,
}

impl ClusterView {
    /// A view of no other node, held by `own`.
    pub(crate) fn new(own: NodeId) -> Self {
        Self {
            own,
            nodes: BTreeMap::new(),
        }
    }

    /// Takes in the nodes that changed. A node that cannot be read changes nothing.
    pub(crate) fn apply(&mut self, message: &ViewMessage) -> Result<(), MessageError> {
        for node in &message.nodes {
            self.apply_node(node)?;
        }
        Ok(())
    }

    fn apply_node(&mut self, message: &NodeView) -> Result<(), MessageError> {
        let node = NodeId::from_slice(&message.node_id)?;
        if node == self.own {
            return Ok(());
        }
        if !message.alive {
            self.nodes.remove(&node);
            return Ok(());
        }
        let read = |resources: &Option<sparkray_proto::Resources>| match resources {
            Some(resources) => ResourceSet::try_from(resources),
            None => Ok(ResourceSet::default()),
        };
        let entry = NodeEntry {
            address: message.address.clone(),
            total: read(&message.total)?,
            available: read(&message.available)?,
            queued: message.queued_leases,
        };
        self.nodes.insert(node, entry);
        Ok(())
    }

    /// Forgets a node that died.
    pub(crate) fn remove(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// One node.
    pub(crate) fn get(&self, node: NodeId) -> Option<&NodeEntry> {
        self.nodes.get(&node)
    }

    /// The least used node that seems to have room for `resources`.
    pub(crate) fn node_with_room(&self, resources: &ResourceSet) -> Option<NodeId> {
        let candidates = self
            .nodes
            .iter()
            .filter(|(_, entry)| entry.available.covers(resources));
        candidates
            .min_by(|(_, left), (_, right)| utilization(left).total_cmp(&utilization(right)))
            .map(|(node, _)| *node)
    }

    /// The node with the shortest queue among those that could ever run `resources`.
    pub(crate) fn feasible_node(&self, resources: &ResourceSet) -> Option<NodeId> {
        let candidates = self
            .nodes
            .iter()
            .filter(|(_, entry)| entry.total.covers(resources));
        candidates
            .min_by_key(|(_, entry)| entry.queued)
            .map(|(node, _)| *node)
    }

    /// Notes that a request for `resources` was sent to `node`, until its next report.
    pub(crate) fn note_sent(&mut self, node: NodeId, resources: &ResourceSet) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            if entry.available.covers(resources) {
                entry.available.subtract(resources);
            } else {
                entry.queued += 1;
            }
        }
    }

    /// The largest amount of one resource that any other node has.
    pub(crate) fn largest(&self, name: &str) -> f64 {
        self.nodes
            .values()
            .map(|entry| entry.total.get(name))
            .fold(0.0, f64::max)
    }
}

fn utilization(entry: &NodeEntry) -> f64 {
    entry.available.utilization(&entry.total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::resources;

    fn message(node: NodeId, total: f64, available: f64, alive: bool) -> NodeView {
        NodeView {
            node_id: node.to_vec().into(),
            address: "h:1".to_owned(),
            alive,
            total: Some((&resources(&[("CPU", total)])).into()),
            available: Some((&resources(&[("CPU", available)])).into()),
            ..NodeView::default()
        }
    }

    #[test]
    fn the_least_used_node_with_room_is_chosen_and_remembered_as_used() {
        let own = NodeId::random();
        let (small, large) = (NodeId::random(), NodeId::random());
        let mut view = ClusterView::new(own);
        let nodes = vec![
            message(own, 9.0, 9.0, true),
            message(small, 4.0, 1.0, true),
            message(large, 4.0, 4.0, true),
        ];
        view.apply(&ViewMessage { nodes }).unwrap();
        let request = resources(&[("CPU", 1.0)]);
        assert_eq!(view.node_with_room(&request), Some(large));
        view.note_sent(large, &resources(&[("CPU", 4.0)]));
        assert_eq!(view.node_with_room(&request), Some(small));
        assert_eq!(view.node_with_room(&resources(&[("CPU", 2.0)])), None);
        assert!(view.feasible_node(&resources(&[("CPU", 4.0)])).is_some());
        view.apply(&ViewMessage {
            nodes: vec![message(large, 0.0, 0.0, false)],
        })
        .unwrap();
        assert!(view.get(large).is_none());
        assert!((view.largest("CPU") - 4.0).abs() < f64::EPSILON);
    }
}
