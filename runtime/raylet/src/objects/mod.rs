//! The objects of this node, from and to other nodes.

pub(crate) mod frees;
pub(crate) mod service;
pub(crate) mod transfer;
