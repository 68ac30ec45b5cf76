//! A node's raylet has ended, or it was silent for so long that it has ended its workers: it is dead, with all its
//! processes.

use sparkray_common::{ActorId, NodeId};
use sparkray_proto::NodeDeathNotice;
use sparkray_proto::head_message::Message;
use tracing::info;

use super::{jobs, lifecycle, place_actors, place_groups};
use crate::change::Change;
use crate::record::Record;

/// Declares a node dead, unless it is already.
pub(crate) fn detach(change: &mut Change<'_>, node: NodeId, cause: &str) {
    if !change.tables().nodes.is_alive(node) {
        return;
    }
    info!(node_id = %node, cause, "node died");
    let torn = change.tables().groups.reserving_with(node);
    for id in torn {
        place_groups::give_back(change, id);
    }
    change.commit(Record::NodeDied { node });
    change.effects.detach(node);
    change.send_to_all(&Message::NodeDeath(NodeDeathNotice {
        node_id: node.to_vec().into(),
        cause: cause.to_owned(),
    }));
    for job in change.tables().jobs.with_driver_on(node) {
        jobs::finish(change, job);
    }
    let actors = &change.tables().actors;
    let owned = actors.living_where(|actor| actor.parts.owner.node_id == node && actor.is_bound());
    let hosted: Vec<ActorId> = actors.hosted(node).collect();
    for id in owned {
        lifecycle::die(change, id, &format!("its owner's node {node} died: {cause}"));
    }
    for id in hosted {
        lifecycle::process_gone(change, id, &format!("its node {node} died: {cause}"));
    }
    place_actors::place_pending(change);
}
