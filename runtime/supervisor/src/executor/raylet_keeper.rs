//! Keeps one raylet running: a dead one is started again, as a new node on the same port. One that was cut off from the
//! head is started again for as long as the cluster exists: a network that is down comes back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sparkray_common::{ClusterId, NodeId};
use sparkray_proto::{ChildEnded, RayletStarted, StartRaylet, manager_event::Event};
use sparkray_rpc::Identity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Reporter;
use super::current_raylet::{RayletHandle, keeping, publish};
use crate::SupervisorError;
use crate::child_host::ChildEnd;
use crate::children::{ChildStarter, Running};
use crate::container::{NodeDirs, remove_leftovers};
use crate::engine::{HeadPlace, NodeExit, NodePlan, Role, ServingNode};
use crate::request::ClusterNames;
use crate::restart::{CutOffs, Decision, RestartPolicy};

/// What a keeper needs to know.
pub(super) struct RayletPlan {
    pub(super) names: ClusterNames,
    /// Set on the node that the head runs on.
    pub(super) head_beside: Option<String>,
    pub(super) host: String,
    pub(super) executor_id: String,
    pub(super) python: Option<PathBuf>,
    pub(super) dirs: NodeDirs,
    /// The newest command: its head address may change when the head's node restarts its raylet.
    pub(super) command: watch::Receiver<StartRaylet>,
    /// Why the cluster's head is lost, once it is.
    pub(super) head_lost: watch::Receiver<Option<String>>,
}

impl RayletPlan {
    fn handle(&self, ready: &ServingNode) -> RayletHandle {
        RayletHandle {
            identity: Identity {
                cluster_id: self.names.id,
                token: self.names.token.clone(),
                head_epoch: self.names.head_epoch,
            },
            socket_name: ready.socket_name.clone(),
            node_id: ready.node_id,
            node_address: ready.address.clone(),
        }
    }

    /// The next start, in the place of the node that was reached at `former_address`.
    fn next_node(&self, former_address: Option<String>) -> NodePlan {
        let command = self.command.borrow().clone();
        NodePlan {
            names: self.names.clone(),
            node_id: NodeId::random(),
            head: match &self.head_beside {
                Some(address) => HeadPlace::Here(address.clone()),
                None => HeadPlace::Beyond(command.head_address),
            },
            host: self.host.clone(),
            bind_host: None,
            former_address,
            resources: command
                .resources
                .map(|set| set.units.into_iter().collect())
                .unwrap_or_default(),
            labels: command.labels.into_iter().collect(),
            object_store_bytes: command.object_store_bytes,
            dirs: self.dirs.clone(),
            python: self.python.clone(),
            worker_env: command.worker_env.into_iter().collect(),
            prestart_workers: command.prestart_workers,
            is_drivers_own: false,
            encryption: !command.unencrypted,
        }
    }
}

/// Runs until `cancel`, or until the raylet died too often. Every start and end is reported.
pub(super) async fn keep(
    plan: RayletPlan,
    starter: ChildStarter,
    reporter: Reporter,
    cancel: CancellationToken,
) {
    let _keeping = keeping();
    let mut policy = RestartPolicy::default();
    let mut cut_offs = CutOffs::default();
    let began = Instant::now();
    let engine = &starter.engine;
    let died = |error: &SupervisorError| engine.node_exit(error.exit_status()) == NodeExit::Died;
    let mut address: Option<String> = None;
    let mut start_count = 0;
    loop {
        start_count += 1;
        let mut node = plan.next_node(address.clone());
        let mut node_id = node.node_id;
        let mut outcome = start(&plan, &starter, &node, &cancel).await;
        if address.is_some() && !cancel.is_cancelled() && outcome.as_ref().err().is_some_and(died) {
            // Somebody else took the port meanwhile, perhaps.
            node.former_address = None;
            outcome = start(&plan, &starter, &node, &cancel).await;
        }
        let leftovers = engine.leftovers(&node);
        let end = match outcome {
            Ok(running) => {
                cut_offs = CutOffs::default();
                let ready = &running.ready;
                node_id = ready.node_id;
                address = Some(ready.address.clone());
                info!(%node_id, executor_id = plan.executor_id, start_count, "raylet registered");
                reporter.send(Event::RayletStarted(RayletStarted {
                    cluster_id: plan.names.id.to_vec().into(),
                    failure: None,
                    node_id: node_id.to_vec().into(),
                    address: ready.address.clone(),
                    pid: ready.pid,
                    start_count,
                    socket_name: ready.socket_name.clone(),
                }));
                let published = publish(plan.handle(ready));
                let end = watch_over(running, plan.head_lost.clone(), &cancel).await;
                drop(published);
                remove_leftovers(leftovers).await;
                match end {
                    Some(end) => end,
                    None => return,
                }
            }
            Err(error) => {
                remove_leftovers(leftovers).await;
                if cancel.is_cancelled() {
                    return;
                }
                if start_count == 1 {
                    reporter.send(Event::RayletStarted(failed(plan.names.id, &error)));
                    return;
                }
                ChildEnd {
                    cause: format!("could not be started: {error}"),
                    status: error.exit_status(),
                }
            }
        };
        let decision = if plan.head_lost.borrow().is_some() {
            Decision::GiveUp
        } else {
            match engine.node_exit(end.status) {
                NodeExit::CutOff => cut_offs.next(),
                NodeExit::Died => policy.on_death(began.elapsed()),
                NodeExit::Broken => Decision::GiveUp,
            }
        };
        let cause = end.cause;
        warn!(%node_id, executor_id = plan.executor_id, ?decision, cause, "raylet ended");
        reporter.send(Event::ChildEnded(ChildEnded {
            cluster_id: plan.names.id.to_vec().into(),
            role: Role::Node.name().to_owned(),
            cause,
            will_restart: decision != Decision::GiveUp,
        }));
        let Decision::Restart { after } = decision else {
            return;
        };
        if !pause(after, &cancel).await {
            return;
        }
    }
}

/// A start that failed, as the driver hears of it.
pub(super) fn failed(cluster_id: ClusterId, error: &SupervisorError) -> RayletStarted {
    RayletStarted {
        cluster_id: cluster_id.to_vec().into(),
        failure: Some(error.into()),
        ..RayletStarted::default()
    }
}

async fn start(
    plan: &RayletPlan,
    starter: &ChildStarter,
    node: &NodePlan,
    cancel: &CancellationToken,
) -> Result<Running<ServingNode>, SupervisorError> {
    let log_path = plan
        .dirs
        .logs
        .join(format!("sparkray-raylet-{}.log", plan.executor_id));
    starter.node(node, log_path, cancel).await
}

/// How the raylet ended; `None` when it was stopped because of `cancel`. It is told when the head is lost.
async fn watch_over<R>(
    running: Running<R>,
    mut head_lost: watch::Receiver<Option<String>>,
    cancel: &CancellationToken,
) -> Option<ChildEnd> {
    let Running { child, mut exit, .. } = running;
    let tell = async {
        // Otherwise the cluster ends, and `cancel` says so.
        if let Ok(cause) = head_lost.wait_for(Option::is_some).await {
            child.tell_head_lost(cause.as_deref().unwrap_or_default());
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        () = cancel.cancelled() => None,
        () = tell => None,
        end = &mut exit => Some(end),
    };
    match ended {
        Some(end) => Some(end.unwrap_or_else(|_| ChildEnd {
            cause: "ended".to_owned(),
            status: None,
        })),
        None => {
            child.stop().await;
            None
        }
    }
}

/// False when `cancel` came first.
async fn pause(time: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}
