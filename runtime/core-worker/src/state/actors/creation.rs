//! Actors that this process creates: told to the head, and created by it once their arguments are there.

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, ObjectId};
use sparkray_proto::{self as proto, ActorState, FrameKind};

use super::Actors;
use super::handles::{end, watch};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::events::{Dependent, Event};
use crate::state::links::{Pending, RAYLET_CONN};
use crate::state::objects::Value;
use crate::state::tasks::creation_failed;

const ARGUMENT_FAILED: &str = "an argument of its constructor has failed";
const NOT_CREATED: &str = "its creator gave it up";

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
    fn argument_ids(&self) -> impl Iterator<Item = ObjectId> {
        self.references.iter().map(|(_, id)| *id)
    }

    /// Whether all arguments are there, if only as failures.
    fn is_complete(&self, base: &mut Base) -> bool {
        let ids: Vec<ObjectId> = self.argument_ids().collect();
        base.objects.existing(&ids, ids.len()).len() == ids.len()
    }

    /// Whether all arguments are there, as values.
    pub(in crate::state) fn has_arguments(&self, base: &mut Base) -> bool {
        self.is_complete(base) && base.objects.first_failure(self.argument_ids()).is_none()
    }

    /// What the head is told of an actor, with the arguments when they are there.
    pub(in crate::state) fn registration(&self, base: &Base, with_arguments: bool) -> proto::HeadRequest {
        let mut spec = self.spec.clone();
        if with_arguments {
            let me = &base.links.process.me;
            (spec.arguments, spec.inline_arguments) = base.objects.describe_arguments(me, &self.references);
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
}

impl Actors {
    /// Has the head create an actor that it does not know. Nobody waits for its answer.
    pub(in crate::state) fn register(&mut self, base: &mut Base, actor_id: ActorId, creation: Creation) {
        // It is to know the actor before others do, who may get a handle.
        let ready = creation.has_arguments(base);
        ask(base, actor_id, &creation, ready);
        if !ready {
            self.create_later(base, actor_id, creation);
        }
    }

    /// Has the head create an actor that it knows, when its arguments are there.
    pub(in crate::state) fn create_later(&mut self, base: &mut Base, actor_id: ActorId, creation: Creation) {
        for id in creation.argument_ids() {
            base.objects
                .depend(&mut base.links, id, Dependent::Actor(actor_id));
        }
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.creation = Some(Box::new(creation));
        }
        self.dependency_resolved(base, actor_id);
    }

    /// An argument of an actor's constructor has come, or never will.
    pub(in crate::state) fn dependency_resolved(&mut self, base: &mut Base, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        let Some(creation) = &client.creation else { return };
        if let Some(value) = base.objects.first_failure(creation.argument_ids()) {
            // Its calls fail as if its constructor had raised.
            self.died(base, actor_id, creation_failed(actor_id, value));
            self.end_if_registered(base, actor_id);
        } else if creation.is_complete(base) {
            if let Some(creation) = client.creation.take() {
                ask(base, actor_id, &creation, true);
            }
        }
    }

    /// The head knows an actor that this process creates.
    pub(in crate::state) fn on_registered(&mut self, base: &mut Base, actor_id: ActorId) {
        let links = &mut base.links;
        let Some(client) = self.clients.get_mut(&actor_id) else {
            // All handles went before it could be created.
            end(links, actor_id, ARGUMENT_FAILED);
            return;
        };
        if std::mem::replace(&mut client.registered, true) {
            return;
        }
        links.out.news();
        if client.state == ActorState::Dead {
            self.end_if_registered(base, actor_id);
            return;
        }
        watch(links, actor_id);
        // Its handles may be gone already.
        self.end_if_unreachable(links, actor_id);
    }

    /// Whether the head has not yet answered the registration of an actor: others would not find it.
    pub(in crate::state) fn is_registering(&self, actor_id: ActorId) -> bool {
        let client = self.clients.get(&actor_id);
        client.is_some_and(|client| !client.registered && client.state != ActorState::Dead)
    }

    /// An actor that could not be created: who has a handle of it hears that from the head.
    fn end_if_registered(&mut self, base: &mut Base, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        if client.registered && !base.links.process.is_without_verdicts() {
            client.kill_sent = true;
            end(&mut base.links, actor_id, ARGUMENT_FAILED);
        }
    }

    /// The creation failed. `unsure`: the head may have heard of it.
    pub(in crate::state) fn refused(
        &mut self,
        base: &mut Base,
        actor_id: ActorId,
        error: CoreError,
        unsure: bool,
    ) {
        if unsure && !base.links.process.is_without_verdicts() {
            end(&mut base.links, actor_id, NOT_CREATED);
        }
        self.died(base, actor_id, Value::failed(error.of_actor(actor_id)));
    }

    /// The head has answered a registration for which no thread waits.
    pub(in crate::state) fn on_registration_reply(
        &mut self,
        base: &mut Base,
        actor_id: ActorId,
        reply: Result<proto::HeadReply, CoreError>,
    ) {
        let failure = reply.and_then(|reply| match &reply.failure {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        });
        match failure {
            Ok(()) => self.on_registered(base, actor_id),
            Err(error) => {
                let unsure = error.code == ErrorCode::Unavailable;
                self.refused(base, actor_id, error, unsure);
            }
        }
    }
}

fn ask(base: &mut Base, actor_id: ActorId, creation: &Creation, with_arguments: bool) {
    let request = creation.registration(base, with_arguments);
    let pending = Pending::Creation(actor_id);
    let links = &mut base.links;
    if links
        .request(RAYLET_CONN, pending, FrameKind::HeadRequest, &request)
        .is_err()
    {
        links.out.event(Event::CreationLost(actor_id));
    }
}
