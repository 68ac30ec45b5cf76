//! Calls that begin, and those whose arguments have come.

use sparkray_common::{ObjectId, TaskId};

use super::{CallKind, Extras, NewTask, Place, Task, Tasks};
use crate::state::events::Dependent;
use crate::state::links::Links;
use crate::state::objects::{Objects, Value};

impl Tasks {
    /// Takes a call in; gives the ids of its results, each with one reference, and whether it waits for arguments. Whoever
    /// calls this puts the task where it belongs.
    pub(in crate::state) fn submit(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        call: NewTask,
    ) -> (TaskId, Vec<ObjectId>, bool) {
        let task_id = links.process.ids.next_task();
        let mut results = Vec::with_capacity(call.num_returns as usize);
        for index in 0..call.num_returns {
            let id = ObjectId::for_result(task_id, index);
            objects.add_owned(id, Value::Pending, Vec::new());
            results.push(id);
        }
        for id in call.slots.iter().map(|(_, id)| id).chain(&call.contained) {
            objects.add_ref(*id);
        }
        let mut missing = 0;
        for (_, id) in &call.slots {
            if objects.depend(links, *id, Dependent::Task(task_id)) {
                missing += 1;
            }
        }
        objects.hold_arguments(call.arguments.len());
        let place = match &call.kind {
            CallKind::Function(_) => {
                self.metrics.function_submitted();
                Place::Waiting
            }
            CallKind::Actor { .. } => {
                self.metrics.actor_call_submitted();
                Place::ActorQueue
            }
        };
        let has_extras =
            !(call.keyword_names.is_empty() && call.slots.is_empty() && call.contained.is_empty());
        let extras = has_extras.then(|| {
            Box::new(Extras {
                keyword_names: call.keyword_names,
                slots: call.slots,
                contained: call.contained,
            })
        });
        self.table.insert(
            task_id,
            Task {
                kind: call.kind,
                num_returns: call.num_returns,
                arguments: call.arguments,
                extras,
                job_id: links.process.job_id,
                attempt: 0,
                missing,
                misses: 0,
                cancellation: None,
                parent: call.parent,
                place,
                submitted: links.process.now,
            },
        );
        (task_id, results, missing > 0)
    }

    /// One argument of a task has come, or never will. What the task is, when it was the last one.
    pub(in crate::state) fn dependency_resolved(&mut self, task_id: TaskId) -> Option<&CallKind> {
        let task = self.table.get_mut(&task_id)?;
        task.missing = task.missing.saturating_sub(1);
        (task.missing == 0).then_some(&task.kind)
    }
}
