//! Questions to the head, relayed by the local raylet.

use std::time::{Duration, Instant};

use sparkray_common::ErrorCode;
use sparkray_proto::{self as proto, FrameKind, head_reply, head_request};

use super::check_running;
use crate::error::{CoreError, WaitError};
use crate::io::{CoreWorker, never_interrupted};
use crate::state::{Pending, SlotResult};

/// The head answers by then, or does not.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// The head has not answered by [`HEAD_DEADLINE`].
pub(super) fn head_is_silent() -> CoreError {
    CoreError::new(
        ErrorCode::Unavailable,
        format!(
            "the head of the cluster did not answer within {} s: it is overloaded, stopped or cut off",
            HEAD_DEADLINE.as_secs()
        ),
    )
}

impl CoreWorker {
    /// Asks the head, through the local raylet.
    pub fn ask_head<E>(
        &self,
        request: head_request::Request,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<head_reply::Reply, WaitError<E>> {
        let message = proto::HeadRequest {
            request: Some(request),
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            if let Some(cause) = state.head_lost() {
                return Err(CoreError::new(
                    ErrorCode::Unavailable,
                    format!("the head of the cluster is gone ({cause}): start the cluster again"),
                ));
            }
            Ok(state.ask_raylet(Pending::Head, FrameKind::HeadRequest, &message))
        })?;
        match self.wait_slot(slot, Some(Instant::now() + HEAD_DEADLINE), interrupt) {
            Ok(SlotResult::Head(reply)) => {
                if let Some(failure) = &reply.failure {
                    return Err(CoreError::from(failure).into());
                }
                reply.reply.ok_or_else(|| {
                    CoreError::new(ErrorCode::Internal, "the head gave an empty answer").into()
                })
            }
            Ok(SlotResult::Failed(error)) => Err(error.into()),
            Ok(_) => Err(CoreError::new(ErrorCode::Internal, "the raylet gave another answer").into()),
            Err(WaitError::Deadline) => Err(head_is_silent().into()),
            Err(other) => Err(other),
        }
    }

    /// As [`CoreWorker::ask_head`], without an interrupt check.
    pub fn ask_head_plainly(&self, request: head_request::Request) -> Result<head_reply::Reply, CoreError> {
        match self.ask_head(request, &never_interrupted) {
            Ok(reply) => Ok(reply),
            Err(WaitError::Failed(error)) => Err(error),
            Err(WaitError::Deadline) => Err(head_is_silent()),
            Err(WaitError::Interrupted(never)) => match never {},
        }
    }
}
