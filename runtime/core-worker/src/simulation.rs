//! For the simulator (`tests/simulation`), which stands for sockets, threads and clock: the state of one process, and what
//! [`crate::CoreWorker`] does around it, without waiting. Not part of the crate's interface. It is compiled always, because
//! a cargo feature would have tests and product compile this crate twice.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, JobId, NodeId, ObjectId, WorkerAddress};
use sparkray_object_store::{Access, SegmentTable};
use sparkray_proto::{self as proto, FrameKind, location_of};
use sparkray_rpc::{Frame, FrameDecoder, RpcError, Target};

use crate::api::{CallArguments, WorkItem};
use crate::dropped::{DropQueue, Dropped, HandleKind};
use crate::error::CoreError;
use crate::kick::Kick;
pub use crate::state::CloseCause;
use crate::state::{
    ActorMethod, ArgumentValue, Begun, CallKind, Cancellation, CreateActorWork, Creation, Effect, IdSource,
    IncomingTask, NewTask, Notice, Pending, SlotResult, State, StoreAnswer, TaskTemplate, Value,
    stored_argument,
};
use crate::store::StoredValue;

/// The connection to the raylet of this node.
pub const RAYLET: u64 = crate::state::RAYLET_CONN;

/// Something that sockets, or the code that embeds the core worker, are to do.
#[derive(Debug)]
pub enum Output {
    /// Call a process.
    Open { conn: u64, target: Target },
    /// Take over a socket that the raylet accepted.
    Adopt { conn: u64, socket: OwnedFd },
    /// Send.
    Send { conn: u64, frame: Frame },
    /// Hang up, once what was sent has left.
    Close { conn: u64 },
    /// Tell the program.
    Notice(Notice),
}

/// An argument that was given as a reference.
#[derive(Debug)]
pub enum Argument {
    /// Its value.
    Inline(Bytes),
    /// In a store. The process holds one reference until the value was read.
    Stored(ObjectId),
}

/// One process.
pub struct Process {
    state: State,
    dropped: Arc<DropQueue>,
    segments: SegmentTable,
}

impl Process {
    /// A process that has not registered. Its ids follow from `ids`.
    pub fn new(me: WorkerAddress, ids: u64) -> std::io::Result<Self> {
        let state = State::new(
            me,
            JobId::NIL,
            "3.11".to_owned(),
            "socket".to_owned(),
            IdSource::new(ids),
        );
        Ok(Self {
            state,
            dropped: Arc::new(DropQueue::new(Arc::new(Kick::new()?))),
            segments: SegmentTable::new(),
        })
    }

    // ---- inputs and outputs --------------------------------------------------------------------------------

    /// The time, in microseconds, for what follows.
    pub fn set_now(&mut self, now: u64) {
        self.state.set_now(now);
        let mut dropped = Dropped::default();
        if self.dropped.take(&mut dropped) {
            self.state.take_dropped(&mut dropped);
        }
    }

    /// A frame came.
    pub fn on_frame(&mut self, conn: u64, frame: Frame) {
        self.state.on_frame(conn, frame);
        for answer in self.state.take_store_answers() {
            self.take_in(answer);
        }
    }

    /// A connection is gone.
    pub fn on_closed(&mut self, conn: u64, cause: &CloseCause) {
        self.state.on_closed(conn, cause);
    }

    /// The time passes.
    pub fn on_tick(&mut self, now: u64) {
        self.state.on_tick(now);
    }

    /// When [`Self::on_tick`] has something to do next, in microseconds from now.
    pub fn next_tick(&self) -> Option<u64> {
        self.state.next_tick()
    }

    /// What is to be done, in order.
    pub fn take_outputs(&mut self) -> Result<Vec<Output>, RpcError> {
        self.state.settle();
        let (mut outputs, mut closed) = (Vec::new(), Vec::new());
        for effect in self.state.take_effects() {
            match effect {
                Effect::Open { conn, target, .. } => outputs.push(Output::Open { conn, target }),
                Effect::Adopt { conn, socket, .. } => outputs.push(Output::Adopt { conn, socket }),
                Effect::Close { conn } => closed.push(Output::Close { conn }),
                Effect::Notify(notice) => outputs.push(Output::Notice(notice)),
            }
        }
        let mut sent = Vec::new();
        self.state
            .take_outgoing(|conn, bytes, _| sent.push((conn, std::mem::take(bytes))));
        for (conn, bytes) in sent {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame()? {
                outputs.push(Output::Send { conn, frame });
            }
        }
        outputs.extend(closed);
        Ok(outputs)
    }

    fn take_in(&mut self, answer: StoreAnswer) {
        match answer {
            StoreAnswer::Segment {
                object,
                range,
                descriptor,
            } => {
                // What cannot be kept shows when an object is mapped.
                let _ = self.segments.learn(object, &range, descriptor);
            }
            StoreAnswer::Read(ready) => {
                let id = ready.object;
                let mapped = self
                    .segments
                    .attach(id, &ready.range, ready.descriptor, Access::ReadOnly);
                match mapped {
                    Ok(range) => {
                        let value = StoredValue::new(id, range, Arc::clone(&self.dropped));
                        self.state.mapped(id, &Arc::new(value));
                    }
                    Err(error) => {
                        self.state.release_mapped(&[id]);
                        let error = CoreError::new(ErrorCode::Internal, error.to_string());
                        self.state.read_failed(id, &error);
                    }
                }
            }
        }
    }

    // ---- joining -------------------------------------------------------------------------------------------

    /// Registers with the raylet.
    pub fn register(&mut self, message: &proto::RegisterClient) {
        let slot = self
            .state
            .ask_raylet(|_| Pending::Register, FrameKind::RegisterClient, message);
        // The answer has its own place.
        self.state.forget_slot(slot);
    }

    /// Whether the raylet has taken this process in, once it has said so.
    pub fn take_registration(&mut self) -> Option<Result<(), CoreError>> {
        let reply = match self.state.take_registration()? {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        match NodeId::from_slice(&reply.node_id) {
            Ok(node) => {
                self.state.set_address(node, reply.node_address);
                Some(Ok(()))
            }
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Asks the head; the answer will be in the slot.
    pub fn ask_head(&mut self, request: &proto::HeadRequest) -> u64 {
        self.state
            .ask_raylet(Pending::Head, FrameKind::HeadRequest, request)
    }

    /// The head's answer.
    pub fn take_head_reply(&mut self, slot: u64) -> Option<Result<proto::HeadReply, CoreError>> {
        match self.state.take_slot(slot)? {
            SlotResult::Head(reply) => Some(Ok(reply)),
            SlotResult::Failed(error) => Some(Err(error)),
            _ => Some(Err(CoreError::new(ErrorCode::Internal, "another answer"))),
        }
    }

    /// Nobody waits for the answer.
    pub fn forget_slot(&mut self, slot: u64) {
        self.state.forget_slot(slot);
    }

    /// The job of the driver, or of the task that runs.
    pub fn set_job_id(&mut self, job: JobId) {
        self.state.set_job_id(job);
    }

    /// This process.
    pub fn address(&self) -> WorkerAddress {
        WorkerAddress::clone(self.state.me())
    }

    /// Why nothing works any more.
    pub fn broken(&self) -> Option<&CoreError> {
        self.state.broken()
    }

    // ---- objects -------------------------------------------------------------------------------------------

    /// A new object's id.
    pub fn next_object(&mut self) -> ObjectId {
        ObjectId::for_result(self.state.next_task_id(), 0)
    }

    /// Puts a value into this process; the caller holds one reference of it.
    pub fn put(&mut self, value: Bytes, contained: Vec<ObjectId>) -> ObjectId {
        let id = self.next_object();
        self.state.add_put(id, Value::Inline(value), contained);
        id
    }

    /// Asks the store for room; the answer will be in the slot.
    pub fn create(&mut self, id: ObjectId, owner: &WorkerAddress, size: usize) -> u64 {
        let message = proto::CreateObject {
            object_id: id.to_vec().into(),
            size: size as u64,
            owner: Some(owner.into()),
            feed_id: Bytes::new(),
        };
        let pending = |slot| Pending::Create { slot, object: id };
        self.state.ask_raylet(pending, FrameKind::CreateObject, &message)
    }

    /// Writes and seals an object, once the store has made room. `None`: it has not.
    pub fn fill(&mut self, slot: u64, id: ObjectId, value: &[u8]) -> Option<Result<(), CoreError>> {
        let (reply, descriptor) = match self.state.take_slot(slot)? {
            SlotResult::Created(reply, descriptor) => (reply, descriptor),
            SlotResult::Failed(error) => return Some(Err(error)),
            _ => return Some(Err(CoreError::new(ErrorCode::Internal, "another answer"))),
        };
        if let Some(failure) = &reply.failure {
            return Some(Err(failure.into()));
        }
        if reply.already_sealed {
            return Some(Ok(()));
        }
        let range = reply.range.unwrap_or_default();
        match self.segments.attach(id, &range, descriptor, Access::Writable) {
            Ok(mut range) => range.as_mut_slice().copy_from_slice(value),
            Err(error) => return Some(Err(CoreError::new(ErrorCode::Internal, error.to_string()))),
        }
        let seal = proto::SealObject {
            object_id: id.to_vec().into(),
        };
        self.state.tell_raylet(FrameKind::SealObject, &seal, true);
        Some(Ok(()))
    }

    /// An object of this process that it has written to the store; the caller holds one reference of it.
    pub fn add_stored(&mut self, id: ObjectId, size: usize, contained: Vec<ObjectId>) {
        let me = self.address();
        let value = Value::Stored {
            size: size as u64,
            locations: vec![(me.node_id, me.node_address)],
        };
        self.state.add_put(id, value, contained);
    }

    /// Has the value told by [`Notice::Fetched`] with this key.
    pub fn fetch(&mut self, id: ObjectId, key: u64) {
        if let Begun::Done(values) = self.state.fetch_for(id, key) {
            for value in values {
                self.state.notify(Notice::Fetched(key, value));
            }
        }
    }

    /// One more reference.
    pub fn add_reference(&mut self, id: ObjectId) {
        self.state.add_ref(id);
    }

    /// One reference less.
    pub fn drop_reference(&mut self, id: ObjectId) {
        self.state.drop_ref(id);
    }

    /// A reference that came out of a value. True: its owner does not know this process yet.
    pub fn add_foreign_reference(&mut self, id: ObjectId, owner: &WorkerAddress) -> bool {
        self.state.add_foreign_ref(id, owner)
    }

    /// Keeps an object until the owners of `read` know this process.
    pub fn keep_until_borrowed(&mut self, id: ObjectId, read: &[ObjectId]) {
        self.state.keep_until_borrowed(id, read);
    }

    /// Whether the owners of these references know this process, or are dead.
    pub fn are_borrowed(&self, ids: &[ObjectId]) -> bool {
        self.state.objects().are_borrowed(ids)
    }

    /// All objects that the process knows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.state.known_objects()
    }

    /// Whether the process knows an object.
    pub fn has(&self, id: ObjectId) -> bool {
        self.state.owner_of(id).is_some()
    }

    // ---- calls ---------------------------------------------------------------------------------------------

    /// Calls a function; the caller holds one reference of each result.
    pub fn submit(&mut self, template: &Arc<TaskTemplate>, arguments: CallArguments) -> Vec<ObjectId> {
        let num_returns = template.num_returns;
        self.call(CallKind::Function(Arc::clone(template)), arguments, num_returns)
    }

    /// Calls a method.
    pub fn submit_actor(
        &mut self,
        actor_id: ActorId,
        method: &Arc<ActorMethod>,
        arguments: CallArguments,
    ) -> Vec<ObjectId> {
        let method = Arc::clone(method);
        self.call(CallKind::Actor { actor_id, method }, arguments, 1)
    }

    fn call(&mut self, kind: CallKind, arguments: CallArguments, num_returns: u32) -> Vec<ObjectId> {
        self.state.submit(NewTask {
            kind,
            num_returns,
            parent: arguments.parent,
            arguments: arguments.value,
            keyword_names: arguments.keyword_names,
            slots: arguments.references,
            contained: arguments.contained,
        })
    }

    /// Has the call end that makes an object. What its owner answers is not looked at.
    pub fn cancel(&mut self, id: ObjectId, how: Cancellation) {
        if let Ok(Some(slot)) = self.state.cancel(id, how) {
            self.state.forget_slot(slot);
        }
    }

    /// Creates an actor without a name; the caller holds one handle.
    pub fn create_actor(
        &mut self,
        actor_id: ActorId,
        spec: proto::ActorSpec,
        arguments: Vec<(u32, ObjectId)>,
    ) {
        let spec = proto::ActorSpec {
            actor_id: actor_id.to_vec().into(),
            job_id: self.state.job_id().to_vec().into(),
            owner: Some(self.state.me_message().clone()),
            python_version: self.state.python_version().to_owned(),
            ..spec
        };
        self.state.add_actor_handle(actor_id, true);
        let pins = arguments.iter().map(|(_, id)| *id).collect();
        self.state.pin_for_actor(actor_id, pins);
        let references = arguments;
        self.state.register_actor(actor_id, Creation { spec, references });
    }

    /// One handle less.
    pub fn drop_actor_handle(&mut self, actor_id: ActorId) {
        self.state.drop_actor_handle(actor_id, HandleKind::Counted);
    }

    // ---- running calls -------------------------------------------------------------------------------------

    /// A call to run.
    pub fn take_work(&mut self) -> Option<WorkItem> {
        self.state.take_work().map(WorkItem::from)
    }

    /// Whether there is a call to run.
    pub fn has_work(&self) -> bool {
        self.state.has_work()
    }

    /// Whether this worker is to end.
    pub fn is_ending(&self) -> bool {
        self.state.is_ending()
    }

    /// Who called.
    pub fn caller<'a>(&self, task: &'a IncomingTask) -> &'a WorkerAddress {
        &task.caller
    }

    /// The actor that this process is, and its incarnation.
    pub fn current_actor(&self) -> Option<(ActorId, u64)> {
        self.state.current_actor()
    }

    /// The arguments of a call that were given as references.
    pub fn arguments(&mut self, task: &IncomingTask) -> Vec<Argument> {
        let given = task.references.iter();
        let values: Vec<ArgumentValue> = given.map(|(_, value)| value.clone()).collect();
        values.into_iter().map(|value| self.hold(value)).collect()
    }

    /// The arguments of a constructor that were given as references.
    pub fn creation_arguments(&mut self, work: &CreateActorWork) -> Result<Vec<Argument>, CoreError> {
        let mut inline = work.spec.inline_arguments.iter();
        let mut arguments = Vec::new();
        for argument in &work.spec.arguments {
            let value = match argument.inline_length {
                Some(_) => ArgumentValue::Inline(inline.next().cloned().unwrap_or_default()),
                None => stored_argument(argument)?,
            };
            arguments.push(self.hold(value));
        }
        Ok(arguments)
    }

    fn hold(&mut self, value: ArgumentValue) -> Argument {
        match value {
            ArgumentValue::Inline(bytes) => Argument::Inline(bytes),
            ArgumentValue::Stored { object, locations } => {
                self.state.hold_argument(object, locations);
                Argument::Stored(object)
            }
        }
    }

    /// Answers a call with one value. `stored`: it was written to the store, with so many bytes. `contained`: references
    /// inside, which this process holds.
    pub fn finish(
        &mut self,
        task: &IncomingTask,
        value: &[u8],
        stored: Option<usize>,
        contained: &[(ObjectId, WorkerAddress)],
    ) {
        let references = contained
            .iter()
            .map(|(id, owner)| proto::ObjectReference::new(*id, owner))
            .collect();
        let mut result = proto::ReturnValue {
            contained: references,
            ..proto::ReturnValue::default()
        };
        let me = self.address();
        match stored {
            Some(size) => {
                result.stored_length = size as u64;
                result.location = Some(location_of(me.node_id, &me.node_address));
            }
            None => result.inline_length = Some(value.len() as u64),
        }
        let pins: Vec<ObjectId> = contained.iter().map(|(id, _)| *id).collect();
        for id in &pins {
            self.state.add_ref(*id);
        }
        let payload: &[u8] = if stored.is_some() { &[] } else { value };
        self.state
            .finish_work(task, vec![result], &[payload], pins, false);
    }

    /// Answers a call that has no result.
    pub fn fail(&mut self, task: &IncomingTask, error: &CoreError) {
        self.state.fail_work(task, error);
    }

    /// The actor is made.
    pub fn finish_create_actor(&mut self, work: &CreateActorWork) -> Result<(), CoreError> {
        self.state.finish_create_actor(work, None, None)
    }

    /// The call that runs waits for an object, or does so no more.
    pub fn set_blocked(&mut self, blocked: bool) {
        self.state.set_blocked(blocked);
    }

    // ---- checking ------------------------------------------------------------------------------------------

    /// Panics where an invariant of a part does not hold. A process that has left the cluster fails what it had, and keeps no
    /// order in it.
    pub fn check(&self) {
        if self.state.broken().is_none() {
            self.state.check();
        }
    }

    /// Panics with what is left of anything.
    pub fn check_empty(&self, who: &str) {
        self.state.check_empty(who);
    }
}
