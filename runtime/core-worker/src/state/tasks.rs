//! Tasks: waiting for arguments, leases of workers, pushes and replies.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, LeaseId, NodeId, ObjectId, ResourceSet, TaskId, WorkerAddress,
};
use sparkray_proto::{self as proto, FrameKind, TaskStatus, location_of};
use sparkray_rpc::Frame;
use tracing::{debug, warn};

use super::objects::Dependent;
use super::{PayloadReader, Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

/// Lease requests of one class that are under way at once.
const MAX_LEASE_REQUESTS: usize = 32;
/// An idle lease is kept this long for the next task of its class, in microseconds.
const LEASE_LINGER: u64 = 20_000;
/// Tasks are pushed ahead of a worker only when they run shorter than this, in microseconds.
const SHORT_TASK: f64 = 1_000.0;
/// Work that is pushed ahead to one worker, in microseconds of run time.
const PUSH_AHEAD: f64 = 4_000.0;
const MAX_PUSHED_AHEAD: usize = 128;

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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey {
    function_id: FunctionId,
    resources: ResourceSet,
    /// Where most of the arguments are.
    near: Option<(NodeId, String)>,
    pinned: bool,
}

/// Tasks that any leased worker of the class can run.
#[derive(Debug)]
pub(crate) struct SchedulingClass {
    key: ClassKey,
    queue: VecDeque<TaskId>,
    leases: Vec<LeaseId>,
    requests: usize,
    /// Moving average of the run time in microseconds; negative: not measured.
    run_micros: f64,
}

#[derive(Debug)]
pub(crate) struct Lease {
    class: usize,
    /// `None` while it is asked for.
    worker: Option<(WorkerAddress, ConnId, u32)>,
    /// The raylet that was asked, or granted it.
    raylet: ConnId,
    pushed: VecDeque<TaskId>,
    idle_since: u64,
    /// Others wait for it: it is given back as soon as its worker is idle.
    wanted: bool,
}

/// What a task is.
#[derive(Debug, Clone)]
pub(crate) enum CallKind {
    Function(Arc<TaskTemplate>),
    Actor {
        actor_id: ActorId,
        method: Arc<str>,
        name: String,
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
pub(crate) struct Task {
    pub(crate) call: NewTask,
    pub(crate) attempt: u32,
    /// Arguments that are not resolved.
    pub(crate) missing: usize,
    pub(crate) class: usize,
    pub(crate) sequence: u64,
}

impl State {
    /// Submits a call; gives the ids of its results, each with one reference.
    pub(crate) fn submit(&mut self, call: NewTask) -> Vec<ObjectId> {
        let task_id = TaskId::next();
        let results: Vec<ObjectId> = (0..call.num_returns)
            .map(|index| ObjectId::for_result(task_id, index))
            .collect();
        for id in &results {
            self.add_owned(*id, Value::Pending, Vec::new());
        }
        for id in call.slots.iter().map(|(_, id)| id).chain(&call.contained) {
            self.add_ref(*id);
        }
        let mut missing = 0;
        for (_, id) in &call.slots {
            if self.depend(*id, Dependent::Task(task_id)) {
                missing += 1;
            }
        }
        let actor = match &call.kind {
            CallKind::Actor { actor_id, .. } => Some(*actor_id),
            CallKind::Function(_) => None,
        };
        self.tasks.insert(
            task_id,
            Task {
                call,
                attempt: 0,
                missing,
                class: usize::MAX,
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
            CallKind::Actor { actor_id, .. } => self.push_actor_calls(actor_id),
        }
    }

    /// The error of an argument, which becomes the error of the task.
    pub(super) fn argument_error(&self, task_id: TaskId) -> Option<(Value, bool)> {
        let task = self.tasks.get(&task_id)?;
        task.call.slots.iter().find_map(|(_, id)| {
            let object = self.objects.get(id)?;
            match &object.value {
                Value::Failed(_) => Some((object.value.clone(), false)),
                value if object.is_error => Some((value.clone(), true)),
                _ => None,
            }
        })
    }

    /// Puts a task whose arguments are there into its class's queue.
    fn enqueue(&mut self, task_id: TaskId) {
        if let Some((value, is_error)) = self.argument_error(task_id) {
            self.finish_task_with(task_id, &value, is_error);
            return;
        }
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let CallKind::Function(template) = &task.call.kind else {
            return;
        };
        let near = match template.node {
            Some(node) => Some((node, String::new())),
            None => self.node_of_arguments(&task.call.slots),
        };
        let key = ClassKey {
            function_id: template.function_id,
            resources: template.resources.clone(),
            near,
            pinned: template.node.is_some(),
        };
        let class = match self.class_index.get(&key) {
            Some(class) => *class,
            None => {
                let class = self.classes.len();
                self.class_index.insert(key.clone(), class);
                self.classes.push(SchedulingClass {
                    key,
                    queue: VecDeque::new(),
                    leases: Vec::new(),
                    requests: 0,
                    run_micros: -1.0,
                });
                class
            }
        };
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.class = class;
        }
        self.classes[class].queue.push_back(task_id);
        self.pump(class);
    }

    /// The node that holds the most bytes of stored arguments, when it is not this one.
    fn node_of_arguments(&self, slots: &[(u32, ObjectId)]) -> Option<(NodeId, String)> {
        let mut weights: Vec<(u64, &(NodeId, String))> = Vec::new();
        for (_, id) in slots {
            let Some(Value::Stored { size, locations }) = self.objects.get(id).map(|object| &object.value)
            else {
                continue;
            };
            for location in locations {
                match weights.iter_mut().find(|(_, known)| known.0 == location.0) {
                    Some((weight, _)) => *weight += size,
                    None => weights.push((*size, location)),
                }
            }
        }
        let (_, best) = weights.into_iter().max_by_key(|(weight, _)| *weight)?;
        (best.0 != self.me.node_id).then(|| best.clone())
    }

    /// Pushes queued tasks to leased workers, and asks for more leases.
    fn pump(&mut self, class: usize) {
        for index in 0..self.classes[class].leases.len() {
            let Some(lease) = self.classes[class].leases.get(index).copied() else {
                break;
            };
            self.feed(lease);
            if self.classes[class].queue.is_empty() {
                break;
            }
        }
        let waiting = self.classes[class].queue.len();
        let wanted = waiting.min(MAX_LEASE_REQUESTS);
        while self.classes[class].requests < wanted {
            self.request_lease(class);
        }
    }

    fn request_lease(&mut self, class: usize) {
        let near = self.classes[class].key.near.clone();
        let conn = match &near {
            Some((node, address)) if !address.is_empty() => self.conn_to_raylet(*node, address),
            _ => RAYLET_CONN,
        };
        let lease_id = LeaseId::random();
        self.classes[class].requests += 1;
        self.leases.insert(
            lease_id,
            Lease {
                class,
                worker: None,
                raylet: conn,
                pushed: VecDeque::new(),
                idle_since: 0,
                wanted: false,
            },
        );
        self.send_lease_request(lease_id, false);
    }

    fn send_lease_request(&mut self, lease_id: LeaseId, spilled: bool) {
        let Some(lease) = self.leases.get(&lease_id) else {
            return;
        };
        let class = &self.classes[lease.class];
        let conn = lease.raylet;
        let message = proto::RequestWorkerLease {
            lease_id: lease_id.to_vec().into(),
            job_id: self.job_id.to_vec().into(),
            resources: Some((&class.key.resources).into()),
            spilled,
            backlog: class.queue.len() as u32,
            pinned_to_node: class.key.pinned,
            owner: Some(self.me_message.clone()),
            python_version: self.python_version.clone(),
        };
        self.request(
            conn,
            Pending::Lease(lease_id),
            FrameKind::RequestWorkerLease,
            &message,
            &[],
        );
    }

    pub(super) fn on_lease_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Some(Pending::Lease(lease_id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let reply: proto::RequestWorkerLeaseReply = frame.decode()?;
        let Some(class) = self.leases.get(&lease_id).map(|lease| lease.class) else {
            // Cancelled meanwhile; the raylet may have granted it before it heard that.
            if reply.worker.is_some() {
                self.return_lease_message(conn, lease_id, false);
            }
            return Ok(());
        };
        if let Some(failure) = &reply.failure {
            self.leases.remove(&lease_id);
            self.classes[class].requests -= 1;
            let error = CoreError::from(failure);
            let queued = std::mem::take(&mut self.classes[class].queue);
            for task in queued {
                self.finish_task_with(task, &Value::Failed(error.clone()), false);
            }
            return Ok(());
        }
        if let Some(location) = &reply.spillback {
            let node = NodeId::from_slice(&location.node_id)?;
            let conn = self.conn_to_raylet(node, &location.node_address);
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.raylet = conn;
            }
            self.send_lease_request(lease_id, true);
            return Ok(());
        }
        let worker = reply
            .worker
            .as_ref()
            .ok_or(proto::MessageError::Missing("worker"))?;
        let address = WorkerAddress::try_from(worker)?;
        let worker_conn = self.conn_to_worker(&address);
        self.classes[class].requests -= 1;
        self.classes[class].leases.push(lease_id);
        let now = self.now;
        if let Some(lease) = self.leases.get_mut(&lease_id) {
            lease.worker = Some((address, worker_conn, reply.worker_pid));
            lease.idle_since = now;
        }
        self.feed(lease_id);
        Ok(())
    }

    /// How many tasks may be at one worker.
    fn depth(&self, class: usize) -> usize {
        let run_micros = self.classes[class].run_micros;
        if !(0.0..SHORT_TASK).contains(&run_micros) {
            return 1;
        }
        ((PUSH_AHEAD / run_micros.max(1.0)) as usize).clamp(1, MAX_PUSHED_AHEAD)
    }

    /// Pushes queued tasks to one leased worker.
    fn feed(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.get(&lease_id) else {
            return;
        };
        let class = lease.class;
        if lease.wanted {
            if lease.pushed.is_empty() {
                self.give_lease_back(lease_id);
                if self.classes[class].requests == 0 && !self.classes[class].queue.is_empty() {
                    self.request_lease(class);
                }
            }
            return;
        }
        let depth = self.depth(class);
        // An even share for each worker, so that the last tasks do not all wait behind one of them.
        let share = self.classes[class]
            .queue
            .len()
            .div_ceil(self.classes[class].leases.len().max(1));
        let depth = depth.min(share.max(1));
        loop {
            let Some(lease) = self.leases.get(&lease_id) else {
                return;
            };
            let Some((address, conn, _)) = &lease.worker else {
                return;
            };
            if lease.pushed.len() >= depth {
                return;
            }
            let (conn, worker_id) = (*conn, address.worker_id);
            let Some(task_id) = self.classes[class].queue.pop_front() else {
                break;
            };
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.pushed.push_back(task_id);
            }
            self.push_task(conn, worker_id.to_vec().into(), task_id, None);
        }
        if self.classes[class].queue.is_empty() {
            self.cancel_lease_requests(class);
            let now = self.now;
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                if lease.pushed.is_empty() {
                    lease.idle_since = now;
                }
            }
        }
    }

    fn cancel_lease_requests(&mut self, class: usize) {
        if self.classes[class].requests == 0 {
            return;
        }
        let waiting: Vec<(LeaseId, ConnId)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.class == class && lease.worker.is_none())
            .map(|(id, lease)| (*id, lease.raylet))
            .collect();
        for (lease_id, conn) in waiting {
            self.leases.remove(&lease_id);
            let message = proto::CancelWorkerLease {
                lease_id: lease_id.to_vec().into(),
            };
            self.send(conn, FrameKind::CancelWorkerLease, 0, &message, &[], false);
        }
        self.classes[class].requests = 0;
    }

    /// Sends a task to a worker; `actor`: incarnation, sequence and acknowledged sequence of an actor call.
    pub(super) fn push_task(
        &mut self,
        conn: ConnId,
        worker_id: Bytes,
        task_id: TaskId,
        actor: Option<(u64, u64, u64)>,
    ) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let mut message = proto::PushTask {
            task_id: task_id.to_vec().into(),
            job_id: self.job_id.to_vec().into(),
            worker_id,
            num_returns: task.call.num_returns,
            arguments_length: task.call.arguments.len() as u64,
            keyword_names: task.call.keyword_names.clone(),
            attempt: task.attempt,
            ..Default::default()
        };
        let mut parts: Vec<Bytes> = Vec::new();
        match &task.call.kind {
            CallKind::Function(template) => {
                message.function_id = template.function_id.to_vec().into();
                message.name.clone_from(&template.name);
                let first = self
                    .conns
                    .get_mut(&conn)
                    .is_some_and(|state| state.functions_sent.insert(template.function_id));
                if first {
                    message.function_length = template.function_blob.len() as u64;
                    parts.push(template.function_blob.clone());
                }
            }
            CallKind::Actor {
                actor_id,
                method,
                name,
            } => {
                message.actor_id = actor_id.to_vec().into();
                message.method = method.to_string();
                message.name.clone_from(name);
            }
        }
        if let Some((incarnation, sequence, acknowledged)) = actor {
            message.incarnation = incarnation;
            message.sequence = sequence;
            message.acknowledged = acknowledged;
        }
        parts.push(task.call.arguments.clone());
        let (arguments, inline) = self.describe_arguments(&task.call.slots);
        message.arguments = arguments;
        parts.extend(inline);
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        self.request(
            conn,
            Pending::Push(task_id),
            FrameKind::PushTask,
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
                    Value::Stored { locations, .. } => {
                        argument.locations = locations
                            .iter()
                            .map(|(node, address)| location_of(*node, address))
                            .collect();
                    }
                    Value::Pending | Value::Failed(_) => {}
                }
            }
            arguments.push(argument);
        }
        (arguments, inline)
    }

    pub(super) fn on_push_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Some(Pending::Push(task_id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let reply: proto::PushTaskReply = frame.decode()?;
        let Some(task) = self.tasks.get(&task_id) else {
            return Ok(());
        };
        let (class, actor) = match &task.call.kind {
            CallKind::Function(_) => (task.class, None),
            CallKind::Actor { actor_id, .. } => (usize::MAX, Some((*actor_id, task.sequence))),
        };
        match reply.status() {
            TaskStatus::Done => {
                self.take_results(conn, task_id, &reply, frame.payload.clone())?;
                if let Some((actor_id, sequence)) = actor {
                    self.actor_call_finished(actor_id, sequence);
                    return Ok(());
                }
                let average = &mut self.classes[class].run_micros;
                let run_micros = reply.run_micros as f64;
                *average = if *average < 0.0 {
                    run_micros
                } else {
                    *average * 0.9 + run_micros * 0.1
                };
            }
            TaskStatus::Returned => {
                // The worker runs something long or waits: do not push ahead to it for now.
                if class != usize::MAX {
                    self.classes[class].run_micros = self.classes[class].run_micros.max(SHORT_TASK * 2.0);
                    self.classes[class].queue.push_front(task_id);
                }
            }
            TaskStatus::Refused => {
                let error = reply.failure.as_ref().map_or_else(
                    || CoreError::new(ErrorCode::Internal, "a worker refused a task without a reason"),
                    CoreError::from,
                );
                if let Some((actor_id, sequence)) = actor {
                    self.finish_task_with(task_id, &Value::Failed(error), false);
                    self.actor_call_finished(actor_id, sequence);
                    return Ok(());
                }
                self.finish_task_with(task_id, &Value::Failed(error), false);
            }
        }
        if class != usize::MAX {
            let lease = self.classes[class].leases.iter().copied().find(|lease| {
                self.leases
                    .get(lease)
                    .and_then(|lease| lease.worker.as_ref())
                    .is_some_and(|(_, at, _)| *at == conn)
            });
            if let Some(lease_id) = lease {
                if let Some(lease) = self.leases.get_mut(&lease_id) {
                    lease.pushed.retain(|pushed| *pushed != task_id);
                }
                self.feed(lease_id);
            }
            if reply.status() == TaskStatus::Returned {
                self.pump(class);
            }
        }
        Ok(())
    }

    fn take_results(
        &mut self,
        conn: ConnId,
        task_id: TaskId,
        reply: &proto::PushTaskReply,
        payload: Bytes,
    ) -> Result<(), CoreError> {
        let mut payload = PayloadReader::new(payload);
        let raised = reply.returns.iter().any(|value| value.is_error);
        if raised && self.retry_raised(task_id) {
            return Ok(());
        }
        for (index, value) in reply.returns.iter().enumerate() {
            let id = ObjectId::for_result(task_id, index as u32);
            let resolved = match value.inline_length {
                Some(length) => Value::Inline(payload.take(length)?),
                None => {
                    let location = value
                        .location
                        .as_ref()
                        .ok_or(proto::MessageError::Missing("location"))?;
                    let node = NodeId::from_slice(&location.node_id)?;
                    Value::Stored {
                        size: value.stored_length,
                        locations: vec![(node, location.node_address.clone())],
                    }
                }
            };
            if !value.contained.is_empty() {
                let mut inner = Vec::with_capacity(value.contained.len());
                for reference in &value.contained {
                    inner.push(reference.parts()?);
                }
                self.hold_contained(id, task_id, conn, &inner);
            }
            self.resolve(id, resolved, value.is_error);
        }
        self.forget_task(task_id);
        Ok(())
    }

    /// Runs a task again whose code raised, when the user asked for that.
    fn retry_raised(&mut self, task_id: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return false;
        };
        let CallKind::Function(template) = &task.call.kind else {
            return false;
        };
        if !template.retry_exceptions || !may_retry(template.max_retries, task.attempt) {
            return false;
        }
        task.attempt += 1;
        let class = task.class;
        self.classes[class].queue.push_back(task_id);
        true
    }

    /// All results of a task become `value`.
    pub(super) fn finish_task_with(&mut self, task_id: TaskId, value: &Value, is_error: bool) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        for index in 0..task.call.num_returns {
            self.resolve(ObjectId::for_result(task_id, index), value.clone(), is_error);
        }
        self.forget_task(task_id);
    }

    fn forget_task(&mut self, task_id: TaskId) {
        let Some(task) = self.tasks.remove(&task_id) else {
            return;
        };
        for id in task
            .call
            .slots
            .iter()
            .map(|(_, id)| *id)
            .chain(task.call.contained)
        {
            self.drop_ref(id);
        }
    }

    pub(super) fn task(&self, task_id: TaskId) -> Option<&Task> {
        self.tasks.get(&task_id)
    }

    pub(super) fn task_mut(&mut self, task_id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(&task_id)
    }

    // ---- losses --------------------------------------------------------------------------------------------

    /// A push was never sent because its connection had closed.
    pub(super) fn push_lost(&mut self, task_id: TaskId, cause: &str) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        match &task.call.kind {
            CallKind::Actor { .. } => {}
            CallKind::Function(_) => {
                let class = task.class;
                debug!(%task_id, cause, "a push found its connection closed");
                self.classes[class].queue.push_front(task_id);
            }
        }
    }

    /// The connection to a worker is gone; `pushed` are the tasks that were there, the first of them running.
    pub(super) fn on_worker_connection_lost(&mut self, conn: ConnId, pushed: Vec<TaskId>, cause: &str) {
        let leases: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.worker.as_ref().is_some_and(|(_, at, _)| *at == conn))
            .map(|(id, _)| *id)
            .collect();
        let mut classes = Vec::new();
        let mut died = String::new();
        for lease_id in leases {
            let Some(lease) = self.leases.remove(&lease_id) else {
                continue;
            };
            self.classes[lease.class]
                .leases
                .retain(|other| *other != lease_id);
            classes.push(lease.class);
            if let Some((address, _, pid)) = &lease.worker {
                died = format!(
                    "worker {} (pid {pid}) on node {}",
                    address.worker_id, address.node_id
                );
            }
            self.return_lease_message(lease.raylet, lease_id, true);
        }
        // Leases that this raylet was asked for, or granted.
        let asked: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.raylet == conn && lease.worker.is_none())
            .map(|(id, _)| *id)
            .collect();
        for lease_id in asked {
            self.lease_request_lost(lease_id);
        }
        let mut actor_calls = Vec::new();
        let mut first = true;
        for task_id in pushed {
            let Some(task) = self.tasks.get_mut(&task_id) else {
                continue;
            };
            let CallKind::Function(template) = &task.call.kind else {
                actor_calls.push(task_id);
                continue;
            };
            let class = task.class;
            if first && !may_retry(template.max_retries, task.attempt) {
                let message = format!(
                    "{died} died while it ran task {} ({task_id}): {cause}; the task was tried {} times",
                    template.name,
                    task.attempt + 1
                );
                self.finish_task_with(
                    task_id,
                    &Value::Failed(CoreError::new(ErrorCode::WorkerDied, message)),
                    false,
                );
            } else {
                if first {
                    task.attempt += 1;
                    warn!(%task_id, name = template.name, attempt = task.attempt, "runs a task again whose worker died");
                }
                self.classes[class].queue.push_front(task_id);
            }
            first = false;
            classes.push(class);
        }
        if self.broken.is_none() {
            classes.sort_unstable();
            classes.dedup();
            for class in classes {
                self.pump(class);
            }
        } else {
            self.fail_everything_queued();
        }
        self.actor_connection_lost(conn, &actor_calls);
    }

    fn fail_everything_queued(&mut self) {
        let Some(error) = self.broken.clone() else { return };
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in tasks {
            self.finish_task_with(task, &Value::Failed(error.clone()), false);
        }
    }

    pub(super) fn lease_request_lost(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.remove(&lease_id) else {
            return;
        };
        if lease.worker.is_some() {
            return;
        }
        let class = lease.class;
        self.classes[class].requests = self.classes[class].requests.saturating_sub(1);
        // The node that was asked is gone: this node's raylet knows another.
        if !self.classes[class].key.pinned {
            self.classes[class].key.near = None;
        }
        if self.broken.is_none() {
            self.pump(class);
        }
    }

    fn return_lease_message(&mut self, raylet: ConnId, lease_id: LeaseId, worker_failed: bool) {
        let message = proto::ReturnWorkerLease {
            lease_id: lease_id.to_vec().into(),
            worker_failed,
        };
        self.send(raylet, FrameKind::ReturnWorkerLease, 0, &message, &[], false);
    }

    pub(super) fn on_lease_wanted(&mut self, message: &proto::LeaseWanted) -> Result<(), CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return Ok(());
        };
        lease.wanted = true;
        if lease.worker.is_some() {
            self.feed(lease_id);
        }
        Ok(())
    }

    fn give_lease_back(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.remove(&lease_id) else {
            return;
        };
        self.classes[lease.class]
            .leases
            .retain(|other| *other != lease_id);
        self.return_lease_message(lease.raylet, lease_id, false);
    }

    pub(super) fn on_lease_broken(&mut self, message: &proto::LeaseBroken) -> Result<(), CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let Some((_, conn, _)) = self.leases.get(&lease_id).and_then(|lease| lease.worker.clone()) else {
            return Ok(());
        };
        self.outbox.push(super::Effect::Close { conn });
        self.on_closed(conn, &message.cause);
        Ok(())
    }

    pub(super) fn return_idle_leases(&mut self) {
        let now = self.now;
        let idle: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| {
                lease.worker.is_some() && lease.pushed.is_empty() && lease.idle_since + LEASE_LINGER <= now
            })
            .map(|(id, _)| *id)
            .collect();
        for lease_id in idle {
            self.give_lease_back(lease_id);
        }
    }

    pub(super) fn next_lease_deadline(&self) -> Option<u64> {
        self.leases
            .values()
            .filter(|lease| lease.worker.is_some() && lease.pushed.is_empty())
            .map(|lease| lease.idle_since + LEASE_LINGER)
            .min()
    }

    /// Tasks that were submitted and are not finished.
    pub(crate) fn unfinished_tasks(&self) -> usize {
        self.tasks.len()
    }
}

fn may_retry(max_retries: i32, attempt: u32) -> bool {
    max_retries < 0 || i64::from(attempt) < i64::from(max_retries)
}
