//! What a request for a worker asks of a node.

use sparkray_common::{NodeId, ResourceSet, SchedulingStrategy};

/// What requests have in common that the same nodes can meet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Shape {
    /// What a lease takes while it is held; in a bundle, by the names that resources have there.
    pub(crate) resources: ResourceSet,
    /// Which nodes may grant it, and which come first.
    pub(crate) strategy: SchedulingStrategy,
}

impl Shape {
    /// Of a request for `amounts`.
    pub(crate) fn new(amounts: ResourceSet, strategy: SchedulingStrategy) -> Self {
        Self {
            resources: strategy.demand(amounts),
            strategy,
        }
    }

    /// Whether any node will do.
    pub(crate) fn is_default(&self) -> bool {
        self.strategy == SchedulingStrategy::Default
    }

    /// The node outside of which no lease may be.
    pub(crate) fn only_node(&self) -> Option<NodeId> {
        match self.strategy {
            SchedulingStrategy::NodeAffinity { node, soft: false } => Some(node),
            _ => None,
        }
    }
}
