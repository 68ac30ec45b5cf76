//! On which node a request is to wait: what the strategies mean to a raylet. Pure.
//!
//! The first raylet that is asked looks once where a request wants to be, and sends it there. From then on, and for the
//! default strategy from the beginning, a request waits where it is and is passed on when another node shows room.

use sparkray_common::{Labels, NodeId, ResourceSet, SchedulingStrategy};

use crate::cluster_view::ClusterView;
use crate::node_info::NodeInfo;
use crate::shape::Shape;

/// This node, as strategies see it.
#[derive(Debug)]
pub(crate) struct Own {
    node: NodeId,
    labels: Labels,
    total: ResourceSet,
    runs_workers: bool,
}

impl Own {
    /// `runs_workers`: false on a node without Python, where nothing is ever granted.
    pub(crate) fn new(node: &NodeInfo, total: ResourceSet, runs_workers: bool) -> Self {
        Self {
            node: node.node_id,
            labels: node.labels.clone(),
            total,
            runs_workers,
        }
    }

    pub(super) fn total(&self) -> &ResourceSet {
        &self.total
    }

    /// The node has more from now on.
    pub(super) fn add(&mut self, resources: &ResourceSet) {
        self.total.add(resources);
    }

    /// The node has that no more.
    pub(super) fn remove(&mut self, resources: &ResourceSet) {
        self.total.remove(resources);
    }

    pub(super) fn runs_workers(&self) -> bool {
        self.runs_workers
    }

    /// Whether the strategy lets such a request be granted here.
    pub(super) fn allows(&self, shape: &Shape) -> bool {
        shape.strategy.allows(self.node, &self.labels)
    }

    fn is_preferred(&self, shape: &Shape) -> bool {
        shape.strategy.prefers(self.node, &self.labels)
    }

    /// Whether such a request can ever be granted here.
    pub(super) fn is_feasible(&self, shape: &Shape) -> bool {
        self.runs_workers && self.total.covers(&shape.resources) && self.allows(shape)
    }

    /// The node to which a request goes that cannot be granted here now.
    pub(super) fn pass_on_to(&self, view: &ClusterView, shape: &Shape) -> Option<NodeId> {
        let is_feasible = self.is_feasible(shape);
        if let SchedulingStrategy::NodeAffinity { node, .. } = shape.strategy {
            if node == self.node && is_feasible {
                return None;
            }
            if view.is_feasible_on(node, shape) {
                return Some(node);
            }
        }
        let with_room = view.node_with_room(shape);
        if is_feasible {
            return with_room;
        }
        with_room.or_else(|| view.feasible_node(shape))
    }
}

/// Where requests go that want to be somewhere.
#[derive(Debug, Default)]
pub(super) struct FirstLook {
    /// The node that had its turn last.
    last: Option<NodeId>,
}

impl FirstLook {
    /// The node to which a new request goes at once; `None`: it waits here. `available`: what is free here.
    pub(super) fn target(
        &mut self,
        own: &Own,
        available: &ResourceSet,
        view: &ClusterView,
        shape: &Shape,
    ) -> Option<NodeId> {
        match &shape.strategy {
            // A bundle is where its resources are.
            SchedulingStrategy::Default | SchedulingStrategy::Bundle(_) => None,
            SchedulingStrategy::Spread => {
                let here = own.runs_workers && available.covers(&shape.resources);
                let node = self.next_in_turn(view, shape, here.then_some(own.node))?;
                (node != own.node).then_some(node)
            }
            SchedulingStrategy::NodeAffinity { node, .. } => {
                (*node != own.node && view.is_feasible_on(*node, shape)).then_some(*node)
            }
            SchedulingStrategy::NodeLabels { .. } => {
                if own.is_feasible(shape) && own.is_preferred(shape) {
                    return None;
                }
                let there = view.node_with_room(shape)?;
                (!own.is_feasible(shape) || view.is_preferred(there, shape)).then_some(there)
            }
        }
    }

    /// Of the nodes with room the next one by its id.
    fn next_in_turn(&mut self, view: &ClusterView, shape: &Shape, own: Option<NodeId>) -> Option<NodeId> {
        let with_room = || view.nodes_with_room(shape).chain(own);
        let after_last = with_room().filter(|node| Some(*node) > self.last).min();
        let next = after_last.or_else(|| with_room().min())?;
        self.last = Some(next);
        Some(next)
    }
}

/// A sentence about what no node has.
pub(super) fn missing(own: &Own, view: &ClusterView, shape: &Shape) -> String {
    if let SchedulingStrategy::Bundle(choice) = shape.strategy {
        let bundle = Shape::new(ResourceSet::default(), shape.strategy.clone());
        if !own.total.covers(&bundle.resources) && view.feasible_node(&bundle).is_none() {
            return format!("it asks for {choice}, which no node has yet");
        }
    }
    let mut parts = Vec::new();
    for (name, amount) in shape.resources.to_units() {
        let largest = own.total.get(&name).max(view.largest(&name));
        if amount > largest {
            parts.push(format!(
                "{name}: {amount} asked for, no node has more than {largest}"
            ));
        }
    }
    if parts.is_empty() && shape.is_default() {
        parts.push(format!(
            "no single node has all of {:?}",
            shape.resources.to_units()
        ));
    } else if parts.is_empty() {
        parts.push(format!(
            "it asks for {}, and there is none with {:?}",
            shape.strategy,
            shape.resources.to_units()
        ));
    }
    parts.join("; ")
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
