//! The core worker: the part of the runtime inside drivers, workers and executor JVMs. It owns objects, submits
//! tasks and actor calls straight to the workers that run them, runs calls of others, and reads and writes the
//! node's shared memory.
//!
//! Decisions are in `state` (no I/O, no clock, no threads), threads, locks and sockets in `io`. `api` is what the language
//! bindings call. Each uses only what stands before it here, and all use what is left: values, ids' hashing, errors.

mod aligned;
mod api;
mod dropped;
mod error;
mod fork;
mod hash;
mod io;
mod kick;
#[doc(hidden)]
pub mod simulation;
mod slab_map;
mod state;
mod store;
#[cfg(test)]
mod test_raylet;
#[cfg(test)]
mod unreadable_calls;
mod values;

pub use api::{CallArguments, FedBlock, HandedOver, ObjectLocations, WorkItem};
pub use dropped::HandleKind;
pub use error::{CoreError, WaitError};
pub use fork::{generation as fork_generation, note_fork};
pub use hash::IdMap;
pub use io::{ConnectOptions, CoreWorker};
pub use state::{
    ActorMethod, Cancellation, CreateActorWork, IncomingTask, Notice, TaskTemplate, UnhandledErrors,
};
pub use store::StoredValue;
pub use values::{ALWAYS_INLINE, Fetched, NewValue};
