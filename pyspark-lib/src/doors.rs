//! Where references and handles enter: each is asked here whether it belongs to this process's part in its cluster.
//!
//! A reference outlives `shutdown()`, is inherited by forked children, and travels in pickles that may be read anywhere.
//! One that belongs elsewhere must not come into a message: nobody would ever answer for it.

use std::fmt;
use std::sync::Arc;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sparkray_common::{ActorId, ClusterId, ObjectId};
use sparkray_core_worker::CoreWorker;

use crate::convert::Attribute;
use crate::runtime::{Runtime, current_runtime};

create_exception!(
    sparkray._native,
    ForeignReferenceError,
    PyValueError,
    "A reference or handle belongs to another cluster, or to the process that this one was forked from."
);

/// What stands at the door.
#[derive(Clone, Copy)]
pub(crate) enum Visitor {
    Object(ObjectId),
    Actor(ActorId),
}

impl fmt::Display for Visitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(id) => write!(formatter, "object {id}"),
            Self::Actor(id) => write!(formatter, "actor {id}"),
        }
    }
}

impl Visitor {
    fn advice(self) -> &'static str {
        match self {
            Self::Object(_) => {
                "its value went with it: make the value again, by put() or by calling what returned it"
            }
            Self::Actor(_) => "it ended with it: make the actor again",
        }
    }
}

/// Checks that a reference or handle of `worker` belongs to `here`, this process's part in its cluster now.
pub(crate) fn check(visitor: Visitor, worker: &Arc<CoreWorker>, here: &Arc<CoreWorker>) -> PyResult<()> {
    if Arc::ptr_eq(worker, here) && !worker.is_forked() {
        return Ok(());
    }
    Err(foreign(visitor, worker))
}

/// As [`check`], where it is not known yet which cluster this process takes part in, if in any.
pub(crate) fn runtime_of(visitor: Visitor, worker: &Arc<CoreWorker>) -> PyResult<Arc<Runtime>> {
    match current_runtime() {
        Some(runtime) if Arc::ptr_eq(worker, &runtime.core) => Ok(runtime),
        _ => Err(foreign(visitor, worker)),
    }
}

/// Checks that what came out of a pickle was made in the cluster that this process takes part in.
pub(crate) fn check_origin(visitor: Visitor, origin: &[u8], runtime: &Runtime) -> PyResult<()> {
    if origin == runtime.cluster_id.as_bytes() {
        return Ok(());
    }
    let origin = ClusterId::from_slice(origin).map_err(crate::convert::bad_id)?;
    Err(ForeignReferenceError::new_err(format!(
        "{visitor} belongs to another cluster ({origin}) than this process ({}): a pickled reference or handle can be \
         read only where it was made; pass the value itself",
        runtime.cluster_id
    )))
}

/// For what is read out of a pickle, also by a process that has not joined its cluster yet.
pub(crate) fn runtime_for_reading(py: Python<'_>, visitor: Visitor) -> PyResult<Arc<Runtime>> {
    static JOIN: Attribute = Attribute::new("sparkray._private.worker", "join_in_task");
    if let Some(runtime) = current_runtime() {
        return Ok(runtime);
    }
    JOIN.get(py)?.call0()?;
    current_runtime().ok_or_else(|| {
        ForeignReferenceError::new_err(format!(
            "{visitor} can be read out of a pickle only in a process that takes part in its cluster, and this one does \
             not: pass the value itself, or read it in a task or actor"
        ))
    })
}

fn foreign(visitor: Visitor, worker: &CoreWorker) -> PyErr {
    if worker.is_forked() {
        return ForeignReferenceError::new_err(format!(
            "{visitor} belongs to the process that this one was forked from, which alone can use it: pass the value \
             itself to multiprocessing, or use sparkray tasks and actors"
        ));
    }
    ForeignReferenceError::new_err(format!(
        "{visitor} belongs to a cluster that this process has left (shutdown() was called, or the cluster was \
         stopped), and {}",
        visitor.advice()
    ))
}
