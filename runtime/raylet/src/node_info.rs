//! Who this node is.

use sparkray_common::{ClusterId, Labels, NodeId, WorkerAddress, WorkerId};
use sparkray_proto::LogLine;

/// Who this node is; never changes.
#[derive(Debug, Clone)]
pub(crate) struct NodeInfo {
    pub(crate) node_id: NodeId,
    pub(crate) cluster_id: ClusterId,
    pub(crate) head_epoch: u64,
    /// `host:port`.
    pub(crate) address: String,
    /// The host alone, as an IP address.
    pub(crate) host: String,
    pub(crate) log_dir: String,
    pub(crate) labels: Labels,
}

impl NodeInfo {
    /// The address of a worker of this node.
    pub(crate) fn address_of(&self, worker: WorkerId) -> WorkerAddress {
        WorkerAddress {
            node_id: self.node_id,
            worker_id: worker,
            node_address: self.address.clone(),
        }
    }

    /// A line of the raylet itself for a driver.
    pub(crate) fn log_line(&self, text: String) -> LogLine {
        LogLine {
            name: "raylet".to_owned(),
            pid: std::process::id(),
            ip: self.host.clone(),
            text,
            is_stderr: true,
        }
    }
}
