//! Gives waiting actors a node, as far as there is room.

use std::collections::HashSet;

use sparkray_common::{ActorId, NodeId};
use sparkray_proto::PlaceActor;
use sparkray_proto::head_message::Message;
use tracing::debug;

use super::lifecycle::end_actor;
use crate::change::Change;
use crate::death::Death;
use crate::placement::{Candidate, Choice, choose_node, describe_missing};
use crate::record::Record;
use crate::spec::Demand;

/// Actors that may be on their way at once to a node that shows no room.
const CROWD_LIMIT: usize = 8;

/// Tries all that wait, in the order of the queue.
pub(crate) fn place_pending(change: &mut Change<'_>) {
    if change.tables().actors.all_are_placed() {
        return;
    }
    let mut view = change.candidates();
    let mut hopeless: HashSet<Demand> = HashSet::new();
    let pending: Vec<ActorId> = change.tables().actors.pending().collect();
    for id in pending {
        let Some(actor) = change.tables().actors.get(id) else {
            continue;
        };
        let demand = actor.parts.demand.clone();
        if hopeless.contains(&demand) {
            continue;
        }
        let now = change.now();
        let nodes = &change.live.nodes;
        let refused_by = change
            .live
            .waits
            .refusals(now, id, |node| nodes.report_count(node));
        match choose(change, &view, &demand, &refused_by) {
            Choice::Room(node) => place(change, &mut view, id, node, false),
            Choice::Busy(node) => place(change, &mut view, id, node, true),
            Choice::Refused | Choice::Infeasible => {
                if refused_by.is_empty() {
                    hopeless.insert(demand);
                }
            }
            Choice::Unschedulable => {
                let cause = format!(
                    "it may only be on {}, which is dead, unknown or too small ({}); name a node of nodes() that is alive, \
                     or use soft=True",
                    demand.strategy,
                    describe_missing(&view, &demand)
                );
                end_actor(change, id, Death::unschedulable(cause), false);
            }
        }
    }
}

/// Chooses a node; one without room only while few are on their way there already.
fn choose(change: &Change<'_>, view: &[Candidate], demand: &Demand, refused_by: &[NodeId]) -> Choice {
    let choice = choose_node(view, demand, refused_by);
    if !matches!(choice, Choice::Busy(_)) {
        return choice;
    }
    let mut avoid = refused_by.to_vec();
    let nodes = view.iter().map(|candidate| candidate.node);
    avoid.extend(nodes.filter(|node| change.tables().actors.crowd(*node) >= CROWD_LIMIT));
    choose_node(view, demand, &avoid)
}

/// Tells a node to create the actor. `crowds`: the node shows no room; then nothing is taken from the view, because it may
/// refuse, and others may fit meanwhile.
fn place(change: &mut Change<'_>, view: &mut [Candidate], id: ActorId, node: NodeId, crowds: bool) {
    change.commit(Record::ActorPlaced {
        actor: id,
        node,
        crowds,
    });
    let Some(actor) = change.tables().actors.get(id) else {
        return;
    };
    debug!(actor_id = %id, node_id = %node, incarnation = actor.incarnation, "placing an actor");
    if let Some(candidate) = view.iter_mut().find(|candidate| candidate.node == node) {
        candidate.actors += 1;
        if !crowds {
            candidate.available.subtract(&actor.parts.demand.held);
        }
    }
    let order = PlaceActor {
        spec: Some(actor.spec.clone()),
        incarnation: actor.incarnation,
    };
    change.effects.send(node, Message::PlaceActor(order));
}
