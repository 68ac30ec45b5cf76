//! Tells drivers what waits in their jobs though no node can meet it: tasks, of which raylets report, actors, and
//! placement groups.

use sparkray_proto::head_message::Message;
use tracing::info;

use super::{infeasible_groups, log};
use crate::change::Change;
use crate::live::{Kind, Shape, Waiting};
use crate::tables::actor::Actor;

/// Called at every tick.
pub(super) fn tell_drivers(change: &mut Change<'_>) {
    let now = change.now();
    if !change.live.infeasible.is_look_due(now) {
        return;
    }
    let (tables, live) = change.tables_and_live();
    let pending = tables.actors.pending().filter_map(|id| tables.actors.get(id));
    // A bundle may be reserved yet.
    let pending = pending.filter(|actor| actor.parts.demand.strategy.bundle().is_none());
    let mut waiting: Vec<Waiting> = pending.map(waiting_actor).collect();
    waiting.extend(live.nodes.infeasible_leases().cloned());
    let view = live.nodes.candidates(tables);
    waiting.extend(infeasible_groups::waiting_in_vain(tables, &view));
    for (job, demand) in live.infeasible.look(now, waiting, &view) {
        // Trouble of the program, not of the head: the driver prints it.
        info!(job_id = %job, shapes = demand.shapes.len(), "no node can meet what waits");
        log::send_to_driver(change, job, Message::InfeasibleDemand(demand));
    }
}

fn waiting_actor(actor: &Actor) -> Waiting {
    let demand = &actor.parts.demand;
    let (class, name) = (&actor.spec.class_name, &actor.spec.name);
    Waiting {
        job: actor.parts.job,
        shape: Shape {
            needs: demand.needs.clone(),
            strategy: demand.strategy.clone(),
            cause: String::new(),
        },
        kind: Kind::Actor,
        name: if name.is_empty() {
            class.clone()
        } else {
            format!("{class} '{name}'")
        },
        count: 1,
    }
}
