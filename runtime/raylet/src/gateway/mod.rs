//! The node's doors, and who is connected through them.
//!
//! [`Clients`] decides: who is registered on which connection and may be. [`Connections`], [`Routes`] with the doors, and
//! [`Peers`] do: sockets from and to this node, and the tasks that read them.

mod clients;
mod connections;
mod doors;
mod driver_log;
mod metrics;
mod peers;
mod registration;

pub(crate) use clients::{Client, Clients};
pub(crate) use connections::Connections;
pub(crate) use doors::{Doors, Routes};
pub(crate) use peers::{Lane, PeerConnection, Peers, next_frame};
