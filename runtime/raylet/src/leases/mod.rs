//! Leases: who may use this node's resources, and what becomes of that when their owners go. Without I/O.
//!
//! [`Leases`] is the part: it takes what owners say, has the [`manager`] decide, and answers. `placement` says which node a
//! request is for, `bundles` what is reserved for placement groups, `owners` knows the owners on other nodes and their
//! connections, `infeasible` what the head is told.

mod bundles;
mod group_orders;
mod infeasible;
mod manager;
mod metrics;
mod owner_leases;
mod owners;
mod part;
mod placement;
mod removed_groups;
mod requests;

pub(crate) use manager::{LeaseOwner, LeaseRequest};
pub(crate) use owner_leases::OwnerRegistration;
pub(crate) use part::{Leases, Waiting};
pub(crate) use requests::Asker;
