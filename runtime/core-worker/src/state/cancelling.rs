//! Calls that are to end early: where each may be, and who is told.
//!
//! The owner of a call ends it when it was not sent, and else tells the worker, whose answer, or whose death, ends it: a
//! call ends once, with its results or as cancelled. The worker tells those who run what the call has called in turn. Others
//! than the owner ask the owner.

use sparkray_common::{ErrorCode, ObjectId, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::State;
use super::execution::{CancelledCall, Execution};
use super::links::{ConnId, Pending, SlotResult};
use super::outbox::Notice;
use super::tasks::{CallKind, Cancellation, Place, cancelled};
use crate::error::CoreError;

impl State {
    /// The user wants the call to end that makes an object. A slot, when another process owns it, in which its answer will
    /// be.
    pub(crate) fn cancel(&mut self, id: ObjectId, how: Cancellation) -> Result<Option<u64>, CoreError> {
        let Some(owner) = self.base.objects.owner(&id).cloned() else {
            self.cancel_own(id.task_id(), how)?;
            return Ok(None);
        };
        let message = proto::RequestOwnerToCancelTask {
            object_id: id.to_vec().into(),
            force: how.force,
            recursive: how.recursive,
        };
        let kind = FrameKind::RequestOwnerToCancelTask;
        Ok(Some(self.ask_worker(&owner, Pending::Cancel, kind, &message)))
    }

    /// Another process wants a call of this one to end.
    pub(super) fn on_request_to_cancel(
        &mut self,
        conn: ConnId,
        correlation: u64,
        message: &proto::RequestOwnerToCancelTask,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        let how = Cancellation {
            force: message.force,
            recursive: message.recursive,
        };
        let refused = self.cancel_own(id.task_id(), how).err();
        let reply = proto::RequestOwnerToCancelTaskReply {
            failure: refused.as_ref().map(CoreError::to_failure),
        };
        let kind = FrameKind::RequestOwnerToCancelTaskReply;
        self.base.links.send(conn, kind, correlation, &reply, &[], true);
        Ok(())
    }

    /// The owner of a call has heard that it is to end.
    pub(super) fn on_cancel_reply(
        &mut self,
        conn: ConnId,
        correlation: u64,
        reply: &proto::RequestOwnerToCancelTaskReply,
    ) {
        let links = &mut self.base.links;
        if let Some(Pending::Cancel(slot)) = links.take_pending(conn, correlation) {
            let failure = reply.failure.as_ref();
            let result = failure.map_or(SlotResult::Done, |failure| SlotResult::Failed(failure.into()));
            links.fill_slot(slot, result);
        }
    }

    /// A caller wants a call to end that this process was sent.
    pub(super) fn on_cancel_task(
        &mut self,
        conn: ConnId,
        message: &proto::CancelTask,
    ) -> Result<(), CoreError> {
        let call = self.execution.on_cancel_task(&mut self.base, conn, message)?;
        let (CancelledCall::Function(task_id) | CancelledCall::Method(task_id)) = call else {
            return Ok(());
        };
        if message.recursive {
            for child in self.base.tasks.children_of(task_id) {
                let how = Cancellation {
                    force: message.force,
                    recursive: true,
                };
                self.cancel_task(child, how);
            }
        }
        if message.force && matches!(call, CancelledCall::Function(_)) {
            self.base.links.out.notify(Notice::ForceExit);
        } else {
            Execution::interrupt(&mut self.base, call);
        }
        Ok(())
    }

    /// Ends a call of this process, if there is such a one that is not over.
    fn cancel_own(&mut self, task_id: TaskId, how: Cancellation) -> Result<(), CoreError> {
        let Some(task) = self.base.tasks.get(task_id) else {
            return Ok(());
        };
        if how.force && matches!(task.kind(), CallKind::Actor { .. }) {
            return Err(CoreError::new(
                ErrorCode::InvalidArgument,
                "force=True is not supported for actor tasks: use kill() to end the actor, or force=False",
            ));
        }
        self.cancel_task(task_id, how);
        Ok(())
    }

    fn cancel_task(&mut self, task_id: TaskId, how: Cancellation) {
        let base = &mut self.base;
        let Some((place, kind)) = base.tasks.cancel(&mut base.objects, task_id, how) else {
            return;
        };
        let actor = match kind {
            CallKind::Actor { actor_id, .. } => Some(*actor_id),
            CallKind::Function(_) => None,
        };
        match (place, actor) {
            (Place::Queued(class), _) => self.leases.cancel_queued(base, class, task_id),
            (Place::Pushed { lease, .. }, _) => self.leases.tell_of_cancellation(base, lease, task_id),
            (Place::ActorQueue, Some(actor)) => self.actors.cancel_queued(base, actor, task_id),
            (Place::Sent { .. }, Some(actor)) => self.actors.tell_of_cancellation(base, actor, task_id),
            (Place::Waiting | Place::ActorQueue | Place::Sent { .. }, _) => {
                base.finish_task(task_id, &cancelled(task_id));
            }
        }
    }
}
