//! What the driver program asks for. It comes from Python, by Java, as a message of `bridge.proto`; the answers are such
//! messages themselves.

use std::collections::BTreeMap;

use sparkray_common::{ClusterId, ClusterToken, ErrorCode};
use sparkray_proto::bridge;

use crate::SupervisorError;

/// A cluster to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct InitRequest {
    /// Hexadecimal id that the new cluster is to have, so that whoever asks can cancel the start; none: a random one.
    pub cluster_id: Option<String>,
    /// Executors whose raylets must have registered before `init` returns.
    pub expected_nodes: u32,
    /// Seconds until `init` fails and names the missing ones.
    pub deadline_seconds: f64,
    /// `CPU` of each executor's node.
    pub node_cpus: f64,
    /// Other resources of each executor's node.
    pub node_resources: BTreeMap<String, f64>,
    /// Bytes of shared memory for objects on each node; 0: chosen from the budget.
    pub object_store_bytes: u64,
    /// `CPU` of the driver's node; 0: no task runs there.
    pub driver_cpus: f64,
    /// Bytes that are Ray's in the container of the driver; 0: no container limits it.
    pub driver_memory_budget_bytes: u64,
    /// The driver is an executor too (`local[*]`): its node is the only one.
    pub local: bool,
    /// Additional environment of workers.
    pub worker_env: BTreeMap<String, String>,
    /// Whether connections between nodes are encrypted.
    pub encryption: bool,
    /// Workers forked ahead of demand on each executor.
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

impl From<bridge::InitRequest> for InitRequest {
    fn from(message: bridge::InitRequest) -> Self {
        Self {
            cluster_id: Some(message.cluster_id).filter(|id| !id.is_empty()),
            expected_nodes: message.expected_nodes,
            deadline_seconds: message.deadline_seconds.unwrap_or_default(),
            node_cpus: message.node_cpus,
            node_resources: message.node_resources.into_iter().collect(),
            object_store_bytes: message.object_store_bytes,
            driver_cpus: message.driver_cpus,
            driver_memory_budget_bytes: message.driver_memory_budget_bytes,
            local: message.local,
            worker_env: message.worker_env.into_iter().collect(),
            encryption: message.encryption.unwrap_or(true),
            prestart_workers: message.prestart_workers,
            python: message.python,
            driver_python: message.driver_python,
            python_version: message.python_version,
            sparkray_version: message.sparkray_version,
        }
    }
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

#[cfg(test)]
impl InitRequest {
    /// A cluster of so many nodes with a CPU each, of this version.
    pub(crate) fn of_nodes(expected_nodes: u32) -> Self {
        Self::from(bridge::InitRequest {
            expected_nodes,
            deadline_seconds: Some(10.0),
            node_cpus: 1.0,
            python_version: "3.11.7".to_owned(),
            sparkray_version: sparkray_common::VERSION.to_owned(),
            ..bridge::InitRequest::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_java_knows_better_stands_behind_what_python_asks_for() {
        let part = |change: fn(&mut bridge::InitRequest)| {
            let mut part = bridge::InitRequest::default();
            change(&mut part);
            bridge::encode(&part)
        };
        let settings = part(|part| {
            part.encryption = Some(true);
            part.deadline_seconds = Some(60.0);
        });
        let asked = part(|part| {
            part.encryption = Some(false);
            part.expected_nodes = 3;
        });
        let known = part(|part| part.local = true);
        let request: bridge::InitRequest = bridge::decode(&[settings, asked, known].concat()).unwrap();
        let request = InitRequest::from(request);
        assert!(!request.encryption && request.local);
        assert_eq!((request.expected_nodes, request.deadline_seconds), (3, 60.0));
        assert_eq!(request.cluster_id, None);
    }
}
