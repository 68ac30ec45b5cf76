//! Ending calls early.

use std::time::Instant;

use sparkray_common::{ErrorCode, ObjectId, TaskId};

use super::check_running;
use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::state::{Cancellation, SlotResult};

impl CoreWorker {
    /// Has the call end that makes an object, if it is not over. When another process owns it, waits until that has heard
    /// of it; one that cannot be reached before the deadline hears nothing. Fails for the forced end of an actor's call.
    pub fn cancel<E>(
        &self,
        id: ObjectId,
        how: Cancellation,
        deadline: Instant,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let slot = self.with_state(|state| {
            check_running(state)?;
            state.cancel(id, how)
        })?;
        let Some(slot) = slot else { return Ok(()) };
        match self.wait_slot(slot, Some(deadline), interrupt) {
            // The owner is dead, and its calls with it, or its connection broke.
            Ok(SlotResult::Failed(error)) if error.code == ErrorCode::Unavailable => Ok(()),
            Ok(SlotResult::Failed(error)) => Err(error.into()),
            Ok(SlotResult::Done) => Ok(()),
            Ok(_) => Err(CoreError::new(ErrorCode::Internal, "the owner gave another answer").into()),
            Err(other) => Err(other),
        }
    }

    /// Whether a call that this process runs is to end.
    pub fn is_cancelled(&self, task_id: TaskId) -> bool {
        self.state.lock().is_cancelled(task_id)
    }
}
