//! Queues of tasks, and how many leases they need.

use std::sync::Arc;

use sparkray_common::{SchedulingStrategy, TaskId};

use super::{Leases, SchedulingKey};
use crate::state::base::Base;
use crate::state::ids::SchedulingClassId;
use crate::state::tasks::{CallKind, Place, cancelled};

/// Lease requests of one class that are under way at once. `sparkray._private.infeasible` says so of demand that nobody
/// meets.
const MAX_LEASE_REQUESTS: usize = 32;

impl Leases {
    /// Puts a function whose arguments are there into its class's queue.
    pub(in crate::state) fn enqueue(&mut self, base: &mut Base, task_id: TaskId) {
        let Some(task) = base.tasks.get_mut(task_id) else {
            return;
        };
        if let Some(value) = base.objects.first_failure(task.argument_ids()) {
            base.fail_for_argument(task_id, &value);
            return;
        }
        let CallKind::Function(template) = task.kind() else {
            return;
        };
        let template = Arc::clone(template);
        let locality = match template.strategy {
            SchedulingStrategy::Default => {
                let here = base.links.process.me.node_id;
                base.objects.node_of_most(here, task.argument_ids())
            }
            _ => None,
        };
        let class_id = self.class(SchedulingKey {
            job_id: task.job_id(),
            function_id: template.function_id,
            resources: template.resources.clone(),
            strategy: template.strategy.clone(),
            worker: template.worker.clone(),
            locality,
        });
        task.set_place(Place::Queued(class_id));
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.queue.push_back(task_id);
            // A longer queue means that every worker has got as much as it may.
            let dispatches = class.queue.len() <= class.depth() * class.leases.len();
            self.pump(base, class_id, dispatches);
        }
    }

    /// A task is to run again, before those that never ran, unless it is to end.
    pub(super) fn queue_again(&mut self, base: &mut Base, class_id: SchedulingClassId, task_id: TaskId) {
        let task = base.tasks.get_mut(task_id);
        if task.as_ref().is_some_and(|task| task.is_cancelled()) {
            base.finish_task(task_id, &cancelled(task_id));
            return;
        }
        if let (Some(class), Some(task)) = (self.classes.get_mut(&class_id), task) {
            task.set_place(Place::Queued(class_id));
            class.queue.push_front(task_id);
        }
    }

    /// Asks for the leases that a queue needs; `dispatches`: gives its tasks to those that have room, too.
    pub(super) fn pump(&mut self, base: &mut Base, class_id: SchedulingClassId, dispatches: bool) {
        if dispatches {
            let mut index = 0;
            while let Some(class) = self.classes.get(&class_id) {
                if class.queue.is_empty() {
                    break;
                }
                let Some(lease) = class.leases.get(index).copied() else {
                    break;
                };
                self.dispatch(base, lease);
                // A lease that was given back has left the list.
                let class = self.classes.get(&class_id);
                if class.is_some_and(|class| class.leases.get(index) == Some(&lease)) {
                    index += 1;
                }
            }
        }
        loop {
            let Some(class) = self.classes.get(&class_id) else {
                return;
            };
            let wanted = class.queue.len().min(MAX_LEASE_REQUESTS);
            let is_broken = base.links.process.broken.is_some();
            if class.requested.len() >= wanted || class.retry_at.is_some() || is_broken {
                return;
            }
            self.request_lease(base, class_id);
        }
    }
}
