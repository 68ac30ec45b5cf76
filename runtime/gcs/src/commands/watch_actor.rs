//! A node begins or ends to hear of an actor's changes.

use sparkray_common::{ActorId, NodeId};
use sparkray_proto::head_message::Message;
use sparkray_proto::{ActorState, ActorUpdate};

use super::unknown_actor;
use crate::change::Change;
use crate::record::Record;

/// Tells a node of this actor's changes from now on, and its present state at once.
pub(crate) fn watch(change: &mut Change<'_>, node: NodeId, id: ActorId) {
    let actors = &change.tables().actors;
    let known = actors.get(id);
    let update = match known {
        Some(actor) => actor.update(),
        None => ActorUpdate {
            actor_id: id.to_vec().into(),
            state: ActorState::Dead.into(),
            cause: unknown_actor(id).message,
            ..ActorUpdate::default()
        },
    };
    // The registration of an unknown one may be under way on another connection: then the watcher hears of it.
    let has_room = known.is_some() || actors.takes_early_watchers();
    if has_room && !actors.is_watched(id, node) {
        change.commit(Record::ActorWatched { actor: id, node });
    }
    change.effects.send(node, Message::Actor(update));
}

/// The node does not care any more.
pub(crate) fn unwatch(change: &mut Change<'_>, node: NodeId, id: ActorId) {
    if change.tables().actors.is_watched(id, node) {
        change.commit(Record::ActorUnwatched { actor: id, node });
    }
}
