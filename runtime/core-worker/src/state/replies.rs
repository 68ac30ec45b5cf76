//! Answers to calls: results, errors, and calls that are to run again.

use bytes::Bytes;
use sparkray_common::{ErrorCode, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, Failure, TaskStatus};
use sparkray_rpc::Frame;
use tracing::warn;

use super::objects::read_locations;
use super::submission::CallKind;
use super::{PayloadReader, Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::ConnId;

impl State {
    /// An answer came. One that cannot be read fails its call: the connection and its other calls go on.
    pub(super) fn on_push_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Some(Pending::Push(task_id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let outcome = frame.decode().map_err(CoreError::from).and_then(|reply| {
            self.take_push_reply(conn, frame.correlation, task_id, &reply, frame.payload.clone())
        });
        if let Err(error) = outcome {
            warn!(conn, %task_id, %error, "an answer cannot be read");
            let message = format!(
                "the answer of task {task_id} cannot be read ({error}): use one version of sparkray in all processes"
            );
            let refusal = proto::PushTaskReply {
                status: TaskStatus::Refused.into(),
                failure: Some(Failure::new(ErrorCode::Internal, message)),
                ..Default::default()
            };
            self.take_push_reply(conn, frame.correlation, task_id, &refusal, Bytes::new())?;
        }
        Ok(())
    }

    fn take_push_reply(
        &mut self,
        conn: ConnId,
        correlation: u64,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
        payload: Bytes,
    ) -> Result<(), CoreError> {
        let Some(task) = self.tasks.get(&task_id) else {
            return self.came_too_late(conn, task_id, reply);
        };
        let (function_id, actor) = match &task.call.kind {
            CallKind::Function(template) => (Some(template.function_id), None),
            CallKind::Actor { actor_id, .. } => (None, Some((*actor_id, task.sequence))),
        };
        let class = task.class;
        let status = reply.status();
        match status {
            TaskStatus::Done => self.take_results(conn, task_id, reply, payload)?,
            TaskStatus::Returned => {
                if actor.is_none() {
                    self.task_came_back(class, task_id);
                }
            }
            TaskStatus::Refused => {
                let error = reply.failure.as_ref().map_or_else(
                    || CoreError::new(ErrorCode::Internal, "a worker refused a task without a reason"),
                    CoreError::from,
                );
                self.finish_task_with(task_id, &Value::failed(error), false);
                if let (Some(function_id), Some(conn)) = (function_id, self.conns.get_mut(&conn)) {
                    // The code may have come with this call, and not have been read.
                    conn.functions_sent.remove(&function_id);
                }
            }
        }
        match actor {
            Some((actor_id, sequence)) => self.actor_call_finished(actor_id, sequence),
            None => {
                let done = (status == TaskStatus::Done).then_some(correlation);
                self.push_answered(conn, class, task_id, done, reply.run_micros);
            }
        }
        Ok(())
    }

    /// An answer to a call that is finished: it came over an earlier connection too, or the call has failed meanwhile.
    fn came_too_late(
        &mut self,
        conn: ConnId,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
    ) -> Result<(), CoreError> {
        for (index, value) in reply.returns.iter().enumerate() {
            let id = ObjectId::for_result(task_id, index as u32);
            let kept = matches!(
                self.objects.get(&id).map(|object| &object.value),
                Some(Value::Stored { .. })
            );
            if let (Some(location), false) = (&value.location, kept) {
                let locations = read_locations(std::slice::from_ref(location))?;
                self.free_stored(id, &locations);
            }
        }
        if reply.returns.iter().any(|value| !value.contained.is_empty()) {
            self.contained_came_again(task_id, conn);
        }
        Ok(())
    }

    fn take_results(
        &mut self,
        conn: ConnId,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
        payload: Bytes,
    ) -> Result<(), CoreError> {
        let raised = reply.returns.iter().any(|value| value.is_error);
        if raised && self.retry_raised(task_id) {
            return Ok(());
        }
        let mut payload = PayloadReader::new(payload);
        let mut values = Vec::with_capacity(reply.returns.len());
        let mut inner = Vec::new();
        for (index, value) in reply.returns.iter().enumerate() {
            let id = ObjectId::for_result(task_id, index as u32);
            let resolved = match value.inline_length {
                Some(length) => Value::read_inline(payload.take(length)?),
                None => Value::Stored {
                    size: value.stored_length,
                    locations: read_locations(std::slice::from_ref(
                        value
                            .location
                            .as_ref()
                            .ok_or(proto::MessageError::Missing("location"))?,
                    ))?,
                },
            };
            for reference in &value.contained {
                let (object, owner): (ObjectId, WorkerAddress) = reference.parts()?;
                inner.push((id, object, owner));
            }
            values.push((id, resolved, value.is_error));
        }
        let Some(task) = self.tasks.get(&task_id) else {
            return Ok(());
        };
        if values.len() != task.call.num_returns as usize {
            let message = format!(
                "a worker answered task {task_id} with {} results in place of {}",
                values.len(),
                task.call.num_returns
            );
            let error = CoreError::new(ErrorCode::Internal, message);
            self.finish_task_with(task_id, &Value::failed(error), false);
            return Ok(());
        }
        if !inner.is_empty() {
            self.take_contained(task_id, conn, &inner);
        }
        // First, so that who hears of a result finds the task finished.
        self.forget_task(task_id);
        for (id, value, is_error) in values {
            if is_error {
                self.note_error(id, &value);
            }
            self.resolve(id, value, is_error);
        }
        Ok(())
    }

    /// Runs a task again whose code raised, when the user asked for that.
    fn retry_raised(&mut self, task_id: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return false;
        };
        let CallKind::Function(template) = &task.call.kind else {
            return false;
        };
        if !template.retry_exceptions || !may_retry(template.max_retries, task.attempt) {
            return false;
        }
        task.attempt += 1;
        let class = task.class;
        self.queue_again(class, task_id);
        true
    }
}

pub(super) fn may_retry(max_retries: i32, attempt: u32) -> bool {
    max_retries < 0 || i64::from(attempt) < i64::from(max_retries)
}
