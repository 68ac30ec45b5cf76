//! The raylet: the part of the runtime that every node has once. It grants leases on its workers, forks those from
//! a zygote, keeps the node's object store, and is the node's one door for connections from elsewhere.
//!
//! What decides is apart from what does. [`raylet`] is the loop: events go in, one after the other. Tasks read sockets and
//! pipes and turn them into events.

mod actors;
mod error;
mod gateway;
mod head;
mod input;
mod leases;
mod objects;
mod raylet;
mod run;
#[cfg(test)]
mod test_support;
mod workers;

pub use error::RayletError;
pub use run::run;
pub use workers::descendants::kill_all;
