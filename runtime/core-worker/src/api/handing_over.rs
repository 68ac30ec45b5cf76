//! Values that outlive a participant: copies of them, which belong to the driver of the job.

use std::time::{Duration, Instant};

use sparkray_common::{ErrorCode, ObjectId, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind, location_of};

use super::check_running;
use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::state::{Pending, SlotResult};
use crate::values::Fetched;

/// The driver has answered by then, or does not.
const ADOPT_DEADLINE: Duration = Duration::from_mins(1);

/// What became of an object that was to be handed over.
#[derive(Debug)]
pub enum HandedOver {
    /// The driver owns a copy, and keeps it until its job is over.
    Copy(ObjectId, WorkerAddress),
    /// It has no value but this error.
    Raised(Fetched),
    /// It stays with this process: it is another one's already, or its value refers to objects that are not handed over.
    Stays,
}

impl CoreWorker {
    /// Gives the job's driver a copy of an object of this participant, for whoever reads a reference that leaves the
    /// process when it may be gone. Waits for the value.
    pub fn hand_over<E>(
        &self,
        id: ObjectId,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<HandedOver, WaitError<E>> {
        let Some(driver) = self.driver.lock().clone() else {
            return Ok(HandedOver::Stays);
        };
        if !self.state.lock().is_owned(id) {
            return Ok(HandedOver::Stays);
        }
        let value = self
            .get(&[id], None, interrupt)?
            .pop()
            .ok_or_else(|| CoreError::new(ErrorCode::Internal, "there is no value"))??;
        if value.is_error() {
            return Ok(HandedOver::Raised(value));
        }
        let (contains, task) = {
            let mut state = self.state.lock();
            (state.objects().contains_references(&id), state.next_task_id())
        };
        if contains {
            return Ok(HandedOver::Stays);
        }
        let copy = ObjectId::for_result(task, 0);
        let bytes = value.as_slice();
        self.write_stored(copy, &driver, bytes.len(), interrupt, |target| {
            target[..bytes.len()].copy_from_slice(bytes);
        })?;
        let me = self.address();
        let message = proto::AdoptObject {
            object_id: copy.to_vec().into(),
            size: bytes.len() as u64,
            location: Some(location_of(me.node_id, &me.node_address)),
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            Ok::<u64, CoreError>(state.ask_worker(&driver, Pending::Done, FrameKind::AdoptObject, &message))
        })?;
        match self.wait_slot(slot, Some(Instant::now() + ADOPT_DEADLINE), interrupt) {
            Ok(SlotResult::Done) => Ok(HandedOver::Copy(copy, driver)),
            Ok(SlotResult::Failed(error)) => Err(error.into()),
            Ok(_) => Err(CoreError::new(ErrorCode::Internal, "the driver gave another answer").into()),
            Err(WaitError::Deadline) => {
                let message =
                    format!("the driver did not take over object {id} in time: it is stopped or cut off");
                Err(CoreError::new(ErrorCode::Unavailable, message).into())
            }
            Err(other) => Err(other),
        }
    }
}
