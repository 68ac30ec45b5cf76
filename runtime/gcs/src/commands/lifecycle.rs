//! How an actor goes on when its process is gone, and how it ends.

use sparkray_common::ActorId;
use sparkray_proto::KillActorOnNode;
use sparkray_proto::head_message::Message;

use crate::change::Change;
use crate::death::Death;
use crate::record::Record;
use crate::tables::actor::{Actor, Phase};

/// Ends an actor for good. Does nothing to a dead one.
pub(super) fn die(change: &mut Change<'_>, id: ActorId, cause: &str) {
    end_actor(change, id, Death::of(cause), false);
}

/// As [`die`]. `graceful`: what user code wants done at its end is done.
pub(super) fn end_actor(change: &mut Change<'_>, id: ActorId, death: Death, graceful: bool) {
    let Some(actor) = living(change, id) else { return };
    let incarnation = actor.running_incarnation();
    if let Some(node) = actor.node().filter(|node| change.tables().nodes.is_alive(*node)) {
        // Also when its process is gone already: then the node has nothing to kill.
        let kill = KillActorOnNode {
            actor_id: id.to_vec().into(),
            incarnation,
            cause: death.cause.clone(),
            graceful,
        };
        change.effects.send(node, Message::KillActor(kill));
    }
    change.commit(Record::ActorDied { actor: id, death });
    change.publish(id);
}

/// The process of an actor ended without the actor's will.
pub(super) fn process_gone(change: &mut Change<'_>, id: ActorId, cause: &str) {
    match change.tables().actors.get(id).map(|actor| &actor.phase) {
        // Its next incarnation was decided on before.
        Some(Phase::Stopping { .. }) => queue_next(change, id),
        Some(Phase::Placed { .. } | Phase::Alive { .. }) => restart_or_die(change, id, cause),
        Some(Phase::Unready | Phase::Pending { .. } | Phase::Dead { .. }) | None => {}
    }
}

/// The process that was to be stopped is gone: the next incarnation waits for a node.
pub(super) fn queue_next(change: &mut Change<'_>, id: ActorId) {
    if let Some(actor) = living(change, id) {
        let incarnation = actor.incarnation;
        change.commit(Record::ActorQueued {
            actor: id,
            incarnation,
        });
    }
}

/// The process of an actor is gone: the next incarnation waits for a node, if there may be one.
pub(super) fn restart_or_die(change: &mut Change<'_>, id: ActorId, cause: &str) {
    let Some(actor) = living(change, id) else { return };
    if !actor.may_restart() {
        let cause = match actor.spec.max_restarts {
            0 => cause.to_owned(),
            limit => format!("{cause}; it was restarted {limit} times, which is its max_restarts"),
        };
        return die(change, id, &cause);
    }
    let record = match actor.phase {
        Phase::Unready | Phase::Pending { .. } => Record::ActorRestartCounted { actor: id },
        _ => Record::ActorQueued {
            actor: id,
            incarnation: actor.incarnation + 1,
        },
    };
    change.commit(record);
    change.publish(id);
}

/// An order to a node to end a process of an actor.
pub(super) fn kill_message(id: ActorId, incarnation: u64, cause: &str) -> Message {
    Message::KillActor(KillActorOnNode {
        actor_id: id.to_vec().into(),
        incarnation,
        cause: cause.to_owned(),
        graceful: false,
    })
}

fn living<'c>(change: &'c Change<'_>, id: ActorId) -> Option<&'c Actor> {
    let actor = change.tables().actors.get(id)?;
    (!matches!(actor.phase, Phase::Dead { .. })).then_some(actor)
}
