//! The RayManager of the driver: executors join it, and it starts and stops clusters on them.

mod checks;
mod cluster;
mod local_raylet;
mod membership;
mod outboxes;
mod service;
mod state;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sparkray_common::{ClusterId, ClusterToken, ErrorCode};
use sparkray_proto::bridge::{self, InitResult, Status};
use sparkray_rpc::{Identity, Listener, Protection};
use tokio_util::sync::CancellationToken;

use crate::SupervisorError;
use crate::child_host::ChildHost;
use crate::children::ChildStarter;
use crate::engine::Engine;
use crate::invitation::Invitation;
use crate::manager_thread::spawn_manager_thread;
use crate::native_engine::NativeEngine;
use crate::request::{ClusterNames, InitRequest};
use membership::Progress;
use state::{Ending, Shared};

/// Time for every executor to end its processes.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
const START_DEADLINE: Duration = Duration::from_secs(10);

/// What the driver's JVM knows about itself. May hold a token: `Debug` hides it.
#[derive(Clone)]
pub struct DriverConfig {
    /// `spark.driver.host`: executors connect to it, and the driver's raylet advertises it.
    pub host: String,
    /// `spark.driver.bindAddress`: where the manager and the driver's raylet listen.
    pub bind_address: String,
    /// Port of the manager; 0 lets the kernel choose.
    pub port: u16,
    /// Path of `sparkrayd`.
    pub binary: PathBuf,
    /// A private directory that is deleted with the process.
    pub work_dir: PathBuf,
    /// Hexadecimal token with which executors join, where both sides know it without being told; none: a random one.
    pub token: Option<String>,
}

impl TryFrom<bridge::DriverConfig> for DriverConfig {
    type Error = SupervisorError;

    fn try_from(message: bridge::DriverConfig) -> Result<Self, SupervisorError> {
        let port = u16::try_from(message.port).map_err(|_| {
            let message = format!("the manager's port cannot be {}", message.port);
            SupervisorError::refused(ErrorCode::InvalidArgument, message)
        })?;
        Ok(Self {
            host: message.host,
            bind_address: message.bind_address,
            port,
            binary: message.binary.into(),
            work_dir: message.work_dir.into(),
            token: message.token,
        })
    }
}

impl std::fmt::Debug for DriverConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DriverConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("work_dir", &self.work_dir)
            .finish_non_exhaustive()
    }
}

/// The running RayManager of a driver. All methods may be called from any thread.
#[derive(Debug)]
pub struct DriverManager {
    shared: Arc<Shared>,
    invitation: Invitation,
    cancel: CancellationToken,
}

impl DriverManager {
    /// Listens, in a thread of its own.
    pub fn start(config: DriverConfig) -> Result<Self, SupervisorError> {
        let engine = Arc::new(NativeEngine::new(config.binary.clone()));
        Self::start_with(config, engine)
    }

    /// As [`Self::start`], for clusters of the runtime behind this engine.
    fn start_with(config: DriverConfig, engine: Arc<dyn Engine>) -> Result<Self, SupervisorError> {
        let starter = ChildStarter {
            host: ChildHost::start()?,
            engine,
        };
        let token = match &config.token {
            Some(hex) => ClusterToken::from_hex(hex).ok_or_else(|| {
                SupervisorError::refused(
                    ErrorCode::InvalidArgument,
                    "the manager's token is not 64 hexadecimal digits",
                )
            })?,
            None => ClusterToken::random(),
        };
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token,
            head_epoch: 0,
        };
        let mut invitation = Invitation {
            address: String::new(),
            application_id: identity.cluster_id.to_string(),
            // What both sides know does not travel.
            token: config.token.is_none().then(|| identity.token.expose_hex()),
        };
        let advertised = config.host.clone();
        let cancel = CancellationToken::new();
        let (sender, started) = sync_channel(1);
        let body_cancel = cancel.clone();
        spawn_manager_thread("sparkray-manager", move |runtime| {
            listen(config, starter, runtime, identity, body_cancel, sender)
        })?;
        let silent = |_| {
            SupervisorError::refused(
                ErrorCode::DeadlineExceeded,
                "the manager's thread does not answer",
            )
        };
        let (shared, port) = started.recv_timeout(START_DEADLINE).map_err(silent)??;
        invitation.address = host_and_port(&advertised, port);
        Ok(Self {
            shared,
            invitation,
            cancel,
        })
    }

    /// What executors need in order to join.
    pub fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// Starts a cluster on all executors and waits until the expected number of them has registered. On failure
    /// nothing is left running, and the error says what is missing.
    pub fn init(&self, request: InitRequest) -> Result<InitResult, SupervisorError> {
        request.check()?;
        let id = match &request.cluster_id {
            Some(hex) => ClusterId::from_hex(hex)
                .map_err(|error| SupervisorError::refused(ErrorCode::InvalidArgument, error.to_string()))?,
            None => ClusterId::random(),
        };
        let names = ClusterNames::mint(id);
        let deadline = Instant::now() + Duration::from_secs_f64(request.deadline_seconds);
        self.shared.begin(names, request.clone())?;
        let error = match self
            .shared
            .wait_until(deadline, |state| settled(state.membership.progress(id)))
        {
            Some(Ok(result)) => return Ok(result),
            Some(Err(error)) => error,
            None => SupervisorError::refused(ErrorCode::DeadlineExceeded, self.missing(id, &request)),
        };
        self.end(Some(id));
        Err(error)
    }

    /// Ends this cluster, also when it is starting; returns when its processes are gone, or at a deadline. Names those
    /// that have not answered by then; their processes end with their connection. Does nothing when the cluster is not
    /// the current one: it was ended before.
    pub fn stop_cluster(&self, id: ClusterId) -> Vec<String> {
        self.end(Some(id))
    }

    /// As [`Self::stop_cluster`]; `None` is whatever is the current one.
    fn end(&self, id: Option<ClusterId>) -> Vec<String> {
        match self.shared.end(id) {
            Ending::Other => return Vec::new(),
            Ending::Begun(Some(child)) => child.stop_and_wait(),
            Ending::Begun(None) => {}
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        let quiet = |state: &mut state::State| state.is_quiet().then_some(());
        if self.shared.wait_until(deadline, quiet).is_some() {
            return Vec::new();
        }
        self.shared.state().unanswered()
    }

    /// An executor said, over Spark, that it cannot run a manager.
    pub fn executor_failed(&self, executor_id: String, reason: String) {
        self.shared.executor_failed(executor_id, reason);
    }

    /// Spark has a new executor; it may join soon.
    pub fn executor_added(&self, executor_id: String, host: String) {
        self.shared.state().membership.executor_added(executor_id, host);
    }

    /// Spark has lost an executor.
    pub fn executor_removed(&self, executor_id: &str) {
        self.shared.state().membership.executor_removed(executor_id);
    }

    /// Why the current cluster is lost, if it is.
    pub fn failure(&self) -> Option<SupervisorError> {
        self.shared.state().membership.failure()
    }

    /// Everything that is known.
    pub fn status(&self) -> Status {
        self.shared.state().membership.status()
    }

    /// Ends the current cluster and the manager.
    pub fn close(&self) {
        self.end(None);
        self.cancel.cancel();
    }

    fn missing(&self, id: ClusterId, request: &InitRequest) -> String {
        let missing = match self.shared.state().membership.progress(id) {
            Progress::Waiting(missing) => missing,
            Progress::Ready(_) => "the last node came too late".to_owned(),
            Progress::Failed(error) => error.to_string(),
        };
        format!(
            "the cluster was not complete within {} s: {missing}",
            request.deadline_seconds
        )
    }
}

impl Drop for DriverManager {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn settled(progress: Progress) -> Option<Result<InitResult, SupervisorError>> {
    match progress {
        Progress::Waiting(_) => None,
        Progress::Ready(result) => Some(Ok(*result)),
        Progress::Failed(error) => Some(Err(error)),
    }
}

type Started = Result<(Arc<Shared>, u16), SupervisorError>;

/// The manager's thread: binds, reports the port, serves until `cancel`.
async fn listen(
    config: DriverConfig,
    starter: ChildStarter,
    runtime: tokio::runtime::Handle,
    identity: Identity,
    cancel: CancellationToken,
    started: SyncSender<Started>,
) {
    // Encrypted whatever the cluster's own setting is: tokens of clusters travel here.
    let listener = match Listener::bind_tcp(&config.bind_address, config.port, Protection::Sealed).await {
        Ok(listener) => listener,
        Err(error) => {
            let _ = started.send(Err(SupervisorError::refused(error.code(), error.to_string())));
            return;
        }
    };
    let port = listener.local_port();
    let shared = Arc::new(Shared::new(config, starter, runtime, cancel.clone()));
    if started.send(Ok((Arc::clone(&shared), port))).is_err() {
        return;
    }
    service::serve(listener, identity, shared, cancel).await;
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod tests;
