//! Calls that this process runs.

use std::collections::VecDeque;

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, FunctionId, JobId, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, Failure, FrameKind, TaskStatus};
use sparkray_rpc::Frame;
use tracing::warn;

use super::answers::FunctionAnswers;
use super::callers::Callers;
use super::connections::encode_frame;
use super::objects::Locations;
use super::{PayloadReader, State};
use crate::error::CoreError;
use crate::hash::IdMap;
use crate::reactor::{ConnId, RAYLET_CONN};

/// A worker whose task runs longer gives tasks back that wait behind it, in microseconds.
const SLOW_TASK: u64 = 5_000;
/// Where the correlation id is in a frame's header.
pub(super) const CORRELATION: std::ops::Range<usize> = 16..24;

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
    /// The caller's job.
    pub job_id: JobId,
    /// The arguments value; empty: none.
    pub arguments: Bytes,
    /// Names of the keyword arguments.
    pub keyword_names: Vec<String>,
    pub(crate) references: Vec<(u32, ArgumentValue)>,
    /// Why it cannot run: its turn comes all the same.
    pub(crate) unreadable: Option<Box<CoreError>>,
    pub(crate) caller: WorkerAddress,
    /// Actor calls only.
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
    pub(crate) correlation: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    Task(IncomingTask),
    CreateActor(Box<CreateActorWork>),
}

#[derive(Debug, Default)]
pub(crate) struct ExecutionState {
    pub(super) ready: VecDeque<Work>,
    pub(super) callers: Callers,
    pub(super) answers: FunctionAnswers,
    /// Code that callers have sent and that nobody has loaded yet.
    functions: IdMap<FunctionId, Bytes>,
    actor: Option<(ActorId, u64)>,
    /// When the function that runs began.
    pub(super) running_since: Option<u64>,
    /// Threads of this worker that wait for objects.
    pub(super) blocked: usize,
    /// This process is to end.
    pub(crate) exit: bool,
    /// Somebody wants to hear of each arrival.
    announce: bool,
}

impl ExecutionState {
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn is_to_be_announced(&self) -> bool {
        self.announce && (self.exit || self.has_work())
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

    /// The code of a function that a caller has sent.
    pub(crate) fn function_blob(&self, function: FunctionId) -> Option<Bytes> {
        self.functions.get(&function).cloned()
    }

    /// A function is loaded: its code is not needed any more.
    pub(crate) fn function_loaded(&mut self, function: FunctionId) {
        self.functions.remove(&function);
    }
}

/// The actor and incarnation that a call is for; `None`: it is for no actor.
fn read_actor(message: &proto::PushTask) -> Result<Option<(ActorId, u64)>, CoreError> {
    if message.actor_id.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        ActorId::from_slice(&message.actor_id)?,
        message.incarnation,
    )))
}

fn unreadable(error: &CoreError) -> CoreError {
    CoreError::new(
        ErrorCode::Internal,
        format!(
            "the worker cannot read this call ({error}): use one version of sparkray in all processes, and report this \
             if it is one"
        ),
    )
}

fn read_argument(
    argument: proto::TaskArgument,
    payload: &mut PayloadReader,
) -> Result<(u32, ArgumentValue), CoreError> {
    let value = match argument.inline_length {
        Some(length) => ArgumentValue::Inline(payload.take(length)?),
        None => stored_argument(&argument)?,
    };
    Ok((argument.slot, value))
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
        locations: super::objects::read_locations(&argument.locations)?,
    })
}

impl State {
    // ---- arrivals ------------------------------------------------------------------------------------------

    /// A call came. One that cannot be read fails with an answer of its own: the connection and its other calls go on.
    pub(super) fn on_push_task(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let caller = self.sender_of(conn)?;
        if self.is_dead(&caller) {
            // The news of its death came first: nobody waits for the answer.
            return Ok(());
        }
        let message: proto::PushTask = match frame.decode() {
            Ok(message) => message,
            Err(error) => {
                self.refuse_unreadable(conn, frame.correlation, &error.into());
                return Ok(());
            }
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
        let actor = match read_actor(&message) {
            Ok(actor) => actor,
            Err(error) => {
                self.refuse_unreadable(conn, frame.correlation, &error);
                return Ok(());
            }
        };
        if actor.is_some() && self.execution.actor != actor {
            self.refuse(
                conn,
                frame.correlation,
                ErrorCode::Stale,
                "the call is for another incarnation of the actor",
            );
            return Ok(());
        }
        let (sequence, acknowledged, again) = (message.sequence, message.acknowledged, message.again);
        let mut task = IncomingTask {
            task_id: TaskId::NIL,
            name: String::new(),
            method: String::new(),
            function_id: FunctionId::NIL,
            num_returns: message.num_returns,
            attempt: message.attempt,
            num_threads: message.num_threads,
            job_id: JobId::NIL,
            arguments: Bytes::new(),
            keyword_names: Vec::new(),
            references: Vec::new(),
            unreadable: None,
            caller,
            sequence: actor.is_some().then_some(sequence),
            conn,
            correlation: frame.correlation,
            started: 0,
        };
        if let Err(error) = self.read_call(&mut task, message, frame) {
            if actor.is_none() {
                self.refuse_unreadable(conn, frame.correlation, &error);
                return Ok(());
            }
            // It keeps its place among its caller's calls.
            task.unreadable = Some(Box::new(unreadable(&error)));
        }
        if actor.is_some() {
            self.take_actor_call(task, sequence, acknowledged);
        } else {
            self.take_function(task, acknowledged, again);
        }
        Ok(())
    }

    /// Reads what a push says of its call, and keeps the code that came with it.
    fn read_call(
        &mut self,
        task: &mut IncomingTask,
        message: proto::PushTask,
        frame: &Frame,
    ) -> Result<(), CoreError> {
        let mut payload = PayloadReader::new(frame.payload.clone());
        if !message.function_id.is_empty() {
            task.function_id = FunctionId::from_slice(&message.function_id)?;
        }
        if message.function_length > 0 {
            let blob = payload.take(message.function_length)?;
            self.execution
                .functions
                .entry(task.function_id)
                .or_insert_with(|| Bytes::copy_from_slice(&blob));
        }
        task.name = message.name;
        task.method = message.method;
        task.task_id = TaskId::from_slice(&message.task_id)?;
        task.job_id = JobId::from_slice(&message.job_id)?;
        task.keyword_names = message.keyword_names;
        task.arguments = payload.take(message.arguments_length)?;
        task.references.reserve(message.arguments.len());
        for argument in message.arguments {
            task.references.push(read_argument(argument, &mut payload)?);
        }
        Ok(())
    }

    fn take_actor_call(&mut self, task: IncomingTask, sequence: u64, acknowledged: u64) {
        let (conn, correlation) = (task.conn, task.correlation);
        let ready = &mut self.execution.ready;
        let waiting = ready.len();
        let start = |task| ready.push_back(Work::Task(task));
        let answer = self.execution.callers.arrive(task, sequence, acknowledged, start);
        self.news |= self.execution.ready.len() > waiting;
        if let Some(answer) = answer {
            let mut frame = answer.to_vec();
            frame[CORRELATION].copy_from_slice(&correlation.to_le_bytes());
            self.send_encoded(conn, &frame, true);
        }
    }

    pub(super) fn on_acknowledge_replies(
        &mut self,
        conn: ConnId,
        message: &proto::AcknowledgeReplies,
    ) -> Result<(), CoreError> {
        let actor = (ActorId::from_slice(&message.actor_id)?, message.incarnation);
        let caller = self
            .conns
            .get(&conn)
            .and_then(|state| state.remote.as_ref())
            .map(|remote| remote.worker_id);
        if let (Some(caller), true) = (caller, self.execution.actor == Some(actor)) {
            let ready = &mut self.execution.ready;
            let waiting = ready.len();
            let start = |task| ready.push_back(Work::Task(task));
            self.execution
                .callers
                .acknowledge(caller, message.acknowledged, &message.sequences, start);
            self.news |= self.execution.ready.len() > waiting;
        }
        Ok(())
    }

    fn refuse(&mut self, conn: ConnId, correlation: u64, code: ErrorCode, message: &str) {
        let reply = proto::PushTaskReply {
            status: TaskStatus::Refused.into(),
            failure: Some(Failure::new(code, message)),
            ..Default::default()
        };
        self.send(conn, FrameKind::PushTaskReply, correlation, &reply, &[], true);
    }

    fn refuse_unreadable(&mut self, conn: ConnId, correlation: u64, error: &CoreError) {
        let error = unreadable(error);
        warn!(conn, %error, "refused a call");
        self.refuse(conn, correlation, error.code, &error.message);
    }

    pub(super) fn on_create_actor(
        &mut self,
        correlation: u64,
        message: proto::CreateActor,
    ) -> Result<(), CoreError> {
        let spec = message.spec.ok_or(proto::MessageError::Missing("spec"))?;
        let work = CreateActorWork {
            spec,
            incarnation: message.incarnation,
            correlation,
        };
        self.execution.ready.push_back(Work::CreateActor(Box::new(work)));
        self.news = true;
        Ok(())
    }

    pub(crate) fn announce_work(&mut self) {
        self.execution.announce = true;
    }

    // ---- running -------------------------------------------------------------------------------------------

    /// The next call to run.
    pub(crate) fn take_work(&mut self) -> Option<Work> {
        loop {
            let mut work = self.execution.ready.pop_front()?;
            if let Work::Task(task) = &mut work {
                if let Some(error) = task.unreadable.take() {
                    self.fail_work(task, &error);
                    continue;
                }
                task.started = self.now;
                if task.sequence.is_none() {
                    self.execution.running_since = Some(self.now);
                    self.execution.answers.began(task.task_id, task.attempt);
                }
            }
            return Some(work);
        }
    }

    /// Answers a call. `pins`: references inside the results, each counted once, which are kept until the caller
    /// has them. `more`: other answers follow, for which this one may wait.
    pub(crate) fn finish_work(
        &mut self,
        task: &IncomingTask,
        returns: Vec<proto::ReturnValue>,
        payload: &[&[u8]],
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        let reply = proto::PushTaskReply {
            status: TaskStatus::Done.into(),
            returns,
            run_micros: self.now.saturating_sub(task.started),
            ..Default::default()
        };
        self.answer(task, &reply, payload, pins, more);
    }

    /// Answers a call that has no result, not even an error value.
    pub(crate) fn fail_work(&mut self, task: &IncomingTask, error: &CoreError) {
        let reply = proto::PushTaskReply {
            status: TaskStatus::Refused.into(),
            failure: Some(super::failure_of(error)),
            ..Default::default()
        };
        self.answer(task, &reply, &[], Vec::new(), false);
    }

    fn answer(
        &mut self,
        task: &IncomingTask,
        reply: &proto::PushTaskReply,
        payload: &[&[u8]],
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        // While more calls wait here, answers travel together.
        let urgent = !more && self.execution.ready.is_empty();
        let Some(sequence) = task.sequence else {
            self.answer_function(task, reply, payload, pins, urgent);
            return;
        };
        let caller = task.caller.worker_id;
        let Some((conn, correlation)) = self.execution.callers.place_of(caller, sequence) else {
            for id in pins {
                self.drop_ref(id);
            }
            return;
        };
        self.pin_returned(task, conn, pins);
        let mut frame = Vec::new();
        encode_frame(
            &mut frame,
            FrameKind::PushTaskReply,
            correlation,
            &[],
            reply,
            payload,
        );
        self.send_encoded(conn, &frame, urgent);
        self.execution.callers.answered(caller, sequence, frame.into());
        if self.is_dead(&task.caller) {
            self.execution.callers.forget_idle(caller);
        }
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

    /// The code of this actor wants it to end, for good.
    pub(crate) fn announce_exit(&mut self) {
        self.tell_raylet(FrameKind::ActorExits, &proto::ActorExits {}, true);
    }

    /// Labels this worker's output with the name of what it runs.
    pub(crate) fn set_label(&mut self, name: &str) {
        let label = proto::WorkerLabel {
            name: name.to_owned(),
            job_id: self.job_id.to_vec().into(),
        };
        self.tell_raylet(FrameKind::WorkerLabel, &label, true);
    }

    // ---- giving back ---------------------------------------------------------------------------------------

    pub(super) fn give_back(&mut self, task: &IncomingTask) {
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

    /// Hands tasks that wait behind the running one back to their owners.
    fn give_back_waiting(&mut self) {
        // From the last to the first: each goes to the front of its owner's queue.
        for work in std::mem::take(&mut self.execution.ready).into_iter().rev() {
            match work {
                Work::Task(task) if task.sequence.is_none() => self.give_back(&task),
                other => self.execution.ready.push_front(other),
            }
        }
    }

    /// When the function that runs has been running for too long for others to wait behind it.
    pub(super) fn slow_at(&self) -> Option<u64> {
        let since = self.execution.running_since?;
        self.execution.has_work().then_some(since + SLOW_TASK)
    }

    pub(super) fn give_back_if_slow(&mut self) {
        if self.slow_at().is_some_and(|at| at <= self.now) {
            self.give_back_waiting();
        }
    }

    /// One more, or one less, thread of this worker waits for objects.
    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        let before = self.execution.blocked;
        self.execution.blocked = if blocked {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if blocked && self.execution.running_since.is_some() {
            self.give_back_waiting();
        }
        if (before == 0) != (self.execution.blocked == 0) {
            self.tell_raylet(FrameKind::WorkerBlocked, &proto::WorkerBlocked { blocked }, true);
        }
    }
}
