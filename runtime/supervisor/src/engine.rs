//! What a RayManager must know of the runtime that it supervises. One implementation for each runtime: today the native
//! one ([`crate::native_engine`]).
//!
//! Invariants:
//! 1. A head or a node is one process below the manager, whatever that process starts below itself, and that process
//!    ends last. A runtime that starts several processes side by side and returns, as `ray start` does, runs below a
//!    program of its engine, which also watches over them and ends them one by one: `ray stop` looks for processes by
//!    their names, and would end those of other executors on the machine.
//! 2. That process reads one line from its standard input, writes one line to its standard output once it serves, and
//!    ends by itself when its standard input is closed or it gets SIGTERM.
//! 3. An engine only describes: it starts nothing, waits for nothing and has no state. Whatever happens on a node is
//!    told by the plan or by the ready line, so ports, sockets and temporary directories that a runtime needs besides
//!    are its engine's to choose, from the node's id, its address and its directories.
//! 4. Nobody but the engine reads a configuration, a ready line or an exit status.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sparkray_common::NodeId;

use crate::SupervisorError;
use crate::child_host::Launch;
use crate::container::NodeDirs;
use crate::request::ClusterNames;

/// A runtime as its supervisor sees it.
pub(crate) trait Engine: Send + Sync {
    /// How a head is started.
    fn launch_head(&self, plan: &HeadPlan) -> Result<Launch, SupervisorError>;

    /// How a node is started.
    fn launch_node(&self, plan: &NodePlan) -> Result<Launch, SupervisorError>;

    /// Reads a head's ready line; the error says what is wrong with it.
    fn read_head(&self, ready_line: &str) -> Result<ServingHead, String>;

    /// Reads a node's ready line; the error says what is wrong with it.
    fn read_node(&self, ready_line: &str) -> Result<ServingNode, String>;

    /// How long a process that was told to end may take before it is killed.
    fn stop_grace(&self, role: Role) -> Duration;

    /// What it means that a node ended by itself. `None`: a signal ended it, or its status is not known.
    fn node_exit(&self, status: Option<i32>) -> NodeExit;

    /// The line that tells a node, over its standard input, that the head is lost and why.
    fn head_lost_notice(&self, cause: &str) -> String;

    /// What this start of a node may leave behind when it is killed: directories to be removed after its end.
    fn leftovers(&self, plan: &NodePlan) -> Vec<PathBuf>;
}

/// What a process is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that knows the cluster.
    Head,
    /// The one that runs workers and keeps objects on a machine.
    Node,
}

impl Role {
    /// Ray's word for it, in messages to people and between managers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Node => "raylet",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A head that is to be started.
pub(crate) struct HeadPlan {
    pub(crate) names: ClusterNames,
    pub(crate) log_dir: PathBuf,
}

/// A node that is to be started.
pub(crate) struct NodePlan {
    pub(crate) names: ClusterNames,
    /// New for every start.
    pub(crate) node_id: NodeId,
    pub(crate) head: HeadPlace,
    /// The address that others reach it at.
    pub(crate) host: String,
    /// The address that it listens at, when it is another.
    pub(crate) bind_host: Option<String>,
    /// The full address of the node that this one takes the place of, to be used again.
    pub(crate) former_address: Option<String>,
    /// In units, for example `{"CPU": 4.0}`.
    pub(crate) resources: BTreeMap<String, f64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) object_store_bytes: u64,
    pub(crate) dirs: NodeDirs,
    /// The workers' interpreter; `None` for a node that runs no tasks.
    pub(crate) python: Option<PathBuf>,
    pub(crate) worker_env: BTreeMap<String, String>,
    pub(crate) prestart_workers: u32,
    /// Whether it serves the driver program, whose end is the end of everything.
    pub(crate) is_drivers_own: bool,
    /// Whether connections between nodes are encrypted.
    pub(crate) encryption: bool,
}

/// Where a node finds the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeadPlace {
    /// On this machine, at the address that its ready line gave.
    Here(String),
    /// Through the node beside it, at that node's address.
    Beyond(String),
}

/// A head that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServingHead {
    /// How the node beside it reaches it.
    pub(crate) address: String,
    pub(crate) pid: u32,
}

/// A node that has joined its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServingNode {
    /// The planned one, unless the runtime makes ids itself.
    pub(crate) node_id: NodeId,
    /// `host:port` at which other nodes reach it, and through it the head, when that is beside it.
    pub(crate) address: String,
    /// How processes of this machine reach it.
    pub(crate) socket_name: String,
    pub(crate) pid: u32,
}

/// What the end of a node means for the next one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeExit {
    /// It died: another one is started, unless that happens too often.
    Died,
    /// It lost the head and not its health: another one is started, as often as it takes.
    CutOff,
    /// It cannot run here: another one would end in the same way.
    Broken,
}
