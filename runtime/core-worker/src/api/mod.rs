//! What the language bindings call: methods of [`crate::CoreWorker`], by subject.

mod calls;
mod cancelling;
mod handing_over;
mod head;
mod metrics;
mod objects;
mod work;

use crate::error::CoreError;
use crate::state::State;

pub use calls::CallArguments;
pub use handing_over::HandedOver;
pub use objects::{FedBlock, ObjectLocations};
pub use work::WorkItem;

fn check_running(state: &State) -> Result<(), CoreError> {
    state.broken().map_or(Ok(()), |error| Err(error.clone()))
}
