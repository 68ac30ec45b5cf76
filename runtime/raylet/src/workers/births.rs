//! The births of workers: their connections and pipes, and the zygotes that are asked for them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use sparkray_common::{WorkerId, WorkerKey};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::logs::{Output, follow};
use super::zygote::{ForkRequest, WorkerConfig, ZygoteSpec, run_zygote};
use super::zygotes::OWN;
use crate::input::Input;
use crate::outbox::Birth;
use crate::tasks::Tasks;

/// Requests that may wait for a zygote.
const FORK_REQUESTS: usize = 1024;

/// The zygotes, and what workers get from them.
pub(crate) struct Births {
    /// `None` on a node that runs no Python tasks.
    zygotes: Option<Zygotes>,
    config: WorkerConfig,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
}

/// The zygotes by their numbers; that of the node's own environment is always there.
pub(crate) struct Zygotes {
    spec: ZygoteSpec,
    running: HashMap<u64, Running>,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
}

/// A zygote that was started.
struct Running {
    requests: mpsc::Sender<ForkRequest>,
    /// Nobody wants it any more.
    _unwanted: DropGuard,
}

impl Zygotes {
    /// Starts that of the node's own environment, as `spec` says. Must be called on the main thread, with its runtime, as
    /// all that starts zygotes.
    pub(crate) fn start(spec: ZygoteSpec, inputs: mpsc::Sender<Input>, tasks: Tasks) -> Self {
        let mut zygotes = Self {
            spec,
            running: HashMap::new(),
            inputs,
            tasks,
        };
        zygotes.get(OWN, &WorkerKey::default());
        zygotes
    }

    fn get(&mut self, number: u64, key: &WorkerKey) -> mpsc::Sender<ForkRequest> {
        if let Some(running) = self.running.get(&number) {
            return running.requests.clone();
        }
        let (requests, receiver) = mpsc::channel(FORK_REQUESTS);
        let unwanted = CancellationToken::new();
        let spec = self.spec.with_key(number, key);
        self.tasks
            .spawn(run_zygote(spec, receiver, self.inputs.clone(), unwanted.clone()));
        let running = Running {
            requests: requests.clone(),
            _unwanted: unwanted.drop_guard(),
        };
        self.running.insert(number, running);
        requests
    }
}

impl Births {
    pub(crate) fn new(
        zygotes: Option<Zygotes>,
        config: WorkerConfig,
        inputs: mpsc::Sender<Input>,
        tasks: Tasks,
    ) -> Self {
        Self {
            zygotes,
            config,
            inputs,
            tasks,
        }
    }

    /// Whether this process has children of its own to collect.
    pub(crate) fn has_zygotes(&self) -> bool {
        self.zygotes.is_some()
    }

    /// Asks zygotes for workers. `serve` takes this node's end of each connection. What cannot be asked for is
    /// returned, with all that would have come after it.
    pub(crate) fn fork(
        &mut self,
        births: Vec<Birth>,
        mut serve: impl FnMut(u64, OwnedFd) -> std::io::Result<()>,
    ) -> Option<Input> {
        let mut left = births.into_iter();
        while let Some(birth) = left.next() {
            let zygote = self.zygotes.as_mut()?.get(birth.zygote, &birth.key);
            let error = match self.prepare(&birth, &mut serve) {
                Ok(request) => match zygote.try_send(request) {
                    Ok(()) => continue,
                    Err(error) => {
                        debug!(worker_id = %birth.worker, %error, "the zygote is busy");
                        None
                    }
                },
                Err(error) => Some(error.to_string()),
            };
            let births = std::iter::once(birth).chain(left).collect();
            return Some(Input::NotForked { births, error });
        }
        None
    }

    /// Lets a zygote end; the workers that it forked go on.
    pub(crate) fn end_zygote(&mut self, number: u64) {
        if let Some(zygotes) = &mut self.zygotes {
            zygotes.running.remove(&number);
        }
    }

    fn prepare(
        &self,
        birth: &Birth,
        serve: &mut impl FnMut(u64, OwnedFd) -> std::io::Result<()>,
    ) -> std::io::Result<ForkRequest> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (stdout, stdout_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        serve(birth.connection, ours)?;
        for (pipe, is_stderr) in [(stdout, false), (stderr, true)] {
            let output = Output {
                worker_id: birth.worker,
                is_stderr,
                pipe,
                file: self.log_file(birth.worker, is_stderr),
            };
            self.tasks.spawn(follow(output, self.inputs.clone()));
        }
        let config = WorkerConfig {
            worker_id: birth.worker.to_string(),
            ..self.config.clone()
        };
        Ok(ForkRequest {
            worker_id: birth.worker,
            config,
            descriptors: [theirs, stdout_write, stderr_write],
        })
    }

    fn log_file(&self, worker: WorkerId, is_stderr: bool) -> PathBuf {
        let suffix = if is_stderr { "err" } else { "out" };
        PathBuf::from(&self.config.log_dir).join(format!("worker-{worker}.{suffix}"))
    }

    /// Tells the loop that a worker had time enough to end by itself.
    pub(crate) fn kill_later(&self, worker_id: WorkerId, grace: Duration) {
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(grace).await;
            // The receiver is gone only when the raylet ends.
            let _ = inputs.send(Input::KillWorker { worker_id }).await;
        });
    }
}

/// Kills a child that was not collected.
pub(crate) fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // It may have ended, but it was not collected: the pid is still its own.
    if let Err(error) = rustix::process::kill_process(pid, Signal::KILL) {
        debug!(pid = pid.as_raw_nonzero().get(), %error, "cannot kill a worker");
    }
}
