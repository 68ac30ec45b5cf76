//! Which worker runs a function: classes of tasks that one worker can run after another, and leases of workers.
//!
//! `scheduling` puts tasks into queues and decides how many leases they need, `requests` asks raylets for those, `dispatch`
//! pushes tasks to leased workers and gives leases back, `cancelling` has tasks end early, `losses` puts right what a lost
//! worker leaves, and `raylets` keeps in touch with raylets of other nodes.
//!
//! Invariants:
//! 1. A task whose place is `Queued` is in the queue of that class, once; one whose place is `Pushed` is at that lease, once.
//! 2. A lease is in its class's `requested` until it is granted, and in its `leases` from then on.
//! 3. An idle lease is timed, or goes back at once.

mod cancelling;
mod dispatch;
mod losses;
mod metrics;
mod raylets;
mod requests;
mod scheduling;

use std::collections::{HashMap, VecDeque};

use sparkray_common::{
    FunctionId, JobId, LeaseId, Metrics, NodeId, ResourceSet, SchedulingStrategy, TaskId, WorkerAddress,
    WorkerId, WorkerKey,
};

use tracing::Span;

use super::ids::SchedulingClassId;
use super::limits::MAX_PUSHED_AHEAD;
use super::links::ConnId;
use super::tasks::{PushPrefix, TaskQueue, TaskTemplate};
use crate::hash::IdMap;

pub(super) use losses::Loss;
use metrics::LeaseMetrics;
use raylets::OtherRaylet;

/// Tasks are pushed ahead of a worker only when they run shorter than this, in microseconds.
const SHORT_TASK: f64 = 1_000.0;
/// Work that is pushed ahead to one worker, in microseconds of run time.
const PUSH_AHEAD: f64 = 4_000.0;
/// Classes that are remembered for their run time, though they have neither tasks nor leases.
const IDLE_CLASSES: usize = 256;

/// What tasks have in common that one worker can run after another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SchedulingKey {
    job_id: JobId,
    function_id: FunctionId,
    resources: ResourceSet,
    strategy: SchedulingStrategy,
    worker: WorkerKey,
    /// Where most bytes of the arguments are, when that counts.
    locality: Option<(NodeId, String)>,
}

/// Tasks that any leased worker of the class can run.
#[derive(Debug)]
struct Class {
    key: SchedulingKey,
    queue: TaskQueue,
    leases: Vec<LeaseId>,
    requested: Vec<LeaseId>,
    /// No requests before this time.
    retry_at: Option<u64>,
    failures: u8,
    /// The arguments' node is asked first; not any more once it could not be reached.
    asks_locality: bool,
    /// Moving average of the run time in microseconds; negative: not measured.
    run_micros: f64,
}

impl Class {
    fn new(key: SchedulingKey) -> Self {
        Self {
            asks_locality: key.locality.is_some(),
            key,
            queue: TaskQueue::default(),
            leases: Vec::new(),
            requested: Vec::new(),
            retry_at: None,
            failures: 0,
            run_micros: -1.0,
        }
    }

    /// How many tasks may be at one worker.
    fn depth(&self) -> usize {
        let spreads = self.key.strategy == SchedulingStrategy::Spread;
        if spreads || !(0.0..SHORT_TASK).contains(&self.run_micros) {
            return 1;
        }
        ((PUSH_AHEAD / self.run_micros.max(1.0)) as usize).clamp(1, MAX_PUSHED_AHEAD)
    }

    fn measure(&mut self, run_micros: u64) {
        let run_micros = run_micros as f64;
        self.run_micros = if self.run_micros < 0.0 {
            run_micros
        } else {
            self.run_micros * 0.9 + run_micros * 0.1
        };
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.leases.is_empty() && self.requested.is_empty()
    }
}

#[derive(Debug)]
struct Lease {
    class: SchedulingClassId,
    /// `None` while it is asked for.
    worker: Option<LeasedWorker>,
    /// The raylet that was asked, or granted it.
    raylet: ConnId,
    pushed: VecDeque<TaskId>,
    /// What was sent for them.
    pushed_bytes: usize,
    /// Its connection broke once: what was pushed may run, or have run.
    unsure: bool,
    /// There is no connection: nothing is pushed.
    suspended: bool,
    asked_at: u64,
    /// From the request to the grant, by whichever node.
    asking: Span,
    granted_at: u64,
    idle_since: u64,
    /// A timer will look whether it is idle.
    timed: bool,
    /// Others wait for it.
    wanted: bool,
    prefix: Option<PushPrefix<TaskTemplate>>,
}

impl Lease {
    fn requested(class: SchedulingClassId, raylet: ConnId, asked_at: u64, asking: Span) -> Self {
        Self {
            class,
            worker: None,
            raylet,
            pushed: VecDeque::new(),
            pushed_bytes: 0,
            unsure: false,
            suspended: false,
            asked_at,
            asking,
            granted_at: 0,
            idle_since: 0,
            timed: false,
            wanted: false,
            prefix: None,
        }
    }

    fn is_of(&self, worker: WorkerId) -> bool {
        let leased = self.worker.as_ref();
        leased.is_some_and(|leased| leased.address.worker_id == worker)
    }
}

#[derive(Debug)]
struct LeasedWorker {
    address: WorkerAddress,
    conn: ConnId,
    pid: u32,
}

/// All classes and leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    index: HashMap<SchedulingKey, SchedulingClassId>,
    classes: IdMap<SchedulingClassId, Class>,
    leases: IdMap<LeaseId, Lease>,
    /// Raylets of other nodes that were called.
    raylets: IdMap<NodeId, OtherRaylet>,
    last_class: u64,
    /// Idle classes are forgotten when there are so many classes.
    sweep_at: usize,
    metrics: LeaseMetrics,
}

impl Leases {
    fn class(&mut self, key: SchedulingKey) -> SchedulingClassId {
        if let Some(class) = self.index.get(&key) {
            return *class;
        }
        if self.classes.len() >= self.sweep_at.max(IDLE_CLASSES) {
            self.classes.retain(|_, class| !class.is_idle());
            let classes = &self.classes;
            self.index.retain(|_, class| classes.contains_key(class));
            self.sweep_at = 2 * self.classes.len();
        }
        let class = SchedulingClassId(self.last_class);
        self.last_class += 1;
        self.index.insert(key.clone(), class);
        self.classes.insert(class, Class::new(key));
        class
    }

    /// Workers of a node that are leased.
    pub(super) fn workers_on(&self, node: NodeId) -> impl Iterator<Item = WorkerId> {
        let workers = self.leases.values().filter_map(|lease| lease.worker.as_ref());
        let there = workers.filter(move |worker| worker.address.node_id == node);
        there.map(|worker| worker.address.worker_id)
    }

    /// Lists the leases and queued functions that there are, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        let queued: usize = self.classes.values().map(|class| class.queue.len()).sum();
        into.gauge(
            "ray_core_worker_tasks_queued",
            "Functions whose arguments are there, and that wait for a worker",
            queued as u64,
        );
        let granted = self
            .leases
            .values()
            .filter(|lease| lease.worker.is_some())
            .count();
        into.gauges(
            "ray_core_worker_leases",
            "Leases that this process asks for, and that it has",
            "State",
            &[
                ("Requested", (self.leases.len() - granted) as u64),
                ("Granted", granted as u64),
            ],
        );
        self.metrics.list(into);
    }

    /// Panics where an invariant does not hold.
    pub(super) fn check(&self, tasks: &super::tasks::Tasks) {
        use super::tasks::Place;
        let mut queued = IdMap::<TaskId, SchedulingClassId>::default();
        for (class_id, class) in &self.classes {
            class.queue.check(tasks);
            for task in class.queue.iter().filter(|task| tasks.contains(task)) {
                assert_eq!(
                    queued.insert(*task, *class_id),
                    None,
                    "task {task} is queued twice"
                );
            }
            for lease in class.leases.iter().chain(&class.requested) {
                let lease = &self.leases[lease];
                assert_eq!(lease.class, *class_id);
            }
        }
        let mut pushed = IdMap::<TaskId, LeaseId>::default();
        for (lease_id, lease) in &self.leases {
            let class = &self.classes[&lease.class];
            assert_eq!(
                class.leases.contains(lease_id),
                lease.worker.is_some(),
                "lease {lease_id}"
            );
            assert_eq!(
                class.requested.contains(lease_id),
                lease.worker.is_none(),
                "lease {lease_id}"
            );
            for task in lease.pushed.iter().filter(|task| tasks.contains(task)) {
                assert_eq!(
                    pushed.insert(*task, *lease_id),
                    None,
                    "task {task} is pushed twice"
                );
            }
        }
        for (id, task) in tasks.places() {
            let (mut class, mut lease) = (None, None);
            match task.place() {
                Place::Queued(queue) => class = Some(queue),
                Place::Pushed { lease: at, .. } => lease = Some(at),
                _ => {}
            }
            assert_eq!(
                queued.get(&id).copied(),
                class,
                "the queue of task {id}: {task:?}"
            );
            assert_eq!(
                pushed.get(&id).copied(),
                lease,
                "the worker of task {id}: {task:?}"
            );
        }
    }

    pub(super) fn check_empty(&self, who: &str) {
        assert_eq!(self.leases.len(), 0, "{who}: leases");
        let queued: usize = self.classes.values().map(|class| class.queue.len()).sum();
        assert_eq!(queued, 0, "{who}: queued tasks");
    }

    #[cfg(test)]
    pub(super) fn any_request(&self) -> Option<LeaseId> {
        let mut classes = self.classes.values();
        classes.find_map(|class| class.requested.first().copied())
    }
}
