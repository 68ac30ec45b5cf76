//! RayManager: what starts, watches, budgets and ends the runtime's processes on a node.
//!
//! [`DriverManager`] and [`ExecutorManager`] run in Spark's JVMs and talk to each other (`manager.proto`).
//! [`ChildHost`] owns the processes themselves; `sparkray.init()` without Spark uses it alone. What runs in the processes
//! is known to an `Engine` only: the native runtime is one.

mod child_host;
mod children;
mod container;
mod driver;
mod engine;
mod error;
mod executor;
mod invitation;
mod manager_thread;
mod native_engine;
mod python;
mod request;
mod restart;
mod signals;

pub use child_host::{Child, ChildHost};
pub use driver::{DriverConfig, DriverManager};
pub use engine::Role;
pub use error::SupervisorError;
pub use executor::{
    ExecutorConfig, ExecutorManager, RayletHandle, current_raylet, on_raylet_gone, wait_for_raylet,
};
pub use invitation::Invitation;
pub use native_engine::start_local;
pub use request::InitRequest;
pub use restart::{Decision, RestartPolicy};
pub use signals::spawn_quiet_thread;
