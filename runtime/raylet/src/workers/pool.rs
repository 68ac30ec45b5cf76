//! The workers of this node: which are idle, for which job, how many to fork, which to end. Pure.
//!
//! Invariants:
//! 1. A worker belongs to the job of its first lease and is never given to another job.
//! 2. A worker serves only leases that ask for its key.
//! 3. At most `max_coming` workers are being forked or have not registered yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::{JobId, LeaseId, WorkerId, WorkerKey};

use crate::outbox::Birth;

/// An idle worker above the number that is kept is ended after this time.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(10);
/// A forked worker that has not registered after this time is killed.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// The zygote was asked for it, or it has not registered yet.
    Coming,
    /// Registered, without a lease.
    Idle,
    /// Serves a lease.
    Busy(LeaseId),
    /// Idle, and was asked whether it can end.
    Asked,
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
    /// What it was born with.
    pub(super) key: WorkerKey,
    /// Number of the zygote that was asked for it.
    pub(super) zygote: u64,
    /// Set at its first lease.
    pub(super) job: Option<JobId>,
}

/// All workers of this node.
#[derive(Debug)]
pub(super) struct WorkerPool {
    workers: BTreeMap<WorkerId, Worker>,
    prestart: usize,
    /// Idle workers of jobs that are kept for their jobs' next leases.
    max_idle: usize,
    max_coming: usize,
}

impl WorkerPool {
    /// A pool that keeps `prestart` workers, on a node with `cores`.
    pub(super) fn new(prestart: usize, cores: usize) -> Self {
        Self {
            workers: BTreeMap::new(),
            prestart,
            max_idle: cores.max(prestart),
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

    /// How many more workers may be asked for now.
    pub(super) fn room(&self) -> usize {
        let workers = self.workers.values();
        let coming = workers.filter(|worker| worker.state == WorkerState::Coming);
        self.max_coming.saturating_sub(coming.count())
    }

    /// How many workers with this key to ask its zygote for when `waiting` leases need one.
    pub(super) fn to_fork(&self, key: &WorkerKey, waiting: usize) -> usize {
        let mut coming = 0;
        let mut living = 0;
        for worker in self.workers.values() {
            let is_coming = worker.state == WorkerState::Coming;
            let is_of_key = worker.key == *key;
            coming += usize::from(is_coming && is_of_key);
            living += usize::from(is_of_key && worker.state != WorkerState::Ending);
        }
        let for_leases = waiting.saturating_sub(coming);
        let for_prestart = self.prestarted(key).saturating_sub(living);
        for_leases.max(for_prestart).min(self.room())
    }

    /// How many workers with this key are kept though nobody needs them.
    fn prestarted(&self, key: &WorkerKey) -> usize {
        if *key == WorkerKey::default() {
            self.prestart
        } else {
            0
        }
    }

    /// How many workers were asked for of this zygote and have not registered yet.
    pub(super) fn coming_from(&self, zygote: u64) -> usize {
        let workers = self.workers.values();
        let coming = workers.filter(|worker| worker.state == WorkerState::Coming && worker.zygote == zygote);
        coming.count()
    }

    /// A zygote can fork from now on: those that it was asked for before are late only from now on.
    pub(super) fn zygote_is_ready(&mut self, zygote: u64, now: Instant) {
        for worker in self.workers.values_mut() {
            if worker.state == WorkerState::Coming && worker.zygote == zygote {
                worker.since = now;
            }
        }
    }

    /// A worker was asked for; its connection exists already.
    pub(super) fn add(&mut self, birth: &Birth, now: Instant) {
        let entry = Worker {
            state: WorkerState::Coming,
            since: now,
            pid: None,
            connection: birth.connection,
            key: birth.key.clone(),
            zygote: birth.zygote,
            job: None,
        };
        self.workers.insert(birth.worker, entry);
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

    /// Gives an idle worker with this key to a lease of `job`: one of that job, the last used first, else a fresh one.
    pub(super) fn take_idle(
        &mut self,
        key: &WorkerKey,
        job: JobId,
        lease: LeaseId,
        now: Instant,
    ) -> Option<WorkerId> {
        let idle = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Idle && worker.key == *key);
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
        let mut fresh: BTreeMap<&WorkerKey, Vec<(Instant, WorkerId)>> = BTreeMap::new();
        for (id, worker) in &self.workers {
            if worker.state == WorkerState::Idle && worker.job.is_none() {
                fresh.entry(&worker.key).or_default().push((worker.since, *id));
            }
        }
        let mut surplus = Vec::new();
        for (key, mut idle) in fresh {
            let excess = idle.len().saturating_sub(self.prestarted(key));
            idle.sort_unstable();
            idle.truncate(excess);
            idle.retain(|(since, _)| now.duration_since(*since) >= IDLE_AFTER);
            surplus.extend(idle.into_iter().map(|(_, id)| id));
        }
        surplus
    }

    /// Idle workers of jobs to ask whether they can end: the longest idle ones above as many as the node has cores, of
    /// whatever key.
    pub(super) fn to_ask(&self, now: Instant) -> Vec<WorkerId> {
        let idle = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Idle && worker.job.is_some());
        let mut idle: Vec<(Instant, WorkerId)> = idle.map(|(id, worker)| (worker.since, *id)).collect();
        let excess = idle.len().saturating_sub(self.max_idle);
        idle.sort_unstable();
        idle.truncate(excess);
        idle.retain(|(since, _)| now.duration_since(*since) >= IDLE_AFTER);
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// A worker was asked whether it can end: no lease gets it until it has answered.
    pub(super) fn asked(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Asked, now);
    }

    /// A worker that was asked goes on.
    pub(super) fn stays(&mut self, worker: WorkerId, now: Instant) {
        if matches!(self.get(worker), Some(entry) if entry.state == WorkerState::Asked) {
            self.set_state(worker, WorkerState::Idle, now);
        }
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
    use sparkray_common::RuntimeEnvironment;

    use super::*;

    const JOB: JobId = JobId::from_array([1; 4]);
    const OTHER_JOB: JobId = JobId::from_array([2; 4]);

    fn own() -> WorkerKey {
        WorkerKey::default()
    }

    fn birth(worker: WorkerId, key: WorkerKey) -> Birth {
        Birth {
            worker,
            connection: 1,
            zygote: if key == own() { 0 } else { 3 },
            key,
        }
    }

    fn lease() -> LeaseId {
        LeaseId::random()
    }

    fn pool_with(prestart: usize, workers: u8, now: Instant) -> WorkerPool {
        let mut pool = WorkerPool::new(prestart, 2);
        for index in 0..workers {
            let worker = WorkerId::from_array([index; 16]);
            pool.add(&birth(worker, own()), now);
            pool.registered(worker, now);
        }
        pool
    }

    #[test]
    fn a_worker_stays_with_the_job_of_its_first_lease() {
        let now = Instant::now();
        let mut pool = pool_with(1, 1, now);
        let worker = pool.take_idle(&own(), JOB, lease(), now).unwrap();
        assert_eq!(pool.take_idle(&own(), JOB, lease(), now), None);
        pool.give_back(worker, now);
        assert_eq!(pool.take_idle(&own(), OTHER_JOB, lease(), now), None);
        assert_eq!(pool.take_idle(&own(), JOB, lease(), now), Some(worker));
        assert_eq!(pool.of_job(JOB), vec![worker]);
        assert!(pool.of_job(OTHER_JOB).is_empty());
    }

    #[test]
    fn workers_are_forked_for_waiting_leases_and_for_the_prestarted_number() {
        let now = Instant::now();
        let mut pool = WorkerPool::new(2, 2);
        assert_eq!(pool.to_fork(&own(), 0), 2);
        assert_eq!(pool.to_fork(&own(), 3), 3);
        assert_eq!(pool.to_fork(&own(), 100), 4);
        pool.add(&birth(WorkerId::from_array([1; 16]), own()), now);
        pool.add(&birth(WorkerId::from_array([2; 16]), own()), now);
        assert_eq!(pool.to_fork(&own(), 0), 0);
        assert_eq!(pool.to_fork(&own(), 2), 0);
        assert_eq!(pool.to_fork(&own(), 3), 1);
        assert_eq!(pool.overdue(now + START_DEADLINE).len(), 2);
        assert!(pool.overdue(now).is_empty());
    }

    #[test]
    fn a_worker_that_died_is_given_to_no_lease() {
        let now = Instant::now();
        let mut pool = pool_with(1, 1, now);
        let idle = WorkerId::from_array([0; 16]);
        pool.retire(idle, now);
        assert_eq!(pool.take_idle(&own(), JOB, lease(), now), None);
        let mut pool = pool_with(1, 1, now);
        let busy = pool.take_idle(&own(), JOB, lease(), now).unwrap();
        pool.retire(busy, now);
        pool.give_back(busy, now);
        assert_eq!(pool.take_idle(&own(), JOB, lease(), now), None);
    }

    #[test]
    fn surplus_idle_workers_are_ended_after_a_while() {
        let now = Instant::now();
        let mut pool = pool_with(2, 4, now);
        assert!(pool.surplus(now).is_empty());
        assert_eq!(pool.surplus(now + IDLE_AFTER).len(), 2);
        pool.take_idle(&own(), JOB, lease(), now).unwrap();
        assert_eq!(pool.surplus(now + IDLE_AFTER).len(), 1);
    }

    #[test]
    fn idle_workers_of_jobs_above_the_cores_are_asked_and_get_no_lease_until_they_answer() {
        let now = Instant::now();
        let mut pool = pool_with(1, 3, now);
        let first = pool.take_idle(&own(), JOB, lease(), now).unwrap();
        let others = [(); 2].map(|()| pool.take_idle(&own(), JOB, lease(), now).unwrap());
        pool.give_back(first, now);
        for worker in others {
            pool.give_back(worker, now + Duration::from_secs(1));
        }
        let late = now + IDLE_AFTER;
        assert!(pool.to_ask(now + IDLE_AFTER / 2).is_empty());
        // Two cores: two are kept.
        assert_eq!(pool.to_ask(late), [first]);
        assert!(pool.surplus(late).is_empty());
        pool.asked(first, late);
        assert!(pool.to_ask(late + IDLE_AFTER).is_empty());
        for _ in others {
            assert_ne!(pool.take_idle(&own(), JOB, lease(), late), Some(first));
        }
        assert_eq!(pool.take_idle(&own(), JOB, lease(), late), None);
        pool.stays(first, late);
        assert_eq!(pool.take_idle(&own(), JOB, lease(), late), Some(first));
        pool.stays(first, late);
        assert_eq!(pool.take_idle(&own(), JOB, lease(), late), None);
    }

    #[test]
    fn workers_serve_only_leases_with_their_key() {
        let now = Instant::now();
        let other = WorkerKey {
            environment: RuntimeEnvironment::new([("A".to_owned(), "1".to_owned())].into()).unwrap(),
            ..own()
        };
        let mut pool = pool_with(1, 1, now);
        assert_eq!(pool.take_idle(&other, JOB, lease(), now), None);
        assert_eq!(pool.to_fork(&other, 0), 0);
        assert_eq!(pool.to_fork(&other, 1), 1);
        let worker = WorkerId::from_array([9; 16]);
        pool.add(&birth(worker, other.clone()), now);
        assert_eq!(pool.coming_from(3), 1);
        assert_eq!(pool.to_fork(&other, 1), 0);
        // It does not stand for a worker that the node keeps.
        assert_eq!(pool.to_fork(&own(), 1), 1);
        pool.registered(worker, now);
        assert_eq!(pool.coming_from(3), 0);
        assert_eq!(pool.surplus(now + IDLE_AFTER), [worker]);
        assert_eq!(pool.take_idle(&other, JOB, lease(), now), Some(worker));
        assert_ne!(pool.take_idle(&own(), JOB, lease(), now), Some(worker));
    }

    #[test]
    fn a_worker_is_late_only_once_its_zygote_can_fork() {
        let now = Instant::now();
        let mut pool = WorkerPool::new(0, 2);
        pool.add(&birth(WorkerId::from_array([1; 16]), own()), now);
        pool.zygote_is_ready(3, now + START_DEADLINE);
        assert_eq!(pool.overdue(now + START_DEADLINE).len(), 1);
        pool.zygote_is_ready(0, now + START_DEADLINE);
        assert!(pool.overdue(now + START_DEADLINE).is_empty());
        assert_eq!(pool.overdue(now + 2 * START_DEADLINE).len(), 1);
    }
}
