//! The RayManager of an executor: it connects to the driver's, obeys, and ends its children when that connection ends.
//! Then it joins again, as if it were new.

mod ancestors;
mod current_raylet;
mod raylet_access;
mod raylet_keeper;
mod session;
mod workers_python;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use sparkray_common::VERSION;
use sparkray_proto::manager_client::ManagerClient;
use sparkray_proto::{
    ManagerCommand, ManagerEvent, ManagerHello, MessageError, bridge, manager_event::Event,
};
use sparkray_rpc::{Endpoint, Identity, Target, tonic_channel};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::SupervisorError;
use crate::child_host::ChildHost;
use crate::children::ChildStarter;
use crate::container::{NodeDirs, hostname};
use crate::engine::Engine;
use crate::invitation::Invitation;
use crate::manager_thread::spawn_manager_thread;
use crate::native_engine::NativeEngine;
pub use current_raylet::{RayletHandle, current_raylet, on_raylet_gone, wait_for_raylet};
use session::Session;
use workers_python::WorkersPython;

/// For one attempt to reach the driver.
const CONNECT_DEADLINE: Duration = Duration::from_mins(1);
/// Between two attempts; it doubles up to the longest.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
const CONNECT_LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The driver listens before any executor is told its address; what takes longer is worth a warning.
const CONNECT_SILENCE: Duration = Duration::from_mins(1);
/// Reports that may wait for the connection.
const REPORT_QUEUE: usize = 256;
/// Time for children to end when the executor does.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// What an executor's JVM knows about itself.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// How to reach the driver; came over Spark's RPC.
    pub invitation: Invitation,
    /// Spark's executor id; "driver" in local mode.
    pub executor_id: String,
    /// The address that Spark gave this executor.
    pub host: String,
    /// Task slots of this executor.
    pub cores: u32,
    /// Bytes set aside for Ray in this container.
    pub memory_budget_bytes: u64,
    /// Whether this executor runs in a container of limited memory: then a budget of 0 means that there is none.
    pub in_container: bool,
    /// `java.version`.
    pub java_version: String,
    /// The Python of PySpark's settings on this executor.
    pub python: String,
    /// Path of `sparkrayd`.
    pub binary: PathBuf,
    /// A private directory that is deleted with the process.
    pub work_dir: PathBuf,
}

impl TryFrom<bridge::ExecutorConfig> for ExecutorConfig {
    type Error = MessageError;

    fn try_from(message: bridge::ExecutorConfig) -> Result<Self, MessageError> {
        let invitation = message.invitation.ok_or(MessageError::Missing("invitation"))?;
        Ok(Self {
            invitation: Invitation {
                address: invitation.address,
                application_id: invitation.application_id,
                token: message.token.or(invitation.token),
            },
            executor_id: message.executor_id,
            host: message.host,
            cores: message.cores,
            memory_budget_bytes: message.memory_budget_bytes,
            in_container: message.in_container,
            java_version: message.java_version,
            python: message.python,
            binary: message.binary.into(),
            work_dir: message.work_dir.into(),
        })
    }
}

/// Sends reports to the driver. Reports for a driver that does not read are lost with the connection.
#[derive(Clone)]
struct Reporter(mpsc::Sender<ManagerEvent>);

impl Reporter {
    fn send(&self, event: Event) {
        if let Err(error) = self.0.try_send(ManagerEvent { event: Some(event) }) {
            debug!(%error, "a report to the driver was dropped");
        }
    }
}

/// A running RayManager of an executor; dropping it ends it in the background.
#[derive(Debug)]
pub struct ExecutorManager {
    cancel: CancellationToken,
    ended: sparkray_common::sync::Mutex<Receiver<()>>,
}

impl ExecutorManager {
    /// Starts it in a thread of its own and returns at once.
    pub fn start(config: ExecutorConfig) -> Result<Self, SupervisorError> {
        let engine = Arc::new(NativeEngine::new(config.binary.clone()));
        Self::start_with(config, engine)
    }

    /// As [`Self::start`], for the runtime behind this engine.
    pub(crate) fn start_with(
        config: ExecutorConfig,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, SupervisorError> {
        let starter = ChildStarter {
            host: ChildHost::start()?,
            engine,
        };
        let cancel = CancellationToken::new();
        let (ended_sender, ended) = sync_channel(1);
        let token = cancel.clone();
        spawn_manager_thread("sparkray-manager", move |_| async move {
            run(Arc::new(config), starter, token).await;
            // `close` may have given up waiting.
            let _ = ended_sender.try_send(());
        })?;
        Ok(Self {
            cancel,
            ended: sparkray_common::sync::Mutex::new(ended),
        })
    }

    /// Ends its children and itself; returns when they are gone, after 3 s at most.
    pub fn close(&self) {
        self.cancel.cancel();
        if self.ended.lock().recv_timeout(CLOSE_DEADLINE).is_err() {
            debug!("the manager had ended before, or its children did not end in time");
        }
    }
}

impl Drop for ExecutorManager {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Why a session with the driver ended.
enum SessionEnd {
    /// This executor ends, or the driver does not want it.
    ForGood,
    /// The connection broke; perhaps this machine only slept.
    ConnectionLost,
}

async fn run(config: Arc<ExecutorConfig>, starter: ChildStarter, cancel: CancellationToken) {
    let dirs = NodeDirs::of_this_process(&config.work_dir);
    let python = Arc::new(WorkersPython::new(&config.python, &dirs.working));
    let hello = hello(&config, &dirs);
    // Asked ahead of the first cluster, because a cold interpreter takes a while.
    let asked = Arc::clone(&python);
    let asking = tokio::spawn(async move {
        let _ = asked.answer().await;
    });
    let telling = tokio::spawn(raylet_access::serve(cancel.clone()));
    stay_joined(&config, &dirs, &starter, &python, &hello, &cancel).await;
    asking.abort();
    telling.abort();
}

/// Joins the driver, obeys, and joins again when only the connection was lost. Until this executor ends, it tries: a
/// network that is down comes back.
async fn stay_joined(
    config: &Arc<ExecutorConfig>,
    dirs: &NodeDirs,
    starter: &ChildStarter,
    python: &Arc<WorkersPython>,
    hello: &ManagerHello,
    cancel: &CancellationToken,
) {
    let identity = match config.invitation.identity() {
        Ok(identity) => identity,
        Err(error) => {
            warn!(%error, "the driver's invitation cannot be read");
            return;
        }
    };
    let mut retry = Retry::new();
    loop {
        let (reports, queue) = mpsc::channel(REPORT_QUEUE);
        let reporter = Reporter(reports);
        reporter.send(Event::Hello(hello.clone()));
        let attempt = tokio::select! {
            () = cancel.cancelled() => return,
            attempt = connect(config, &identity, queue) => attempt,
        };
        let commands = match attempt {
            Ok(commands) => commands,
            Err(reason) => {
                let pause = retry.failed(config, &reason);
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
        };
        retry = Retry::new();
        info!(executor_id = config.executor_id, "joined the driver's manager");
        let mut session = Session::new(
            Arc::clone(config),
            dirs.clone(),
            starter.clone(),
            Arc::clone(python),
            reporter,
        );
        let end = obey_all(&mut session, commands, config, cancel).await;
        // Nothing outlives the connection; whoever was declared dead joins anew.
        session.stop().await;
        if matches!(end, SessionEnd::ForGood) {
            return;
        }
    }
}

async fn obey_all(
    session: &mut Session,
    mut commands: tonic::Streaming<ManagerCommand>,
    config: &ExecutorConfig,
    cancel: &CancellationToken,
) -> SessionEnd {
    loop {
        let next = tokio::select! {
            () = cancel.cancelled() => return SessionEnd::ForGood,
            next = commands.message() => next,
        };
        match next {
            Ok(Some(command)) => {
                if !session.obey(command).await {
                    return SessionEnd::ForGood;
                }
            }
            Ok(None) => return SessionEnd::ConnectionLost,
            Err(status) => {
                info!(executor_id = config.executor_id, %status, "the connection to the driver's manager ended");
                return SessionEnd::ConnectionLost;
            }
        }
    }
}

fn hello(config: &ExecutorConfig, dirs: &NodeDirs) -> ManagerHello {
    ManagerHello {
        executor_id: config.executor_id.clone(),
        host: config.host.clone(),
        container_id: dirs.container_id.clone(),
        cores: config.cores,
        pid: std::process::id(),
        sparkray_version: VERSION.to_owned(),
        memory_budget_bytes: config.memory_budget_bytes,
        in_container: config.in_container,
        java_version: config.java_version.clone(),
        hostname: hostname(),
    }
}

/// Attempts to reach the driver, since the last time that it was reached.
struct Retry {
    began: Instant,
    pause: Duration,
    warned: bool,
}

impl Retry {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            pause: CONNECT_PAUSE,
            warned: false,
        }
    }

    /// How long to wait before the next attempt.
    fn failed(&mut self, config: &ExecutorConfig, reason: &str) -> Duration {
        let driver = &config.invitation.address;
        if !self.warned && self.began.elapsed() >= CONNECT_SILENCE {
            self.warned = true;
            warn!(
                driver,
                reason, "cannot reach the driver's manager, trying on: no node is started here yet"
            );
        } else {
            debug!(driver, reason, "cannot reach the driver's manager yet");
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(CONNECT_LONGEST_PAUSE);
        pause
    }
}

/// One attempt. The queue's first report is the hello.
async fn connect(
    config: &ExecutorConfig,
    identity: &Identity,
    queue: mpsc::Receiver<ManagerEvent>,
) -> Result<tonic::Streaming<ManagerCommand>, String> {
    let endpoint = Endpoint::Tcp(config.invitation.address.clone());
    // A handshake first: its failure says more than tonic's.
    let socket = sparkray_rpc::dial(identity, &endpoint, Target::Manager, CONNECT_DEADLINE)
        .await
        .map_err(|error| error.to_string())?;
    drop(socket);
    let mut client = ManagerClient::new(tonic_channel(identity.clone(), endpoint, Target::Manager));
    let attached = tokio::time::timeout(CONNECT_DEADLINE, client.attach(ReceiverStream::new(queue))).await;
    match attached {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}
