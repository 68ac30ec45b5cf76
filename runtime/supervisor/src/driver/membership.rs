//! Who has joined, where the head is, what each node said: the driver's view, without I/O, clocks or threads.
//!
//! Every input returns the effects that the caller must carry out, in order. Inputs about another cluster than the
//! current one are answered with nothing.

use std::collections::{BTreeMap, BTreeSet};

use sparkray_common::{ClusterId, ErrorCode};
use sparkray_proto::bridge::InitResult;
use sparkray_proto::{
    ChildEnded, ClusterLost, Failure, HeadStarted, ManagerCommand, ManagerHello, RayletStarted, StopCluster,
    manager_command::Command,
};

use super::checks;
use super::cluster::{Cluster, Head};
use crate::SupervisorError;
use crate::request::{ClusterNames, InitRequest};

/// One connection of an executor's RayManager, in the order in which they joined.
pub(crate) type MemberKey = u64;

/// What the caller must do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Send this to an executor.
    Send(MemberKey, Box<ManagerCommand>),
    /// Start the driver's own raylet.
    StartDriverRaylet(Box<LocalRayletPlan>),
    /// Tell the driver's own raylet that the head is lost, and why.
    TellDriverRaylet(String),
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
pub(super) struct Node {
    pub(super) up: Option<RayletStarted>,
    asked: bool,
    pub(super) refused: Option<SupervisorError>,
    /// What was heard last, for messages.
    pub(super) last: String,
    pub(super) restarting: bool,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) hello: ManagerHello,
    pub(super) node: Node,
}

/// The driver's view of all executors.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    pub(super) members: BTreeMap<MemberKey, Member>,
    next_key: MemberKey,
    pub(super) cluster: Option<Cluster>,
    stopping: BTreeSet<MemberKey>,
    /// Executors that cannot run a manager, by their id: why.
    pub(super) unable: BTreeMap<String, String>,
    /// Executors that Spark has, by their id: their hosts.
    pub(super) known: BTreeMap<String, String>,
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
        self.unable.remove(&hello.executor_id);
        let mut effects = Vec::new();
        let earlier = |member: &Member| member.hello.executor_id == hello.executor_id;
        if let Some(key) = self
            .members
            .iter()
            .find_map(|(key, member)| earlier(member).then_some(*key))
        {
            // It lost its connection, ended its children and is back before that was noticed here.
            effects = self.leave(key);
        }
        self.next_key += 1;
        let key = self.next_key;
        self.members.insert(
            key,
            Member {
                hello,
                node: Node::default(),
            },
        );
        effects.extend(self.advance());
        (key, effects)
    }

    /// An executor said over Spark that it cannot run a manager.
    pub(crate) fn executor_failed(&mut self, executor_id: String, reason: String) {
        self.unable.insert(executor_id, reason);
    }

    /// Spark has a new executor.
    pub(crate) fn executor_added(&mut self, executor_id: String, host: String) {
        self.known.insert(executor_id, host);
    }

    /// Spark has lost an executor: another one may be able to do what it was not.
    pub(crate) fn executor_removed(&mut self, executor_id: &str) {
        self.known.remove(executor_id);
        self.unable.remove(executor_id);
    }

    /// Its connection ended, or was silent for too long: the executor died, and everything on it. With the head on it, all
    /// others hear that there is no head any more: what waits for it ends.
    pub(crate) fn leave(&mut self, key: MemberKey) -> Vec<Effect> {
        self.stopping.remove(&key);
        let Some(member) = self.members.remove(&key) else {
            return Vec::new();
        };
        let Some(cluster) = &mut self.cluster else {
            return Vec::new();
        };
        if cluster.head.as_ref().is_none_or(|head| head.member != key) {
            return Vec::new();
        }
        cluster.fail(
            ErrorCode::NotRunning,
            format!(
                "the cluster is lost: executor {} on {}, which ran its head, is gone; \
                 call stop() and then init() for a new cluster",
                member.hello.executor_id, member.hello.host
            ),
        );
        self.tell_loss()
    }

    /// Why the head is lost, for everybody who may wait for it.
    fn tell_loss(&self) -> Vec<Effect> {
        let Some((cluster, failure)) = self
            .cluster
            .as_ref()
            .and_then(|cluster| Some((cluster, cluster.failure.as_ref()?)))
        else {
            return Vec::new();
        };
        let lost = ClusterLost {
            cluster_id: bytes(cluster.names.id),
            cause: failure.to_string(),
        };
        let tell = |key: &MemberKey| command(*key, Command::ClusterLost(lost.clone()));
        let mut effects: Vec<Effect> = self.members.keys().map(tell).collect();
        effects.push(Effect::TellDriverRaylet(lost.cause.clone()));
        effects
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
        let driver_store_bytes = checks::driver_store_bytes(&request);
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

    /// Executors that were told to stop a cluster and have not answered yet.
    pub(crate) fn stopping_names(&self) -> Vec<String> {
        self.stopping.iter().map(|key| self.name_of(*key)).collect()
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
        if is_head && message.failure.is_none() && cluster.head_address != message.address {
            cluster.head_address.clone_from(&message.address);
            // Those that run are told again, for when they are restarted.
            for member in self.members.values_mut() {
                member.node.asked = false;
            }
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
    pub(crate) fn child_ended(&mut self, key: MemberKey, message: ChildEnded) -> Vec<Effect> {
        let name = self.name_of(key);
        let Some(cluster) = self.current(&message.cluster_id) else {
            return Vec::new();
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
            return self.tell_loss();
        }
        let Some(member) = self.members.get_mut(&key) else {
            return Vec::new();
        };
        member.node.up = None;
        member.node.restarting = message.will_restart;
        if !message.will_restart {
            let sentence = format!(
                "its raylet died too often, or cannot run there, and is not started again; the last time it {}",
                message.cause
            );
            member.node.refused = Some(prefixed(&Failure::new(ErrorCode::Unavailable, sentence), &name));
        }
        member.node.last = message.cause;
        Vec::new()
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
        let joined = self.members.len();
        let expected = cluster.request.expected_nodes as usize;
        if !cluster.ready_once && joined < expected && joined + self.unable.len() >= expected {
            // Those that are missing have said why.
            let missing = self.what_is_missing(cluster);
            return Progress::Failed(SupervisorError::refused(ErrorCode::Unavailable, missing));
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
}

fn prefixed(failure: &Failure, name: &str) -> SupervisorError {
    SupervisorError::refused(failure.error_code(), format!("{name}: {}", failure.message))
}

fn bytes(id: ClusterId) -> bytes::Bytes {
    id.to_vec().into()
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
