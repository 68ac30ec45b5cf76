//! What this raylet knows of the other nodes: a hint, never a promise. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::{Labels, NodeId, ResourceSet};
use sparkray_proto::{ClusterView as ViewMessage, MessageError, NodeView};

use crate::shape::Shape;

/// A report that comes this long after a request was sent shows what became of it.
const NOTE_AGE: Duration = Duration::from_millis(300);

/// Another node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeEntry {
    /// `host:port` of its raylet.
    pub(crate) address: String,
    labels: Labels,
    /// What it has.
    pub(crate) total: ResourceSet,
    /// What it said to be free, less what was sent to it since.
    pub(crate) available: ResourceSet,
    /// Leases that wait there.
    pub(crate) queued: u32,
    /// Requests sent there that its next report may show.
    sent: Vec<Sent>,
}

/// One request that was sent to a node.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    at: Instant,
    /// Taken from what is available; `None`: counted as queued.
    resources: Option<ResourceSet>,
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
            labels: message.labels.clone(),
            total: read(&message.total)?,
            available: read(&message.available)?,
            queued: message.queued_leases,
            sent: Vec::new(),
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

    /// The node whose raylet is reached there.
    pub(crate) fn at_address(&self, address: &str) -> Option<NodeId> {
        let found = self.nodes.iter().find(|(_, entry)| entry.address == address);
        found.map(|(node, _)| *node)
    }

    /// Nodes that seem to have room, in the order of their ids.
    pub(crate) fn nodes_with_room<'a>(&'a self, shape: &'a Shape) -> impl Iterator<Item = NodeId> + 'a {
        self.with_room(shape).map(|(node, _)| node)
    }

    fn with_room<'a>(&'a self, shape: &'a Shape) -> impl Iterator<Item = (NodeId, &'a NodeEntry)> {
        let entries = self.nodes.iter().map(|(node, entry)| (*node, entry));
        entries.filter(|(node, entry)| {
            entry.available.covers(&shape.resources) && shape.strategy.allows(*node, &entry.labels)
        })
    }

    /// The node that seems to have room and comes first by the strategy, then by what is used of it.
    pub(crate) fn node_with_room(&self, shape: &Shape) -> Option<NodeId> {
        let comes_after = |node, entry: &NodeEntry| !shape.strategy.prefers(node, &entry.labels);
        self.with_room(shape)
            .min_by(|(left, left_entry), (right, right_entry)| {
                let preferred = comes_after(*left, left_entry).cmp(&comes_after(*right, right_entry));
                preferred.then_with(|| utilization(left_entry).total_cmp(&utilization(right_entry)))
            })
            .map(|(node, _)| node)
    }

    /// The node with the shortest queue among those that could ever grant such a request.
    pub(crate) fn feasible_node(&self, shape: &Shape) -> Option<NodeId> {
        let candidates = self
            .nodes
            .iter()
            .filter(|(node, entry)| is_feasible(**node, entry, shape));
        candidates
            .min_by_key(|(_, entry)| entry.queued)
            .map(|(node, _)| *node)
    }

    /// Whether this node could ever grant such a request.
    pub(crate) fn is_feasible_on(&self, node: NodeId, shape: &Shape) -> bool {
        let entry = self.nodes.get(&node);
        entry.is_some_and(|entry| is_feasible(node, entry, shape))
    }

    /// Whether this node comes before others by the strategy.
    pub(crate) fn is_preferred(&self, node: NodeId, shape: &Shape) -> bool {
        let entry = self.nodes.get(&node);
        entry.is_some_and(|entry| shape.strategy.prefers(node, &entry.labels))
    }

    /// Notes that a request for `resources` was sent to `node`, until its next report. A node whose resources are the
    /// same as before does not report: then the note is forgotten after a while, see [`Self::forget_old_notes`].
    pub(crate) fn note_sent(&mut self, node: NodeId, resources: &ResourceSet, now: Instant) {
        let Some(entry) = self.nodes.get_mut(&node) else {
            return;
        };
        let taken = entry.available.covers(resources).then(|| resources.clone());
        match &taken {
            Some(resources) => entry.available.subtract(resources),
            None => entry.queued += 1,
        }
        entry.sent.push(Sent {
            at: now,
            resources: taken,
        });
    }

    /// Forgets requests that were sent so long ago that a report would show them. True: some node has more room.
    pub(crate) fn forget_old_notes(&mut self, now: Instant) -> bool {
        let mut any = false;
        for entry in self.nodes.values_mut() {
            let old = entry
                .sent
                .iter()
                .take_while(|sent| now.saturating_duration_since(sent.at) >= NOTE_AGE)
                .count();
            for sent in entry.sent.drain(..old) {
                any = true;
                match sent.resources {
                    Some(resources) => entry.available.add(&resources),
                    None => entry.queued = entry.queued.saturating_sub(1),
                }
            }
        }
        any
    }

    /// The largest amount of one resource that any other node has.
    pub(crate) fn largest(&self, name: &str) -> f64 {
        self.nodes
            .values()
            .map(|entry| entry.total.get(name))
            .fold(0.0, f64::max)
    }
}

fn is_feasible(node: NodeId, entry: &NodeEntry, shape: &Shape) -> bool {
    entry.total.covers(&shape.resources) && shape.strategy.allows(node, &entry.labels)
}

fn utilization(entry: &NodeEntry) -> f64 {
    entry.available.utilization(&entry.total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::resources;

    fn shape(cpus: f64) -> Shape {
        Shape {
            resources: resources(&[("CPU", cpus)]),
            ..Shape::default()
        }
    }

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
        let request = shape(1.0);
        assert_eq!(view.node_with_room(&request), Some(large));
        view.note_sent(large, &resources(&[("CPU", 4.0)]), Instant::now());
        assert_eq!(view.node_with_room(&request), Some(small));
        assert_eq!(view.node_with_room(&shape(2.0)), None);
        assert!(view.feasible_node(&shape(4.0)).is_some());
        view.apply(&ViewMessage {
            nodes: vec![message(large, 0.0, 0.0, false)],
        })
        .unwrap();
        assert!(view.get(large).is_none());
        assert!((view.largest("CPU") - 4.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_node_that_reports_no_change_is_used_again() {
        let node = NodeId::random();
        let mut view = ClusterView::new(NodeId::random());
        let nodes = vec![message(node, 1.0, 1.0, true)];
        view.apply(&ViewMessage { nodes }).unwrap();
        let request = shape(1.0);
        let now = Instant::now();
        let before = view.get(node).cloned();
        view.note_sent(node, &request.resources, now);
        view.note_sent(node, &request.resources, now);
        assert_eq!(view.node_with_room(&request), None);
        assert_eq!(view.get(node).unwrap().queued, 1);
        assert!(!view.forget_old_notes(now + NOTE_AGE / 2));
        assert!(view.forget_old_notes(now + NOTE_AGE));
        assert_eq!(view.get(node).cloned(), before);
        assert!(!view.forget_old_notes(now + 2 * NOTE_AGE));
    }
}
