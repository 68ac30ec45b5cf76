//! What the membership reports to the program: the result of a start, what is missing, how it stands.

use sparkray_common::NodeId;
use sparkray_proto::bridge::{ClusterNode, InitResult, Status};
use sparkray_proto::{ManagerHello, RayletStarted};

use super::checks;
use super::cluster::Cluster;
use super::membership::{Member, Membership};

impl Membership {
    /// Everything that is known.
    pub(crate) fn status(&self) -> Status {
        let nodes = self
            .members
            .values()
            .map(|member| self.node_info(member))
            .collect();
        let Some(cluster) = &self.cluster else {
            return Status {
                state: "idle".to_owned(),
                failure: None,
                cluster_id: String::new(),
                nodes,
                driver_node: None,
            };
        };
        let state = match (&cluster.failure, cluster.ready_once) {
            (Some(_), _) => "failed",
            (None, true) => "running",
            (None, false) => "starting",
        };
        Status {
            state: state.to_owned(),
            failure: cluster.failure.as_ref().map(ToString::to_string),
            cluster_id: cluster.names.id.to_string(),
            nodes,
            driver_node: self.driver_node(cluster),
        }
    }

    pub(super) fn result(&self, cluster: &Cluster) -> Option<InitResult> {
        let head = cluster.head.as_ref()?;
        let serving = head.serving.as_ref()?;
        let up = self
            .members
            .values()
            .filter(|member| member.node.up.is_some())
            .count();
        // A member that joined in time is waited for, even when fewer would do.
        let pending = self
            .members
            .values()
            .any(|member| member.node.up.is_none() && member.node.refused.is_none());
        if up < cluster.request.expected_nodes as usize || pending {
            return None;
        }
        let driver_node = self.driver_node(cluster)?;
        Some(InitResult {
            cluster_id: cluster.names.id.to_string(),
            token: cluster.names.token.expose_hex(),
            head_epoch: cluster.names.head_epoch,
            socket_name: driver_node.socket_name.clone(),
            head_address: cluster.head_address.clone(),
            head_executor_id: head.executor_id.clone(),
            head_pid: serving.pid,
            nodes: self
                .members
                .values()
                .map(|member| self.node_info(member))
                .collect(),
            driver_node: Some(driver_node),
        })
    }

    fn driver_node(&self, cluster: &Cluster) -> Option<ClusterNode> {
        if cluster.request.local {
            let member = self.members.values().find(|member| member.node.up.is_some())?;
            return Some(self.node_info(member));
        }
        let raylet = cluster
            .driver_raylet
            .as_ref()
            .filter(|raylet| !raylet.node_id.is_empty())?;
        let hello = ManagerHello {
            executor_id: "driver".to_owned(),
            hostname: crate::container::hostname(),
            pid: std::process::id(),
            ..ManagerHello::default()
        };
        Some(describe(
            &hello,
            Some(raylet),
            cluster.request.driver_cpus,
            cluster.driver_store_bytes,
        ))
    }

    fn node_info(&self, member: &Member) -> ClusterNode {
        let (cpus, store) = self.cluster.as_ref().map_or((0.0, 0), |cluster| {
            let budget = member.hello.memory_budget_bytes;
            (
                cluster.request.node_cpus,
                checks::store_bytes(cluster.request.object_store_bytes, budget),
            )
        });
        let mut info = describe(&member.hello, member.node.up.as_ref(), cpus, store);
        info.message.clone_from(&member.node.last);
        if member.node.refused.is_some() {
            "down".clone_into(&mut info.state);
        } else if member.node.restarting {
            "restarting".clone_into(&mut info.state);
        }
        info
    }

    pub(super) fn what_is_missing(&self, cluster: &Cluster) -> String {
        let mut sentences = Vec::new();
        let joined = self.members.len();
        let expected = cluster.request.expected_nodes as usize;
        if joined < expected {
            let names: Vec<String> = self
                .members
                .values()
                .map(|member| checks::name(&member.hello))
                .collect();
            let who = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            sentences.push(format!("{joined} of {expected} executors have joined ({who})"));
            sentences.extend(self.who_is_missing(expected - joined));
        }
        match &cluster.head {
            Some(head) if head.serving.is_none() => {
                sentences.push(format!(
                    "the head on executor {} ({}) does not answer",
                    head.executor_id, head.host
                ));
            }
            _ => {}
        }
        for member in self.members.values().filter(|member| member.node.up.is_none()) {
            let last = if member.node.last.is_empty() {
                "nothing"
            } else {
                &member.node.last
            };
            sentences.push(format!(
                "the raylet of {} has not registered, it last said: {last}",
                checks::name(&member.hello)
            ));
        }
        if sentences.is_empty() {
            sentences.push("the driver's own raylet has not registered".to_owned());
        }
        sentences.join("; ")
    }

    /// The executors that Spark has and that have not joined, by name; why others cannot; how many were not started.
    fn who_is_missing(&self, count: usize) -> Vec<String> {
        let has_joined = |id: &String| {
            self.members
                .values()
                .any(|member| member.hello.executor_id == *id)
        };
        let silent: Vec<String> = self
            .known
            .iter()
            .filter(|(id, _)| !has_joined(id) && !self.unable.contains_key(*id))
            .map(|(id, host)| format!("executor {id} on {host}"))
            .collect();
        let mut sentences: Vec<String> = self
            .unable
            .iter()
            .map(|(id, reason)| format!("executor {id} cannot: {reason}"))
            .collect();
        let unstarted = count.saturating_sub(silent.len() + sentences.len());
        if !silent.is_empty() {
            sentences.push(format!(
                "missing: {}; Spark has started it, but it does not answer, or cannot reach the driver",
                silent.join(", ")
            ));
        }
        if unstarted > 0 {
            sentences.push(format!(
                "{unstarted} not started by the cluster manager (is there room in the queue?)"
            ));
        }
        sentences
    }
}

fn hex(id: &[u8]) -> String {
    NodeId::from_slice(id)
        .map(|id| id.to_string())
        .unwrap_or_default()
}

fn describe(hello: &ManagerHello, raylet: Option<&RayletStarted>, cpus: f64, store: u64) -> ClusterNode {
    let up = raylet.cloned().unwrap_or_default();
    ClusterNode {
        executor_id: hello.executor_id.clone(),
        node_id: hex(&up.node_id),
        address: up.address,
        socket_name: up.socket_name,
        hostname: hello.hostname.clone(),
        container_id: hello.container_id.clone(),
        pid: up.pid,
        executor_pid: hello.pid,
        cpus,
        memory_budget_bytes: hello.memory_budget_bytes,
        object_store_bytes: store,
        start_count: up.start_count,
        state: if raylet.is_some() { "up" } else { "starting" }.to_owned(),
        message: String::new(),
    }
}
