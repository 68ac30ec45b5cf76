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

    /// A call cannot run because of an argument.
    pub(super) fn fail_for_argument(&mut self, task_id: TaskId, argument: &Value) {
        self.tasks
            .fail_for_argument(&mut self.objects, &mut self.links, task_id, argument);
    }
}
