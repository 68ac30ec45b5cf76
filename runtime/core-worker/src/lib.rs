//! The core worker: the part of the runtime inside drivers, workers and executor JVMs. It owns objects, submits
//! tasks and actor calls straight to the workers that run them, runs calls of others, and reads and writes the
//! node's shared memory.
//!
//! Decisions are in `state` (no I/O, no clock, no threads), sockets in `reactor` and `connection`, and the turns of the
//! threads that wait in `waiting`. `api` is what the language bindings call.

mod aligned;
mod api;
mod connection;
mod error;
mod fork;
mod hash;
mod kick;
mod names;
mod reactor;
mod state;
mod store;
#[cfg(test)]
mod test_raylet;
#[cfg(test)]
mod unreadable_calls;
mod waiting;
mod watchdog;
mod worker;

pub use api::{ALWAYS_INLINE, CallArguments, FedBlock, Fetched, NewValue, ObjectLocations, WorkItem};
pub use error::{CoreError, WaitError};
pub use fork::{generation as fork_generation, note_fork};
pub use state::{ActorMethod, CreateActorWork, HandleKind, IncomingTask, Notice, TaskTemplate};
pub use store::StoredValue;
pub use worker::{ConnectOptions, CoreWorker};
