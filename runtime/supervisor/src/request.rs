//! What the driver program asks for and what it gets: JSON between Python, Java and this crate.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparkray_common::{ClusterId, ClusterToken, ErrorCode};

use crate::SupervisorError;

/// A cluster to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Hexadecimal id that the new cluster is to have, so that whoever asks can cancel the start; none: a random one.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Executors whose raylets must have registered before `init` returns.
    pub expected_nodes: u32,
    /// Seconds until `init` fails and names the missing ones.
    pub deadline_seconds: f64,
    /// `CPU` of each executor's node.
    pub node_cpus: f64,
    /// Other resources of each executor's node.
    #[serde(default)]
    pub node_resources: BTreeMap<String, f64>,
    /// Bytes of shared memory for objects on each node; 0: chosen from the budget.
    #[serde(default)]
    pub object_store_bytes: u64,
    /// `CPU` of the driver's node; 0: no task runs there.
    #[serde(default)]
    pub driver_cpus: f64,
    /// The driver is an executor too (`local[*]`): its node is the only one.
    #[serde(default)]
    pub local: bool,
    /// Additional environment of workers.
    #[serde(default)]
    pub worker_env: BTreeMap<String, String>,
    /// Whether connections between nodes are encrypted.
    #[serde(default = "on")]
    pub encryption: bool,
    /// Workers forked ahead of demand on each executor.
    #[serde(default)]
    pub prestart_workers: u32,
    /// Python of the executors' workers, absolute or relative to the container's directory.
    pub python: String,
    /// Python of the driver's own workers.
    pub driver_python: String,
    /// Version of the driver's Python, for example "3.11.7".
    pub python_version: String,
    /// Version of the driver's sparkray package.
    pub sparkray_version: String,
}

fn on() -> bool {
    true
}

impl InitRequest {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), SupervisorError> {
        let refuse = |message: String| Err(SupervisorError::refused(ErrorCode::InvalidArgument, message));
        if self.expected_nodes == 0 {
            return refuse("a cluster needs at least one node".to_owned());
        }
        for (name, amount) in [
            ("cores of each node", self.node_cpus),
            ("driver_cores", self.driver_cpus),
        ] {
            if !amount.is_finite() || amount < 0.0 {
                return refuse(format!("{name} cannot be {amount}: use a number of at least 0"));
            }
        }
        if !self.deadline_seconds.is_finite() || self.deadline_seconds <= 0.0 {
            return refuse(format!(
                "the deadline cannot be {} s: use a number above 0",
                self.deadline_seconds
            ));
        }
        Ok(())
    }
}

/// One node of a running cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Spark's executor id; "driver" for the driver's own node.
    pub executor_id: String,
    /// Hexadecimal node id; empty while its raylet does not run.
    pub node_id: String,
    /// `host:port` of its raylet.
    pub address: String,
    /// Abstract Unix socket of its raylet.
    pub socket_name: String,
    /// Name of the machine.
    pub hostname: String,
    /// YARN's container, empty elsewhere.
    pub container_id: String,
    /// Pid of its raylet.
    pub pid: u32,
    /// Pid of its executor's JVM.
    pub executor_pid: u32,
    /// `CPU` of the node.
    pub cpus: f64,
    /// Bytes that Spark set aside for Ray in its container; 0: no container limits it.
    pub memory_budget_bytes: u64,
    /// Bytes of its object store.
    pub object_store_bytes: u64,
    /// Starts of the raylet on this executor.
    pub start_count: u32,
    /// `starting`, `up`, `restarting` or `down`.
    pub state: String,
    /// What it said last when it is not up.
    pub message: String,
}

/// A cluster that serves, and what a driver needs to join it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InitResult {
    /// Hexadecimal [`ClusterId`].
    pub cluster_id: String,
    /// Hexadecimal [`ClusterToken`].
    pub token: String,
    /// The head's epoch.
    pub head_epoch: u64,
    /// Abstract Unix socket of the driver's raylet.
    pub socket_name: String,
    /// `host:port` of the raylet that is the head's gateway.
    pub head_address: String,
    /// The executor on which the head runs.
    pub head_executor_id: String,
    /// Pid of the head.
    pub head_pid: u32,
    /// The executors' nodes.
    pub nodes: Vec<NodeInfo>,
    /// The driver's own node; in local mode the only node.
    pub driver_node: NodeInfo,
}

/// How the manager stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// `idle`, `starting`, `running`, `failed`.
    pub state: String,
    /// Why it failed.
    pub failure: Option<String>,
    /// Hexadecimal [`ClusterId`], empty when idle.
    pub cluster_id: String,
    /// The executors' nodes, or all executors that have joined when idle.
    pub nodes: Vec<NodeInfo>,
    /// The driver's own node.
    pub driver_node: Option<NodeInfo>,
}

/// Names of one cluster, new for every `init`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClusterNames {
    pub(crate) id: ClusterId,
    pub(crate) token: ClusterToken,
    pub(crate) head_epoch: u64,
}

impl ClusterNames {
    pub(crate) fn mint(id: ClusterId) -> Self {
        Self {
            id,
            token: ClusterToken::random(),
            head_epoch: 1,
        }
    }
}
