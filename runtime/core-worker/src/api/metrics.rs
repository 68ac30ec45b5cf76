//! What processes have counted, in the OpenMetrics text format.

use std::time::Instant;

use sparkray_common::ErrorCode;
use sparkray_proto::{self as proto, FrameKind, head_reply, head_request};

use super::check_running;
use super::head::HEAD_DEADLINE;
use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::state::{Pending, SlotResult};

impl CoreWorker {
    /// What this process has counted.
    pub fn metrics(&self) -> String {
        self.state.lock().render_metrics()
    }

    /// What the raylet of this node has counted.
    pub fn raylet_metrics<E>(&self, interrupt: &dyn Fn() -> Result<(), E>) -> Result<String, WaitError<E>> {
        let slot = self.with_state(|state| {
            check_running(state)?;
            let message = proto::GetMetrics {};
            Ok::<u64, CoreError>(state.ask_raylet(Pending::Metrics, FrameKind::GetMetrics, &message))
        })?;
        // The raylet is nearer than the head: what is enough for the head is enough for it.
        match self.wait_slot(slot, Some(Instant::now() + HEAD_DEADLINE), interrupt)? {
            SlotResult::Metrics(text) => Ok(text),
            SlotResult::Failed(error) => Err(error.into()),
            _ => Err(CoreError::new(ErrorCode::Internal, "the raylet gave another answer").into()),
        }
    }

    /// What the head has counted.
    pub fn head_metrics<E>(&self, interrupt: &dyn Fn() -> Result<(), E>) -> Result<String, WaitError<E>> {
        let request = head_request::Request::GetMetrics(proto::GetMetrics {});
        match self.ask_head(request, interrupt)? {
            head_reply::Reply::Metrics(message) => Ok(message.text),
            _ => Err(CoreError::new(ErrorCode::Internal, "the head gave another answer").into()),
        }
    }
}
