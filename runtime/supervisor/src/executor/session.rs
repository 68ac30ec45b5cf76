//! One connection to the driver: commands in, reports out. Its end is the end of everything that it started.

use std::sync::Arc;

use sparkray_common::{ClusterId, ClusterToken, ErrorCode};
use sparkray_proto::{
    ChildEnded, Failure, HeadStarted, ManagerCommand, StartHead, StartRaylet, Stopped,
    manager_command::Command, manager_event::Event,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::raylet_keeper::{RayletPlan, failed, keep};
use super::{ExecutorConfig, Reporter, workers_python::WorkersPython};
use crate::SupervisorError;
use crate::children::{ChildStarter, Running};
use crate::container::NodeDirs;
use crate::engine::{HeadPlan, Role, ServingHead};
use crate::request::ClusterNames;

/// What runs for one cluster on this node.
struct LocalCluster {
    id: ClusterId,
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// How the raylet beside it reaches the head, once that serves here.
    head_beside: watch::Sender<Option<String>>,
    /// The newest StartRaylet, when there was one.
    raylet: Option<watch::Sender<StartRaylet>>,
    /// Why the cluster's head is lost, once it is.
    head_lost: watch::Sender<Option<String>>,
}

/// Obeys one driver.
pub(super) struct Session {
    config: Arc<ExecutorConfig>,
    dirs: NodeDirs,
    starter: ChildStarter,
    python: Arc<WorkersPython>,
    reporter: Reporter,
    cluster: Option<LocalCluster>,
}

impl Session {
    pub(super) fn new(
        config: Arc<ExecutorConfig>,
        dirs: NodeDirs,
        starter: ChildStarter,
        python: Arc<WorkersPython>,
        reporter: Reporter,
    ) -> Self {
        Self {
            config,
            dirs,
            starter,
            python,
            reporter,
            cluster: None,
        }
    }

    /// Carries out one command. False when the driver does not want this executor.
    pub(super) async fn obey(&mut self, message: ManagerCommand) -> bool {
        match message.command {
            Some(Command::StartHead(command)) => self.start_head(command).await,
            Some(Command::StartRaylet(command)) => self.start_raylet(command).await,
            Some(Command::StopCluster(command)) => {
                self.stop().await;
                self.reporter.send(Event::Stopped(Stopped {
                    cluster_id: command.cluster_id,
                }));
            }
            Some(Command::ClusterLost(command)) => {
                if let Some(cluster) = &self.cluster
                    && command.cluster_id == cluster.id.as_bytes()[..]
                {
                    cluster.head_lost.send_replace(Some(command.cause));
                }
            }
            Some(Command::Refused(refused)) => {
                let message = refused.failure.map(|failure| failure.message).unwrap_or_default();
                warn!(
                    executor_id = self.config.executor_id,
                    message, "the driver refused this executor"
                );
                return false;
            }
            None => warn!("the driver sent a command that this version does not know"),
        }
        true
    }

    /// Ends everything that runs for the current cluster.
    pub(super) async fn stop(&mut self) {
        let Some(cluster) = self.cluster.take() else {
            return;
        };
        cluster.cancel.cancel();
        cluster.tasks.close();
        cluster.tasks.wait().await;
        info!(cluster_id = %cluster.id, executor_id = self.config.executor_id, "cluster stopped");
    }

    /// The state for this cluster; another cluster's processes are ended first.
    async fn enter(&mut self, id: ClusterId) -> &mut LocalCluster {
        if self.cluster.as_ref().is_some_and(|cluster| cluster.id != id) {
            self.stop().await;
        }
        self.cluster.get_or_insert_with(|| LocalCluster {
            id,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            head_beside: watch::channel(None).0,
            raylet: None,
            head_lost: watch::channel(None).0,
        })
    }

    async fn start_head(&mut self, command: StartHead) {
        let names = match names(&command.cluster_id, &command.token, command.head_epoch) {
            Ok(names) => names,
            Err(error) => return self.refuse_head(command, &error),
        };
        let id = names.id;
        let plan = HeadPlan {
            names,
            log_dir: self.dirs.logs.clone(),
        };
        let log_path = self.dirs.logs.join("sparkray-head.log");
        let starter = self.starter.clone();
        let reporter = self.reporter.clone();
        let cluster = self.enter(id).await;
        let cancel = cluster.cancel.clone();
        let head_beside = cluster.head_beside.clone();
        cluster.tasks.spawn(async move {
            match starter.head(&plan, log_path, &cancel).await {
                Ok(running) => {
                    head_beside.send_replace(Some(running.ready.address.clone()));
                    reporter.send(Event::HeadStarted(HeadStarted {
                        cluster_id: id.to_vec().into(),
                        failure: None,
                        socket_name: running.ready.address.clone(),
                        pid: running.ready.pid,
                    }));
                    watch_head(running, id, &reporter, &cancel).await;
                }
                Err(_) if cancel.is_cancelled() => {}
                Err(error) => reporter.send(Event::HeadStarted(HeadStarted {
                    cluster_id: id.to_vec().into(),
                    failure: Some(Failure::from(&error)),
                    ..HeadStarted::default()
                })),
            }
        });
    }

    async fn start_raylet(&mut self, command: StartRaylet) {
        let names = match names(&command.cluster_id, &command.token, command.head_epoch) {
            Ok(names) => names,
            Err(error) => {
                warn!(%error, "the driver sent a command that cannot be carried out");
                return;
            }
        };
        let id = names.id;
        let config = Arc::clone(&self.config);
        let dirs = self.dirs.clone();
        let starter = self.starter.clone();
        let python = Arc::clone(&self.python);
        let reporter = self.reporter.clone();
        let cluster = self.enter(id).await;
        if let Some(raylet) = &cluster.raylet {
            // Runs already; a restart will use the new address of the head.
            raylet.send_replace(command);
            return;
        }
        let head_beside = if command.head_address.is_empty() {
            cluster.head_beside.borrow().clone()
        } else {
            None
        };
        let (sender, receiver) = watch::channel(command.clone());
        cluster.raylet = Some(sender);
        let head_lost = cluster.head_lost.subscribe();
        let cancel = cluster.cancel.clone();
        cluster.tasks.spawn(async move {
            if command.head_address.is_empty() && head_beside.is_none() {
                let error =
                    SupervisorError::refused(ErrorCode::NotRunning, "the head does not run on this executor");
                return reporter.send(Event::RayletStarted(failed(id, &error)));
            }
            let python = match python.for_command(&command, &dirs.working).await {
                Ok(python) => python,
                Err(error) => return reporter.send(Event::RayletStarted(failed(id, &error))),
            };
            let plan = RayletPlan {
                names,
                head_beside,
                host: config.host.clone(),
                executor_id: config.executor_id.clone(),
                python,
                dirs,
                command: receiver,
                head_lost,
            };
            keep(plan, starter, reporter, cancel).await;
        });
    }

    fn refuse_head(&self, command: StartHead, error: &SupervisorError) {
        self.reporter.send(Event::HeadStarted(HeadStarted {
            cluster_id: command.cluster_id,
            failure: Some(error.into()),
            ..HeadStarted::default()
        }));
    }
}

/// A head is not started again: its tables are lost with it.
async fn watch_head(
    running: Running<ServingHead>,
    id: ClusterId,
    reporter: &Reporter,
    cancel: &CancellationToken,
) {
    let Running { child, exit, .. } = running;
    let cause = tokio::select! {
        () = cancel.cancelled() => return child.stop().await,
        end = exit => end.map_or_else(|_| "ended".to_owned(), |end| end.cause),
    };
    warn!(cluster_id = %id, cause, "head ended");
    reporter.send(Event::ChildEnded(ChildEnded {
        cluster_id: id.to_vec().into(),
        role: Role::Head.name().to_owned(),
        cause,
        will_restart: false,
    }));
}

fn names(cluster_id: &[u8], token: &[u8], head_epoch: u64) -> Result<ClusterNames, SupervisorError> {
    let refuse = |message: String| SupervisorError::refused(ErrorCode::InvalidArgument, message);
    let id = ClusterId::from_slice(cluster_id).map_err(|error| refuse(error.to_string()))?;
    let token =
        ClusterToken::from_slice(token).ok_or_else(|| refuse("the token has the wrong length".to_owned()))?;
    Ok(ClusterNames {
        id,
        token,
        head_epoch,
    })
}
