//! The zygote: a single-threaded Python process that has imported sparkray and forks workers on request. There is one for
//! each key of workers.
//!
//! # Start
//!
//! The raylet runs `<config.python> -c` [`PROGRAM`] from its main thread: `sparkray._private.zygote`, without the
//! user's directories until its own imports are done (`sparkray_common::python_program`). The zygote inherits
//!
//! - descriptor 0: its end of the control socket (`AF_UNIX`, `SOCK_SEQPACKET`, blocking). It moves it elsewhere
//!   with close-on-exec (`os.dup`) and opens `/dev/null` as descriptor 0,
//! - descriptors 1 and 2: the file `zygote.log` (or `zygote-<number>.log`) in the log directory,
//! - the raylet's environment with `config.worker_env` and `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`,
//!   `MKL_NUM_THREADS`, `NUMEXPR_NUM_THREADS` = 1 unless they were set (`SPARKRAY_THREAD_VARIABLES` names those that were
//!   not), `SPARKRAY_CLUSTER_ID`, `SPARKRAY_NODE_ID` (hexadecimal;
//!   tests find processes by them) and `SPARKRAY_RAYLET_PID`,
//! - `SPARKRAY_RUNTIME_ENV`, and the variables that it names, when it is for workers of another environment than the
//!   node's own (Ray: `runtime_env`),
//! - `config.working_dir` as its working directory.
//!
//! First it calls `prctl(PR_SET_PDEATHSIG, SIGKILL)` and ends unless `getppid()` is `SPARKRAY_RAYLET_PID`.
//! It ignores SIGINT and leaves the process group: an interrupt of the driver's group is not for workers and what they
//! start. End of file on the control socket ends it.
//!
//! # Messages
//!
//! One JSON object in each packet, at most [`MAX_MESSAGE`] bytes.
//!
//! Zygote to raylet, once, when its imports are done:
//!
//! ```json
//! {"kind": "ready", "pid": 4711, "python_version": "3.11", "sparkray_version": "0.1.0"}
//! ```
//!
//! Raylet to zygote, with exactly three descriptors by `SCM_RIGHTS`, in this order: the worker's end of its raylet
//! connection (`AF_UNIX`, `SOCK_STREAM`, non-blocking, no handshake: the first frame is RegisterClient), the
//! write end of the pipe for its standard output, the same for standard error:
//!
//! ```json
//! {"kind": "fork", "worker_id": "<32 hex>", "config": {
//!     "worker_id": "<32 hex>", "node_id": "<32 hex>", "cluster_id": "<32 hex>", "token": "<64 hex>",
//!     "head_epoch": 1, "raylet_pid": 4242, "node_ip": "10.0.0.5", "node_address": "10.0.0.5:40001",
//!     "socket_name": "sparkray-…", "log_dir": "…"}}
//! ```
//!
//! Zygote to raylet, in the order of the requests, after the double fork:
//!
//! ```json
//! {"kind": "forked", "worker_id": "<32 hex>", "pid": 4713}
//! {"kind": "failed", "worker_id": "<32 hex>", "error": "fork: Resource temporarily unavailable"}
//! ```
//!
//! # The double fork
//!
//! The zygote makes a pipe and forks a middle process; the middle one forks the worker, writes the worker's pid into
//! the pipe and calls `os._exit(0)`; the zygote reads the pid and waits for the middle process, then closes its copies
//! of the three descriptors and replies. The worker is then a child of the raylet, its subreaper. The worker, in this order:
//! waits until `getppid()` is `raylet_pid` (the middle process is gone; a parent-death signal set earlier would kill it
//! when the middle one ends; it waits for end of file on the pipe, whose write end only the middle process keeps),
//! calls `prctl(PR_SET_PDEATHSIG, SIGKILL)`, checks `getppid()` again, duplicates the pipes onto descriptors 1 and 2 (line-buffered
//! text, UTF-8, errors=backslashreplace), closes the control socket, has SIGINT end a cancelled function and nothing else (but not in what it
//! starts), reseeds every random generator, puts `SPARKRAY_WORKER_ID` (hexadecimal) into its environment, by which the raylet knows what it left
//! behind when it ended, and calls `CoreWorker.connect_worker(fd, config)`.
//!
//! The worker's raylet connection is the only thing that it needs to live: when it breaks, the worker exits at once.

/// Largest control message.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use sparkray_common::{WorkerId, WorkerKey, hide_python_path, python_program};
use sparkray_rpc::register;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::input::{Input, ZygoteEvent};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A zygote that lived this long was well: the next one is started without much delay.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// Zygotes in a row that are never ready before the raylet gives up: what they lack will not come by itself.
const MAX_STARTS: u32 = 4;
/// A zygote that is to end has this long for the workers that it was asked for.
const LAST_FORKS: Duration = Duration::from_secs(10);
/// A zygote that has not said "ready" after this time is ended.
const READY_DEADLINE: Duration = Duration::from_mins(1);

/// What the zygote's interpreter runs.
const PROGRAM: &str = "\
import importlib.util, runpy
package = importlib.util.find_spec('sparkray')
if package is None:
    sys.exit(\"No module named 'sparkray' for \" + sys.executable + ': install the wheel there; looked in ' + repr(sys.path))
start = os.path.join(package.submodule_search_locations[0], '_private', 'module_path.py')
prepared = runpy.run_path(start)['prepare'](OWN)
runpy.run_module('sparkray._private.zygote', {'PREPARED': prepared}, '__main__')
";

/// What the workers of this node share; sent to each at its birth.
#[derive(Clone, Serialize)]
pub(crate) struct WorkerConfig {
    pub(crate) worker_id: String,
    pub(crate) node_id: String,
    pub(crate) cluster_id: String,
    pub(crate) token: String,
    pub(crate) head_epoch: u64,
    pub(crate) raylet_pid: u32,
    pub(crate) node_ip: String,
    pub(crate) node_address: String,
    pub(crate) socket_name: String,
    pub(crate) log_dir: String,
}

/// How to start a zygote.
#[derive(Clone, Debug)]
pub(crate) struct ZygoteSpec {
    pub(crate) number: u64,
    pub(crate) python: String,
    pub(crate) working_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

impl ZygoteSpec {
    /// The same with the environment of a key. A `${NAME}` in a variable is what NAME is without it, as in Ray.
    pub(crate) fn with_key(&self, number: u64, key: &WorkerKey) -> Self {
        let mut spec = self.clone();
        spec.number = number;
        let variables = key.environment.variables();
        if variables.is_empty() {
            return spec;
        }
        spec.log.set_file_name(format!("zygote-{number}.log"));
        let node_has = |name: &str| {
            let own = self.environment.iter().rfind(|(known, _)| known == name);
            own.map(|(_, value)| value.clone())
                .or_else(|| std::env::var(name).ok())
                .unwrap_or_default()
        };
        for (name, value) in variables {
            spec.environment.push((name.clone(), expand(value, node_has)));
        }
        // What the program has set is not changed with the CPUs of a task.
        for (name, value) in &mut spec.environment {
            if name == UNSET_THREAD_VARIABLES {
                let kept = value.split(',').filter(|name| !variables.contains_key(*name));
                *value = kept.collect::<Vec<_>>().join(",");
            }
        }
        let given = serde_json::json!({ "env_vars": variables });
        spec.environment.push((RUNTIME_ENV.to_owned(), given.to_string()));
        spec
    }
}

/// Names of the variables for the threads of libraries that nobody has set.
pub(crate) const UNSET_THREAD_VARIABLES: &str = "SPARKRAY_THREAD_VARIABLES";
/// By which workers know what to hand on to those that they call.
const RUNTIME_ENV: &str = "SPARKRAY_RUNTIME_ENV";

/// A text with each `${NAME}` replaced.
fn expand(text: &str, value_of: impl Fn(&str) -> String) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else {
            break;
        };
        expanded.push_str(before);
        expanded.push_str(&value_of(name));
        rest = behind;
    }
    expanded.push_str(rest);
    expanded
}

/// Asks for one worker.
pub(crate) struct ForkRequest {
    pub(crate) worker_id: WorkerId,
    pub(crate) config: WorkerConfig,
    /// The worker's end of its raylet connection, and the write ends of its output pipes.
    pub(crate) descriptors: [OwnedFd; 3],
}

#[derive(Serialize)]
struct ForkMessage<'a> {
    kind: &'static str,
    worker_id: String,
    config: &'a WorkerConfig,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum ZygoteMessage {
    Ready {
        pid: u32,
        python_version: String,
        sparkray_version: String,
    },
    Forked {
        worker_id: String,
        pid: u32,
    },
    Failed {
        worker_id: String,
        error: String,
    },
}

/// Keeps a zygote alive: starts it, hands it requests, starts another when it ends.
/// Must run on the main thread, because the parent-death signal follows the thread that spawns.
pub(crate) async fn run_zygote(
    spec: ZygoteSpec,
    mut requests: mpsc::Receiver<ForkRequest>,
    inputs: mpsc::Sender<Input>,
    unwanted: CancellationToken,
) {
    let mut failures = 0;
    let mut delay = FIRST_DELAY;
    while !unwanted.is_cancelled() {
        let started = Instant::now();
        let mut pending = Vec::new();
        let mut was_ready = false;
        let outcome = serve_one(
            &spec,
            &mut requests,
            &inputs,
            &unwanted,
            &mut pending,
            &mut was_ready,
        )
        .await;
        let (cause, may_recover) = match outcome {
            ZygoteEnd::NotWanted => ("nobody needs it any more".to_owned(), true),
            ZygoteEnd::NotStarted(cause) => (cause, false),
            ZygoteEnd::Ended(cause) => (cause, true),
        };
        for worker_id in pending {
            let error = format!("the zygote ended: {cause}");
            report(&spec, &inputs, ZygoteEvent::Failed { worker_id, error }).await;
        }
        if unwanted.is_cancelled() {
            continue;
        }
        if started.elapsed() >= WELL_AFTER {
            delay = FIRST_DELAY;
        }
        failures = if was_ready { 0 } else { failures + 1 };
        if failures >= MAX_STARTS || !may_recover {
            let last_line = last_line_of(&spec.log);
            let cause = format!(
                "{cause}; tries: {failures}; last line of {}: {last_line}",
                spec.log.display()
            );
            let gave_up = ZygoteEvent::GaveUp { cause: cause.clone() };
            report(&spec, &inputs, gave_up).await;
            refuse_all(&spec, requests, &inputs, cause).await;
            return;
        }
        warn!(
            cause,
            failures,
            delay_ms = delay.as_millis() as u64,
            "the zygote ended and is started again"
        );
        tokio::select! {
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
            () = unwanted.cancelled() => {}
        }
    }
    // What it was asked for meanwhile; the sender is gone, or about to go.
    let cause = "its zygote is not needed any more".to_owned();
    refuse_all(&spec, requests, &inputs, cause).await;
}

async fn report(spec: &ZygoteSpec, inputs: &mpsc::Sender<Input>, event: ZygoteEvent) {
    let zygote = spec.number;
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(Input::Zygote { zygote, event }).await;
}

async fn refuse_all(
    spec: &ZygoteSpec,
    mut requests: mpsc::Receiver<ForkRequest>,
    inputs: &mpsc::Sender<Input>,
    cause: String,
) {
    while let Some(request) = requests.recv().await {
        let worker_id = request.worker_id;
        let error = cause.clone();
        report(spec, inputs, ZygoteEvent::Failed { worker_id, error }).await;
    }
}

/// Why a zygote is not there.
enum ZygoteEnd {
    /// It is to end.
    NotWanted,
    /// The interpreter cannot be run: trying again does not help.
    NotStarted(String),
    Ended(String),
}

/// What the zygote said last: the reason, when its imports failed.
fn last_line_of(log: &Path) -> String {
    const LONGEST: usize = 300;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("(empty)");
    line.chars().take(LONGEST).collect()
}

/// Runs one zygote to its end and says why it ended. `pending` holds the workers that it still owes.
async fn serve_one(
    spec: &ZygoteSpec,
    requests: &mut mpsc::Receiver<ForkRequest>,
    inputs: &mpsc::Sender<Input>,
    unwanted: &CancellationToken,
    pending: &mut Vec<WorkerId>,
    was_ready: &mut bool,
) -> ZygoteEnd {
    let control = match spawn(spec) {
        Ok((pid, control)) => {
            info!(pid, python = spec.python, "started the zygote");
            report(spec, inputs, ZygoteEvent::Started { pid }).await;
            control
        }
        Err(error) => return ZygoteEnd::NotStarted(format!("cannot start {}: {error}", spec.python)),
    };
    let mut buffer = vec![0; MAX_MESSAGE];
    let first = tokio::select! {
        first = tokio::time::timeout(READY_DEADLINE, receive(&control, &mut buffer)) => first,
        () = unwanted.cancelled() => return ZygoteEnd::NotWanted,
    };
    match first {
        Ok(Ok(Some(ZygoteMessage::Ready {
            pid,
            python_version,
            sparkray_version,
        }))) => {
            *was_ready = true;
            let ready = ZygoteEvent::Ready {
                pid,
                python_version,
                sparkray_version,
            };
            report(spec, inputs, ready).await;
        }
        Ok(Ok(Some(_))) => return ZygoteEnd::Ended("it spoke before it was ready".to_owned()),
        Ok(Ok(None)) => return ZygoteEnd::Ended("it ended while it was starting".to_owned()),
        Ok(Err(error)) => return ZygoteEnd::Ended(error),
        Err(_) => return ZygoteEnd::Ended(format!("it was not ready after {} s", READY_DEADLINE.as_secs())),
    }
    // It ends when it has answered what it was asked, or does not in time.
    let mut ends_at = None;
    loop {
        if ends_at.is_some() && pending.is_empty() {
            return ZygoteEnd::NotWanted;
        }
        tokio::select! {
            message = receive(&control, &mut buffer) => {
                let event = match message {
                    Ok(Some(message)) => forward(message, pending),
                    Ok(None) => return ZygoteEnd::Ended("it closed its control socket".to_owned()),
                    Err(error) => return ZygoteEnd::Ended(error),
                };
                match event {
                    Ok(event) => report(spec, inputs, event).await,
                    Err(error) => return ZygoteEnd::Ended(error),
                }
            }
            () = tokio::time::sleep_until(ends_at.unwrap_or_else(tokio::time::Instant::now)), if ends_at.is_some() => {
                return ZygoteEnd::NotWanted;
            }
            request = requests.recv(), if ends_at.is_none() => {
                let Some(request) = request else {
                    ends_at = Some(tokio::time::Instant::now() + LAST_FORKS);
                    continue;
                };
                pending.push(request.worker_id);
                if let Err(error) = send(&control, &request).await {
                    return ZygoteEnd::Ended(format!("cannot send to it: {error}"));
                }
            }
        }
    }
}

fn forward(message: ZygoteMessage, pending: &mut Vec<WorkerId>) -> Result<ZygoteEvent, String> {
    let (worker_id, outcome) = match message {
        ZygoteMessage::Forked { worker_id, pid } => (worker_id, Ok(pid)),
        ZygoteMessage::Failed { worker_id, error } => (worker_id, Err(error)),
        ZygoteMessage::Ready { .. } => return Err("it said twice that it is ready".to_owned()),
    };
    let worker_id = WorkerId::from_hex(&worker_id).map_err(|error| error.to_string())?;
    pending.retain(|other| *other != worker_id);
    Ok(match outcome {
        Ok(pid) => ZygoteEvent::Forked { worker_id, pid },
        Err(error) => ZygoteEvent::Failed { worker_id, error },
    })
}

fn spawn(spec: &ZygoteSpec) -> std::io::Result<(u32, AsyncFd<OwnedFd>)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let log: File = OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let mut command = Command::new(&spec.python);
    let working_dir = if spec.working_dir.is_dir() {
        spec.working_dir.as_path()
    } else {
        warn!(directory = %spec.working_dir.display(), "the working directory was deleted: workers begin in /");
        Path::new("/")
    };
    command
        .args(["-c", &python_program(PROGRAM)])
        .env_remove(RUNTIME_ENV)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)));
    let python_path = spec.environment.iter().rfind(|(name, _)| name == "PYTHONPATH");
    hide_python_path(&mut command, python_path.map(|(_, value)| value.as_str()));
    command
        .env("SPARKRAY_RAYLET_PID", std::process::id().to_string())
        .current_dir(working_dir)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log));
    // Reaped with all other children when SIGCHLD comes.
    let child = command.spawn()?;
    Ok((child.id(), register(ours)?))
}

async fn receive(control: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Result<Option<ZygoteMessage>, String> {
    let outcome = control
        .async_io(Interest::READABLE, |fd| {
            Ok(rustix::net::recv(fd, &mut *buffer, RecvFlags::empty())?.0)
        })
        .await;
    let len = match outcome {
        Ok(0) => return Ok(None),
        Ok(len) => len,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(format!("cannot read from it: {error}")),
    };
    serde_json::from_slice(&buffer[..len])
        .map(Some)
        .map_err(|error| format!("it sent a message that is not understood: {error}"))
}

async fn send(control: &AsyncFd<OwnedFd>, request: &ForkRequest) -> std::io::Result<()> {
    let message = ForkMessage {
        kind: "fork",
        worker_id: request.worker_id.to_string(),
        config: &request.config,
    };
    let bytes = serde_json::to_vec(&message)?;
    let descriptors = request.descriptors.each_ref().map(AsFd::as_fd);
    control
        .async_io(Interest::WRITABLE, |fd| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(std::io::Error::other("no room for three descriptors"));
            }
            rustix::net::sendmsg(fd, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}
