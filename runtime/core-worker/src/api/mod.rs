//! What the language bindings call: methods of [`crate::CoreWorker`], by subject.

mod calls;
mod head;
mod objects;
mod values;
mod work;

use crate::error::CoreError;
use crate::state::State;

pub use calls::CallArguments;
pub use objects::{FedBlock, ObjectLocations};
pub(crate) use values::inline_limit;
pub use values::{ALWAYS_INLINE, Fetched, NewValue};
pub use work::WorkItem;

fn check_running(state: &State) -> Result<(), CoreError> {
    match &state.broken {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}
