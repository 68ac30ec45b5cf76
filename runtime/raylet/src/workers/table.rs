//! Worker processes: born from the zygote, watched, killed, reaped.
//!
//! Invariants:
//! 1. A worker is a child of this process from its birth on (double fork, subreaper), so its pid names it until this
//!    process has collected it: a pid in the pool is safe to kill.
//! 2. A worker is over when its connection is drained and its end was collected, in either order; only then do
//!    others hear of it, with the reason.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use sparkray_common::{JobId, WorkerId};
use sparkray_object_store::ClientId;
use sparkray_proto::{ExitWorker, FrameKind, node_message};
use sparkray_rpc::frame_connection;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::input::{Event, ZygoteEvent};
use crate::leases::manager::LeaseState;
use crate::raylet::Raylet;
use crate::workers::descendants::{ChildEnd, reap_all};
use crate::workers::logs::{Output, follow};
use crate::workers::output::OutputLabel;
use crate::workers::pool::{START_DEADLINE, WorkerPool, WorkerState};
use crate::workers::zygote::{ForkRequest, WorkerConfig};

/// A worker that was told to end, or closed its connection, is killed after this time.
const END_GRACE: Duration = Duration::from_millis(500);
/// After a worker could not be started, the next one is not tried sooner.
const START_PAUSE: Duration = Duration::from_millis(200);
/// Workers that fail to start, one after the other, before those who wait are told.
const MAX_START_FAILURES: u32 = 10;

/// The worker processes and what they come from.
pub(crate) struct Workers {
    pub(crate) pool: WorkerPool,
    /// `None` on a node that runs no Python tasks.
    zygote: Option<mpsc::Sender<ForkRequest>>,
    config: WorkerConfig,
    /// Major.minor of the workers' Python, once the zygote said it.
    pub(crate) python_version: Option<String>,
    /// Why no worker will ever come.
    gave_up: Option<String>,
    start_failures: u32,
    last_start_failure: String,
    paused_until: Option<Instant>,
    /// Collected, but the connection is not drained yet.
    ends: HashMap<WorkerId, ChildEnd>,
    /// Drained, but not collected yet.
    closed: HashSet<WorkerId>,
    /// Collected before their pid was known.
    unclaimed: HashMap<u32, ChildEnd>,
    pub(crate) zygote_pid: Option<u32>,
    /// Ended since the last tick; hexadecimal.
    pub(crate) gone: HashSet<String>,
    pub(crate) labels: HashMap<WorkerId, OutputLabel>,
}

impl Workers {
    pub(crate) fn new(
        pool: WorkerPool,
        zygote: Option<mpsc::Sender<ForkRequest>>,
        config: WorkerConfig,
    ) -> Self {
        Self {
            pool,
            zygote,
            config,
            python_version: None,
            gave_up: None,
            start_failures: 0,
            last_start_failure: String::new(),
            paused_until: None,
            ends: HashMap::new(),
            closed: HashSet::new(),
            unclaimed: HashMap::new(),
            zygote_pid: None,
            gone: HashSet::new(),
            labels: HashMap::new(),
        }
    }

    /// Why those who wait for a worker wait in vain.
    pub(crate) fn hopeless(&self) -> Option<String> {
        if let Some(cause) = &self.gave_up {
            return Some(cause.clone());
        }
        (self.start_failures >= MAX_START_FAILURES).then(|| {
            format!(
                "{} workers in a row did not start ({})",
                self.start_failures, self.last_start_failure
            )
        })
    }

    fn start_failed(&mut self, cause: String) {
        self.start_failures += 1;
        self.last_start_failure = cause;
        self.paused_until = Some(Instant::now() + START_PAUSE);
    }

    pub(crate) fn output_ended(&mut self, worker: WorkerId) {
        if let Some(label) = self.labels.get_mut(&worker) {
            label.open_pipes -= 1;
            if label.open_pipes == 0 && self.pool.get(worker).is_none() {
                self.labels.remove(&worker);
            }
        }
    }

    /// A worker serves a job from now on.
    pub(crate) fn set_job(&mut self, worker: WorkerId, job: JobId) {
        if let Some(label) = self.labels.get_mut(&worker) {
            label.job = Some(job);
        }
    }
}

impl Raylet {
    /// Asks the zygote for as many workers as are missing when `waiting` leases need one.
    pub(crate) fn fork_workers(&mut self, waiting: usize) {
        let Some(zygote) = self.workers.zygote.clone() else {
            return;
        };
        if self.workers.gave_up.is_some()
            || self
                .workers
                .paused_until
                .is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        for _ in 0..self.workers.pool.to_fork(waiting) {
            match self.prepare_worker() {
                Ok(request) => {
                    let worker_id = request.worker_id;
                    if let Err(error) = zygote.try_send(request) {
                        debug!(%worker_id, %error, "the zygote is busy");
                        self.forget_unborn(worker_id);
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot prepare a worker");
                    self.workers.start_failed(error.to_string());
                    return;
                }
            }
        }
    }

    fn prepare_worker(&mut self) -> std::io::Result<ForkRequest> {
        let worker_id = WorkerId::random();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (sender, receiver) = frame_connection(ours)?;
        let mut writers = Vec::new();
        for is_stderr in [false, true] {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let suffix = if is_stderr { "err" } else { "out" };
            let file = Path::new(&self.node.log_dir).join(format!("worker-{worker_id}.{suffix}"));
            let output = Output {
                worker_id,
                is_stderr,
                pipe: read,
                file,
            };
            tokio::spawn(follow(output, self.events.clone(), self.cancel.clone()));
            writers.push(write);
        }
        let [stdout, stderr] = <[OwnedFd; 2]>::try_from(writers).map_err(|_| std::io::ErrorKind::Other)?;
        let connection = self
            .clients
            .add(sender, receiver, true, Some(worker_id), &self.events);
        self.workers.pool.add(worker_id, connection, Instant::now());
        self.workers.labels.insert(
            worker_id,
            OutputLabel {
                open_pipes: 2,
                ..OutputLabel::default()
            },
        );
        let config = WorkerConfig {
            worker_id: worker_id.to_string(),
            ..self.workers.config.clone()
        };
        Ok(ForkRequest {
            worker_id,
            config,
            descriptors: [theirs, stdout, stderr],
        })
    }

    /// A worker that never came to be.
    fn forget_unborn(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.pool.remove(worker) {
            self.clients.remove(entry.connection);
        }
    }

    /// The zygote's news.
    pub(crate) fn zygote_event(&mut self, event: ZygoteEvent) {
        match event {
            ZygoteEvent::Started { pid } => self.workers.zygote_pid = Some(pid),
            ZygoteEvent::Ready {
                pid,
                python_version,
                sparkray_version,
            } => {
                if sparkray_version != sparkray_common::VERSION {
                    let own = sparkray_common::VERSION;
                    let cause =
                        format!("their Python package is sparkray {sparkray_version}, this node runs {own}");
                    warn!(cause, "no worker can be started");
                    self.workers.gave_up = Some(cause);
                }
                info!(pid, python_version, "the zygote is ready");
                self.workers.python_version = Some(python_version);
                self.look_again();
            }
            ZygoteEvent::Forked { worker_id, pid } => self.worker_forked(worker_id, pid),
            ZygoteEvent::Failed { worker_id, error } => {
                if self.workers.pool.is_registered(worker_id) {
                    // The zygote died between the fork and its word of it.
                    debug!(%worker_id, "a worker was forked although its zygote did not say so");
                    return;
                }
                debug!(%worker_id, error, "a worker was not forked");
                self.forget_unborn(worker_id);
                self.workers.start_failed(error);
                self.look_again();
            }
            ZygoteEvent::GaveUp { cause } => {
                warn!(cause, "no worker can be started any more");
                self.workers.gave_up = Some(cause);
                self.look_again();
            }
        }
    }

    fn worker_forked(&mut self, worker_id: WorkerId, pid: u32) {
        if self.workers.pool.get(worker_id).is_none() {
            // Given up meanwhile.
            kill(pid);
            return;
        }
        self.know_pid(worker_id, pid);
    }

    /// The pid of a worker, from the zygote or from itself, whoever is first.
    fn know_pid(&mut self, worker_id: WorkerId, pid: u32) {
        if let Some(label) = self.workers.labels.get_mut(&worker_id) {
            label.pid = pid;
        }
        let Some(worker) = self.workers.pool.get_mut(worker_id) else {
            return;
        };
        if worker.pid.replace(pid).is_some() {
            return;
        }
        let doomed = worker.state == WorkerState::Ending || self.workers.closed.contains(&worker_id);
        if let Some(end) = self.workers.unclaimed.remove(&pid) {
            self.worker_collected(worker_id, end);
        } else if doomed {
            kill(pid);
        }
    }

    /// A worker of ours registered.
    pub(crate) fn worker_registered(&mut self, worker: WorkerId, pid: u32) {
        debug!(worker_id = %worker, pid, "worker registered");
        self.workers.start_failures = 0;
        self.workers.pool.registered(worker, Instant::now());
        // Its zygote may have died before it told.
        self.know_pid(worker, pid);
        if self.workers.ends.contains_key(&worker) {
            // What it said is heard after its end.
            self.workers.pool.retire(worker, Instant::now());
        }
        self.look_again();
    }

    /// SIGCHLD: some children ended.
    pub(crate) fn reap_children(&mut self) {
        if self.workers.zygote.is_none() {
            return;
        }
        for (pid, end) in reap_all() {
            if let Some(worker) = self.workers.pool.by_pid(pid) {
                self.worker_collected(worker, end);
                continue;
            }
            // A worker whose pid is not known yet, the zygote, or a process that user code left behind.
            if self.workers.pool.iter().any(|(_, worker)| worker.pid.is_none()) {
                self.workers.unclaimed.insert(pid, end);
            } else {
                self.workers.unclaimed.clear();
            }
        }
    }

    fn worker_collected(&mut self, worker: WorkerId, end: ChildEnd) {
        if self.workers.closed.remove(&worker) {
            self.worker_over(worker, Some(end));
            return;
        }
        self.workers.ends.insert(worker, end);
        self.workers.pool.retire(worker, Instant::now());
        if let Some(connection) = self.workers.pool.get(worker).map(|worker| worker.connection)
            && let Some(connection) = self.clients.get(connection)
        {
            connection.drain.cancel();
        }
    }

    /// The connection of a worker ended and was drained.
    pub(crate) fn worker_closed(&mut self, worker: WorkerId) {
        if let Some(end) = self.workers.ends.remove(&worker) {
            self.worker_over(worker, Some(end));
            return;
        }
        if self.workers.pool.get(worker).is_none() {
            return;
        }
        self.workers.pool.retire(worker, Instant::now());
        // It is about to end; without its connection it is of no use.
        self.workers.closed.insert(worker);
        self.kill_later(worker, END_GRACE);
    }

    fn kill_later(&self, worker_id: WorkerId, grace: Duration) {
        let events = self.events.clone();
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(grace) => {
                    // The receiver is gone only when the raylet ends.
                    let _ = events.send(Event::KillWorker { worker_id }).await;
                }
            }
        });
    }

    /// Kills a worker at once. Its lease ends now; the rest follows when it was collected.
    pub(crate) fn kill_worker(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.pool.get(worker) else {
            return;
        };
        let pid = entry.pid;
        self.workers.pool.ending(worker, Instant::now());
        if let Some(pid) = pid
            && !self.workers.ends.contains_key(&worker)
        {
            kill(pid);
        }
    }

    /// Asks a worker to end, and kills it if it does not.
    pub(crate) fn end_worker(&mut self, worker: WorkerId, reason: &str) {
        self.end_worker_within(worker, reason, END_GRACE);
    }

    /// As [`Raylet::end_worker`], with another patience.
    pub(crate) fn end_worker_within(&mut self, worker: WorkerId, reason: &str, grace: Duration) {
        let Some(entry) = self.workers.pool.get(worker) else {
            return;
        };
        let message = ExitWorker {
            reason: reason.to_owned(),
        };
        self.clients
            .send(entry.connection, FrameKind::ExitWorker, 0, &message);
        self.workers.pool.ending(worker, Instant::now());
        self.kill_later(worker, grace);
    }

    /// A worker is gone for good: everybody who depended on it hears why.
    fn worker_over(&mut self, worker: WorkerId, end: Option<ChildEnd>) {
        let Some(entry) = self.workers.pool.remove(worker) else {
            return;
        };
        self.store.client_gone(ClientId(entry.connection));
        let pid = entry.pid.unwrap_or(0);
        let how = end.map_or_else(|| "it ended".to_owned(), |end| end.to_string());
        let cause = format!("worker {worker} (pid {pid}) on {}: {how}", self.node.host);
        if entry.state == WorkerState::Coming {
            warn!(worker_id = %worker, pid, how, log_dir = self.node.log_dir, "a worker ended before it was ready");
            self.workers.start_failed(how);
        } else {
            info!(worker_id = %worker, pid, how, "worker ended");
        }
        if self
            .workers
            .labels
            .get(&worker)
            .is_some_and(|label| label.open_pipes == 0)
        {
            self.workers.labels.remove(&worker);
        }
        if let Some(lease_id) = self.leases.lease_of_worker(worker)
            && let Some(ended) = self.leases.end(lease_id)
        {
            debug_assert_eq!(ended.state, LeaseState::Granted(worker));
            self.lease_replies.remove(&lease_id);
            self.break_lease(&ended.request, &cause);
        }
        if let Some((actor, _)) = entry.actor {
            self.actor_worker_over(actor, worker, end, &cause);
        }
        self.process_over(worker, &cause, None);
        self.note_orphans(worker);
        self.look_again();
    }

    /// Several times a second: idle workers above the prestarted number are asked to end, late ones are killed.
    pub(crate) fn tend_workers(&mut self) {
        let now = Instant::now();
        for worker in self.workers.pool.overdue(now) {
            warn!(worker_id = %worker, "a worker did not register in time");
            let seconds = START_DEADLINE.as_secs();
            self.workers
                .start_failed(format!("it did not register in {seconds} s"));
            self.kill_worker(worker);
        }
        for worker in self.workers.pool.surplus(now) {
            self.end_worker(worker, "idle");
        }
        if self.workers.paused_until.is_some_and(|until| now >= until) {
            self.workers.paused_until = None;
            self.look_again();
        }
    }

    /// Tells the head about the end of a process.
    pub(crate) fn report_death(&mut self, worker: WorkerId, cause: &str, job: Option<JobId>) {
        let message = sparkray_proto::WorkerDeath {
            worker_id: worker.to_vec().into(),
            cause: cause.to_owned(),
            job_id: job.map(|job| job.to_vec().into()).unwrap_or_default(),
        };
        self.head.send(node_message::Message::WorkerDeath(message));
    }
}

fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // It may have ended, but it was not collected: the pid is still its own.
    if let Err(error) = rustix::process::kill_process(pid, Signal::KILL) {
        debug!(pid = pid.as_raw_nonzero().get(), %error, "cannot kill a worker");
    }
}
