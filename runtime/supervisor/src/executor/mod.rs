//! The RayManager of an executor: it connects to the driver's, obeys, and ends its children when that connection ends.
//! Then it joins again, as if it were new.

mod current_raylet;
mod raylet_keeper;
mod session;
mod workers_python;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sparkray_common::VERSION;
use sparkray_proto::manager_client::ManagerClient;
use sparkray_proto::{ManagerCommand, ManagerEvent, ManagerHello, manager_event::Event};
use sparkray_rpc::{Endpoint, Target, tonic_channel};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::SupervisorError;
use crate::child_host::ChildHost;
use crate::children::ChildStarter;
use crate::container::{NodeDirs, hostname};
use crate::invitation::Invitation;
use crate::manager_thread::spawn_manager_thread;
pub use current_raylet::{RayletHandle, current_raylet, on_raylet_gone, wait_for_raylet};
use session::Session;
use workers_python::WorkersPython;

/// The driver listens before any executor is told its address; what takes longer is a network that is down.
const CONNECT_DEADLINE: Duration = Duration::from_mins(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Reports that may wait for the connection.
const REPORT_QUEUE: usize = 256;
/// Time for children to end when the executor does.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// What an executor's JVM knows about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutorConfig {
    /// How to reach the driver; came over Spark's RPC.
    pub invitation: Invitation,
    /// Spark's executor id; "driver" in local mode.
    pub executor_id: String,
    /// The address that Spark gave this executor.
    pub host: String,
    /// Task slots of this executor.
    pub cores: u32,
    /// Bytes set aside for Ray in this container; 0: no container limits it.
    pub memory_budget_bytes: u64,
    /// `java.version`.
    pub java_version: String,
    /// The Python of PySpark's settings on this executor.
    pub python: String,
    /// Path of `sparkrayd`.
    pub binary: PathBuf,
    /// A private directory that is deleted with the process.
    pub work_dir: PathBuf,
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
    ended: parking_lot::Mutex<Receiver<()>>,
}

impl ExecutorManager {
    /// Starts it in a thread of its own and returns at once.
    pub fn start(config: ExecutorConfig) -> Result<Self, SupervisorError> {
        let host = ChildHost::start()?;
        let cancel = CancellationToken::new();
        let (ended_sender, ended) = sync_channel(1);
        let token = cancel.clone();
        spawn_manager_thread("sparkray-manager", move |_| async move {
            run(Arc::new(config), host, token).await;
            // `close` may have given up waiting.
            let _ = ended_sender.try_send(());
        })?;
        Ok(Self {
            cancel,
            ended: parking_lot::Mutex::new(ended),
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

async fn run(config: Arc<ExecutorConfig>, host: ChildHost, cancel: CancellationToken) {
    let dirs = NodeDirs::of_this_process(&config.work_dir);
    let python = Arc::new(WorkersPython::new(&config.python, &dirs.working));
    let hello = hello(&config, &dirs);
    // Asked ahead of the first cluster, because a cold interpreter takes a while.
    let asked = Arc::clone(&python);
    let asking = tokio::spawn(async move {
        let _ = asked.answer().await;
    });
    stay_joined(&config, &dirs, host, &python, &hello, &cancel).await;
    asking.abort();
}

/// Joins the driver, obeys, and joins again when only the connection was lost.
async fn stay_joined(
    config: &Arc<ExecutorConfig>,
    dirs: &NodeDirs,
    host: ChildHost,
    python: &Arc<WorkersPython>,
    hello: &ManagerHello,
    cancel: &CancellationToken,
) {
    let starter = ChildStarter {
        host,
        binary: config.binary.clone(),
    };
    loop {
        let (reports, queue) = mpsc::channel(REPORT_QUEUE);
        let reporter = Reporter(reports);
        reporter.send(Event::Hello(hello.clone()));
        let Some(commands) = connect(config, queue, cancel).await else {
            return;
        };
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
        java_version: config.java_version.clone(),
        hostname: hostname(),
    }
}

/// Tries until the deadline. The queue's first report is the hello.
async fn connect(
    config: &ExecutorConfig,
    queue: mpsc::Receiver<ManagerEvent>,
    cancel: &CancellationToken,
) -> Option<tonic::Streaming<ManagerCommand>> {
    let identity = match config.invitation.identity() {
        Ok(identity) => identity,
        Err(error) => {
            warn!(%error, "the driver's invitation cannot be read");
            return None;
        }
    };
    let endpoint = Endpoint::Tcp(config.invitation.address.clone());
    let deadline = Instant::now() + CONNECT_DEADLINE;
    loop {
        // A handshake first: the stream of reports can be given to one attempt only.
        let tried = tokio::select! {
            () = cancel.cancelled() => return None,
            tried = sparkray_rpc::dial(&identity, &endpoint, Target::Manager, CONNECT_DEADLINE) => tried,
        };
        match tried {
            Ok(socket) => {
                drop(socket);
                break;
            }
            Err(error) if Instant::now() >= deadline => {
                warn!(driver = config.invitation.address, %error, "cannot reach the driver's manager: no node is started here");
                return None;
            }
            Err(error) => debug!(%error, "cannot reach the driver's manager yet"),
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(CONNECT_PAUSE) => {}
        }
    }
    let mut client = ManagerClient::new(tonic_channel(identity, endpoint, Target::Manager));
    let attached = tokio::select! {
        () = cancel.cancelled() => return None,
        attached = client.attach(ReceiverStream::new(queue)) => attached,
    };
    match attached {
        Ok(response) => Some(response.into_inner()),
        Err(status) => {
            warn!(driver = config.invitation.address, %status, "the driver's manager refused the connection");
            None
        }
    }
}
