//! The head (Ray: GCS): the tables of nodes, jobs, actors, placement groups and key-value pairs, and the service through
//! which raylets and their clients reach them.
//!
//! What decides is [`state::HeadState`], a state machine without I/O and clocks: messages and the time go
//! in, records, replies and effects come out. A command (`commands`, one file for each) checks, and makes [`record`]s;
//! [`tables`] change by records alone; what is only true at present is kept apart in [`live`]. What does is [`service`]
//! (tonic over the state, with the [`journal`]) and [`server`] (sockets, timer, end): no reply and no notice leaves before
//! the journal has what it speaks of. The head is on no task's and no object's path.

mod bundle_placement;
mod change;
mod commands;
mod death;
mod effects;
mod error;
mod group;
mod journal;
mod live;
mod placement;
mod record;
mod server;
mod service;
#[doc(hidden)]
pub mod simulation;
mod spec;
mod state;
mod tables;
#[cfg(test)]
mod tests;

pub use error::HeadError;
pub use server::run;
