//! Functions that are cancelled while they wait for a worker, or are at one.

use sparkray_common::{LeaseId, ObjectId, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::{LeasedWorker, Leases};
use crate::state::base::Base;
use crate::state::ids::SchedulingClassId;
use crate::state::links::id_bytes;
use crate::state::tasks::cancelled;

impl Leases {
    /// Ends a function that is in the queue of its class.
    pub(in crate::state) fn cancel_queued(
        &mut self,
        base: &mut Base,
        class_id: SchedulingClassId,
        task_id: TaskId,
    ) {
        base.finish_task(task_id, &cancelled(task_id));
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        class.queue.one_ended(&base.tasks);
        if class.queue.is_empty() {
            self.cancel_requests(base, class_id);
        }
    }

    /// Ends a function that was to end and whose worker is lost, which may have written results before.
    pub(super) fn end_cancelled(base: &mut Base, task_id: TaskId, worker: Option<&LeasedWorker>) {
        let num_returns = base.tasks.get(task_id).map_or(0, |task| task.num_returns());
        base.finish_task(task_id, &cancelled(task_id));
        let Some(LeasedWorker { address, .. }) = worker else {
            return;
        };
        let there = vec![(address.node_id, address.node_address.clone())];
        for index in 0..num_returns {
            base.objects
                .free_stored(ObjectId::for_result(task_id, index), &there);
        }
    }

    /// Tells the worker of a function how that is to end. Its answer, or its death, says what became of the function. A
    /// worker that cannot be reached now is told when it can be.
    pub(in crate::state) fn tell_of_cancellation(
        &mut self,
        base: &mut Base,
        lease_id: LeaseId,
        task_id: TaskId,
    ) {
        let cancellation = base.tasks.get(task_id).and_then(|task| task.cancellation());
        let Some(lease) = self.leases.get(&lease_id).filter(|lease| !lease.suspended) else {
            return;
        };
        let (Some(cancellation), Some(worker)) = (cancellation, &lease.worker) else {
            return;
        };
        let message = proto::CancelTask {
            task_id: id_bytes(task_id.as_bytes()),
            sequence: None,
            force: cancellation.force,
            recursive: cancellation.recursive,
        };
        base.links
            .send(worker.conn, FrameKind::CancelTask, 0, &message, &[], true);
    }
}
