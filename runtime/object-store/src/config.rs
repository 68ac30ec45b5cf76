//! Settings of a node's store.

use std::time::Duration;

use sparkray_common::{ClusterId, NodeId};

/// Settings of a node's store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Names the segments, so that a cluster's memory is found by its id.
    pub cluster_id: ClusterId,
    /// This node; locations that name it are not pulled from.
    pub node_id: NodeId,
    /// Bytes of memory for objects, free memory kept warm included.
    pub capacity_bytes: u64,
    /// Whether there is a directory to spill to. Without one, a full store refuses after [`Self::stall`].
    pub can_spill: bool,
    /// Free memory that is kept when nobody asks for room.
    pub warm_bytes: u64,
    /// How long nobody must have asked for room before free memory above `warm_bytes` is given back.
    pub idle_after: Duration,
    /// A feed of which nothing was heard for this long is asked about, this often.
    pub feed_patience: Duration,
    /// How long a create waits without any memory coming free before it gets room on disk.
    pub stall: Duration,
}

impl StoreConfig {
    /// The usual settings.
    pub fn new(cluster_id: ClusterId, node_id: NodeId, capacity_bytes: u64, can_spill: bool) -> Self {
        Self {
            cluster_id,
            node_id,
            capacity_bytes,
            can_spill,
            warm_bytes: 32 << 20,
            idle_after: Duration::from_secs(2),
            feed_patience: Duration::from_mins(5),
            stall: Duration::from_secs(10),
        }
    }
}
