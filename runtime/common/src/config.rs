//! What a parent hands to `sparkrayd` over its standard input, and what the child answers with one line
//! on its standard output. The token travels here and nowhere else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Configuration of `sparkrayd head`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Hexadecimal [`crate::ClusterId`].
    pub cluster_id: String,
    /// Hexadecimal [`crate::ClusterToken`].
    pub token: String,
    /// Counts the heads of this cluster, from 1.
    pub head_epoch: u64,
    /// Pid that must be the child's parent; the child ends when it is not.
    pub parent_pid: u32,
    /// Directory for logs.
    pub log_dir: String,
}

/// One line of JSON from a head that serves. Workers and raylets reach it through the raylet of its node,
/// which connects to this Unix socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeadReady {
    /// Name of the head's abstract Unix socket, without the leading NUL.
    pub socket_name: String,
    /// The head's pid.
    pub pid: u32,
}

/// Configuration of `sparkrayd raylet`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RayletConfig {
    /// Hexadecimal [`crate::ClusterId`].
    pub cluster_id: String,
    /// Hexadecimal [`crate::ClusterToken`].
    pub token: String,
    /// Hexadecimal [`crate::NodeId`], new for every start.
    pub node_id: String,
    /// The epoch of the head to join.
    pub head_epoch: u64,
    /// Pid that must be the child's parent; the child ends when it is not.
    pub parent_pid: u32,
    /// Address to advertise, and to bind unless another is given, as Spark gave it to this executor.
    pub host: String,
    /// Address to bind when it is another.
    #[serde(default)]
    pub bind_host: Option<String>,
    /// TCP port; 0 lets the kernel choose.
    pub port: u16,
    /// Name of the head's abstract Unix socket, when the head runs on this node: this raylet is its gateway.
    pub head_socket_name: Option<String>,
    /// `host:port` of the raylet that is the head's gateway, when the head runs on another node.
    pub head_address: Option<String>,
    /// Resources of this node in units, for example `{"CPU": 4.0}`.
    pub resources: BTreeMap<String, f64>,
    /// Labels of this node, for example `executor_id`, `container_id`, `hostname`.
    pub labels: BTreeMap<String, String>,
    /// Bytes of shared memory for objects.
    pub object_store_bytes: u64,
    /// Directories for spilled objects, tried in turn; removed at exit.
    pub spill_dirs: Vec<String>,
    /// Directory for logs of the raylet and its workers.
    pub log_dir: String,
    /// The Python interpreter of the workers; `None` for a node that runs no Python tasks.
    pub python: Option<String>,
    /// Directory in which workers start.
    pub working_dir: String,
    /// Additional environment of the workers.
    pub worker_env: BTreeMap<String, String>,
    /// Workers forked ahead of demand.
    pub prestart_workers: u32,
    /// Whether this node serves a driver whose end is the end of everything: then the head is patient with it.
    #[serde(default)]
    pub is_drivers_own: bool,
    /// Whether connections between nodes are encrypted; all nodes of a cluster are told the same.
    #[serde(default = "on")]
    pub encryption: bool,
}

fn on() -> bool {
    true
}

/// One line of JSON from the parent to a raylet that runs, over its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ParentNotice {
    /// The head's end is certain, or its host is given up: whoever needs the head hears why; nothing takes the place of
    /// what runs here.
    HeadLost {
        /// For the clients' errors.
        cause: String,
    },
}

/// Exit status of a raylet that was cut off from the head or declared dead: it may be started anew, as another node, as
/// often as it takes.
pub const CUT_OFF_STATUS: u8 = 75;

/// One line of JSON from a raylet that has registered with the head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RayletReady {
    /// Hexadecimal [`crate::NodeId`].
    pub node_id: String,
    /// `host:port` at which other nodes reach it.
    pub address: String,
    /// Name of the abstract Unix socket for processes of this node, without the leading NUL.
    pub socket_name: String,
    /// The raylet's pid.
    pub pid: u32,
}
