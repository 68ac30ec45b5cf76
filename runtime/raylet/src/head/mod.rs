//! The streams to the head, what it says, and how long it counts on this node.

pub(crate) mod lease;
pub(crate) mod link;
pub(crate) mod service;
