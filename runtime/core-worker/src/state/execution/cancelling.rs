//! Calls that are to end before they have results.
//!
//! One that waits is answered at once, and never runs. One that runs ends as its code does when it is told: which answer it
//! gives is up to that.

use sparkray_common::{ErrorCode, TaskId, WorkerId};
use sparkray_proto as proto;

use super::{Execution, Work};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::links::ConnId;
use crate::state::outbox::Notice;

/// What was found of a call that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum CancelledCall {
    /// Nothing: it was answered, or did not come.
    Unknown,
    /// It waited: it will not run.
    Waited,
    /// A function, which runs.
    Function(TaskId),
    /// A call of this actor, which the embedding code has.
    Method(TaskId),
}

fn error_of(task_id: TaskId) -> CoreError {
    CoreError::new(ErrorCode::Cancelled, format!("Task: {task_id} was cancelled."))
}

impl Execution {
    /// A caller wants one of its calls to end.
    pub(in crate::state) fn on_cancel_task(
        &mut self,
        base: &mut Base,
        conn: ConnId,
        message: &proto::CancelTask,
    ) -> Result<CancelledCall, CoreError> {
        let task_id = TaskId::from_slice(&message.task_id)?;
        let caller = base.links.sender_of(conn)?.worker_id;
        if self.cancel_waiting(base, caller, task_id) {
            return Ok(CancelledCall::Waited);
        }
        let Some(sequence) = message.sequence else {
            if !self.answers.is_running(task_id) {
                return Ok(CancelledCall::Unknown);
            }
            self.cancelled.insert(task_id);
            return Ok(CancelledCall::Function(task_id));
        };
        if let Some(task) = self.queues.early(caller, sequence) {
            // It keeps its place among its caller's calls.
            task.unreadable = Some(Box::new(error_of(task_id)));
            return Ok(CancelledCall::Waited);
        }
        if self.queues.place_of(caller, sequence).is_none() {
            return Ok(CancelledCall::Unknown);
        }
        self.cancelled.insert(task_id);
        Ok(CancelledCall::Method(task_id))
    }

    /// Answers a call that waits to be run.
    fn cancel_waiting(&mut self, base: &mut Base, caller: WorkerId, task_id: TaskId) -> bool {
        let is_it = |work: &Work| match work {
            Work::Task(task) => task.task_id == task_id && task.caller.worker_id == caller,
            Work::CreateActor(_) => false,
        };
        let Some(place) = self.ready.iter().position(is_it) else {
            return false;
        };
        let Some(Work::Task(task)) = self.ready.remove(place) else {
            return false;
        };
        if task.sequence.is_some() {
            self.fail_work(base, &task, &error_of(task_id));
        } else {
            // Another function may run, whose answer this is not.
            self.metrics.refused();
            Self::refuse(&mut base.links, task.conn, task.correlation, &error_of(task_id));
        }
        true
    }

    /// Whether a call that runs is to end.
    pub(in crate::state) fn is_cancelled(&self, task_id: TaskId) -> bool {
        self.cancelled.contains(&task_id)
    }

    /// Has the embedding code end a call that it has.
    pub(in crate::state) fn interrupt(base: &mut Base, call: CancelledCall) {
        match call {
            CancelledCall::Function(task_id) => base.links.out.notify(Notice::Interrupt(task_id)),
            CancelledCall::Method(task_id) => base.links.out.notify(Notice::CancelMethod(task_id)),
            CancelledCall::Unknown | CancelledCall::Waited => {}
        }
    }
}
