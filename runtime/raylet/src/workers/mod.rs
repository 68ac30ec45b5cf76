//! Worker processes, from the zygote to their last line of output.
//!
//! [`Workers`] decides, without I/O: which workers there are, for which job, what their ends mean (`pool`, `labels`).
//! [`Births`] and the functions here do: processes and pipes.

mod births;
mod descendants;
mod endings;
mod labels;
mod logs;
mod metrics;
mod orphans;
mod part;
mod pool;
mod zygote;
mod zygotes;

pub(crate) use births::{Births, Zygotes, kill};
pub use descendants::kill_all;
pub(crate) use descendants::reap_all;
pub(crate) use orphans::kill_orphans;
pub(crate) use part::Workers;
#[cfg(test)]
pub(crate) use pool::{IDLE_AFTER, START_DEADLINE};
pub(crate) use zygote::{UNSET_THREAD_VARIABLES, WorkerConfig, ZygoteSpec};
pub(crate) use zygotes::OWN as OWN_ZYGOTE;
