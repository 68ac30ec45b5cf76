//! The extension module `sparkray._native`: thin classes over the core worker. Defaults, checks of options and
//! documentation for users are in Python (`python/sparkray`).
//!
//! Calls that may wait let go of the interpreter's lock, and look at signals while they wait.

mod actor;
mod arguments;
mod bridge;
mod cancelling;
mod convert;
mod core_worker;
mod doors;
mod event;
mod execution;
mod feed;
mod futures;
mod head;
mod incoming;
mod joining;
mod metrics;
mod notices;
mod object_ref;
mod object_ref_methods;
mod objects;
mod placement_groups;
mod process;
mod results;
mod runtime;
mod strategy;
mod values;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::actor::ActorRef;
    #[pymodule_export]
    use crate::arguments::PyTaskTemplate;
    #[pymodule_export]
    use crate::bridge::{
        decode_feed_report, decode_init_result, decode_raylet_access, decode_status, decode_stop_result,
        decode_table_schemas, encode_feed_partitions, encode_feed_request, encode_init_request, encode_table,
    };
    #[pymodule_export]
    use crate::cancelling::take_interrupt;
    #[pymodule_export]
    use crate::core_worker::PyCoreWorker;
    #[pymodule_export]
    use crate::doors::ForeignReferenceError;
    #[pymodule_export]
    use crate::incoming::PyIncomingTask;
    #[pymodule_export]
    use crate::object_ref::ObjectRef;
    #[pymodule_export]
    use crate::object_ref_methods::rebuild_object_ref;
    #[pymodule_export]
    use crate::process::{LocalProcesses, after_fork_in_child, note_fork, set_parent_death_signal};
    #[pymodule_export]
    use crate::values::ValueBuffer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", sparkray_common::VERSION)
    }
}
