//! Calls as the language bindings describe them.

use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{ActorId, FunctionId, ObjectId, ResourceSet, SchedulingStrategy, TaskId, WorkerKey};

/// What all calls of a remote function with the same options share.
#[derive(Debug)]
pub struct TaskTemplate {
    /// Hash of the code.
    pub function_id: FunctionId,
    /// The pickled function.
    pub function_blob: Bytes,
    /// For logs and tracebacks.
    pub name: String,
    /// How many objects a call makes.
    pub num_returns: u32,
    /// What a call needs while it runs.
    pub resources: ResourceSet,
    /// Attempts after the first; -1: without end.
    pub max_retries: i32,
    /// Run again when the user's code raised.
    pub retry_exceptions: bool,
    /// Where it may run.
    pub strategy: SchedulingStrategy,
    /// Which workers can run it.
    pub worker: WorkerKey,
}

impl TaskTemplate {
    /// Threads that libraries may use for a call, as a push says it: 0 for one.
    pub(in crate::state) fn num_threads(&self) -> u32 {
        let cpus = self.resources.get("CPU");
        if cpus < 2.0 { 0 } else { cpus as u32 }
    }
}

/// What all calls of an actor's method share.
#[derive(Debug)]
pub struct ActorMethod {
    /// The method.
    pub method: String,
    /// `Class.method`, for logs and tracebacks.
    pub name: String,
}

/// What a task is.
#[derive(Debug, Clone)]
pub(crate) enum CallKind {
    Function(Arc<TaskTemplate>),
    Actor {
        actor_id: ActorId,
        method: Arc<ActorMethod>,
    },
}

impl CallKind {
    /// For logs and tracebacks.
    pub(in crate::state) fn name(&self) -> &str {
        match self {
            Self::Function(template) => &template.name,
            Self::Actor { method, .. } => &method.name,
        }
    }
}

/// A call as the user made it.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) kind: CallKind,
    pub(crate) num_returns: u32,
    /// The call that this process runs and that makes this one.
    pub(crate) parent: Option<TaskId>,
    /// The arguments value; empty: none.
    pub(crate) arguments: Bytes,
    pub(crate) keyword_names: Vec<String>,
    /// Arguments that are references: index in the flat list, and the object.
    pub(crate) slots: Vec<(u32, ObjectId)>,
    /// References inside the arguments value.
    pub(crate) contained: Vec<ObjectId>,
}
