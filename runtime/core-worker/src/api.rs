//! What the language bindings call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FeedId, MAX_INLINE_BYTES, NodeId, ObjectId, TaskId, ValueFormat, ValueHeader,
    WorkerAddress,
};
use sparkray_proto::{self as proto, FrameKind, head_reply, head_request, location_of};

use crate::error::{CoreError, WaitError};
use crate::state::{
    ArgumentValue, CallKind, CreateActorWork, IncomingTask, NewTask, Pending, SlotResult, State,
    TaskTemplate, Value, Work,
};
use crate::store::StoredValue;
use crate::worker::{CoreWorker, never_interrupted};

/// Objects from this size on have their pages brought in ahead of the copy.
const LARGE_OBJECT: usize = 1 << 20;
/// Requests to the head that have no deadline of their own.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// References that came out of a value are known to their owners by then, or the owner is lost.
const BORROW_DEADLINE: Duration = Duration::from_secs(10);

/// A value to be put, passed or returned: the parts that [`ValueHeader`] lays out.
#[derive(Debug)]
pub struct NewValue<'a> {
    /// How the body is encoded.
    pub format: ValueFormat,
    /// The body.
    pub body: &'a [u8],
    /// Out-of-band buffers.
    pub buffers: &'a [&'a [u8]],
    /// References inside.
    pub contained: Vec<ObjectId>,
}

impl NewValue<'_> {
    fn total_len(&self) -> usize {
        let lens: Vec<usize> = self.buffers.iter().map(|buffer| buffer.len()).collect();
        ValueHeader::layout(self.body.len(), &lens).0
    }

    fn write(&self, target: &mut [u8]) {
        let lens: Vec<usize> = self.buffers.iter().map(|buffer| buffer.len()).collect();
        let offsets = ValueHeader::write_body(self.format, target, self.body, &lens);
        for (offset, buffer) in offsets.into_iter().zip(self.buffers) {
            target[offset..offset + buffer.len()].copy_from_slice(buffer);
        }
    }

    /// The whole value in this process's memory.
    pub fn to_bytes(&self) -> Bytes {
        let mut value = vec![0; self.total_len()];
        self.write(&mut value);
        value.into()
    }

    /// Whether it lives in the store: large ones do, and tables always.
    fn is_stored(&self, total: usize) -> bool {
        total > MAX_INLINE_BYTES || self.format == ValueFormat::Arrow
    }
}

/// The value of an object.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// In this process's memory.
    Inline(Bytes),
    /// In the node's shared memory.
    Mapped(Arc<StoredValue>),
}

impl Fetched {
    /// The whole value, header first.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Mapped(value) => value.as_slice(),
        }
    }
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub struct CallArguments {
    /// The arguments value; empty: none.
    pub value: Bytes,
    /// Names of the keyword arguments, the last of the flat list.
    pub keyword_names: Vec<String>,
    /// Arguments that are references: index in the flat list, and the object.
    pub references: Vec<(u32, ObjectId)>,
    /// References inside the value.
    pub contained: Vec<ObjectId>,
}

/// A block that a Spark task sealed for this process.
#[derive(Debug)]
pub struct FedBlock {
    /// The object.
    pub object_id: ObjectId,
    /// Bytes of the value.
    pub size: u64,
    /// The node that holds it.
    pub node_id: NodeId,
    /// `host:port` of its raylet.
    pub node_address: String,
}

/// A call to run, or an actor to become.
#[derive(Debug)]
pub enum WorkItem {
    /// A call.
    Task(IncomingTask),
    /// An actor.
    CreateActor(Box<CreateActorWork>),
}

/// Objects and where they are.
pub type Locations = Vec<(NodeId, String)>;

impl CoreWorker {
    // ---- objects -------------------------------------------------------------------------------------------

    /// Puts a value; the caller holds one reference of the object.
    pub fn put<E>(
        &self,
        value: NewValue<'_>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<ObjectId, WaitError<E>> {
        let id = ObjectId::for_result(TaskId::next(), 0);
        let total = value.total_len();
        if !value.is_stored(total) {
            let bytes = value.to_bytes();
            self.with_state(|state| {
                check_running(state)?;
                state.add_owned(id, Value::Inline(bytes), value.contained);
                Ok::<(), CoreError>(())
            })?;
            return Ok(id);
        }
        let me = self.address();
        self.write_stored(id, &me, total, interrupt, |target| value.write(target))?;
        self.with_state(|state| {
            let locations = vec![(me.node_id, me.node_address.clone())];
            state.add_owned(
                id,
                Value::Stored {
                    size: total as u64,
                    locations,
                },
                value.contained,
            );
        });
        Ok(id)
    }

    /// Makes an object in the local store. Waits while the store makes room.
    fn write_stored<E>(
        &self,
        id: ObjectId,
        owner: &WorkerAddress,
        size: usize,
        interrupt: &dyn Fn() -> Result<(), E>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), WaitError<E>> {
        let message = proto::CreateObject {
            object_id: id.to_vec().into(),
            size: size as u64,
            owner: Some(owner.into()),
            feed_id: Bytes::new(),
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            Ok::<u64, CoreError>(state.ask_raylet(Pending::StoreCreate, FrameKind::CreateObject, &message))
        })?;
        let abort = proto::AbortObject {
            object_id: id.to_vec().into(),
        };
        let outcome = self.wait_slot(slot, None, interrupt);
        let (reply, descriptor) = match outcome {
            Ok(SlotResult::Created(reply, descriptor)) => (reply, descriptor),
            Ok(SlotResult::Failed(error)) => return Err(error.into()),
            Ok(_) => return Err(CoreError::new(ErrorCode::Internal, "the store gave another answer").into()),
            Err(error) => {
                self.with_state(|state| state.tell_raylet(FrameKind::AbortObject, &abort, true));
                return Err(error);
            }
        };
        if let Some(failure) = &reply.failure {
            return Err(CoreError::from(failure).into());
        }
        if reply.already_sealed {
            return Ok(());
        }
        let range = reply.range.ok_or_else(|| {
            CoreError::new(
                ErrorCode::Internal,
                "the store granted an object without its range",
            )
        })?;
        let mut mapped = match self.attach_writable(id, &range, descriptor) {
            Ok(mapped) => mapped,
            Err(error) => {
                self.with_state(|state| state.tell_raylet(FrameKind::AbortObject, &abort, true));
                return Err(error.into());
            }
        };
        if size >= LARGE_OBJECT {
            // One call for all pages, huge ones where the kernel can, instead of a fault for each.
            mapped.prepare_for_writing();
        }
        fill(mapped.as_mut_slice());
        drop(mapped);
        let seal = proto::SealObject {
            object_id: id.to_vec().into(),
        };
        self.with_state(|state| state.tell_raylet(FrameKind::SealObject, &seal, true));
        Ok(())
    }

    fn wait_slot<E>(
        &self,
        slot: u64,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<SlotResult, WaitError<E>> {
        let outcome = self.wait_until(deadline, false, interrupt, |state| {
            if state.slots.get(&slot)?.is_some() {
                state.slots.remove(&slot).flatten()
            } else {
                None
            }
        });
        if outcome.is_err() {
            self.state.lock().slots.remove(&slot);
        }
        outcome
    }

    /// The values of objects, in order. An object without a value is an error in its place.
    pub fn get<E>(
        &self,
        ids: &[ObjectId],
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<Fetched, CoreError>>, WaitError<E>> {
        self.with_state(|state| {
            for id in ids {
                state.want(*id);
            }
        });
        let mut first_unready = 0;
        let resolved = self.wait_until(deadline, true, interrupt, |state| {
            while let Some(id) = ids.get(first_unready) {
                if state.objects.get(id).is_some_and(|object| !object.is_resolved()) {
                    return None;
                }
                first_unready += 1;
            }
            Some(())
        });
        resolved?;
        let fetched = self.wait_until(deadline, true, interrupt, |state| self.collect(state, ids));
        self.forget_arrivals(ids);
        fetched
    }

    /// The values of resolved objects, once all that are stored are mapped.
    fn collect(&self, state: &mut State, ids: &[ObjectId]) -> Option<Vec<Result<Fetched, CoreError>>> {
        let mut values = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            let Some(object) = state.objects.get_mut(id) else {
                values.push(Err(unknown_object(*id)));
                continue;
            };
            match &object.value {
                Value::Inline(bytes) => values.push(Ok(Fetched::Inline(bytes.clone()))),
                Value::Failed(error) => values.push(Err(error.clone())),
                Value::Stored { .. } => {
                    if let Some(mapped) = object.mapped.upgrade() {
                        values.push(Ok(Fetched::Mapped(mapped)));
                    } else if let Some(error) = object.read_error.take() {
                        values.push(Err(error));
                    } else {
                        missing.push(*id);
                    }
                }
                // Resolved before; nothing makes it pending again.
                Value::Pending => missing.push(*id),
            }
        }
        if missing.is_empty() {
            return Some(values);
        }
        // Errors that were taken above are asked for again with the rest.
        state.read_stored(&missing);
        None
    }

    /// The objects that are ready, at most `wanted` of them, as indices into `ids`; fewer at the deadline.
    pub fn wait<E>(
        &self,
        ids: &[ObjectId],
        wanted: usize,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<usize>, WaitError<E>> {
        self.with_state(|state| {
            for id in ids {
                state.want(*id);
            }
        });
        let ready = |state: &State| {
            let mut ready = Vec::with_capacity(wanted);
            for (index, id) in ids.iter().enumerate() {
                if state
                    .objects
                    .get(id)
                    .is_none_or(crate::state::Object::is_resolved)
                {
                    ready.push(index);
                    if ready.len() == wanted {
                        break;
                    }
                }
            }
            ready
        };
        let outcome = self.wait_until(deadline, true, interrupt, |state| {
            let ready = ready(state);
            (ready.len() >= wanted).then_some(ready)
        });
        match outcome {
            Err(WaitError::Deadline) => Ok(self.with_state(|state| ready(state))),
            other => other,
        }
    }

    /// Calls the notice handler with `key` once the object is resolved; `false`: it is already.
    pub fn watch(&self, id: ObjectId, key: u64) -> bool {
        self.with_state(|state| state.watch(id, key))
    }

    /// One more reference of an object that this process knows.
    pub fn add_reference(&self, id: ObjectId) {
        self.state.lock().add_ref(id);
    }

    /// A reference that came out of a value.
    pub fn add_foreign_reference(&self, id: ObjectId, owner: &WorkerAddress) {
        self.with_state(|state| state.add_foreign_ref(id, owner));
    }

    /// Whether owners of references that came out of a value do not know this process yet.
    pub fn has_pending_borrows(&self) -> bool {
        !self.state.lock().unacknowledged_borrows.is_empty()
    }

    /// Waits until the owners of references that came out of a value know this process. The caller keeps that value.
    pub fn wait_for_borrows<E>(&self, interrupt: &dyn Fn() -> Result<(), E>) -> Result<(), WaitError<E>> {
        let deadline = Instant::now() + BORROW_DEADLINE;
        self.wait_until(Some(deadline), false, interrupt, |state| {
            state.unacknowledged_borrows.is_empty().then_some(())
        })
    }

    /// One reference less. May be called anywhere, finalizers included.
    pub fn drop_reference(&self, id: ObjectId) {
        self.dropped.lock().references.push(id);
        self.notice_drops();
    }

    /// The owner of an object that this process knows.
    pub fn owner_of(&self, id: ObjectId) -> Option<WorkerAddress> {
        let state = self.state.lock();
        let object = state.objects.get(&id)?;
        Some(object.owner.as_deref().unwrap_or(&state.me).clone())
    }

    /// Where stored objects are: size, nodes, and whether the value is an error.
    pub fn locations<E>(
        &self,
        ids: &[ObjectId],
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<(u64, Locations, bool), CoreError>>, WaitError<E>> {
        self.wait(ids, ids.len(), deadline, interrupt)?;
        let describe = |state: &State, id: &ObjectId| match state.objects.get(id) {
            None => Err(unknown_object(*id)),
            Some(object) => match &object.value {
                Value::Stored { size, locations } => Ok((*size, locations.clone(), object.is_error)),
                Value::Inline(bytes) => Ok((bytes.len() as u64, Vec::new(), object.is_error)),
                Value::Failed(error) => Err(error.clone()),
                Value::Pending => Err(CoreError::new(
                    ErrorCode::DeadlineExceeded,
                    format!("object {id} did not exist before the deadline"),
                )),
            },
        };
        Ok(self.with_state(|state| ids.iter().map(|id| describe(state, id)).collect()))
    }

    /// Becomes the owner of blocks that Spark's tasks sealed, and drops the feed's others, on their nodes and on `others`.
    pub fn adopt_blocks<E>(
        &self,
        feed: FeedId,
        blocks: &[FedBlock],
        others: &[(NodeId, String)],
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let mut nodes: Vec<proto::ObjectLocation> = Vec::new();
        let holders = blocks.iter().map(|block| (block.node_id, block.node_address.as_str()));
        for (node, address) in holders.chain(others.iter().map(|(node, address)| (*node, address.as_str()))) {
            let location = location_of(node, address);
            if !nodes.contains(&location) {
                nodes.push(location);
            }
        }
        let message = proto::AdoptFeed {
            feed_id: feed.to_vec().into(),
            winners: blocks
                .iter()
                .map(|block| block.object_id.to_vec().into())
                .collect(),
            nodes,
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            Ok::<u64, CoreError>(state.ask_raylet(Pending::Done, FrameKind::AdoptFeed, &message))
        })?;
        match self.wait_slot(slot, Some(Instant::now() + HEAD_DEADLINE), interrupt)? {
            SlotResult::Failed(error) => return Err(error.into()),
            _ => {}
        }
        self.with_state(|state| {
            for block in blocks {
                let locations = vec![(block.node_id, block.node_address.clone())];
                state.add_owned(
                    block.object_id,
                    Value::Stored {
                        size: block.size,
                        locations,
                    },
                    Vec::new(),
                );
            }
        });
        Ok(())
    }

    // ---- tasks and actors ----------------------------------------------------------------------------------

    /// Submits a call of a function; the caller holds one reference of each result.
    pub fn submit(
        &self,
        template: &Arc<TaskTemplate>,
        arguments: CallArguments,
    ) -> Result<Vec<ObjectId>, CoreError> {
        self.with_state(|state| {
            check_running(state)?;
            Ok(state.submit(NewTask {
                kind: CallKind::Function(Arc::clone(template)),
                num_returns: template.num_returns,
                arguments: arguments.value,
                keyword_names: arguments.keyword_names,
                slots: arguments.references,
                contained: arguments.contained,
            }))
        })
    }

    /// Submits a call of an actor's method.
    pub fn submit_actor(
        &self,
        actor_id: ActorId,
        method: &Arc<str>,
        name: String,
        num_returns: u32,
        arguments: CallArguments,
    ) -> Result<Vec<ObjectId>, CoreError> {
        self.with_state(|state| {
            check_running(state)?;
            Ok(state.submit(NewTask {
                kind: CallKind::Actor {
                    actor_id,
                    method: Arc::clone(method),
                    name,
                },
                num_returns,
                arguments: arguments.value,
                keyword_names: arguments.keyword_names,
                slots: arguments.references,
                contained: arguments.contained,
            }))
        })
    }

    /// Registers an actor with the head, which places it. The caller holds one handle.
    pub fn create_actor<E>(
        &self,
        mut spec: proto::ActorSpec,
        arguments: CallArguments,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<ActorId, WaitError<E>> {
        let actor_id = ActorId::random();
        let references: Vec<ObjectId> = arguments.references.iter().map(|(_, id)| *id).collect();
        // The head keeps the values of small arguments, so they must be there.
        self.wait(&references, references.len(), None, interrupt)?;
        let named = !spec.name.is_empty() || spec.detached;
        self.with_state(|state| {
            check_running(state)?;
            if let Some(cause) = &state.head_lost {
                return Err(CoreError::new(
                    ErrorCode::Unavailable,
                    format!("no actor can be created: the head of the cluster is gone ({cause})"),
                ));
            }
            let (messages, inline) = state.describe_arguments(&arguments.references);
            spec.actor_id = actor_id.to_vec().into();
            spec.job_id = state.job_id.to_vec().into();
            spec.owner = Some(state.me_message.clone());
            spec.arguments_value.clone_from(&arguments.value);
            spec.keyword_names.clone_from(&arguments.keyword_names);
            spec.arguments = messages;
            spec.inline_arguments = inline;
            spec.python_version.clone_from(&state.python_version);
            state.add_actor_handle(actor_id, true);
            if named {
                state.actor_escapes(actor_id);
            }
            let mut pins = references.clone();
            pins.extend(&arguments.contained);
            state.pin_for_actor(actor_id, pins);
            Ok(())
        })?;
        let request = head_request::Request::RegisterActor(proto::RegisterActor { spec: Some(spec) });
        match self.ask_head(request, interrupt) {
            Ok(_) => {
                self.with_state(|state| state.watch_actor(actor_id));
                Ok(actor_id)
            }
            Err(error) => {
                let reason = match &error {
                    WaitError::Failed(error) => error.clone(),
                    _ => CoreError::new(ErrorCode::Unavailable, "the head did not answer"),
                };
                self.with_state(|state| state.actor_refused(actor_id, reason));
                Err(error)
            }
        }
    }

    /// A handle of an actor that another process made, or that was looked up.
    pub fn add_actor_handle(&self, actor_id: ActorId) {
        self.with_state(|state| state.add_actor_handle(actor_id, false));
    }

    /// One handle less. May be called anywhere, finalizers included.
    pub fn drop_actor_handle(&self, actor_id: ActorId) {
        self.dropped.lock().actor_handles.push(actor_id);
        self.notice_drops();
    }

    /// A handle is about to leave this process: the actor no longer ends with the handles that are here.
    pub fn actor_escapes(&self, actor_id: ActorId) {
        self.state.lock().actor_escapes(actor_id);
    }

    /// Looks an actor up by name.
    pub fn get_actor<E>(
        &self,
        name: &str,
        namespace: &str,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<proto::ActorRecord, WaitError<E>> {
        let request = proto::GetActor {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            actor_id: Bytes::new(),
        };
        match self.ask_head(head_request::Request::GetActor(request), interrupt)? {
            head_reply::Reply::Actor(record) => Ok(record),
            _ => Err(CoreError::new(ErrorCode::Internal, "the head gave another answer").into()),
        }
    }

    /// Ends an actor.
    pub fn kill_actor<E>(
        &self,
        actor_id: ActorId,
        no_restart: bool,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let cause = "it was killed by kill()".to_owned();
        let request = proto::KillActor {
            actor_id: actor_id.to_vec().into(),
            no_restart,
            cause,
        };
        self.ask_head(head_request::Request::KillActor(request), interrupt)
            .map(|_| ())
    }

    /// Asks the head, through the local raylet.
    pub fn ask_head<E>(
        &self,
        request: head_request::Request,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<head_reply::Reply, WaitError<E>> {
        let message = proto::HeadRequest {
            request: Some(request),
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            if let Some(cause) = &state.head_lost {
                return Err(CoreError::new(
                    ErrorCode::Unavailable,
                    format!("the head of the cluster is gone ({cause}): start the cluster again"),
                ));
            }
            Ok(state.ask_raylet(Pending::Head, FrameKind::HeadRequest, &message))
        })?;
        match self.wait_slot(slot, Some(Instant::now() + HEAD_DEADLINE), interrupt) {
            Ok(SlotResult::Head(reply)) => {
                if let Some(failure) = &reply.failure {
                    return Err(CoreError::from(failure).into());
                }
                reply.reply.ok_or_else(|| {
                    CoreError::new(ErrorCode::Internal, "the head gave an empty answer").into()
                })
            }
            Ok(SlotResult::Failed(error)) => Err(error.into()),
            Ok(_) => Err(CoreError::new(ErrorCode::Internal, "the raylet gave another answer").into()),
            Err(WaitError::Deadline) => Err(CoreError::new(
                ErrorCode::DeadlineExceeded,
                format!("the head did not answer within {} s", HEAD_DEADLINE.as_secs()),
            )
            .into()),
            Err(other) => Err(other),
        }
    }

    // ---- running calls -------------------------------------------------------------------------------------

    /// The next call to run; `None`: this worker is to end.
    pub fn next_work<E>(
        &self,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Option<WorkItem>, WaitError<E>> {
        let outcome = self.wait_until(None, false, interrupt, |state| {
            if state.execution.exit {
                return Some(None);
            }
            state.take_work().map(Some)
        });
        match outcome {
            Ok(work) => Ok(work.map(WorkItem::from)),
            // The raylet is gone: so is the reason to live.
            Err(WaitError::Failed(error)) if error.code == ErrorCode::NotRunning => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// A call to run, if there is one now.
    pub fn try_next_work(&self) -> Option<WorkItem> {
        self.with_state(State::take_work).map(WorkItem::from)
    }

    /// Sends [`crate::Notice::Work`] whenever a call arrives or this worker is to end, and lets the helper read the
    /// sockets always: for workers whose threads belong to an event loop.
    pub fn announce_work(&self) {
        self.lead_by_helper();
        self.with_state(State::announce_work);
    }

    /// Whether this worker is to end.
    pub fn is_ending(&self) -> bool {
        self.state.lock().execution.exit
    }

    /// The code of a function that a caller has sent.
    pub fn function_blob(&self, task: &IncomingTask) -> Option<Bytes> {
        self.state
            .lock()
            .execution
            .functions
            .get(&task.function_id)
            .cloned()
    }

    /// The values of the arguments that are references: index in the flat list, and the value. Stored ones are
    /// brought to this node.
    pub fn load_arguments<E>(
        &self,
        task: &IncomingTask,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<(u32, Result<Fetched, CoreError>)>, WaitError<E>> {
        let references = task
            .references
            .iter()
            .map(|(slot, value)| (*slot, value.clone()))
            .collect::<Vec<_>>();
        self.load_references(references, interrupt)
    }

    /// As [`CoreWorker::load_arguments`], for an actor's constructor.
    pub fn load_creation_arguments<E>(
        &self,
        work: &CreateActorWork,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<(u32, Result<Fetched, CoreError>)>, WaitError<E>> {
        let mut references = Vec::with_capacity(work.spec.arguments.len());
        let mut inline = work.spec.inline_arguments.iter();
        for argument in &work.spec.arguments {
            let value = if argument.inline_length.is_some() {
                ArgumentValue::Inline(inline.next().cloned().unwrap_or_default())
            } else {
                let reference = argument
                    .reference
                    .as_ref()
                    .ok_or_else(|| CoreError::new(ErrorCode::Internal, "an argument has no reference"))?;
                let (object, _) = reference.parts().map_err(CoreError::from)?;
                ArgumentValue::Stored {
                    object,
                    locations: argument.locations.clone(),
                }
            };
            references.push((argument.slot, value));
        }
        self.load_references(references, interrupt)
    }

    fn load_references<E>(
        &self,
        references: Vec<(u32, ArgumentValue)>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<(u32, Result<Fetched, CoreError>)>, WaitError<E>> {
        let stored: Vec<ObjectId> = references
            .iter()
            .filter_map(|(_, value)| match value {
                ArgumentValue::Stored { object, .. } => Some(*object),
                ArgumentValue::Inline(_) => None,
            })
            .collect();
        let mut values = Vec::with_capacity(references.len());
        if stored.is_empty() {
            for (slot, value) in references {
                if let ArgumentValue::Inline(bytes) = value {
                    values.push((slot, Ok(Fetched::Inline(bytes))));
                }
            }
            return Ok(values);
        }
        // The caller pins them until the reply: an entry without registering as a borrower is enough.
        self.with_state(|state| {
            for (_, value) in &references {
                if let ArgumentValue::Stored { object, locations } = value {
                    state.hold_argument(*object, locations)?;
                }
            }
            Ok::<(), CoreError>(())
        })?;
        let fetched = self.get(&stored, None, interrupt);
        self.with_state(|state| {
            for id in &stored {
                state.release_argument(*id);
            }
        });
        let mut fetched = fetched?.into_iter();
        for (slot, value) in references {
            let value = match value {
                ArgumentValue::Inline(bytes) => Ok(Fetched::Inline(bytes)),
                ArgumentValue::Stored { object, .. } => {
                    fetched.next().unwrap_or_else(|| Err(unknown_object(object)))
                }
            };
            values.push((slot, value));
        }
        Ok(values)
    }

    /// Writes one result of a call: inline, or into the local store for its caller.
    pub fn write_result<E>(
        &self,
        task: &IncomingTask,
        index: u32,
        value: &NewValue<'_>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(proto::ReturnValue, Bytes), WaitError<E>> {
        let total = value.total_len();
        let is_error = value.format == ValueFormat::Error;
        let contained = self.describe_contained(&value.contained);
        if !value.is_stored(total) {
            let bytes = value.to_bytes();
            let result = proto::ReturnValue {
                inline_length: Some(bytes.len() as u64),
                is_error,
                contained,
                ..Default::default()
            };
            return Ok((result, bytes));
        }
        let id = ObjectId::for_result(task.task_id, index);
        self.write_stored(id, &task.caller, total, interrupt, |target| value.write(target))?;
        let me = self.address();
        let result = proto::ReturnValue {
            inline_length: None,
            stored_length: total as u64,
            location: Some(location_of(me.node_id, &me.node_address)),
            is_error,
            contained,
        };
        Ok((result, Bytes::new()))
    }

    fn describe_contained(&self, ids: &[ObjectId]) -> Vec<proto::ObjectReference> {
        if ids.is_empty() {
            return Vec::new();
        }
        let state = self.state.lock();
        ids.iter()
            .map(|id| {
                let owner = state
                    .objects
                    .get(id)
                    .and_then(|object| object.owner.as_deref())
                    .unwrap_or(&state.me);
                proto::ObjectReference::new(*id, owner)
            })
            .collect()
    }

    /// Answers a call. `pins`: references inside the results, kept until the caller has registered.
    pub fn finish_task(
        &self,
        task: &IncomingTask,
        results: Vec<(proto::ReturnValue, Bytes)>,
        pins: Vec<ObjectId>,
    ) {
        let mut returns = Vec::with_capacity(results.len());
        let mut payload = Bytes::new();
        let mut joined = Vec::new();
        let count = results.len();
        for (result, bytes) in results {
            returns.push(result);
            if count == 1 {
                payload = bytes;
            } else {
                joined.extend_from_slice(&bytes);
            }
        }
        if count != 1 {
            payload = joined.into();
        }
        self.with_state(|state| {
            for id in &pins {
                state.add_ref(*id);
            }
            state.finish_work(task, returns, payload, pins);
        });
    }

    /// Tells the raylet what became of the actor. `error`: the pickled exception of its constructor.
    pub fn finish_create_actor(
        &self,
        work: &CreateActorWork,
        error: Option<Bytes>,
        failure: Option<CoreError>,
    ) -> Result<(), CoreError> {
        self.with_state(|state| state.finish_create_actor(work, error, failure))
    }

    /// The actor that this process is, and its incarnation.
    pub fn current_actor(&self) -> Option<(ActorId, u64)> {
        self.state.lock().execution.actor()
    }

    /// Labels this worker's output with the name of what it runs.
    pub fn set_label(&self, name: &str) {
        self.with_state(|state| {
            let label = proto::WorkerLabel {
                name: name.to_owned(),
                job_id: state.job_id.to_vec().into(),
            };
            state.tell_raylet(FrameKind::WorkerLabel, &label, true);
        });
    }

    /// Namespace in which this process looks up and names actors.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Tasks that were submitted and are not finished, for tests and status.
    pub fn unfinished_tasks(&self) -> usize {
        self.state.lock().unfinished_tasks()
    }

    /// Blocks for a request without an interrupt check of its own.
    pub fn ask_head_plainly(&self, request: head_request::Request) -> Result<head_reply::Reply, CoreError> {
        match self.ask_head(request, &never_interrupted) {
            Ok(reply) => Ok(reply),
            Err(WaitError::Failed(error)) => Err(error),
            Err(WaitError::Deadline) => Err(CoreError::new(
                ErrorCode::DeadlineExceeded,
                "the head did not answer",
            )),
            Err(WaitError::Interrupted(never)) => match never {},
        }
    }
}

fn check_running(state: &State) -> Result<(), CoreError> {
    match &state.broken {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

fn unknown_object(id: ObjectId) -> CoreError {
    CoreError::new(
        ErrorCode::NotFound,
        format!(
            "object {id} is not known to this process: its cluster was stopped, or all its references are gone"
        ),
    )
}

impl From<Work> for WorkItem {
    fn from(work: Work) -> Self {
        match work {
            Work::Task(task) => Self::Task(task),
            Work::CreateActor(work) => Self::CreateActor(work),
        }
    }
}
