//! Actors as this process knows them: handles, and what the head says of their lives. Their calls are in `actor_calls`.

use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, ObjectId, ValueFormat, ValueHeader, WorkerAddress};
use sparkray_proto::{self as proto, ActorState, FrameKind};

use super::actor_calls::Calls;
use super::dependency_errors::creation_failed;
use super::objects::Waiter;
use super::{Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

const HANDLES_GONE: &str = "all handles of the actor are gone";
const ARGUMENT_FAILED: &str = "an argument of its constructor has failed";

/// Where calls of an actor go.
#[derive(Debug)]
pub(super) enum Link {
    /// Connects with the next call.
    Idle,
    Connected(ConnId),
    /// The connection broke: a timer connects again.
    Broken,
}

/// Whether a handle keeps its actor alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// It does.
    Counted,
    /// It was looked up by the actor's name, and does not.
    Weak,
}

/// What a caller knows of an actor.
#[derive(Debug)]
pub(crate) struct ActorClient {
    pub(super) state: ActorState,
    pub(super) incarnation: u64,
    pub(super) address: Option<WorkerAddress>,
    pub(super) link: Link,
    pub(super) calls: Calls,
    /// Why it is dead.
    death: Option<(Value, bool)>,
    /// Handles in this process, weak ones too.
    handles: u32,
    /// Those that do not keep the actor alive.
    weak_handles: u32,
    /// It runs several calls at a time: those that wait for arguments do not hold up others.
    pub(super) out_of_order: bool,
    /// A handle left this process, or the actor is detached or of another creator: it does not end with the handles.
    escaped: bool,
    /// References that its creation needs, for restarts.
    pins: Vec<ObjectId>,
    /// The head was told that nobody can call it any more.
    kill_sent: bool,
    /// The head knows it: it may be asked about it.
    registered: bool,
    /// Its creation waits for arguments.
    creation: Option<Box<Creation>>,
}

/// An actor that the head does not know yet.
#[derive(Debug)]
pub(crate) struct Creation {
    /// All but the arguments that are references.
    pub(crate) spec: proto::ActorSpec,
    /// Arguments that are references: index in the flat list, and the object.
    pub(crate) references: Vec<(u32, ObjectId)>,
}

impl Creation {
    /// The arguments that are references.
    fn argument_ids(&self) -> Vec<ObjectId> {
        self.references.iter().map(|(_, id)| *id).collect()
    }
}

impl ActorClient {
    fn new(created: bool) -> Self {
        Self {
            state: ActorState::Pending,
            incarnation: 0,
            address: None,
            link: Link::Idle,
            calls: Calls::default(),
            death: None,
            handles: 0,
            weak_handles: 0,
            out_of_order: false,
            escaped: !created,
            pins: Vec::new(),
            kill_sent: false,
            registered: !created,
            creation: None,
        }
    }

    /// Begins anew with another incarnation.
    fn reset(&mut self, incarnation: u64, address: Option<WorkerAddress>) {
        self.incarnation = incarnation;
        self.address = address;
        self.link = Link::Idle;
        self.calls.restart();
    }
}

impl State {
    // ---- handles -------------------------------------------------------------------------------------------

    /// One more handle of an actor; the first begins to watch it. `created`: this process creates it.
    pub(crate) fn add_actor_handle(&mut self, actor_id: ActorId, created: bool) {
        let head_lost = self.head_lost.clone();
        let known = self.actors.contains_key(&actor_id);
        let client = self
            .actors
            .entry(actor_id)
            .or_insert_with(|| ActorClient::new(created));
        client.handles += 1;
        if known {
            return;
        }
        if let Some(cause) = head_lost {
            client.state = ActorState::Dead;
            client.death = Some((Value::failed(head_error(actor_id, &cause)), false));
            return;
        }
        if !created {
            self.watch_actor(actor_id);
        }
    }

    /// As [`State::add_actor_handle`], for an actor that was looked up by its name.
    pub(crate) fn add_weak_actor_handle(&mut self, actor_id: ActorId) {
        self.add_actor_handle(actor_id, false);
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.weak_handles += 1;
        }
    }

    /// What the head is told of an actor, with the arguments when they are there.
    pub(crate) fn registration(&self, creation: &Creation, with_arguments: bool) -> proto::HeadRequest {
        let mut spec = creation.spec.clone();
        if with_arguments {
            (spec.arguments, spec.inline_arguments) = self.describe_arguments(&creation.references);
        } else {
            spec.arguments_value = Bytes::new();
            spec.class_blob = Bytes::new();
        }
        let register = proto::RegisterActor {
            spec: Some(spec),
            arguments_follow: !with_arguments,
        };
        proto::HeadRequest {
            request: Some(proto::head_request::Request::RegisterActor(register)),
        }
    }

    /// Whether all arguments of a constructor are there, as values.
    pub(crate) fn has_arguments(&mut self, creation: &Creation) -> bool {
        let references = creation.argument_ids();
        self.existing(&references, references.len()).len() == references.len()
            && self.failed_object(&references).is_none()
    }

    /// An actor runs several calls at a time.
    pub(crate) fn call_out_of_order(&mut self, actor_id: ActorId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.out_of_order = true;
        }
    }

    /// Has the head create an actor that it does not know. Nobody waits for its answer.
    pub(crate) fn register_actor(&mut self, actor_id: ActorId, creation: Creation) {
        if self.has_arguments(&creation) {
            let request = self.registration(&creation, true);
            self.ask_for_actor(actor_id, &request);
            return;
        }
        // It is to know the actor before others do, who may get a handle.
        let request = self.registration(&creation, false);
        self.ask_for_actor(actor_id, &request);
        self.create_actor_later(actor_id, creation);
    }

    fn ask_for_actor(&mut self, actor_id: ActorId, request: &proto::HeadRequest) {
        let pending = Pending::Creation(actor_id);
        self.request(RAYLET_CONN, pending, FrameKind::HeadRequest, request);
    }

    /// Has the head create an actor that it knows, when its arguments are there.
    pub(crate) fn create_actor_later(&mut self, actor_id: ActorId, creation: Creation) {
        let references = creation.argument_ids();
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.creation = Some(Box::new(creation));
        }
        for id in references {
            self.depend(id, Waiter::Actor(actor_id));
        }
        self.creation_dependency_resolved(actor_id);
    }

    pub(super) fn creation_dependency_resolved(&mut self, actor_id: ActorId) {
        let Some(creation) = self
            .actors
            .get(&actor_id)
            .and_then(|client| client.creation.as_ref())
        else {
            return;
        };
        let references = creation.argument_ids();
        if let Some((value, is_error)) = self.failed_object(&references) {
            // Its calls fail as if its constructor had raised.
            self.actor_died(actor_id, creation_failed(actor_id, value), is_error);
            self.end_if_registered(actor_id);
            return;
        }
        if self.existing(&references, references.len()).len() < references.len() {
            return;
        }
        let creation = self
            .actors
            .get_mut(&actor_id)
            .and_then(|client| client.creation.take());
        if let Some(creation) = creation {
            let request = self.registration(&creation, true);
            self.ask_for_actor(actor_id, &request);
        }
    }

    /// The head knows an actor that this process creates.
    pub(crate) fn actor_registered(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            // All handles went before it could be created.
            self.end_actor(actor_id, ARGUMENT_FAILED);
            return;
        };
        if std::mem::replace(&mut client.registered, true) {
            return;
        }
        let failed = client.state == ActorState::Dead;
        self.news = true;
        if failed {
            self.end_if_registered(actor_id);
            return;
        }
        self.watch_actor(actor_id);
        // Its handles may be gone already.
        self.end_unreachable_actor(actor_id);
    }

    /// Whether the head has not yet answered the registration of an actor: others would not find it.
    pub(crate) fn is_registering(&self, actor_id: ActorId) -> bool {
        let client = self.actors.get(&actor_id);
        client.is_some_and(|client| !client.registered && client.state != ActorState::Dead)
    }

    /// An actor that could not be created: who has a handle of it hears that from the head.
    fn end_if_registered(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        if client.registered && self.head_lost.is_none() && self.broken.is_none() {
            client.kill_sent = true;
            self.end_actor(actor_id, ARGUMENT_FAILED);
        }
    }

    fn watch_actor(&mut self, actor_id: ActorId) {
        let message = proto::WatchActor {
            actor_id: actor_id.to_vec().into(),
        };
        self.tell_raylet(FrameKind::WatchActor, &message, true);
    }

    /// Keeps what the actor's creation needs.
    pub(crate) fn pin_for_actor(&mut self, actor_id: ActorId, objects: Vec<ObjectId>) {
        for id in &objects {
            self.add_ref(*id);
        }
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.pins = objects;
        }
    }

    /// The creation failed. `unsure`: the head may have heard of it.
    pub(crate) fn actor_refused(&mut self, actor_id: ActorId, error: CoreError, unsure: bool) {
        if unsure && self.head_lost.is_none() && self.broken.is_none() {
            self.end_actor(actor_id, HANDLES_GONE);
        }
        self.actor_died(actor_id, Value::failed(error.of_actor(actor_id)), false);
    }

    /// This process had the actor killed for good.
    pub(crate) fn actor_killed(&mut self, actor_id: ActorId) {
        let message = format!("actor {actor_id} is dead: it was killed by kill()");
        let error = CoreError::new(ErrorCode::ActorDied, message).of_actor(actor_id);
        self.actor_died(actor_id, Value::failed(error), false);
    }

    /// One handle less. The last one ends an actor that nobody else can call, once its calls are answered.
    pub(crate) fn drop_actor_handle(&mut self, actor_id: ActorId, kind: HandleKind) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        client.handles = client.handles.saturating_sub(1);
        if kind == HandleKind::Weak {
            client.weak_handles = client.weak_handles.saturating_sub(1);
        }
        self.end_unreachable_actor(actor_id);
    }

    pub(super) fn end_unreachable_actor(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        if client.handles > client.weak_handles || !client.calls.is_idle() {
            return;
        }
        if client.state == ActorState::Dead {
            if client.handles == 0 {
                self.actors.remove(&actor_id);
            }
            return;
        }
        if client.escaped || client.kill_sent || !client.registered || self.head_lost.is_some() {
            return;
        }
        client.kill_sent = true;
        self.end_actor(actor_id, HANDLES_GONE);
    }

    fn end_actor(&mut self, actor_id: ActorId, cause: &str) {
        let kill = proto::KillActor {
            actor_id: actor_id.to_vec().into(),
            no_restart: true,
            cause: cause.to_owned(),
            graceful: true,
        };
        let request = proto::HeadRequest {
            request: Some(proto::head_request::Request::KillActor(kill)),
        };
        let slot = self.ask_raylet(Pending::Head, FrameKind::HeadRequest, &request);
        // Nobody waits for the answer.
        self.slots.remove(&slot);
    }

    /// A handle is about to leave this process.
    pub(crate) fn actor_escapes(&mut self, actor_id: ActorId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.escaped = true;
        }
    }

    // ---- lives ---------------------------------------------------------------------------------------------

    /// Why calls of an actor cannot be queued; `None`: they can.
    pub(super) fn why_not_callable(&self, actor_id: ActorId) -> Option<(Value, bool)> {
        let Some(client) = self.actors.get(&actor_id) else {
            let message = format!("actor {actor_id} is not known in this process: get a handle first");
            let error = CoreError::new(ErrorCode::NotFound, message).of_actor(actor_id);
            return Some((Value::failed(error), false));
        };
        client.death.clone()
    }

    pub(super) fn on_actor_update(&mut self, update: &proto::ActorUpdate) -> Result<(), CoreError> {
        let actor_id = ActorId::from_slice(&update.actor_id)?;
        let address = update.address.as_ref().map(WorkerAddress::try_from).transpose()?;
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return Ok(());
        };
        if client.state == ActorState::Dead || update.incarnation < client.incarnation {
            return Ok(());
        }
        let state = update.state();
        if state == ActorState::Dead {
            let (death, is_error) = death_of(actor_id, update);
            self.actor_died(actor_id, death, is_error);
            return Ok(());
        }
        let was_alive = client.state == ActorState::Alive;
        let moved = update.incarnation != client.incarnation || client.address != address;
        client.state = state;
        if was_alive && moved {
            let cause = if update.cause.is_empty() {
                "its worker died"
            } else {
                &update.cause
            };
            let message = format!(
                "actor {actor_id} ({}) restarts: {cause}; this call may have run",
                update.class_name
            );
            let sent = client.calls.take_sent();
            client.reset(update.incarnation, address);
            let error = CoreError::new(ErrorCode::ActorUnavailable, message).of_actor(actor_id);
            let failed = Value::failed(error);
            for task in sent {
                self.finish_task_with(task, &failed, false);
            }
        } else if moved {
            client.reset(update.incarnation, address);
        }
        if state == ActorState::Alive {
            self.push_actor_calls(actor_id);
        }
        self.end_unreachable_actor(actor_id);
        Ok(())
    }

    /// An actor is dead: its calls end with `death`.
    pub(crate) fn actor_died(&mut self, actor_id: ActorId, death: Value, is_error: bool) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        client.state = ActorState::Dead;
        self.news = true;
        client.death = Some((death.clone(), is_error));
        client.link = Link::Idle;
        client.address = None;
        client.creation = None;
        let mut calls = client.calls.take_sent();
        calls.extend(client.calls.take_queue());
        let pins = std::mem::take(&mut client.pins);
        for task in calls {
            self.finish_task_with(task, &death, is_error);
        }
        for id in pins {
            self.drop_ref(id);
        }
        self.end_unreachable_actor(actor_id);
    }

    pub(super) fn fail_actors_without_head(&mut self, cause: &str) {
        // Actors that run go on; those that wait for the head would wait for ever.
        let waiting: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, client)| {
                matches!(client.state, ActorState::Pending | ActorState::Restarting)
                    || matches!(client.link, Link::Broken)
            })
            .map(|(id, _)| *id)
            .collect();
        for actor_id in waiting {
            self.actor_died(actor_id, Value::failed(head_error(actor_id, cause)), false);
        }
    }
}

/// Why an actor is dead, as its callers are told.
fn death_of(actor_id: ActorId, update: &proto::ActorUpdate) -> (Value, bool) {
    if !update.constructor_error.is_empty() {
        let error = ValueHeader::encode(ValueFormat::Error, &update.constructor_error);
        return (Value::Inline(error.into()), true);
    }
    let cause = if update.cause.is_empty() {
        "it was not found"
    } else {
        &update.cause
    };
    let message = format!("actor {actor_id} ({}) is dead: {cause}", update.class_name);
    let error = CoreError::new(ErrorCode::ActorDied, message).of_actor(actor_id);
    (Value::Failed(Arc::new(error)), false)
}

pub(super) fn head_error(actor_id: ActorId, cause: &str) -> CoreError {
    CoreError::new(
        ErrorCode::ActorUnavailable,
        format!(
            "actor {actor_id} cannot be reached: the head of the cluster is gone ({cause}); start the cluster again"
        ),
    )
    .of_actor(actor_id)
}
