//! The raylet: the part of the runtime that every node has once. It grants leases on its workers, forks those from
//! a zygote, keeps the node's object store, and is the node's one door for connections from elsewhere.
//!
//! What decides is apart from what does: [`leases`], [`cluster_view`] and [`worker_pool`] are pure. [`raylet`] is the
//! loop: events go in, one after the other, and are handled by the `impl Raylet` blocks of the modules that know
//! them. Tasks read sockets and pipes and turn them into events.
//!
//! | module | what it does |
//! |---|---|
//! | `gateway`, `clients`, `frames` | callers, their connections, what they may say |
//! | `lease_service`, `owner_service`, `actors` | leases and actors, by the decisions of `leases` and `owners` |
//! | `workers`, `zygote`, `logs`, `worker_output`, `orphans` | worker processes, by the decisions of `worker_pool` |
//! | `store_service`, `transfer`, `peers`, `frees` | objects of this node, from and to other nodes |
//! | `head_link`, `head_service`, `lease` | the streams to the head, what it says, how long it counts on this node |

mod actors;
mod clients;
mod cluster_view;
mod descendants;
mod error;
mod event;
mod frames;
mod frees;
mod gateway;
mod head_link;
mod head_service;
mod lease;
mod lease_service;
mod leases;
mod logs;
mod orphans;
mod owner_service;
mod owners;
mod peers;
mod raylet;
mod run;
mod store_service;
#[cfg(test)]
mod test_support;
mod transfer;
mod worker_output;
mod worker_pool;
mod workers;
mod zygote;

pub use descendants::kill_all;
pub use error::RayletError;
pub use run::run;
