//! The ends of workers.
//!
//! Invariants:
//! 1. A worker is a child of this process from its birth on (double fork, subreaper), so its pid names it until this
//!    process has collected it: a pid in the pool is safe to kill.
//! 2. A worker is over when its connection is drained and its end was collected, in either order; only then do
//!    others hear of it, with the reason.

use std::collections::HashSet;
use std::time::Instant;

use sparkray_common::WorkerId;
use tracing::{info, warn};

use super::part::{END_GRACE, Workers};
use super::pool::WorkerState;
use crate::input::ChildEnd;
use crate::outbox::{Effect, Event, Outbox};

impl Workers {
    /// The pid of a worker, from the zygote or from itself, whoever is first.
    pub(super) fn know_pid(&mut self, worker: WorkerId, pid: u32, now: Instant, out: &mut Outbox) {
        self.labels.set_pid(worker, pid);
        let Some(entry) = self.pool.get_mut(worker) else {
            return;
        };
        if entry.pid.replace(pid).is_some() {
            return;
        }
        let doomed = entry.state == WorkerState::Ending || self.closed.contains(&worker);
        if let Some(end) = self.unclaimed.remove(&pid) {
            self.collected(worker, end, now, out);
        } else if doomed {
            out.effect(Effect::Kill { pid });
        }
    }

    /// Some children ended and were collected.
    pub(crate) fn children_ended(&mut self, ends: Vec<(u32, ChildEnd)>, now: Instant, out: &mut Outbox) {
        for (pid, end) in ends {
            if let Some(worker) = self.pool.by_pid(pid) {
                self.collected(worker, end, now, out);
                continue;
            }
            // A worker whose pid is not known yet, the zygote, or a process that user code left behind.
            if self.is_some_pid_unknown() {
                self.unclaimed.insert(pid, end);
            } else {
                self.unclaimed.clear();
            }
        }
    }

    fn is_some_pid_unknown(&self) -> bool {
        self.pool.iter().any(|(_, worker)| worker.pid.is_none())
    }

    fn collected(&mut self, worker: WorkerId, end: ChildEnd, now: Instant, out: &mut Outbox) {
        if self.closed.remove(&worker) {
            self.over(worker, end, now, out);
            return;
        }
        self.ends.insert(worker, end);
        self.pool.retire(worker, now);
        if let Some(entry) = self.pool.get(worker) {
            out.effect(Effect::Drain {
                connection: entry.connection,
            });
        }
    }

    /// The connection of a worker ended and was drained.
    pub(crate) fn closed(&mut self, worker: WorkerId, now: Instant, out: &mut Outbox) {
        if let Some(end) = self.ends.remove(&worker) {
            self.over(worker, end, now, out);
            return;
        }
        if self.pool.get(worker).is_none() {
            return;
        }
        self.pool.retire(worker, now);
        // It is about to end; without its connection it is of no use.
        self.closed.insert(worker);
        out.effect(Effect::KillLater {
            worker,
            grace: END_GRACE,
        });
    }

    /// A worker is gone for good: everybody who depended on it hears why.
    fn over(&mut self, worker: WorkerId, end: ChildEnd, now: Instant, out: &mut Outbox) {
        let Some(entry) = self.pool.remove(worker) else {
            return;
        };
        let pid = entry.pid.unwrap_or(0);
        let how = end.to_string();
        let cause = format!("worker {worker} (pid {pid}) on {}: {how}", self.node.host);
        if entry.state == WorkerState::Coming {
            warn!(worker_id = %worker, pid, how, log_dir = self.node.log_dir, "a worker ended before it was ready");
            self.start_failed(entry.zygote, how, now);
        } else {
            info!(worker_id = %worker, pid, how, "worker ended");
        }
        self.metrics.ended();
        self.labels.worker_ended(worker);
        self.gone.insert(worker);
        out.event(Event::WorkerEnded {
            worker,
            connection: entry.connection,
            cause,
        });
    }

    /// What workers left behind that ended since the last search is to be killed.
    pub(super) fn search_orphans(&mut self, out: &mut Outbox) {
        // A worker whose pid is not known yet looks like one that a worker forked.
        if self.gone.is_empty() || self.is_some_pid_unknown() {
            return;
        }
        let mut known: HashSet<u32> = self.pool.iter().filter_map(|(_, worker)| worker.pid).collect();
        known.extend(self.zygotes.pids());
        out.effect(Effect::KillOrphans {
            gone: std::mem::take(&mut self.gone),
            known,
        });
    }
}
