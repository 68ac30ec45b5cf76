//! Calls that this process makes: from the user's call to its results. Which worker runs a function is decided in
//! `scheduling`, the order of an actor's calls in `actor_calls`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sparkray_common::{ActorId, FunctionId, JobId, NodeId, ObjectId, ResourceSet, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::objects::{Waiter, describe_locations};
use super::scheduling::SchedulingClassId;
use super::waits::unknown_object;
use super::{Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::ConnId;

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
    /// Run on this node only.
    pub node: Option<NodeId>,
}

impl TaskTemplate {
    /// Threads that libraries may use for a call, as a push says it: 0 for one.
    pub(super) fn num_threads(&self) -> u32 {
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

/// A call as the user made it.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) kind: CallKind,
    pub(crate) num_returns: u32,
    /// The arguments value; empty: none.
    pub(crate) arguments: Bytes,
    pub(crate) keyword_names: Vec<String>,
    /// Arguments that are references: index in the flat list, and the object.
    pub(crate) slots: Vec<(u32, ObjectId)>,
    /// References inside the arguments value.
    pub(crate) contained: Vec<ObjectId>,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) call: NewTask,
    /// The job it was made for.
    pub(super) job_id: JobId,
    pub(super) attempt: u32,
    /// Arguments that are not resolved.
    pub(super) missing: usize,
    /// Workers that could not be reached.
    pub(super) misses: u8,
    /// Functions only.
    pub(super) class: SchedulingClassId,
    /// Actor calls only, once they are sent.
    pub(super) sequence: u64,
}

/// The fields of a push that are the same for all calls of one kind to one worker, encoded.
#[derive(Debug)]
pub(super) struct PushPrefix<K> {
    kind: Arc<K>,
    job_id: JobId,
    num_returns: u32,
    pub(super) bytes: Vec<u8>,
}

impl<K> PushPrefix<K> {
    pub(super) fn fits(&self, kind: &Arc<K>, job_id: JobId, num_returns: u32) -> bool {
        Arc::ptr_eq(&self.kind, kind) && self.job_id == job_id && self.num_returns == num_returns
    }

    pub(super) fn new(kind: &Arc<K>, job_id: JobId, num_returns: u32, message: proto::PushTask) -> Self {
        let message = proto::PushTask {
            job_id: job_id.to_vec().into(),
            num_returns,
            ..message
        };
        Self {
            kind: Arc::clone(kind),
            job_id,
            num_returns,
            bytes: message.encode_to_vec(),
        }
    }
}

/// How the arguments of a task are.
pub(super) enum Arguments {
    Ready,
    /// One of them has no value: neither has the task.
    Failed(Value, bool),
}

impl State {
    /// Submits a call; gives the ids of its results, each with one reference.
    pub(crate) fn submit(&mut self, call: NewTask) -> Vec<ObjectId> {
        let task_id = self.ids.next_task();
        let mut results = Vec::with_capacity(call.num_returns as usize);
        for index in 0..call.num_returns {
            let id = ObjectId::for_result(task_id, index);
            self.add_owned(id, Value::Pending, Vec::new());
            results.push(id);
        }
        for id in call.slots.iter().map(|(_, id)| id).chain(&call.contained) {
            self.add_ref(*id);
        }
        let mut missing = 0;
        for (_, id) in &call.slots {
            if self.depend(*id, Waiter::Task(task_id)) {
                missing += 1;
            }
        }
        let actor = match &call.kind {
            CallKind::Actor { actor_id, .. } => Some(*actor_id),
            CallKind::Function(_) => None,
        };
        self.inline_bytes += call.arguments.len();
        self.tasks.insert(
            task_id,
            Task {
                call,
                job_id: self.job_id,
                attempt: 0,
                missing,
                misses: 0,
                class: SchedulingClassId::NONE,
                sequence: 0,
            },
        );
        match actor {
            Some(actor_id) => self.enqueue_actor_call(actor_id, task_id),
            None if missing == 0 => self.enqueue(task_id),
            None => {}
        }
        results
    }

    /// Makes a task or actor wait for an object; `false`: it is there.
    pub(super) fn depend(&mut self, id: ObjectId, waiter: Waiter) -> bool {
        self.want(id);
        // The owner may be known to be dead.
        match self.objects.get_mut(&id) {
            Some(object) => {
                object.was_looked_at = true;
                if object.is_resolved() {
                    return false;
                }
                object.waiters.push(waiter);
                true
            }
            None => false,
        }
    }

    pub(super) fn dependency_resolved(&mut self, task_id: TaskId) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.missing = task.missing.saturating_sub(1);
        if task.missing > 0 {
            return;
        }
        match task.call.kind {
            CallKind::Function(_) => self.enqueue(task_id),
            CallKind::Actor { actor_id, .. } => self.actor_call_ready(actor_id, task_id),
        }
    }

    /// Whether the arguments of a task can be sent. A value may be lost after the task was queued.
    pub(super) fn arguments_of(&self, task: &Task) -> Arguments {
        for (_, id) in &task.call.slots {
            if let Some((value, is_error)) = self.failed_object(std::slice::from_ref(id)) {
                return Arguments::Failed(value, is_error);
            }
        }
        Arguments::Ready
    }

    /// The first of these objects that has no value.
    pub(crate) fn failed_object(&self, ids: &[ObjectId]) -> Option<(Value, bool)> {
        ids.iter().find_map(|id| {
            let Some(object) = self.objects.get(id) else {
                // Callers hold references of all: it has never been an object of this process.
                return Some((Value::failed(unknown_object(*id)), false));
            };
            let failed = object.is_error || matches!(object.value, Value::Failed(_));
            failed.then(|| (object.value.clone(), object.is_error))
        })
    }

    /// Sends a call to a worker. `message` has the fields that differ between calls of one kind.
    pub(super) fn push(
        &mut self,
        conn: ConnId,
        task_id: TaskId,
        prefix: &[u8],
        function_blob: Option<&Bytes>,
        mut message: proto::PushTask,
    ) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        message.task_id = Self::id_bytes(task_id.as_bytes());
        message.arguments_length = task.call.arguments.len() as u64;
        message.attempt = task.attempt;
        message.keyword_names.clone_from(&task.call.keyword_names);
        let arguments = task.call.arguments.clone();
        let inline;
        (message.arguments, inline) = self.describe_arguments(&task.call.slots);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 + inline.len());
        if let Some(blob) = function_blob {
            message.function_length = blob.len() as u64;
            parts.push(blob);
        }
        parts.push(&arguments);
        parts.extend(inline.iter().map(|part| &part[..]));
        self.request_with(
            conn,
            Pending::Push(task_id),
            FrameKind::PushTask,
            prefix,
            &message,
            &parts,
        );
    }

    /// How the arguments that are references travel: inline values, or where they are stored.
    pub(crate) fn describe_arguments(
        &self,
        slots: &[(u32, ObjectId)],
    ) -> (Vec<proto::TaskArgument>, Vec<Bytes>) {
        let mut arguments = Vec::with_capacity(slots.len());
        let mut inline = Vec::new();
        for (slot, id) in slots {
            let mut argument = proto::TaskArgument {
                slot: *slot,
                ..Default::default()
            };
            if let Some(object) = self.objects.get(id) {
                let owner = object.owner.as_deref().unwrap_or(&self.me);
                argument.reference = Some(proto::ObjectReference::new(*id, owner));
                match &object.value {
                    Value::Inline(bytes) => {
                        argument.inline_length = Some(bytes.len() as u64);
                        inline.push(bytes.clone());
                    }
                    Value::Stored { locations, .. } => argument.locations = describe_locations(locations),
                    Value::Pending | Value::Failed(_) => {}
                }
            }
            arguments.push(argument);
        }
        (arguments, inline)
    }

    /// All results of a task become `value`.
    pub(super) fn finish_task_with(&mut self, task_id: TaskId, value: &Value, is_error: bool) {
        let Some(num_returns) = self.tasks.get(&task_id).map(|task| task.call.num_returns) else {
            return;
        };
        self.forget_task(task_id);
        for index in 0..num_returns {
            let id = ObjectId::for_result(task_id, index);
            if is_error {
                self.note_error(id, value);
            }
            self.resolve(id, value.clone(), is_error);
        }
    }

    pub(super) fn forget_task(&mut self, task_id: TaskId) {
        let Some(task) = self.tasks.remove(&task_id) else {
            return;
        };
        self.inline_bytes -= task.call.arguments.len();
        self.leave_class(task.class);
        for (_, id) in task.call.slots {
            self.drop_ref(id);
        }
        for id in task.call.contained {
            self.drop_ref(id);
        }
    }

    /// Every call fails: this process has left the cluster.
    pub(super) fn fail_all_tasks(&mut self, error: &CoreError) {
        let failed = Value::failed(error.clone());
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            self.finish_task_with(task, &failed, false);
        }
    }

    /// A push was never sent because its connection had closed.
    pub(super) fn push_lost(&mut self, task_id: TaskId, cause: &str) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        // An actor's call stays among those that are not answered, and is sent again.
        if matches!(task.call.kind, CallKind::Function(_)) {
            self.retry_lost(task_id, false, "", cause);
        }
    }

    /// Tasks that were submitted and are not finished.
    pub(crate) fn unfinished_tasks(&self) -> usize {
        self.tasks.len()
    }
}
