//! Who has joined, where the head is, what each node said: the driver's view, without I/O, clocks or threads.
//!
//! Every input returns the effects that the caller must carry out, in order. Inputs about another cluster than the
//! current one are answered with nothing.

use std::collections::{BTreeMap, BTreeSet};

use sparkray_common::{ClusterId, ErrorCode};
use sparkray_proto::{
    ChildEnded, Failure, HeadStarted, ManagerCommand, ManagerHello, RayletStarted, Refused, Resources,
    StartHead, StartRaylet, StopCluster, manager_command::Command,
};

use super::checks;
use crate::SupervisorError;
use crate::request::{ClusterNames, InitRequest, InitResult, NodeInfo, Status};

/// One connection of an executor's RayManager, in the order in which they joined.
pub(crate) type MemberKey = u64;

/// What the caller must do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Send this to an executor.
    Send(MemberKey, Box<ManagerCommand>),
    /// Start the driver's own raylet.
    StartDriverRaylet(Box<LocalRayletPlan>),
}

/// What the driver's own raylet is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LocalRayletPlan {
    pub(crate) names: ClusterNames,
    pub(crate) head_address: String,
    pub(crate) object_store_bytes: u64,
    pub(crate) request: InitRequest,
}

/// How far a start has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Not yet; for the error at the deadline, what is missing.
    Waiting(String),
    /// All expected nodes have registered.
    Ready(Box<InitResult>),
    /// It will not come.
    Failed(SupervisorError),
}

/// A member's node in the current cluster.
#[derive(Debug, Clone, Default)]
struct Node {
    up: Option<RayletStarted>,
    asked: bool,
    refused: Option<SupervisorError>,
    /// What was heard last, for messages.
    last: String,
    restarting: bool,
}

#[derive(Debug)]
struct Member {
    hello: ManagerHello,
    node: Node,
}

#[derive(Debug)]
struct Head {
    member: MemberKey,
    executor_id: String,
    host: String,
    serving: Option<HeadStarted>,
}

#[derive(Debug)]
struct Cluster {
    names: ClusterNames,
    request: InitRequest,
    head: Option<Head>,
    /// Of the raylet beside the head.
    head_address: String,
    driver_raylet: Option<RayletStarted>,
    driver_store_bytes: u64,
    ready_once: bool,
    failure: Option<SupervisorError>,
}

/// The driver's view of all executors.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    members: BTreeMap<MemberKey, Member>,
    next_key: MemberKey,
    cluster: Option<Cluster>,
    stopping: BTreeSet<MemberKey>,
}

fn command(member: MemberKey, command: Command) -> Effect {
    Effect::Send(
        member,
        Box::new(ManagerCommand {
            command: Some(command),
        }),
    )
}

impl Membership {
    /// An executor's RayManager said hello.
    pub(crate) fn join(&mut self, hello: ManagerHello) -> (MemberKey, Vec<Effect>) {
        self.next_key += 1;
        let key = self.next_key;
        self.members.insert(
            key,
            Member {
                hello,
                node: Node::default(),
            },
        );
        let effects = self.advance();
        (key, effects)
    }

    /// Its connection ended: the executor died, and everything on it.
    pub(crate) fn leave(&mut self, key: MemberKey) {
        self.stopping.remove(&key);
        let Some(member) = self.members.remove(&key) else {
            return;
        };
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if cluster.head.as_ref().is_some_and(|head| head.member == key) {
            cluster.fail(
                ErrorCode::NotRunning,
                format!(
                    "the cluster is lost: executor {} on {}, which ran its head, died; \
                     call stop() and then init() for a new cluster",
                    member.hello.executor_id, member.hello.host
                ),
            );
        }
    }

    /// Begins a cluster.
    pub(crate) fn begin(
        &mut self,
        names: ClusterNames,
        request: InitRequest,
    ) -> Result<Vec<Effect>, SupervisorError> {
        if let Some(cluster) = &self.cluster {
            if let Some(failure) = &cluster.failure {
                return Err(failure.clone());
            }
            return Err(SupervisorError::refused(
                ErrorCode::AlreadyExists,
                format!("cluster {} is there already: stop it first", cluster.names.id),
            ));
        }
        for member in self.members.values_mut() {
            member.node = Node::default();
        }
        let driver_store_bytes = checks::store_bytes(request.object_store_bytes, 0);
        self.cluster = Some(Cluster {
            names,
            request,
            head: None,
            head_address: String::new(),
            driver_raylet: None,
            driver_store_bytes,
            ready_once: false,
            failure: None,
        });
        Ok(self.advance())
    }

    /// Ends the current cluster, if any: every executor is told to stop it.
    pub(crate) fn end(&mut self) -> Option<(ClusterId, Vec<Effect>)> {
        let cluster = self.cluster.take()?;
        self.stopping = self.members.keys().copied().collect();
        let id = cluster.names.id;
        let stop = |key: &MemberKey| {
            command(
                *key,
                Command::StopCluster(StopCluster {
                    cluster_id: bytes(id),
                }),
            )
        };
        Some((id, self.members.keys().map(stop).collect()))
    }

    /// Whether this cluster is the current one.
    pub(crate) fn is_current(&self, id: ClusterId) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|cluster| cluster.names.id == id)
    }

    /// Whether an executor that was told to stop a cluster has not answered yet.
    pub(crate) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// An executor has ended the processes of the last cluster.
    pub(crate) fn stopped(&mut self, key: MemberKey) {
        self.stopping.remove(&key);
    }

    /// The head serves, or could not be started.
    pub(crate) fn head_started(&mut self, key: MemberKey, message: HeadStarted) -> Vec<Effect> {
        let name = self.name_of(key);
        let Some(cluster) = self.current(&message.cluster_id) else {
            return Vec::new();
        };
        let Some(head) = cluster.head.as_mut().filter(|head| head.member == key) else {
            return Vec::new();
        };
        match message.failure {
            Some(failure) => cluster.fail_with(&failure, &name, "could not start the head"),
            None => head.serving = Some(message),
        }
        self.advance()
    }

    /// A node registered with the head, again or for the first time, or could not.
    pub(crate) fn raylet_started(&mut self, key: MemberKey, message: RayletStarted) -> Vec<Effect> {
        let name = self.name_of(key);
        let Some(cluster) = self.current(&message.cluster_id) else {
            return Vec::new();
        };
        let is_head = cluster.head.as_ref().is_some_and(|head| head.member == key);
        if is_head && message.failure.is_none() {
            cluster.head_address.clone_from(&message.address);
        }
        let Some(member) = self.members.get_mut(&key) else {
            return Vec::new();
        };
        match &message.failure {
            Some(failure) => {
                member.node.up = None;
                member.node.restarting = false;
                member.node.last.clone_from(&failure.message);
                member.node.refused = Some(prefixed(failure, &name));
            }
            None => {
                member.node = Node {
                    up: Some(message),
                    asked: true,
                    ..Node::default()
                }
            }
        }
        self.advance()
    }

    /// A head or raylet of an executor ended by itself.
    pub(crate) fn child_ended(&mut self, key: MemberKey, message: ChildEnded) {
        let name = self.name_of(key);
        let Some(cluster) = self.current(&message.cluster_id) else {
            return;
        };
        if message.role == "head" {
            cluster.fail(
                ErrorCode::NotRunning,
                format!(
                    "the cluster is lost: its head on {name} ended; call stop() and then init() for a new cluster; \
                     the head {}",
                    message.cause
                ),
            );
            return;
        }
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        member.node.up = None;
        member.node.restarting = message.will_restart;
        if !message.will_restart {
            let sentence = format!(
                "its raylet died too often and is not started again; the last time it {}",
                message.cause
            );
            member.node.refused = Some(prefixed(&Failure::new(ErrorCode::Unavailable, sentence), &name));
        }
        member.node.last = message.cause;
    }

    /// The driver's own raylet registered, or could not.
    pub(crate) fn driver_raylet_started(
        &mut self,
        id: ClusterId,
        outcome: Result<RayletStarted, SupervisorError>,
    ) {
        let Some(cluster) = self.current(id.as_bytes()) else {
            return;
        };
        match outcome {
            Ok(started) => cluster.driver_raylet = Some(started),
            Err(error) => cluster.fail(
                error.code(),
                format!("the driver's own raylet could not be started: {error}"),
            ),
        }
    }

    /// The driver's own raylet ended by itself.
    pub(crate) fn driver_raylet_ended(&mut self, id: ClusterId, cause: &str) {
        if let Some(cluster) = self.current(id.as_bytes()) {
            cluster.driver_raylet = None;
            cluster.fail(
                ErrorCode::NotRunning,
                format!(
                    "the driver has lost the cluster: its own raylet ended; call stop() and then init() for a new \
                     cluster; the raylet {cause}"
                ),
            );
        }
    }

    /// How far the cluster has come.
    pub(crate) fn progress(&mut self, id: ClusterId) -> Progress {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.names.id == id) else {
            return Progress::Failed(SupervisorError::refused(
                ErrorCode::Cancelled,
                "init was cancelled: the cluster was stopped while it started",
            ));
        };
        if let Some(failure) = &cluster.failure {
            return Progress::Failed(failure.clone());
        }
        // A node that joins later and cannot start does not end a running cluster.
        if let Some(refused) = self
            .members
            .values()
            .find_map(|member| member.node.refused.clone())
        {
            if !cluster.ready_once {
                return Progress::Failed(refused);
            }
        }
        match self.result(cluster) {
            Some(result) => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.ready_once = true;
                }
                Progress::Ready(Box::new(result))
            }
            None => Progress::Waiting(self.what_is_missing(cluster)),
        }
    }

    /// Why the current cluster is lost, if it is.
    pub(crate) fn failure(&self) -> Option<SupervisorError> {
        self.cluster.as_ref().and_then(|cluster| cluster.failure.clone())
    }

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

    /// Elects the head, starts its raylet, then all others: whatever is possible now and was not done before.
    fn advance(&mut self) -> Vec<Effect> {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.failure.is_none()) else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        for (key, member) in &mut self.members {
            if member.node.asked || member.node.refused.is_some() {
                continue;
            }
            if let Err(error) = checks::check_member(&member.hello, &cluster.request) {
                member.node.last = error.to_string();
                member.node.refused = Some(error);
                continue;
            }
            if cluster.head.is_none() {
                // The first that joined.
                cluster.head = Some(Head {
                    member: *key,
                    executor_id: member.hello.executor_id.clone(),
                    host: member.hello.host.clone(),
                    serving: None,
                });
                effects.push(command(*key, Command::StartHead(cluster.start_head())));
            }
            let Some(head) = &cluster.head else {
                continue;
            };
            let may_start = if head.member == *key {
                head.serving.is_some()
            } else {
                !cluster.head_address.is_empty()
            };
            if may_start {
                member.node.asked = true;
                effects.push(command(
                    *key,
                    Command::StartRaylet(cluster.start_raylet(&member.hello, head.member == *key)),
                ));
            }
        }
        let wants_driver_raylet = !cluster.request.local && !cluster.driver_asked();
        if wants_driver_raylet && !cluster.head_address.is_empty() {
            cluster.driver_raylet = Some(RayletStarted::default());
            effects.push(Effect::StartDriverRaylet(Box::new(LocalRayletPlan {
                names: cluster.names.clone(),
                head_address: cluster.head_address.clone(),
                object_store_bytes: cluster.driver_store_bytes,
                request: cluster.request.clone(),
            })));
        }
        effects
    }

    fn current(&mut self, cluster_id: &[u8]) -> Option<&mut Cluster> {
        self.cluster
            .as_mut()
            .filter(|cluster| cluster.names.id.as_bytes() == cluster_id)
    }

    fn name_of(&self, key: MemberKey) -> String {
        self.members.get(&key).map_or_else(
            || "an executor that left".to_owned(),
            |member| checks::name(&member.hello),
        )
    }

    fn result(&self, cluster: &Cluster) -> Option<InitResult> {
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
            driver_node,
        })
    }

    fn driver_node(&self, cluster: &Cluster) -> Option<NodeInfo> {
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

    fn node_info(&self, member: &Member) -> NodeInfo {
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

    fn what_is_missing(&self, cluster: &Cluster) -> String {
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
            sentences.push(format!(
                "{joined} of {expected} executors have joined ({who}); the others were not started by the cluster manager \
                 (is there room in the queue?) or cannot reach the driver"
            ));
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
}

impl Cluster {
    fn fail(&mut self, code: ErrorCode, message: String) {
        // The first cause is the one to report.
        if self.failure.is_none() {
            self.failure = Some(SupervisorError::refused(code, message));
        }
    }

    fn fail_with(&mut self, failure: &Failure, who: &str, what: &str) {
        self.fail(failure.error_code(), format!("{who} {what}: {}", failure.message));
    }

    fn driver_asked(&self) -> bool {
        self.driver_raylet.is_some()
    }

    fn start_head(&self) -> StartHead {
        StartHead {
            cluster_id: bytes(self.names.id),
            token: self.names.token.expose_bytes().to_vec().into(),
            head_epoch: self.names.head_epoch,
        }
    }

    fn start_raylet(&self, hello: &ManagerHello, beside_head: bool) -> StartRaylet {
        let store = checks::store_bytes(self.request.object_store_bytes, hello.memory_budget_bytes);
        let mut units: BTreeMap<String, f64> = self.request.node_resources.clone();
        units.insert("CPU".to_owned(), self.request.node_cpus);
        if hello.memory_budget_bytes > store {
            units.insert("memory".to_owned(), (hello.memory_budget_bytes - store) as f64);
        }
        let labels = [
            ("executor_id", &hello.executor_id),
            ("container_id", &hello.container_id),
            ("hostname", &hello.hostname),
        ];
        StartRaylet {
            cluster_id: bytes(self.names.id),
            token: self.names.token.expose_bytes().to_vec().into(),
            head_epoch: self.names.head_epoch,
            head_address: if beside_head {
                String::new()
            } else {
                self.head_address.clone()
            },
            resources: Some(Resources {
                units: units.into_iter().collect(),
            }),
            object_store_bytes: store,
            worker_env: self.request.worker_env.clone().into_iter().collect(),
            labels: labels
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
            prestart_workers: self.request.prestart_workers,
            python: self.request.python.clone(),
            python_version: self.request.python_version.clone(),
            sparkray_version: self.request.sparkray_version.clone(),
        }
    }
}

/// A refusal for a manager that must not try again.
pub(crate) fn refusal(failure: Failure) -> ManagerCommand {
    ManagerCommand {
        command: Some(Command::Refused(Refused {
            failure: Some(failure),
        })),
    }
}

fn prefixed(failure: &Failure, name: &str) -> SupervisorError {
    SupervisorError::refused(failure.error_code(), format!("{name}: {}", failure.message))
}

fn bytes(id: ClusterId) -> bytes::Bytes {
    id.to_vec().into()
}

fn hex(id: &[u8]) -> String {
    sparkray_common::NodeId::from_slice(id)
        .map(|id| id.to_string())
        .unwrap_or_default()
}

fn describe(hello: &ManagerHello, raylet: Option<&RayletStarted>, cpus: f64, store: u64) -> NodeInfo {
    let up = raylet.cloned().unwrap_or_default();
    NodeInfo {
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

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
