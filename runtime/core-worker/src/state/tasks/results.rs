//! Answers to calls: results, errors, and calls that are to run again.

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, Failure, TaskStatus};
use sparkray_rpc::Frame;
use tracing::warn;

use super::{CallKind, Ending, Place, Task, Tasks, cancelled};
use crate::error::CoreError;
use crate::state::ids::SchedulingClassId;
use crate::state::links::{ConnId, Links, PayloadReader};
use crate::state::objects::{Objects, Value, read_locations};

/// What became of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum Outcome {
    /// It has results, which its worker needed so many microseconds for.
    Done(u64),
    /// As `Done`, but its code raised and it is to run again.
    Raised(u64),
    /// It did not run: it waited behind another one.
    Returned,
    /// It did not run, and has failed.
    Refused,
}

/// Whose call was answered.
#[derive(Debug)]
pub(in crate::state) enum Answer {
    /// A call that was finished before.
    Late,
    Function {
        class: SchedulingClassId,
        outcome: Outcome,
        /// What was sent for it.
        bytes: u32,
    },
    Actor {
        actor: ActorId,
        sequence: u64,
        /// What was sent for it.
        bytes: u32,
    },
}

impl Tasks {
    /// An answer came. One that cannot be read fails its call: the connection and its other calls go on.
    pub(in crate::state) fn take_reply(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        conn: ConnId,
        task_id: TaskId,
        frame: &Frame,
    ) -> Result<Answer, CoreError> {
        let payload = frame.payload.clone();
        let outcome = frame
            .decode()
            .map_err(CoreError::from)
            .and_then(|reply| self.take_message(objects, links, conn, task_id, &reply, payload));
        outcome.or_else(|error| {
            warn!(conn, %task_id, %error, "an answer cannot be read");
            let message = format!(
                "the answer of task {task_id} cannot be read ({error}): use one version of sparkray in all processes"
            );
            let refusal = proto::PushTaskReply {
                status: TaskStatus::Refused.into(),
                failure: Some(Failure::new(ErrorCode::Internal, message)),
                ..Default::default()
            };
            self.take_message(objects, links, conn, task_id, &refusal, Bytes::new())
        })
    }

    fn take_message(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        conn: ConnId,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
        payload: Bytes,
    ) -> Result<Answer, CoreError> {
        let Some(task) = self.table.get(&task_id) else {
            came_too_late(objects, links, conn, task_id, reply)?;
            return Ok(Answer::Late);
        };
        let (place, is_cancelled) = (task.place, task.is_cancelled());
        let (actor_id, function_id) = match &task.kind {
            CallKind::Actor { actor_id, .. } => (Some(*actor_id), None),
            CallKind::Function(template) => (None, Some(template.function_id)),
        };
        let outcome = match reply.status() {
            TaskStatus::Done if self.take_results(objects, links, conn, task_id, reply, payload)? => {
                Outcome::Raised(reply.run_micros)
            }
            TaskStatus::Done => Outcome::Done(reply.run_micros),
            TaskStatus::Returned => Outcome::Returned,
            TaskStatus::Refused => {
                let error = reply.failure.as_ref().map_or_else(
                    || CoreError::new(ErrorCode::Internal, "a worker refused a task without a reason"),
                    CoreError::from,
                );
                let value = if is_cancelled && error.code == ErrorCode::Cancelled {
                    cancelled(task_id)
                } else {
                    Value::failed(error)
                };
                self.finish(objects, links, task_id, &value);
                if let Some(function_id) = function_id {
                    // The code may have come with this call, and not have been read.
                    links.forget_function(conn, &function_id);
                }
                Outcome::Refused
            }
        };
        Ok(match (actor_id, place) {
            (Some(actor), Place::Sent { sequence, bytes }) => Answer::Actor {
                actor,
                sequence,
                bytes,
            },
            (None, Place::Pushed { class, bytes, .. }) => Answer::Function {
                class,
                outcome,
                bytes,
            },
            _ => Answer::Late,
        })
    }

    /// True: the task is to run again, because its code raised and the user asked for that.
    fn take_results(
        &mut self,
        objects: &mut Objects,
        links: &mut Links,
        conn: ConnId,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
        payload: Bytes,
    ) -> Result<bool, CoreError> {
        let raised = reply.returns.iter().any(|value| value.is_error);
        if raised && self.retry_raised(task_id) {
            return Ok(true);
        }
        let task = self.table.get(&task_id);
        let num_returns = task.map_or(0, Task::num_returns);
        let is_cancelled = task.is_some_and(Task::is_cancelled);
        let mut payload = PayloadReader::new(payload);
        let mut values = Vec::with_capacity(reply.returns.len());
        let mut inner = Vec::new();
        for (index, value) in reply.returns.iter().enumerate() {
            let id = ObjectId::for_result(task_id, index as u32);
            values.push((id, read_result(value, &mut payload)?));
            for reference in &value.contained {
                let (object, owner): (ObjectId, WorkerAddress) = reference.parts()?;
                inner.push((id, object, owner));
            }
        }
        if values.len() != num_returns as usize {
            let message = format!(
                "a worker answered task {task_id} with {} results in place of {}",
                values.len(),
                num_returns
            );
            let error = CoreError::new(ErrorCode::Internal, message);
            self.finish(objects, links, task_id, &Value::failed(error));
            return Ok(false);
        }
        if !inner.is_empty() {
            objects.take_contained(links, task_id, conn, &inner);
        }
        // First, so that who hears of a result finds the task finished.
        let ending = if raised { Ending::Raised } else { Ending::Finished };
        self.forget(objects, links, task_id, ending);
        for (id, value) in values {
            if is_cancelled {
                // Whoever cancelled it need not be told of the error.
                objects.resolve(links, id, value);
            } else {
                objects.resolve_result(links, id, value);
            }
        }
        Ok(false)
    }

    fn retry_raised(&mut self, task_id: TaskId) -> bool {
        let Some(task) = self.table.get_mut(&task_id) else {
            return false;
        };
        let CallKind::Function(template) = &task.kind else {
            return false;
        };
        let max_retries = template.max_retries;
        let tries_again = template.retry_exceptions && task.try_again(max_retries);
        if tries_again {
            self.metrics.retried();
        }
        tries_again
    }
}

fn read_result(value: &proto::ReturnValue, payload: &mut PayloadReader) -> Result<Value, CoreError> {
    if let Some(length) = value.inline_length {
        return Ok(Value::read_inline(payload.take(length)?, value.is_error));
    }
    let location = value
        .location
        .as_ref()
        .ok_or(proto::MessageError::Missing("location"))?;
    Ok(Value::Stored {
        size: value.stored_length,
        locations: read_locations(std::slice::from_ref(location))?,
    })
}

/// An answer to a call that is finished: it came over an earlier connection too, or the call has failed meanwhile.
fn came_too_late(
    objects: &mut Objects,
    links: &mut Links,
    conn: ConnId,
    task_id: TaskId,
    reply: &proto::PushTaskReply,
) -> Result<(), CoreError> {
    for (index, value) in reply.returns.iter().enumerate() {
        let id = ObjectId::for_result(task_id, index as u32);
        let kept = matches!(objects.value(&id), Some(Value::Stored { .. }));
        if let (Some(location), false) = (&value.location, kept) {
            let locations = read_locations(std::slice::from_ref(location))?;
            objects.free_stored(id, &locations);
        }
    }
    if reply.returns.iter().any(|value| !value.contained.is_empty()) {
        objects.contained_came_again(links, task_id, conn);
    }
    Ok(())
}
