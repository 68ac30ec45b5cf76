//! What leases, actors and execution stand on: links, objects and the table of tasks.

use sparkray_common::{ObjectId, TaskId};

use super::links::Links;
use super::objects::{Objects, Value};
use super::tasks::Tasks;

/// The lower parts, handed to those above them as one.
pub(super) struct Base {
    pub(super) links: Links,
    pub(super) objects: Objects,
    pub(super) tasks: Tasks,
}

impl Base {
    pub(super) fn now(&self) -> u64 {
        self.links.process.now
    }

    pub(super) fn drop_ref(&mut self, id: ObjectId) {
        self.objects.drop_ref(&mut self.links, id);
    }

    /// All results of a task become `value`.
    pub(super) fn finish_task(&mut self, task_id: TaskId, value: &Value) {
        self.tasks
            .finish(&mut self.objects, &mut self.links, task_id, value);
    }

    /// The first argument of a task of which nothing can be made. A value may be lost after the task was queued.
    pub(super) fn failed_argument(&self, task_id: TaskId) -> Option<Value> {
        let task = self.tasks.get(task_id)?;
        self.objects.first_failure(task.argument_ids())
    }

    /// A call cannot run because of an argument.
    pub(super) fn fail_for_argument(&mut self, task_id: TaskId, argument: &Value) {
        self.tasks
            .fail_for_argument(&mut self.objects, &mut self.links, task_id, argument);
    }
}
