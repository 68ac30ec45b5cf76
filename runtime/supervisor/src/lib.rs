//! RayManager: what starts, watches and ends the runtime's processes on a node.

mod child_host;
mod error;
mod signals;

pub use child_host::{Child, ChildHost, ChildSpec};
pub use error::SupervisorError;
pub use signals::spawn_quiet_thread;
