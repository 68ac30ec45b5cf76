//! Where a worker is reached.

use crate::{NodeId, WorkerId};

/// A worker and the node through whose raylet it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerAddress {
    /// The node on which it runs.
    pub node_id: NodeId,
    /// The process.
    pub worker_id: WorkerId,
    /// `host:port` of that node's raylet.
    pub node_address: String,
}
