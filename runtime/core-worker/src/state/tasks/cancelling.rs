//! Tasks that are to end before they have results. Where they are is put right by the part that they are in.

use sparkray_common::{ErrorCode, ObjectId, TaskId};

use super::{CallKind, Place, Task, Tasks};
use crate::error::CoreError;
use crate::state::objects::{Objects, Value};

/// How a task is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cancellation {
    /// With the process that runs it.
    pub force: bool,
    /// And the calls that it has made.
    pub recursive: bool,
}

/// The value of the results of a task that was cancelled.
pub(in crate::state) fn cancelled(task_id: TaskId) -> Value {
    Value::failed(cancelled_error(task_id))
}

fn cancelled_error(task_id: TaskId) -> CoreError {
    CoreError::new(ErrorCode::Cancelled, format!("Task: {task_id} was cancelled.")).of_task(task_id)
}

impl Task {
    pub(in crate::state) fn cancellation(&self) -> Option<Cancellation> {
        self.cancellation
    }

    pub(in crate::state) fn is_cancelled(&self) -> bool {
        self.cancellation.is_some()
    }
}

impl Tasks {
    /// Marks a task: it will not be tried again, and its error is expected. Where it is, and what; `None`: it is over.
    pub(in crate::state) fn cancel(
        &mut self,
        objects: &mut Objects,
        task_id: TaskId,
        cancellation: Cancellation,
    ) -> Option<(Place, &CallKind)> {
        let task = self.table.get_mut(&task_id)?;
        let former = task.cancellation.unwrap_or_default();
        task.cancellation = Some(Cancellation {
            force: former.force || cancellation.force,
            recursive: former.recursive || cancellation.recursive,
        });
        for index in 0..task.num_returns {
            objects.expect_error(ObjectId::for_result(task_id, index));
        }
        Some((task.place, &task.kind))
    }

    /// The calls that a call of this process has made and that are not over.
    pub(in crate::state) fn children_of(&self, parent: TaskId) -> Vec<TaskId> {
        let children = self.table.iter().filter(|(_, task)| task.parent == Some(parent));
        children.map(|(id, _)| *id).collect()
    }
}
