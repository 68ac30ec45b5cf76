//! Which worker runs a function: classes of tasks that one worker can run after another, and leases of workers.

use std::collections::VecDeque;

use sparkray_common::{FunctionId, JobId, LeaseId, NodeId, ObjectId, ResourceSet, TaskId};

use super::leases::Lease;
use super::submission::{Arguments, CallKind};
use super::{State, Value};
use crate::hash::IdMap;

/// Lease requests of one class that are under way at once.
const MAX_LEASE_REQUESTS: usize = 32;
/// Tasks are pushed ahead of a worker only when they run shorter than this, in microseconds.
pub(super) const SHORT_TASK: f64 = 1_000.0;
/// Work that is pushed ahead to one worker, in microseconds of run time.
const PUSH_AHEAD: f64 = 4_000.0;
pub(super) const MAX_PUSHED_AHEAD: usize = 128;
/// Classes that are remembered for their run time, though they have neither tasks nor leases.
const IDLE_CLASSES: usize = 256;

/// Names a class in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SchedulingClassId(u64);

impl SchedulingClassId {
    /// The class of what is not scheduled.
    pub(super) const NONE: Self = Self(u64::MAX);
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SchedulingKey {
    pub(super) job_id: JobId,
    pub(super) function_id: FunctionId,
    pub(super) resources: ResourceSet,
    /// Where most bytes of the arguments are.
    pub(super) near: Option<(NodeId, String)>,
    pub(super) pinned: bool,
}

/// Tasks that any leased worker of the class can run.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) key: SchedulingKey,
    /// Tasks of this class that are not finished.
    tasks: usize,
    pub(super) queue: VecDeque<TaskId>,
    pub(super) leases: Vec<LeaseId>,
    pub(super) requested: Vec<LeaseId>,
    /// No requests before this time.
    pub(super) retry_at: Option<u64>,
    pub(super) failures: u8,
    /// The arguments' node is asked first; not any more once it could not be reached.
    pub(super) asks_near: bool,
    /// Moving average of the run time in microseconds; negative: not measured.
    pub(super) run_micros: f64,
}

impl Class {
    /// How many tasks may be at one worker.
    pub(super) fn depth(&self) -> usize {
        if !(0.0..SHORT_TASK).contains(&self.run_micros) {
            return 1;
        }
        ((PUSH_AHEAD / self.run_micros.max(1.0)) as usize).clamp(1, MAX_PUSHED_AHEAD)
    }

    fn is_idle(&self) -> bool {
        self.tasks == 0 && self.leases.is_empty() && self.requested.is_empty()
    }
}

/// All classes and leases.
#[derive(Debug, Default)]
pub(super) struct Scheduling {
    index: std::collections::HashMap<SchedulingKey, SchedulingClassId>,
    pub(super) classes: IdMap<SchedulingClassId, Class>,
    pub(super) leases: IdMap<LeaseId, Lease>,
    last_class: u64,
    /// Idle classes are forgotten when there are so many classes.
    sweep_at: usize,
}

impl Scheduling {
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
        self.classes.insert(
            class,
            Class {
                asks_near: key.near.is_some(),
                key,
                tasks: 0,
                queue: VecDeque::new(),
                leases: Vec::new(),
                requested: Vec::new(),
                retry_at: None,
                failures: 0,
                run_micros: -1.0,
            },
        );
        class
    }

    #[cfg(test)]
    pub(super) fn lease_count(&self) -> usize {
        self.leases.len()
    }

    #[cfg(test)]
    pub(super) fn any_request(&self) -> Option<sparkray_common::LeaseId> {
        self.classes
            .values()
            .find_map(|class| class.requested.first().copied())
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.classes.values().map(|class| class.queue.len()).sum()
    }
}

impl State {
    // ---- queues --------------------------------------------------------------------------------------------

    /// Puts a function whose arguments are there into its class's queue.
    pub(super) fn enqueue(&mut self, task_id: TaskId) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        if let Arguments::Failed(value, is_error) = self.arguments_of(task) {
            self.fail_for_argument(task_id, &value, is_error);
            return;
        }
        let CallKind::Function(template) = &task.call.kind else {
            return;
        };
        let near = match template.node {
            Some(node) => Some((node, String::new())),
            None => self.node_of_arguments(&task.call.slots),
        };
        let key = SchedulingKey {
            job_id: task.job_id,
            function_id: template.function_id,
            resources: template.resources.clone(),
            near,
            pinned: template.node.is_some(),
        };
        let class_id = self.scheduling.class(key);
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.class = class_id;
        }
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.tasks += 1;
            class.queue.push_back(task_id);
            // A longer queue means that every worker has got as much as it may.
            let feeds = class.queue.len() <= class.depth() * class.leases.len();
            self.pump(class_id, feeds);
        }
    }

    /// A task of a class is finished.
    pub(super) fn leave_class(&mut self, class: SchedulingClassId) {
        if let Some(class) = self.scheduling.classes.get_mut(&class) {
            class.tasks = class.tasks.saturating_sub(1);
        }
    }

    /// A task is to run again.
    pub(super) fn queue_again(&mut self, class_id: SchedulingClassId, task_id: TaskId) {
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.queue.push_front(task_id);
        }
    }

    /// The node that holds the most bytes of stored arguments, when it is not this one.
    fn node_of_arguments(&self, slots: &[(u32, ObjectId)]) -> Option<(NodeId, String)> {
        let mut weights: Vec<(u64, &(NodeId, String))> = Vec::new();
        for (_, id) in slots {
            let Some(Value::Stored { size, locations }) = self.objects.get(id).map(|object| &object.value)
            else {
                continue;
            };
            for location in locations {
                match weights.iter_mut().find(|(_, known)| known.0 == location.0) {
                    Some((weight, _)) => *weight += size,
                    None => weights.push((*size, location)),
                }
            }
        }
        let (_, best) = weights.into_iter().max_by_key(|(weight, _)| *weight)?;
        (best.0 != self.me.node_id).then(|| best.clone())
    }

    /// Asks for the leases that a queue needs; `feeds`: gives its tasks to those that have room, too.
    pub(super) fn pump(&mut self, class_id: SchedulingClassId, feeds: bool) {
        if feeds {
            let mut index = 0;
            while let Some(class) = self.scheduling.classes.get(&class_id) {
                if class.queue.is_empty() {
                    break;
                }
                let Some(lease) = class.leases.get(index).copied() else {
                    break;
                };
                self.feed(lease);
                // A lease that was given back has left the list.
                let class = self.scheduling.classes.get(&class_id);
                if class.is_some_and(|class| class.leases.get(index) == Some(&lease)) {
                    index += 1;
                }
            }
        }
        loop {
            let Some(class) = self.scheduling.classes.get(&class_id) else {
                return;
            };
            let wanted = class.queue.len().min(MAX_LEASE_REQUESTS);
            if class.requested.len() >= wanted || class.retry_at.is_some() || self.broken.is_some() {
                return;
            }
            self.request_lease(class_id);
        }
    }
}
