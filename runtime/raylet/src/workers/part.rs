//! The part: which workers there are, and what they are told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{JobId, LeaseId, Metrics, WorkerId, WorkerKey};
use sparkray_proto::{ExitWorker, ExitWorkerReply, FrameKind, WorkerLabel};
use tracing::{debug, info, warn};

use super::labels::Labels;
use super::metrics::WorkerMetrics;
use super::pool::{START_DEADLINE, WorkerPool, WorkerState};
use super::zygotes::{OWN, Zygotes};
use crate::input::{ChildEnd, ZygoteEvent};
use crate::node_info::NodeInfo;
use crate::outbox::{Birth, Effect, Event, Outbox};

/// A worker that was told to end, or closed its connection, is killed after this time.
pub(super) const END_GRACE: Duration = Duration::from_millis(500);

/// The workers of this node.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(super) node: Arc<NodeInfo>,
    pub(super) pool: WorkerPool,
    /// False on a node that runs no Python tasks.
    has_zygote: bool,
    pub(super) zygotes: Zygotes,
    /// Major.minor of the workers' Python, once the zygote said it.
    python_version: Option<String>,
    /// Collected, but the connection is not drained yet.
    pub(super) ends: HashMap<WorkerId, ChildEnd>,
    /// Drained, but not collected yet.
    pub(super) closed: HashSet<WorkerId>,
    /// Collected before their pid was known.
    pub(super) unclaimed: HashMap<u32, ChildEnd>,
    /// Ended since the last tick.
    pub(super) gone: HashSet<WorkerId>,
    pub(super) labels: Labels,
    pub(super) metrics: WorkerMetrics,
}

impl Workers {
    /// No workers yet: `prestart` of them are kept, on a node with `cores`.
    pub(crate) fn new(node: Arc<NodeInfo>, prestart: usize, cores: usize, has_zygote: bool) -> Self {
        Self {
            node,
            pool: WorkerPool::new(prestart, cores),
            has_zygote,
            zygotes: Zygotes::new(),
            python_version: None,
            ends: HashMap::new(),
            closed: HashSet::new(),
            unclaimed: HashMap::new(),
            gone: HashSet::new(),
            labels: Labels::default(),
            metrics: WorkerMetrics::default(),
        }
    }

    /// How many workers exist.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pool.len()
    }

    /// The pid of a worker; 0 when it is not known.
    pub(crate) fn pid_of(&self, worker: WorkerId) -> u32 {
        self.pool.get(worker).and_then(|worker| worker.pid).unwrap_or(0)
    }

    /// Major.minor of the workers' Python, once the zygote said it.
    pub(crate) fn python_version(&self) -> Option<&str> {
        self.python_version.as_deref()
    }

    /// Workers of a job.
    pub(crate) fn of_job(&self, job: JobId) -> Vec<WorkerId> {
        self.pool.of_job(job)
    }

    /// Why those wait in vain who wait for a worker with this key.
    pub(crate) fn hopeless(&self, key: &WorkerKey) -> Option<String> {
        self.zygotes.hopeless(key)
    }

    /// Whether anybody may wait in vain.
    pub(crate) fn is_any_hopeless(&self) -> bool {
        self.zygotes.is_any_hopeless()
    }

    /// All who waited in vain know it: whoever needs such workers next begins anew.
    pub(crate) fn forget_hopeless(&mut self, out: &mut Outbox) {
        for zygote in self.zygotes.end_hopeless() {
            out.effect(Effect::EndZygote { zygote });
        }
    }

    pub(super) fn start_failed(&mut self, zygote: u64, cause: String, now: Instant) {
        self.metrics.start_failed();
        self.zygotes.start_failed(zygote, cause, now);
    }

    /// Asks for as many workers as are missing when so many leases need one of each key, the most urgent key first.
    pub(crate) fn fork_missing(&mut self, waiting: &[(WorkerKey, usize)], now: Instant, out: &mut Outbox) {
        if !self.has_zygote {
            return;
        }
        let own = WorkerKey::default();
        let mut room = self.pool.room();
        let is_needed = |key: &WorkerKey| waiting.iter().any(|(needed, _)| needed == key);
        if !is_needed(&own) {
            room -= self.fork_missing_with(&own, 0, room, now, out);
        }
        for (key, waiting_for_it) in waiting {
            if self.zygotes.has_no_place_for(key) {
                let pool = &self.pool;
                let may_go = |key: &WorkerKey, zygote| !is_needed(key) && pool.coming_from(zygote) == 0;
                if let Some(zygote) = self.zygotes.end_oldest(may_go) {
                    out.effect(Effect::EndZygote { zygote });
                }
            }
            room -= self.fork_missing_with(key, *waiting_for_it, room, now, out);
        }
    }

    /// How many are asked for; `room`: at most so many.
    fn fork_missing_with(
        &mut self,
        key: &WorkerKey,
        waiting: usize,
        room: usize,
        now: Instant,
        out: &mut Outbox,
    ) -> usize {
        let Some(asked) = self.zygotes.need(key, now) else {
            return 0;
        };
        let mut count = self.pool.to_fork(key, waiting).min(room);
        if asked.number != OWN && !asked.is_ready {
            // Its imports take as long as many forks: the others' room is not kept for them.
            count = count.min(1_usize.saturating_sub(self.pool.coming_from(asked.number)));
        }
        if count > 0 {
            out.event(Event::ForkWorkers {
                zygote: asked.number,
                key: key.clone(),
                count,
            });
        }
        count
    }

    /// The zygote is about to be asked for a worker with this connection.
    pub(crate) fn add(&mut self, birth: &Birth, now: Instant) {
        self.metrics.started();
        self.pool.add(birth, now);
        self.labels.add(birth.worker);
    }

    /// These could not be asked for.
    pub(crate) fn not_forked(
        &mut self,
        births: Vec<Birth>,
        error: Option<String>,
        now: Instant,
        out: &mut Outbox,
    ) {
        let zygote = births.first().map(|birth| birth.zygote);
        for birth in births {
            self.labels.forget(birth.worker);
            self.forget_unborn(birth.worker, out);
        }
        if let (Some(error), Some(zygote)) = (error, zygote) {
            warn!(error, "cannot prepare a worker");
            self.start_failed(zygote, error, now);
            // Those who wait hear of it when it has failed too often.
            out.schedule();
        }
    }

    /// A worker that never came to be.
    fn forget_unborn(&mut self, worker: WorkerId, out: &mut Outbox) {
        self.closed.remove(&worker);
        if let Some(entry) = self.pool.remove(worker) {
            self.labels.worker_ended(worker);
            out.event(Event::WorkerUnborn {
                connection: entry.connection,
            });
        }
    }

    /// News of the zygote with this number.
    pub(crate) fn zygote_event(&mut self, zygote: u64, event: ZygoteEvent, now: Instant, out: &mut Outbox) {
        match event {
            ZygoteEvent::Started { pid } => self.zygotes.started(zygote, pid),
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
                    self.zygotes.gave_up(zygote, cause);
                }
                info!(pid, python_version, "the zygote is ready");
                self.ready(zygote, python_version, now);
                out.schedule();
            }
            ZygoteEvent::Forked { worker_id, pid } => self.forked(worker_id, pid, now, out),
            ZygoteEvent::Failed { worker_id, error } => {
                if self.pool.get(worker_id).is_some_and(|entry| entry.pid.is_some()) {
                    // The zygote died between the fork and its word of it.
                    debug!(%worker_id, "a worker was forked although its zygote did not say so");
                    return;
                }
                debug!(%worker_id, error, "a worker was not forked");
                self.forget_unborn(worker_id, out);
                self.start_failed(zygote, error, now);
                out.schedule();
            }
            ZygoteEvent::GaveUp { cause } => {
                warn!(cause, "no worker can be started any more");
                self.zygotes.gave_up(zygote, cause);
                out.schedule();
            }
        }
    }

    fn ready(&mut self, zygote: u64, python_version: String, now: Instant) {
        self.zygotes.ready(zygote);
        self.pool.zygote_is_ready(zygote, now);
        if zygote == OWN {
            self.python_version = Some(python_version);
        } else if let Some(own) = &self.python_version
            && *own != python_version
        {
            let cause = format!("they would run Python {python_version}, this node has Python {own}");
            self.zygotes.gave_up(zygote, cause);
        }
    }

    fn forked(&mut self, worker: WorkerId, pid: u32, now: Instant, out: &mut Outbox) {
        if self.pool.get(worker).is_none() {
            // Given up meanwhile.
            out.effect(Effect::Kill { pid });
            return;
        }
        self.know_pid(worker, pid, now, out);
    }

    /// A worker of ours registered.
    pub(crate) fn registered(&mut self, worker: WorkerId, pid: u32, now: Instant, out: &mut Outbox) {
        debug!(worker_id = %worker, pid, "worker registered");
        if let Some(entry) = self.pool.get(worker) {
            self.zygotes.worker_started(entry.zygote);
            self.metrics
                .registered(now.saturating_duration_since(entry.since));
        }
        self.pool.registered(worker, now);
        // Its zygote may have died before it told.
        self.know_pid(worker, pid, now, out);
        if self.ends.contains_key(&worker) {
            // What it said is heard after its end.
            self.pool.retire(worker, now);
        }
        out.schedule();
    }

    /// Gives an idle worker with this key to a lease of `job`.
    pub(crate) fn take_idle(
        &mut self,
        key: &WorkerKey,
        job: JobId,
        lease: LeaseId,
        now: Instant,
    ) -> Option<WorkerId> {
        let worker = self.pool.take_idle(key, job, lease, now)?;
        self.labels.set_job(worker, job);
        Some(worker)
    }

    /// The lease of a worker ended; it can serve another one.
    pub(crate) fn give_back(&mut self, worker: WorkerId, now: Instant) {
        self.pool.give_back(worker, now);
    }

    /// Kills a worker at once. Its lease ends now; the rest follows when it was collected.
    pub(crate) fn kill(&mut self, worker: WorkerId, now: Instant, out: &mut Outbox) {
        let Some(entry) = self.pool.get(worker) else {
            return;
        };
        let pid = entry.pid;
        self.pool.ending(worker, now);
        if let Some(pid) = pid
            && !self.ends.contains_key(&worker)
        {
            self.metrics.killed();
            out.effect(Effect::Kill { pid });
        }
    }

    /// Asks a worker to end, and kills it if it does not in time; `grace`: another time than the usual one.
    pub(crate) fn end(
        &mut self,
        worker: WorkerId,
        reason: String,
        grace: Option<Duration>,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some(entry) = self.pool.get(worker) else {
            return;
        };
        let message = ExitWorker {
            reason,
            unless_needed: false,
        };
        out.send(entry.connection, FrameKind::ExitWorker, 0, &message);
        self.ending(worker, grace, now, out);
    }

    fn ending(&mut self, worker: WorkerId, grace: Option<Duration>, now: Instant, out: &mut Outbox) {
        self.pool.ending(worker, now);
        out.effect(Effect::KillLater {
            worker,
            grace: grace.unwrap_or(END_GRACE),
        });
    }

    /// Asks an idle worker to end, unless others need what it has: objects that it owns, actors that end with it.
    fn ask_to_end(&mut self, worker: WorkerId, now: Instant, out: &mut Outbox) {
        let Some(entry) = self.pool.get(worker) else {
            return;
        };
        let message = ExitWorker {
            reason: "idle".to_owned(),
            unless_needed: true,
        };
        out.send(entry.connection, FrameKind::ExitWorker, 0, &message);
        self.pool.asked(worker, now);
    }

    /// ExitWorkerReply: whether a worker that was asked ends.
    pub(crate) fn answered(
        &mut self,
        worker: WorkerId,
        message: ExitWorkerReply,
        now: Instant,
        out: &mut Outbox,
    ) {
        if message.ends {
            self.ending(worker, None, now, out);
        } else {
            self.pool.stays(worker, now);
            out.schedule();
        }
    }

    /// WorkerLabel: what a worker runs, for its output.
    pub(crate) fn label(&mut self, worker: WorkerId, message: WorkerLabel) {
        self.labels.set_name(worker, message.name);
        if let Ok(job) = JobId::from_slice(&message.job_id) {
            self.labels.set_job(worker, job);
        }
    }

    /// Lines that a worker wrote go to its job's driver.
    pub(crate) fn output(&self, worker: WorkerId, is_stderr: bool, lines: Vec<String>, out: &mut Outbox) {
        if let Some(batch) = self.labels.batch(worker, is_stderr, lines, &self.node.host) {
            out.event(Event::Log(batch));
        }
    }

    /// One of a worker's pipes ended.
    pub(crate) fn output_ended(&mut self, worker: WorkerId) {
        self.labels.pipe_ended(worker);
    }

    /// Lists the workers that there are, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        let count = |wanted: fn(&WorkerState) -> bool| {
            let found = self.pool.iter().filter(|(_, worker)| wanted(&worker.state));
            found.count() as u64
        };
        into.gauges(
            "ray_workers",
            "Workers by what they do",
            "State",
            &[
                ("Starting", count(|state| *state == WorkerState::Coming)),
                (
                    "Idle",
                    count(|state| matches!(state, WorkerState::Idle | WorkerState::Asked)),
                ),
                ("Busy", count(|state| matches!(state, WorkerState::Busy(_)))),
                ("Ending", count(|state| *state == WorkerState::Ending)),
            ],
        );
        self.metrics.list(into);
    }

    /// Ten times a second: idle workers above the prestarted number are asked to end, late ones are killed.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Outbox) {
        for worker in self.pool.overdue(now) {
            warn!(worker_id = %worker, "a worker did not register in time");
            if let Some(zygote) = self.pool.get(worker).map(|entry| entry.zygote) {
                let seconds = START_DEADLINE.as_secs();
                self.start_failed(zygote, format!("it did not register in {seconds} s"), now);
            }
            self.kill(worker, now, out);
        }
        for worker in self.pool.surplus(now) {
            self.end(worker, "idle".to_owned(), None, now, out);
        }
        for worker in self.pool.to_ask(now) {
            self.ask_to_end(worker, now, out);
        }
        if self.zygotes.end_pauses(now) {
            out.schedule();
        }
        let pool = &self.pool;
        for zygote in self
            .zygotes
            .end_unused(now, |zygote| pool.coming_from(zygote) == 0)
        {
            out.effect(Effect::EndZygote { zygote });
        }
        self.search_orphans(out);
    }
}
