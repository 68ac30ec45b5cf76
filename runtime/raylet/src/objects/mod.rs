//! The objects of this node, from and to its clients and other nodes.
//!
//! [`Objects`] decides, by the store: what clients get, who is to hear of what is gone. Without I/O, but for the store's
//! mapped memory. [`Transfers`] does: fetches, sendings, messages to other nodes, and the store's work on disk.

mod feeds;
mod fetched_by;
mod frees;
mod lost;
mod messages;
mod metrics;
mod part;
mod transfer;
mod transfers;

pub(crate) use part::{Objects, StoreFrame};
pub(crate) use transfers::Transfers;
