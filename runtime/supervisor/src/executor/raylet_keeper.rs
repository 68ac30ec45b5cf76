//! Keeps one raylet running: a dead one is started again, as a new node on the same port. One that was cut off from the
//! head is started again for as long as the cluster exists: a network that is down comes back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sparkray_common::{
    CUT_OFF_STATUS, ClusterId, ClusterToken, NodeId, ParentNotice, RayletConfig, RayletReady,
};
use sparkray_proto::{ChildEnded, RayletStarted, StartRaylet, manager_event::Event};
use sparkray_rpc::Identity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Reporter;
use super::current_raylet::{RayletHandle, keeping, publish};
use crate::SupervisorError;
use crate::child_host::ChildEnd;
use crate::children::{ChildStarter, Running, stop};
use crate::container::{NodeDirs, remove_spill_dirs};
use crate::restart::{CutOffs, Decision, RestartPolicy};

/// What a keeper needs to know.
pub(super) struct RayletPlan {
    pub(super) cluster_id: ClusterId,
    pub(super) token: ClusterToken,
    pub(super) head_epoch: u64,
    /// Set on the node that the head runs on.
    pub(super) head_socket_name: Option<String>,
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
    fn handle(&self, node_id: NodeId, ready: &RayletReady) -> RayletHandle {
        RayletHandle {
            identity: Identity {
                cluster_id: self.cluster_id,
                token: self.token.clone(),
                head_epoch: self.head_epoch,
            },
            socket_name: ready.socket_name.clone(),
            node_id,
            node_address: ready.address.clone(),
        }
    }

    fn config(&self, node_id: NodeId, port: u16, spill_dirs: &[PathBuf]) -> RayletConfig {
        let command = self.command.borrow().clone();
        let head_address = if self.head_socket_name.is_some() {
            None
        } else {
            Some(command.head_address)
        };
        RayletConfig {
            cluster_id: self.cluster_id.to_string(),
            token: self.token.expose_hex(),
            node_id: node_id.to_string(),
            head_epoch: self.head_epoch,
            parent_pid: std::process::id(),
            host: self.host.clone(),
            bind_host: None,
            port,
            head_socket_name: self.head_socket_name.clone(),
            head_address,
            resources: command
                .resources
                .map(|set| set.units.into_iter().collect())
                .unwrap_or_default(),
            labels: command.labels.into_iter().collect(),
            object_store_bytes: command.object_store_bytes,
            spill_dirs: spill_dirs.iter().map(|path| path.display().to_string()).collect(),
            log_dir: self.dirs.logs.display().to_string(),
            python: self.python.as_ref().map(|path| path.display().to_string()),
            working_dir: self.dirs.working.display().to_string(),
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
    let mut port = 0;
    let mut start_count = 0;
    loop {
        start_count += 1;
        let node_id = NodeId::random();
        let spill_dirs = plan.dirs.spill_dirs(&node_id.to_string());
        let mut outcome = start(&plan, &starter, node_id, port, &spill_dirs, &cancel).await;
        let was_cut_off = |error: &SupervisorError| error.was_cut_off();
        if port != 0 && !cancel.is_cancelled() && !outcome.as_ref().err().is_none_or(was_cut_off) {
            // Somebody else took the port meanwhile, perhaps.
            outcome = start(&plan, &starter, node_id, 0, &spill_dirs, &cancel).await;
        }
        let end = match outcome {
            Ok(running) => {
                cut_offs = CutOffs::default();
                port = port_of(&running.ready.address);
                info!(%node_id, executor_id = plan.executor_id, start_count, "raylet registered");
                reporter.send(Event::RayletStarted(RayletStarted {
                    cluster_id: plan.cluster_id.to_vec().into(),
                    failure: None,
                    node_id: node_id.to_vec().into(),
                    address: running.ready.address.clone(),
                    pid: running.child.pid(),
                    start_count,
                    socket_name: running.ready.socket_name.clone(),
                }));
                let published = publish(plan.handle(node_id, &running.ready));
                let end = watch_over(running, plan.head_lost.clone(), &cancel).await;
                drop(published);
                remove_spill_dirs(spill_dirs).await;
                match end {
                    Some(end) => end,
                    None => return,
                }
            }
            Err(error) => {
                remove_spill_dirs(spill_dirs).await;
                if cancel.is_cancelled() {
                    return;
                }
                if start_count == 1 {
                    reporter.send(Event::RayletStarted(failed(plan.cluster_id, &error)));
                    return;
                }
                ChildEnd {
                    cause: format!("could not be started: {error}"),
                    status: error.was_cut_off().then_some(i32::from(CUT_OFF_STATUS)),
                }
            }
        };
        let decision = if plan.head_lost.borrow().is_some() {
            Decision::GiveUp
        } else if end.was_cut_off() {
            cut_offs.next()
        } else {
            policy.on_death(began.elapsed())
        };
        let cause = end.cause;
        warn!(%node_id, executor_id = plan.executor_id, ?decision, cause, "raylet ended");
        reporter.send(Event::ChildEnded(ChildEnded {
            cluster_id: plan.cluster_id.to_vec().into(),
            role: "raylet".to_owned(),
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
    node_id: NodeId,
    port: u16,
    spill_dirs: &[PathBuf],
    cancel: &CancellationToken,
) -> Result<Running<RayletReady>, SupervisorError> {
    let log_path = plan
        .dirs
        .logs
        .join(format!("sparkray-raylet-{}.log", plan.executor_id));
    starter
        .raylet(&plan.config(node_id, port, spill_dirs), log_path, cancel)
        .await
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
            child.tell(&ParentNotice::HeadLost {
                cause: cause.clone().unwrap_or_default(),
            });
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
            stop(child).await;
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

fn port_of(address: &str) -> u16 {
    address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_address_last_part() {
        assert_eq!(port_of("host:4711"), 4711);
        assert_eq!(port_of("[::1]:80"), 80);
        assert_eq!(port_of("nonsense"), 0);
    }
}
