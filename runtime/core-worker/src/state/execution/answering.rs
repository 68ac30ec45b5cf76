//! Answers to calls that this process ran, or does not run.

use bytes::Bytes;
use sparkray_common::{ActorId, ObjectId};
use sparkray_proto::{self as proto, FrameKind, TaskStatus};

use super::{CreateActorWork, Execution, IncomingTask};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::links::{ConnId, Links, RAYLET_CONN, encode_frame};

impl Execution {
    /// Answers a call. `pins`: references inside the results, each counted once, which are kept until the caller
    /// has them. `more`: other answers follow, for which this one may wait.
    pub(in crate::state) fn finish_work(
        &mut self,
        base: &mut Base,
        task: &IncomingTask,
        returns: Vec<proto::ReturnValue>,
        payload: &[&[u8]],
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        let run_micros = base.now().saturating_sub(task.started);
        let raised = returns.iter().any(|value| value.is_error);
        self.metrics.finished(raised, run_micros);
        let reply = proto::PushTaskReply {
            status: TaskStatus::Done.into(),
            returns,
            run_micros,
            ..Default::default()
        };
        self.answer(base, task, &reply, payload, pins, more);
    }

    /// Answers a call that has no result, not even an error value.
    pub(in crate::state) fn fail_work(&mut self, base: &mut Base, task: &IncomingTask, error: &CoreError) {
        self.metrics.refused();
        self.answer(base, task, &refusal(error), &[], Vec::new(), false);
    }

    fn answer(
        &mut self,
        base: &mut Base,
        task: &IncomingTask,
        reply: &proto::PushTaskReply,
        payload: &[&[u8]],
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        if !self.cancelled.is_empty() {
            self.cancelled.remove(&task.task_id);
        }
        // While more calls wait here, answers travel together.
        let urgent = !more && self.ready.is_empty();
        let caller = task.caller.worker_id;
        let place = match task.sequence {
            Some(sequence) => self.queues.place_of(caller, sequence),
            None => {
                self.running_since = None;
                Some(self.answers.place_of(task))
            }
        };
        let Some((conn, correlation)) = place else {
            base.objects.drop_refs(&mut base.links, pins);
            return;
        };
        base.objects
            .pin_returned(&mut base.links, task.task_id, &task.caller, conn, pins);
        let is_dead = base.links.deaths.is_dead(&task.caller);
        let is_near = task.caller.node_id == base.links.process.me.node_id;
        let kind = FrameKind::PushTaskReply;
        if task.sequence.is_none() && (is_near || is_dead) {
            // A connection within a node ends with one of its processes: nobody will ask again.
            base.links.send(conn, kind, correlation, reply, payload, urgent);
            return;
        }
        let mut frame = Vec::new();
        encode_frame(&mut frame, kind, correlation, &[], reply, payload);
        base.links.send_encoded(conn, &frame, urgent);
        match task.sequence {
            None => self.answers.keep(task, correlation, frame.into()),
            Some(sequence) => {
                self.queues.answered(caller, sequence, frame.into());
                if is_dead {
                    self.queues.forget_idle(caller);
                }
            }
        }
    }

    /// Answers a call that is not taken in.
    pub(super) fn refuse(links: &mut Links, conn: ConnId, correlation: u64, error: &CoreError) {
        let kind = FrameKind::PushTaskReply;
        links.send(conn, kind, correlation, &refusal(error), &[], true);
    }

    // ---- being an actor ------------------------------------------------------------------------------------

    /// Tells the raylet what became of an actor. `error`: the pickled exception of its constructor.
    pub(in crate::state) fn finish_create_actor(
        &mut self,
        links: &mut Links,
        work: &CreateActorWork,
        error: Option<Bytes>,
        failure: Option<CoreError>,
    ) -> Result<(), CoreError> {
        if error.is_none() && failure.is_none() {
            self.actor = Some((ActorId::from_slice(&work.spec.actor_id)?, work.incarnation));
        }
        let reply = proto::CreateActorReply {
            failure: failure.as_ref().map(CoreError::to_failure),
            error: error.unwrap_or_default(),
        };
        let kind = FrameKind::CreateActorReply;
        links.send(RAYLET_CONN, kind, work.correlation, &reply, &[], true);
        Ok(())
    }
}

fn refusal(error: &CoreError) -> proto::PushTaskReply {
    proto::PushTaskReply {
        status: TaskStatus::Refused.into(),
        failure: Some(error.to_failure()),
        ..Default::default()
    }
}
