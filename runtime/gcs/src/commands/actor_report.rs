//! A node says what became of an actor's process.

use sparkray_common::{ActorId, NodeId, WorkerAddress};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::{ActorReport, MessageError};
use tracing::{debug, info, warn};

use super::lifecycle::{die, end_actor, kill_message, queue_next, restart_or_die};
use super::place_actors;
use crate::change::Change;
use crate::death::Death;
use crate::record::Record;
use crate::tables::actor::Phase;

/// Takes a report, if it is of the actor's present process. One of another process that lives ends that process.
pub(crate) fn report(change: &mut Change<'_>, node: NodeId, report: ActorReport) -> Result<(), MessageError> {
    let id = ActorId::from_slice(&report.actor_id)?;
    let outcome = report.outcome.ok_or(MessageError::Missing("outcome"))?;
    let address = match &outcome {
        Outcome::Alive(address) => Some(WorkerAddress::try_from(address)?),
        _ => None,
    };
    let present = change
        .tables()
        .actors
        .get(id)
        .filter(|actor| actor.node() == Some(node) && actor.running_incarnation() == report.incarnation);
    let Some(actor) = present else {
        debug!(actor_id = %id, node_id = %node, incarnation = report.incarnation, "ignored a report of an old incarnation");
        if address.is_some() {
            let cause = "this incarnation of the actor was given up";
            let kill = kill_message(id, report.incarnation, cause);
            change.effects.send(node, kill);
        }
        return Ok(());
    };
    if let Phase::Stopping { incarnation, .. } = actor.phase {
        if address.is_some() {
            // It came alive while the order to kill it was under way.
            let kill = kill_message(id, incarnation, "it is to be restarted");
            change.effects.send(node, kill);
        } else {
            queue_next(change, id);
        }
    } else {
        change.live.nodes.answered(id);
        match outcome {
            Outcome::Alive(_) => {
                if let Some(address) = address {
                    alive(change, id, address, report.pid);
                }
            }
            Outcome::ConstructorError(constructor_error) => {
                let death = Death {
                    constructor_error,
                    ..Death::of("its constructor raised an exception")
                };
                end_actor(change, id, death, false);
            }
            Outcome::WorkerDied(cause) => {
                info!(actor_id = %id, node_id = %node, cause, "the worker of an actor died");
                restart_or_die(change, id, &format!("its worker died: {cause}"));
            }
            Outcome::Exited(cause) => die(change, id, &cause),
            Outcome::Rejected(reason) => refused(change, node, id, &reason),
        }
    }
    place_actors::place_pending(change);
    Ok(())
}

/// Its constructor ran.
fn alive(change: &mut Change<'_>, id: ActorId, address: WorkerAddress, pid: u32) {
    let Some(actor) = change.tables().actors.get(id) else {
        return;
    };
    if !matches!(actor.phase, Phase::Placed { .. }) {
        return;
    }
    info!(actor_id = %id, node_id = %address.node_id, worker_id = %address.worker_id, incarnation = actor.incarnation, "actor is alive");
    change.commit(Record::ActorAlive {
        actor: id,
        address,
        pid,
    });
    change.publish(id);
}

/// It has no room for the actor.
fn refused(change: &mut Change<'_>, node: NodeId, id: ActorId, reason: &str) {
    let phase = change.tables().actors.get(id).map(|actor| &actor.phase);
    if !matches!(phase, Some(Phase::Placed { .. })) {
        warn!(actor_id = %id, node_id = %node, "ignored the refusal of an actor that is alive");
        return;
    }
    debug!(actor_id = %id, node_id = %node, reason, "a node has no room for an actor");
    change.commit(Record::ActorRefused { actor: id });
    let reports = change.live.nodes.report_count(node);
    change.live.waits.refused(change.now(), id, node, reports);
}
