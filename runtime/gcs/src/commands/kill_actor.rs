//! A client ends an actor's process, and the actor unless it may be restarted and that is wanted.

use sparkray_common::ActorId;
use sparkray_proto::{Failure, KillActor};

use super::lifecycle::{end_actor, kill_message, restart_or_die};
use super::{malformed, place_actors, unknown_actor};
use crate::change::Change;
use crate::death::Death;
use crate::record::Record;
use crate::tables::actor::Phase;

/// Kills an actor that is known; a dead one stays as it is.
pub(crate) fn kill(change: &mut Change<'_>, request: &KillActor) -> Result<(), Failure> {
    let id = ActorId::from_slice(&request.actor_id).map_err(malformed)?;
    let Some(actor) = change.tables().actors.get(id) else {
        return Err(unknown_actor(id));
    };
    let cause = if request.cause.is_empty() {
        "it was killed by kill()"
    } else {
        &request.cause
    };
    if request.no_restart {
        end_actor(change, id, Death::of(cause), request.graceful);
        place_actors::place_pending(change);
        return Ok(());
    }
    match (&actor.phase, actor.node()) {
        // It is on its way to the next incarnation, or over.
        (Phase::Stopping { .. } | Phase::Dead { .. }, _) => {}
        (_, Some(node)) if actor.may_restart() => {
            let incarnation = actor.incarnation;
            change.commit(Record::ActorStopping { actor: id });
            change.publish(id);
            change.effects.send(node, kill_message(id, incarnation, cause));
        }
        _ => restart_or_die(change, id, cause),
    }
    place_actors::place_pending(change);
    Ok(())
}
