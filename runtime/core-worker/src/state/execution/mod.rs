//! Calls that this process runs: `arrivals` takes them in, `actor_scheduling_queue` keeps the order of an actor's calls and
//! their duplicates, `answers` keeps what was answered for callers on other nodes, `answering` answers, `giving_back`
//! hands functions back that would wait too long, and `cancelling` ends calls early.
//!
//! Invariants:
//! 1. A call is in `ready` once, or runs, or is answered; what is sent again is not run again.
//! 2. Calls of one caller to this actor start in the order of their sequence numbers.
//! 3. A call that is to end and is in no queue of this part is in `cancelled` until it is answered.

mod actor_scheduling_queue;
mod answering;
mod answers;
mod arrivals;
mod cancelling;
mod giving_back;
mod metrics;

use std::collections::VecDeque;

use bytes::Bytes;
use sparkray_common::{
    ActorId, BundleChoice, FunctionId, JobId, Metrics, ObjectId, TaskId, WorkerAddress, WorkerId,
};
use sparkray_proto as proto;

use super::links::{ConnId, Links};
use super::objects::{Locations, read_locations};
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};

use actor_scheduling_queue::ActorSchedulingQueues;
use answers::FunctionAnswers;
pub(super) use cancelling::CancelledCall;
use metrics::ExecutionMetrics;

/// An argument that was given as a reference.
#[derive(Debug, Clone)]
pub(crate) enum ArgumentValue {
    Inline(Bytes),
    Stored { object: ObjectId, locations: Locations },
}

/// A call to run.
#[derive(Debug)]
pub struct IncomingTask {
    /// The task.
    pub task_id: TaskId,
    /// Function or `Class.method`.
    pub name: String,
    /// The method of an actor; empty for functions.
    pub method: String,
    /// The function; NIL for actors.
    pub function_id: FunctionId,
    /// How many results the caller expects.
    pub num_returns: u32,
    /// Counts attempts from 0.
    pub attempt: u32,
    /// Threads that libraries may use for a function; 0: one.
    pub num_threads: u32,
    /// The bundle that a function runs in.
    pub bundle: Option<BundleChoice>,
    /// The caller's job.
    pub job_id: JobId,
    /// The arguments value; empty: none.
    pub arguments: Bytes,
    /// Names of the keyword arguments.
    pub keyword_names: Vec<String>,
    pub(crate) references: Vec<(u32, ArgumentValue)>,
    /// Why it cannot run: its turn comes all the same.
    unreadable: Option<Box<CoreError>>,
    pub(crate) caller: WorkerAddress,
    /// Actor calls only.
    sequence: Option<u64>,
    conn: ConnId,
    correlation: u64,
    /// Microseconds at which it was taken from the queue.
    started: u64,
}

impl IncomingTask {
    /// Whether arguments were given as references.
    pub fn has_references(&self) -> bool {
        !self.references.is_empty()
    }

    /// Whether some of them are in stores.
    pub fn has_stored_references(&self) -> bool {
        let mut values = self.references.iter().map(|(_, value)| value);
        values.any(|value| matches!(value, ArgumentValue::Stored { .. }))
    }
}

/// An actor to become.
#[derive(Debug)]
pub struct CreateActorWork {
    /// What the head recorded.
    pub spec: proto::ActorSpec,
    /// Counts its restarts.
    pub incarnation: u64,
    correlation: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    Task(IncomingTask),
    CreateActor(Box<CreateActorWork>),
}

impl Work {
    /// The function that is called; `None`: an actor is called, or made.
    fn function(&self) -> Option<&IncomingTask> {
        match self {
            Self::Task(task) if task.sequence.is_none() => Some(task),
            _ => None,
        }
    }
}

/// This process as a worker.
#[derive(Debug, Default)]
pub(crate) struct Execution {
    ready: VecDeque<Work>,
    queues: ActorSchedulingQueues,
    answers: FunctionAnswers,
    /// Code that callers have sent and that nobody has loaded yet.
    functions: IdMap<FunctionId, Bytes>,
    actor: Option<(ActorId, u64)>,
    /// When the function that runs began.
    running_since: Option<u64>,
    /// Threads of this worker that wait for objects.
    blocked: usize,
    /// Calls that run, or that the embedding code has taken, and that are to end.
    cancelled: IdSet<TaskId>,
    /// This process is to end.
    exit: bool,
    /// Somebody wants to hear of each arrival.
    announce: bool,
    metrics: ExecutionMetrics,
}

impl Execution {
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether no call runs or waits, and this process is no actor.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_work() && self.running_since.is_none() && self.actor.is_none()
    }

    /// Whether this process is to end.
    pub(in crate::state) fn is_ending(&self) -> bool {
        self.exit
    }

    /// This process is to end.
    pub(super) fn exit(&mut self, links: &mut Links) {
        self.exit = true;
        links.out.news();
    }

    /// Has the embedding code told of each arrival.
    pub(in crate::state) fn announce_work(&mut self) {
        self.announce = true;
    }

    pub(super) fn is_to_be_announced(&self) -> bool {
        self.announce && (self.exit || self.has_work())
    }

    /// The actor that this process is.
    pub(in crate::state) fn actor(&self) -> Option<(ActorId, u64)> {
        self.actor
    }

    /// The code of a function that a caller has sent.
    pub(in crate::state) fn function_blob(&self, function: FunctionId) -> Option<Bytes> {
        self.functions.get(&function).cloned()
    }

    /// A function is loaded: its code is not needed any more.
    pub(in crate::state) fn function_loaded(&mut self, function: FunctionId) {
        self.functions.remove(&function);
    }

    /// Lists the calls that wait, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_core_worker_executions_queued",
            "Calls of others that wait in this process",
            self.ready.len() as u64,
        );
        self.metrics.list(into);
    }

    // ---- ends ----------------------------------------------------------------------------------------------

    /// The connection to a caller is gone. Functions that wait for it need not run; actor calls keep their order and run.
    pub(super) fn connection_lost(&mut self, conn: ConnId) {
        self.ready
            .retain(|work| work.function().is_none_or(|task| task.conn != conn));
    }

    /// A caller is said to be dead: nobody will ask for the answers of its calls.
    pub(super) fn caller_died(&mut self, caller: WorkerId) {
        self.queues.forget_idle(caller);
    }

    /// A caller is dead, and all that it has sent was read.
    pub(super) fn caller_gone(&mut self, caller: WorkerId) {
        self.queues.forget_idle(caller);
        self.answers.forget(caller);
    }

    #[cfg(test)]
    pub(super) fn queues(&self) -> &ActorSchedulingQueues {
        &self.queues
    }
}

/// An argument in a store.
pub(crate) fn stored_argument(argument: &proto::TaskArgument) -> Result<ArgumentValue, CoreError> {
    let reference = argument
        .reference
        .as_ref()
        .ok_or(proto::MessageError::Missing("reference"))?;
    let (object, _) = reference.parts()?;
    Ok(ArgumentValue::Stored {
        object,
        locations: read_locations(&argument.locations)?,
    })
}
