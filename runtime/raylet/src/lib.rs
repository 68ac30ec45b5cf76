//! The raylet: the part of the runtime that every node has once. It grants leases on its workers, forks those from
//! a zygote, keeps the node's object store, and is the node's one door for connections from elsewhere.
//!
//! What decides is apart from what does. Parts that decide hold no sockets, processes or tasks: they take one input, change
//! their own fields, and push events for other parts and effects for the outside (`outbox`). The `router` hands one input to
//! the part that it concerns, hands events on until there are none, and then the effects leave; `io` carries them out, and
//! `raylet` is the loop around both.
//!
//! | module | decides | does |
//! |---|---|---|
//! | `gateway` | who is registered on which connection | doors, sockets, connections to other raylets |
//! | `leases` | who gets resources, what ends with an owner | |
//! | `workers` | which workers there are and what their ends mean | zygote, pipes, logs, killing |
//! | `actors` | what becomes of actors that the head placed here | |
//! | `objects` | who gets which object, who hears of what is gone | transfers |
//! | `head` | what the head is told, whether this node's time is over | the streams to it, its calls |
//!
//! Direction: leaves (`error`, `tasks`, `cluster_view`, `ids`, `node_info`, `outbox`, `input`) <- `gateway` <- `leases`, `workers`,
//! `objects`, `head` <- `actors` <- `router`, `io` <- `raylet` <- `run`. Parts between two arrows know nothing of each
//! other. Only the transfers of `objects` and the streams of `head` use `gateway`, for connections to other raylets, and
//! `actors` uses `leases` alone. The router uses what decides, and nothing of what does. `tests/check_modules.py` holds this.

mod actors;
mod cluster_view;
mod error;
mod gateway;
mod head;
mod ids;
mod input;
mod io;
mod leases;
mod node_info;
mod objects;
mod outbox;
mod raylet;
mod router;
mod run;
mod settings;
mod shape;
#[doc(hidden)]
pub mod simulation;
mod tasks;
#[cfg(test)]
mod test_support;
mod workers;

pub use error::RayletError;
pub use run::run;
pub use workers::kill_all;
