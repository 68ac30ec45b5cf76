//! The workers of this node: which are idle, for which job, how many to fork, which to end. Pure.
//!
//! Invariants:
//! 1. A worker belongs to the job of its first lease and is never given to another job.
//! 2. At most `max_coming` workers are being forked or have not registered yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::{JobId, LeaseId, WorkerId};

/// An idle worker above the prestarted number is ended after this time.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(10);
/// A forked worker that has not registered after this time is killed.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// The zygote was asked for it, or it has not registered yet.
    Coming,
    /// Registered, without a lease.
    Idle,
    /// Serves a lease.
    Busy(LeaseId),
    /// Was told to end.
    Ending,
}

/// One worker process.
#[derive(Debug)]
pub(super) struct Worker {
    /// What it does.
    pub(super) state: WorkerState,
    /// When it began to do that.
    pub(super) since: Instant,
    /// Known once the zygote told it, or the worker registered.
    pub(super) pid: Option<u32>,
    /// Its raylet connection.
    pub(super) connection: u64,
    /// Set at its first lease.
    pub(super) job: Option<JobId>,
}

/// All workers of this node.
#[derive(Debug)]
pub(super) struct WorkerPool {
    workers: BTreeMap<WorkerId, Worker>,
    prestart: usize,
    max_coming: usize,
}

impl WorkerPool {
    /// A pool that keeps `prestart` workers, on a node with `cores`.
    pub(super) fn new(prestart: usize, cores: usize) -> Self {
        Self {
            workers: BTreeMap::new(),
            prestart,
            max_coming: (2 * cores).max(prestart).max(4),
        }
    }

    /// How many workers exist.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// One worker.
    pub(super) fn get(&self, worker: WorkerId) -> Option<&Worker> {
        self.workers.get(&worker)
    }

    /// One worker, to change what does not decide.
    pub(super) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&worker)
    }

    /// All workers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// The worker with this pid.
    pub(super) fn by_pid(&self, pid: u32) -> Option<WorkerId> {
        self.workers
            .iter()
            .find(|(_, worker)| worker.pid == Some(pid))
            .map(|(id, _)| *id)
    }

    /// How many workers to ask the zygote for when `waiting` leases need one.
    pub(super) fn to_fork(&self, waiting: usize) -> usize {
        let count = |wanted: fn(&WorkerState) -> bool| {
            self.workers
                .values()
                .filter(|worker| wanted(&worker.state))
                .count()
        };
        let coming = count(|state| *state == WorkerState::Coming);
        let ending = count(|state| *state == WorkerState::Ending);
        let living = self.workers.len() - ending;
        let for_leases = waiting.saturating_sub(coming);
        let for_prestart = self.prestart.saturating_sub(living);
        for_leases
            .max(for_prestart)
            .min(self.max_coming.saturating_sub(coming))
    }

    /// A worker was asked for; its connection exists already.
    pub(super) fn add(&mut self, worker: WorkerId, connection: u64, now: Instant) {
        let entry = Worker {
            state: WorkerState::Coming,
            since: now,
            pid: None,
            connection,
            job: None,
        };
        self.workers.insert(worker, entry);
    }

    /// A worker registered.
    pub(super) fn registered(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Idle, now);
    }

    /// Whether a worker has registered, so that it was born whatever its zygote says.
    pub(super) fn is_registered(&self, worker: WorkerId) -> bool {
        matches!(self.get(worker), Some(entry) if entry.state != WorkerState::Coming)
    }

    fn set_state(&mut self, worker: WorkerId, state: WorkerState, now: Instant) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.state = state;
            entry.since = now;
        }
    }

    /// Gives an idle worker to a lease of `job`: one of that job, the last used first, else a fresh one.
    pub(super) fn take_idle(&mut self, job: JobId, lease: LeaseId, now: Instant) -> Option<WorkerId> {
        let idle = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Idle);
        let usable = idle.filter(|(_, worker)| worker.job.is_none_or(|own| own == job));
        let (chosen, _) = usable.max_by_key(|(_, worker)| (worker.job.is_some(), worker.since))?;
        let chosen = *chosen;
        self.set_state(chosen, WorkerState::Busy(lease), now);
        if let Some(worker) = self.workers.get_mut(&chosen) {
            worker.job = Some(job);
        }
        Some(chosen)
    }

    /// The lease of a worker ended; it can serve another one.
    pub(super) fn give_back(&mut self, worker: WorkerId, now: Instant) {
        if matches!(self.get(worker), Some(entry) if matches!(entry.state, WorkerState::Busy(_))) {
            self.set_state(worker, WorkerState::Idle, now);
        }
    }

    /// A worker was told to end, or is about to be killed.
    pub(super) fn ending(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Ending, now);
    }

    /// A worker that died, or will at once: no lease gets it any more. One that has not registered has failed to start,
    /// which its state still says.
    pub(super) fn retire(&mut self, worker: WorkerId, now: Instant) {
        if self.is_registered(worker) {
            self.set_state(worker, WorkerState::Ending, now);
        }
    }

    /// A worker is gone.
    pub(super) fn remove(&mut self, worker: WorkerId) -> Option<Worker> {
        self.workers.remove(&worker)
    }

    /// Workers of a job.
    pub(super) fn of_job(&self, job: JobId) -> Vec<WorkerId> {
        let of_job = self.workers.iter().filter(|(_, worker)| worker.job == Some(job));
        of_job.map(|(id, _)| *id).collect()
    }

    /// Idle workers to end now: the longest idle ones above the prestarted number. Only those that never had a
    /// lease: others may own objects that somebody still needs.
    pub(super) fn surplus(&self, now: Instant) -> Vec<WorkerId> {
        let fresh = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Idle && worker.job.is_none());
        let mut idle: Vec<(Instant, WorkerId)> = fresh.map(|(id, worker)| (worker.since, *id)).collect();
        let excess = idle.len().saturating_sub(self.prestart);
        idle.sort_unstable();
        idle.truncate(excess);
        idle.retain(|(since, _)| now.duration_since(*since) >= IDLE_AFTER);
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// Workers that never registered.
    pub(super) fn overdue(&self, now: Instant) -> Vec<WorkerId> {
        let coming = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Coming);
        coming
            .filter(|(_, worker)| now.duration_since(worker.since) >= START_DEADLINE)
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId::from_array([1; 4]);
    const OTHER_JOB: JobId = JobId::from_array([2; 4]);

    fn lease() -> LeaseId {
        LeaseId::random()
    }

    fn pool_with(prestart: usize, workers: u8, now: Instant) -> WorkerPool {
        let mut pool = WorkerPool::new(prestart, 2);
        for index in 0..workers {
            let worker = WorkerId::from_array([index; 16]);
            pool.add(worker, u64::from(index), now);
            pool.registered(worker, now);
        }
        pool
    }

    #[test]
    fn a_worker_stays_with_the_job_of_its_first_lease() {
        let now = Instant::now();
        let mut pool = pool_with(1, 1, now);
        let worker = pool.take_idle(JOB, lease(), now).unwrap();
        assert_eq!(pool.take_idle(JOB, lease(), now), None);
        pool.give_back(worker, now);
        assert_eq!(pool.take_idle(OTHER_JOB, lease(), now), None);
        assert_eq!(pool.take_idle(JOB, lease(), now), Some(worker));
        assert_eq!(pool.of_job(JOB), vec![worker]);
        assert!(pool.of_job(OTHER_JOB).is_empty());
    }

    #[test]
    fn workers_are_forked_for_waiting_leases_and_for_the_prestarted_number() {
        let now = Instant::now();
        let mut pool = WorkerPool::new(2, 2);
        assert_eq!(pool.to_fork(0), 2);
        assert_eq!(pool.to_fork(3), 3);
        assert_eq!(pool.to_fork(100), 4);
        pool.add(WorkerId::from_array([1; 16]), 1, now);
        pool.add(WorkerId::from_array([2; 16]), 2, now);
        assert_eq!(pool.to_fork(0), 0);
        assert_eq!(pool.to_fork(2), 0);
        assert_eq!(pool.to_fork(3), 1);
        assert_eq!(pool.overdue(now + START_DEADLINE).len(), 2);
        assert!(pool.overdue(now).is_empty());
    }

    #[test]
    fn a_worker_that_died_is_given_to_no_lease() {
        let now = Instant::now();
        let mut pool = pool_with(1, 1, now);
        let idle = WorkerId::from_array([0; 16]);
        pool.retire(idle, now);
        assert_eq!(pool.take_idle(JOB, lease(), now), None);
        let mut pool = pool_with(1, 1, now);
        let busy = pool.take_idle(JOB, lease(), now).unwrap();
        pool.retire(busy, now);
        pool.give_back(busy, now);
        assert_eq!(pool.take_idle(JOB, lease(), now), None);
    }

    #[test]
    fn surplus_idle_workers_are_ended_after_a_while() {
        let now = Instant::now();
        let mut pool = pool_with(2, 4, now);
        assert!(pool.surplus(now).is_empty());
        assert_eq!(pool.surplus(now + IDLE_AFTER).len(), 2);
        pool.take_idle(JOB, lease(), now).unwrap();
        assert_eq!(pool.surplus(now + IDLE_AFTER).len(), 1);
    }
}
