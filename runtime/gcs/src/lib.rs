//! The head (Ray: GCS): the tables of nodes, jobs, actors and key-value pairs, and the service through
//! which raylets and their clients reach them.
//!
//! What decides is [`state::HeadState`], a state machine without I/O and clocks: messages and the time go
//! in, replies and effects come out. What does is [`service`] (tonic over the state) and [`server`]
//! (sockets, timer, end). The head is on no task's and no object's path.

mod actor;
mod actor_events;
mod actors;
mod effects;
mod error;
mod jobs;
mod kv;
mod nodes;
mod placement;
mod server;
mod service;
mod state;
#[cfg(test)]
mod tests;

pub use error::HeadError;
pub use server::run;
