//! Calls that this process made and that are not finished: from the user's call to its results. Which worker runs a
//! function is decided in `leases`, the order of an actor's calls in `actors`.
//!
//! Invariants:
//! 1. A task is in exactly one place ([`Place`]), and the part that it is in knows it there.
//! 2. Its arguments are held by references of this process until it is finished.

mod calls;
mod cancelling;
mod dependency_errors;
mod metrics;
mod pushing;
mod queue;
mod results;
mod submission;

use bytes::Bytes;
use sparkray_common::{JobId, LeaseId, Metrics, ObjectId, TaskId};

use super::ids::SchedulingClassId;
use super::links::Links;
use super::objects::{Objects, Value};
use crate::error::CoreError;
use crate::slab_map::SlabMap;
use metrics::{Ending, TaskMetrics};

pub use calls::{ActorMethod, TaskTemplate};
pub(crate) use calls::{CallKind, NewTask};
pub use cancelling::Cancellation;
pub(super) use cancelling::cancelled;
pub(super) use dependency_errors::creation_failed;
pub(super) use pushing::PushPrefix;
pub(super) use queue::TaskQueue;
pub(super) use results::{Answer, Outcome};

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A function whose arguments are not all there.
    Waiting,
    /// A function in the queue of its class.
    Queued(SchedulingClassId),
    /// A function at a leased worker.
    Pushed {
        class: SchedulingClassId,
        lease: LeaseId,
        /// What was sent.
        bytes: u32,
    },
    /// In the queue of its actor, or beside it until its arguments are there.
    ActorQueue,
    /// Sent to its actor with this sequence number.
    Sent { sequence: u64, bytes: u32 },
}

/// What is not in the arguments value.
#[derive(Debug, Default)]
struct Extras {
    keyword_names: Vec<String>,
    /// Arguments that are references: index in the flat list, and the object.
    slots: Vec<(u32, ObjectId)>,
    /// References inside the arguments value.
    contained: Vec<ObjectId>,
}

/// A call that is not finished.
#[derive(Debug)]
pub(super) struct Task {
    kind: CallKind,
    num_returns: u32,
    /// The arguments value; empty: none.
    arguments: Bytes,
    /// What few calls have.
    extras: Option<Box<Extras>>,
    /// The job it was made for.
    job_id: JobId,
    attempt: u32,
    /// Arguments that are not resolved.
    missing: usize,
    /// Workers that could not be reached.
    misses: u8,
    /// It is to end, and is not tried again.
    cancellation: Option<Cancellation>,
    /// The call that this process ran and that made it.
    parent: Option<TaskId>,
    place: Place,
    /// Microseconds at which it was submitted.
    submitted: u64,
}

impl Task {
    pub(super) fn kind(&self) -> &CallKind {
        &self.kind
    }

    pub(super) fn job_id(&self) -> JobId {
        self.job_id
    }

    pub(super) fn num_returns(&self) -> u32 {
        self.num_returns
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    pub(super) fn waits_for_arguments(&self) -> bool {
        self.missing > 0
    }

    /// Arguments that are references.
    pub(super) fn argument_ids(&self) -> impl Iterator<Item = ObjectId> {
        self.slots().iter().map(|(_, id)| *id)
    }

    fn slots(&self) -> &[(u32, ObjectId)] {
        self.extras.as_ref().map_or(&[], |extras| &extras.slots)
    }

    fn keyword_names(&self) -> &[String] {
        self.extras.as_ref().map_or(&[], |extras| &extras.keyword_names)
    }

    /// A worker could not be reached. How many were not.
    pub(super) fn missed(&mut self) -> u8 {
        self.misses = self.misses.saturating_add(1);
        self.misses
    }

    /// Begins another attempt. False: there are to be no more.
    pub(super) fn try_again(&mut self, max_retries: i32) -> bool {
        let may = max_retries < 0 || i64::from(self.attempt) < i64::from(max_retries);
        let may = may && self.cancellation.is_none();
        if may {
            self.attempt += 1;
        }
        may
    }
}

/// The table of tasks.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    table: SlabMap<TaskId, Task>,
    metrics: TaskMetrics,
}

impl Tasks {
    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.table.get_mut(&id)
    }

    pub(super) fn contains(&self, id: &TaskId) -> bool {
        self.table.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// A task has failed: all its results become `value`.
    pub(super) fn finish(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        task_id: TaskId,
        value: &Value,
    ) {
        let Some(num_returns) = self.table.get(&task_id).map(Task::num_returns) else {
            return;
        };
        self.forget(objects, links, task_id, Ending::Failed);
        for index in 0..num_returns {
            let id = ObjectId::for_result(task_id, index);
            objects.resolve_result(links, id, value.clone());
        }
    }

    /// A task is finished: its arguments are not needed any more.
    fn forget(&mut self, objects: &mut Objects, links: &mut Links, task_id: TaskId, ending: Ending) {
        let Some(task) = self.table.remove(&task_id) else {
            return;
        };
        let took = links.process.now.saturating_sub(task.submitted);
        self.metrics.ended(ending, took);
        objects.release_arguments(task.arguments.len());
        let Some(extras) = task.extras else { return };
        for (_, id) in extras.slots {
            objects.drop_ref(links, id);
        }
        for id in extras.contained {
            objects.drop_ref(links, id);
        }
    }

    /// Every call fails: this process has left the cluster.
    pub(super) fn fail_all(&mut self, objects: &mut Objects, links: &mut Links, error: &CoreError) {
        let failed = Value::failed(error.clone());
        let tasks: Vec<TaskId> = self.table.keys().copied().collect();
        for task in tasks {
            self.finish(objects, links, task, &failed);
        }
    }

    /// A task is to run again, because its worker was lost.
    pub(super) fn note_retry(&mut self) {
        self.metrics.retried();
    }

    /// Lists the tasks that there are, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_tasks_unfinished",
            "Calls of this process that are not over",
            self.table.len() as u64,
        );
        self.metrics.list(into);
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.table.iter().map(|(id, task)| (*id, task))
    }

    pub(super) fn check_empty(&self, who: &str) {
        assert!(self.table.is_empty(), "{who}: tasks {:?}", self.table);
    }
}
