//! Handles of actors in this process. The last one ends an actor that nobody else can call.

use sparkray_common::{ActorId, ObjectId};
use sparkray_proto::{self as proto, ActorState, FrameKind};

use super::{ActorClient, Actors, head_error};
use crate::dropped::HandleKind;
use crate::state::base::Base;
use crate::state::links::{Links, Pending};

const HANDLES_GONE: &str = "all handles of the actor are gone";

impl Actors {
    /// One more handle of an actor; the first begins to watch it. `created`: this process creates it.
    pub(in crate::state) fn add_handle(&mut self, links: &mut Links, actor_id: ActorId, created: bool) {
        let is_known = self.clients.contains_key(&actor_id);
        let client = self
            .clients
            .entry(actor_id)
            .or_insert_with(|| ActorClient::new(created));
        client.handles += 1;
        self.has_created |= created;
        if is_known {
            return;
        }
        if let Some(cause) = &links.process.head_lost {
            client.state = ActorState::Dead;
            client.death = Some(head_error(actor_id, cause));
        } else if !created {
            watch(links, actor_id);
        }
    }

    /// As [`Actors::add_handle`], for an actor that was looked up by its name.
    pub(in crate::state) fn add_weak_handle(&mut self, links: &mut Links, actor_id: ActorId) {
        self.add_handle(links, actor_id, false);
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.weak_handles += 1;
        }
    }

    /// An actor runs several calls at a time.
    pub(in crate::state) fn call_out_of_order(&mut self, actor_id: ActorId) {
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.out_of_order = true;
        }
    }

    /// A handle is about to leave this process.
    pub(in crate::state) fn escapes(&mut self, actor_id: ActorId) {
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.escaped = true;
        }
    }

    /// Keeps what the actor's creation needs.
    pub(in crate::state) fn pin(&mut self, base: &mut Base, actor_id: ActorId, objects: Vec<ObjectId>) {
        if let Some(client) = self.clients.get_mut(&actor_id) {
            for id in &objects {
                base.objects.add_ref(*id);
            }
            client.pins = objects;
        }
    }

    /// One handle less. The last one ends an actor that nobody else can call, once its calls are answered.
    pub(in crate::state) fn drop_handle(&mut self, links: &mut Links, actor_id: ActorId, kind: HandleKind) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        client.handles = client.handles.saturating_sub(1);
        if kind == HandleKind::Weak {
            client.weak_handles = client.weak_handles.saturating_sub(1);
        }
        self.end_if_unreachable(links, actor_id);
    }

    pub(super) fn end_if_unreachable(&mut self, links: &mut Links, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        if client.handles > client.weak_handles || !client.calls.is_idle() {
            return;
        }
        if client.state == ActorState::Dead {
            if client.handles == 0 {
                self.clients.remove(&actor_id);
            }
            return;
        }
        let is_lost = links.process.head_lost.is_some();
        if client.escaped || client.kill_sent || !client.registered || is_lost {
            return;
        }
        client.kill_sent = true;
        end(links, actor_id, HANDLES_GONE);
    }
}

/// Has the head tell this process of an actor's life.
pub(super) fn watch(links: &mut Links, actor_id: ActorId) {
    let message = proto::WatchActor {
        actor_id: actor_id.to_vec().into(),
    };
    links.tell_raylet(FrameKind::WatchActor, &message, true);
}

/// Has the head end an actor for good, once it has run what it was sent.
pub(super) fn end(links: &mut Links, actor_id: ActorId, cause: &str) {
    let kill = proto::KillActor {
        actor_id: actor_id.to_vec().into(),
        no_restart: true,
        cause: cause.to_owned(),
        graceful: true,
    };
    let request = proto::HeadRequest {
        request: Some(proto::head_request::Request::KillActor(kill)),
    };
    let slot = links.ask_raylet(Pending::Head, FrameKind::HeadRequest, &request);
    // Nobody waits for the answer.
    links.forget_slot(slot);
}
