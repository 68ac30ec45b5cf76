//! Threads, locks and sockets around the state: `worker` connects and carries out what the state decides, `waiting` lets
//! the threads that wait take turns at reading, `reactor` and `connection` hold the sockets, `names` looks up hosts without
//! holding anybody up, and `watchdog` ends a worker whose node's lease is over.

mod connection;
mod names;
mod reactor;
mod waiting;
mod watchdog;
mod worker;

pub(crate) use waiting::Patience;
pub(crate) use worker::never_interrupted;
pub use worker::{ConnectOptions, CoreWorker};
