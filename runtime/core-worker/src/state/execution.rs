//! Calls that this process runs: order, duplicates, replies.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, FunctionId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, Failure, FrameKind, TaskStatus};
use sparkray_rpc::Frame;

use super::{PayloadReader, State};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

/// A worker whose task runs longer gives tasks back that wait behind it, in microseconds.
const SLOW_TASK: u64 = 5_000;

/// An argument that was given as a reference.
#[derive(Debug, Clone)]
pub(crate) enum ArgumentValue {
    Inline(Bytes),
    Stored {
        object: ObjectId,
        locations: Vec<proto::ObjectLocation>,
    },
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
    /// The caller's job.
    pub job_id: sparkray_common::JobId,
    /// The arguments value; empty: none.
    pub arguments: Bytes,
    /// Names of the keyword arguments.
    pub keyword_names: Vec<String>,
    pub(crate) references: Vec<(u32, ArgumentValue)>,
    pub(crate) caller: WorkerAddress,
    pub(crate) sequence: Option<u64>,
    pub(crate) conn: ConnId,
    pub(crate) correlation: u64,
    /// Microseconds at which it was taken from the queue.
    pub(crate) started: u64,
}

impl IncomingTask {
    /// Whether arguments were given as references.
    pub fn has_references(&self) -> bool {
        !self.references.is_empty()
    }
}

/// An actor to become.
#[derive(Debug)]
pub struct CreateActorWork {
    /// What the head recorded.
    pub spec: proto::ActorSpec,
    /// Counts its restarts.
    pub incarnation: u64,
    pub(crate) correlation: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    Task(IncomingTask),
    CreateActor(Box<CreateActorWork>),
}

/// What a caller of this actor has sent and been told.
#[derive(Debug, Default)]
struct Caller {
    next_sequence: u64,
    /// Calls that came before their turn.
    early: BTreeMap<u64, IncomingTask>,
    /// Where the answer of a running call goes: the newest connection that asked.
    running: HashMap<u64, (ConnId, u64)>,
    /// Answers that the caller has not acknowledged.
    answered: BTreeMap<u64, (proto::PushTaskReply, Bytes)>,
}

#[derive(Debug, Default)]
pub(crate) struct ExecutionState {
    ready: VecDeque<Work>,
    callers: HashMap<WorkerId, Caller>,
    /// Code that callers have sent.
    pub(crate) functions: HashMap<FunctionId, Bytes>,
    actor: Option<(ActorId, u64)>,
    /// When the task that runs began, for single-threaded execution.
    running_since: Option<u64>,
    /// This process is to end.
    pub(crate) exit: bool,
    /// Somebody wants to hear of each arrival.
    pub(super) announce: bool,
}

impl ExecutionState {
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn caller_gone(&mut self, conn: ConnId) {
        // Functions that wait for a caller that is gone need not run; actor calls keep their order and run.
        self.ready.retain(|work| match work {
            Work::Task(task) => task.sequence.is_some() || task.conn != conn,
            Work::CreateActor(_) => true,
        });
    }

    /// The actor that this process is.
    pub(crate) fn actor(&self) -> Option<(ActorId, u64)> {
        self.actor
    }
}

impl State {
    pub(super) fn on_push_task(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let message: proto::PushTask = frame.decode()?;
        let Some(caller) = self.conns.get(&conn).and_then(|state| state.from.clone()) else {
            return Err(CoreError::new(
                ErrorCode::Internal,
                "a task came before its sender said who it is",
            ));
        };
        if message.worker_id != self.me.worker_id.as_bytes()[..] {
            self.refuse(
                conn,
                frame.correlation,
                ErrorCode::Stale,
                "the task is for another worker",
            );
            return Ok(());
        }
        let mut payload = PayloadReader::new(frame.payload.clone());
        let function_id = if message.function_id.is_empty() {
            FunctionId::NIL
        } else {
            FunctionId::from_slice(&message.function_id)?
        };
        if message.function_length > 0 {
            let blob = payload.take(message.function_length)?;
            self.execution.functions.entry(function_id).or_insert(blob);
        }
        let arguments = payload.take(message.arguments_length)?;
        let mut references = Vec::with_capacity(message.arguments.len());
        for argument in message.arguments {
            let value = match argument.inline_length {
                Some(length) => ArgumentValue::Inline(payload.take(length)?),
                None => {
                    let (object, _) = argument
                        .reference
                        .ok_or(proto::MessageError::Missing("reference"))?
                        .parts()?;
                    ArgumentValue::Stored {
                        object,
                        locations: argument.locations,
                    }
                }
            };
            references.push((argument.slot, value));
        }
        let is_actor_call = !message.actor_id.is_empty();
        let task = IncomingTask {
            task_id: TaskId::from_slice(&message.task_id)?,
            name: message.name,
            method: message.method,
            function_id,
            num_returns: message.num_returns,
            attempt: message.attempt,
            job_id: sparkray_common::JobId::from_slice(&message.job_id)?,
            arguments,
            keyword_names: message.keyword_names,
            references,
            caller,
            sequence: is_actor_call.then_some(message.sequence),
            conn,
            correlation: frame.correlation,
            started: 0,
        };
        if !is_actor_call {
            self.execution.ready.push_back(Work::Task(task));
            return Ok(());
        }
        let actor = (ActorId::from_slice(&message.actor_id)?, message.incarnation);
        if self.execution.actor != Some(actor) {
            self.refuse(
                conn,
                frame.correlation,
                ErrorCode::Stale,
                "the call is for another incarnation of the actor",
            );
            return Ok(());
        }
        self.order_actor_call(task, message.sequence, message.acknowledged);
        Ok(())
    }

    fn order_actor_call(&mut self, task: IncomingTask, sequence: u64, acknowledged: u64) {
        let (conn, correlation) = (task.conn, task.correlation);
        let caller = self.execution.callers.entry(task.caller.worker_id).or_default();
        caller.answered = caller.answered.split_off(&acknowledged);
        if sequence < caller.next_sequence {
            // A call that came before, over a connection that broke.
            if let Some((reply, payload)) = caller.answered.get(&sequence).cloned() {
                self.send(
                    conn,
                    FrameKind::PushTaskReply,
                    correlation,
                    &reply,
                    &[&payload],
                    true,
                );
            } else if let Some(place) = caller.running.get_mut(&sequence) {
                *place = (conn, correlation);
            }
            return;
        }
        caller.early.insert(sequence, task);
        while let Some(task) = caller.early.remove(&caller.next_sequence) {
            caller
                .running
                .insert(caller.next_sequence, (task.conn, task.correlation));
            caller.next_sequence += 1;
            self.execution.ready.push_back(Work::Task(task));
        }
    }

    fn refuse(&mut self, conn: ConnId, correlation: u64, code: ErrorCode, message: &str) {
        let reply = proto::PushTaskReply {
            status: TaskStatus::Refused.into(),
            failure: Some(Failure::new(code, message)),
            ..Default::default()
        };
        self.send(conn, FrameKind::PushTaskReply, correlation, &reply, &[], true);
    }

    pub(super) fn on_create_actor(&mut self, correlation: u64, message: proto::CreateActor) {
        let Some(spec) = message.spec else { return };
        let work = CreateActorWork {
            spec,
            incarnation: message.incarnation,
            correlation,
        };
        self.execution.ready.push_back(Work::CreateActor(Box::new(work)));
    }

    pub(crate) fn announce_work(&mut self) {
        self.execution.announce = true;
    }

    /// The next call to run.
    pub(crate) fn take_work(&mut self) -> Option<Work> {
        let mut work = self.execution.ready.pop_front()?;
        if let Work::Task(task) = &mut work {
            task.started = self.now;
            if task.sequence.is_none() {
                self.execution.running_since = Some(self.now);
            }
        }
        Some(work)
    }

    /// Answers a call. `contained`: references inside the results, pinned until the caller has them.
    pub(crate) fn finish_work(
        &mut self,
        task: &IncomingTask,
        returns: Vec<proto::ReturnValue>,
        payload: Bytes,
        pins: Vec<ObjectId>,
    ) {
        self.execution.running_since = None;
        let reply = proto::PushTaskReply {
            status: TaskStatus::Done.into(),
            returns,
            run_micros: self.now.saturating_sub(task.started),
            ..Default::default()
        };
        let (mut conn, mut correlation) = (task.conn, task.correlation);
        if let Some(sequence) = task.sequence {
            let caller = self.execution.callers.entry(task.caller.worker_id).or_default();
            if let Some(place) = caller.running.remove(&sequence) {
                (conn, correlation) = place;
            }
            caller.answered.insert(sequence, (reply.clone(), payload.clone()));
        }
        if !pins.is_empty() {
            if self.conns.contains_key(&conn) {
                self.return_pins.insert(task.task_id, (conn, pins));
            } else {
                for id in pins {
                    self.drop_ref(id);
                }
            }
        }
        // While more calls wait here, answers travel together.
        let urgent = self.execution.ready.is_empty();
        self.send(
            conn,
            FrameKind::PushTaskReply,
            correlation,
            &reply,
            &[&payload],
            urgent,
        );
    }

    pub(crate) fn finish_create_actor(
        &mut self,
        work: &CreateActorWork,
        error: Option<Bytes>,
        failure: Option<CoreError>,
    ) -> Result<(), CoreError> {
        if error.is_none() && failure.is_none() {
            self.execution.actor = Some((ActorId::from_slice(&work.spec.actor_id)?, work.incarnation));
        }
        let reply = proto::CreateActorReply {
            failure: failure.as_ref().map(super::failure_of),
            error: error.unwrap_or_default(),
        };
        self.send(
            RAYLET_CONN,
            FrameKind::CreateActorReply,
            work.correlation,
            &reply,
            &[],
            true,
        );
        Ok(())
    }

    /// Hands tasks that wait behind the running one back to their owners.
    pub(crate) fn give_back_waiting(&mut self) {
        let ready = std::mem::take(&mut self.execution.ready);
        for work in ready {
            match work {
                Work::Task(task) if task.sequence.is_none() => {
                    let reply = proto::PushTaskReply {
                        status: TaskStatus::Returned.into(),
                        ..Default::default()
                    };
                    self.send(
                        task.conn,
                        FrameKind::PushTaskReply,
                        task.correlation,
                        &reply,
                        &[],
                        true,
                    );
                }
                other => self.execution.ready.push_back(other),
            }
        }
    }

    fn is_slow(&self) -> Option<u64> {
        let since = self.execution.running_since?;
        self.execution.has_work().then_some(since + SLOW_TASK)
    }

    pub(super) fn give_back_if_slow(&mut self) {
        if self.is_slow().is_some_and(|at| at <= self.now) {
            self.give_back_waiting();
        }
    }

    pub(super) fn next_slow_deadline(&self) -> Option<u64> {
        self.is_slow()
    }

    /// A worker that runs a task waits for an object, or goes on.
    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        if blocked {
            self.give_back_waiting();
        }
        self.tell_raylet(FrameKind::WorkerBlocked, &proto::WorkerBlocked { blocked }, true);
    }
}
