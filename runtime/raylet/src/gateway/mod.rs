//! The node's doors, and who is connected through them.

pub(crate) mod clients;
pub(crate) mod doors;
pub(crate) mod frames;
pub(crate) mod peers;
