//! Time passes: the silent are dead, what is overdue is asked for again, who waits long is reported, views go out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sparkray_common::JobId;
use sparkray_proto::ClusterView;
use sparkray_proto::head_message::Message;
use tracing::{info, warn};

use super::lifecycle::kill_message;
use super::{infeasible_demand, log, node_death, place_actors, place_groups};
use crate::change::Change;
use crate::live::Live;
use crate::placement::describe;
use crate::tables::Tables;

/// An actor for which no node has room is reported after this long.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

/// An actor that waits long, for its driver.
struct Waiting {
    job: JobId,
    text: String,
}

/// Called at every tick of the head, whose process this is.
pub(crate) fn tick(change: &mut Change<'_>, head_pid: u32) {
    let now = change.now();
    change.live.tick(now);
    for (node, silence) in change.live.nodes.silent(now, &change.tables().nodes) {
        change.live.node_metrics.fell_silent();
        let cause = format!("it was silent for {} s", silence.as_secs());
        node_death::detach(change, node, &cause);
    }
    repeat_kills(change);
    // Not at every report: a node that seems to have room and has none is asked ten times a second at most.
    place_groups::place_waiting(change);
    place_actors::place_pending(change);
    let (tables, live) = change.tables_and_live();
    for waiting in long_waits(now, tables, live) {
        log::tell_driver(change, head_pid, waiting.job, waiting.text);
    }
    infeasible_demand::tell_drivers(change);
    let (tables, live) = change.tables_and_live();
    let nodes = live.nodes.take_changed(&tables.nodes);
    if !nodes.is_empty() {
        change.send_to_all(&Message::View(ClusterView { nodes }));
    }
}

/// Processes that were to end and of which nothing was heard are killed again.
fn repeat_kills(change: &mut Change<'_>) {
    for id in change.live.waits.overdue_ends(change.now()) {
        let Some(actor) = change.tables().actors.get(id) else {
            continue;
        };
        let Some(node) = actor.node() else { continue };
        warn!(actor_id = %id, node_id = %node, "the node has not confirmed the end of an actor's process");
        let kill = kill_message(id, actor.running_incarnation(), "it is to be restarted");
        change.effects.send(node, kill);
    }
}

/// Actors that have waited long for a node that has room, once for each wait.
fn long_waits(now: Instant, tables: &Tables, live: &mut Live) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    let mut view = None;
    let mut has_node = HashMap::new();
    for id in tables.actors.pending().chain(tables.actors.crowding()) {
        let (Some(actor), Some(waited)) = (tables.actors.get(id), live.waits.unreported(now, id)) else {
            continue;
        };
        if waited < BUSY_PATIENCE {
            continue;
        }
        let view = view.get_or_insert_with(|| live.nodes.candidates(tables));
        let demand = &actor.parts.demand;
        let can_be_met = || view.iter().any(|node| node.can_have(demand));
        if !*has_node.entry(demand).or_insert_with(can_be_met) {
            // `infeasible_demand` tells of it.
            continue;
        }
        let text = format!(
            "actor {} has waited for {} s: it needs {} and all nodes are busy; end other actors or tasks, ask for \
             less, or add nodes",
            actor.title(),
            waited.as_secs(),
            describe(&demand.needs)
        );
        live.waits.reported(id);
        // Trouble of the program, not of the head: the driver prints it.
        info!(actor_id = %id, "{text}");
        waiting.push(Waiting {
            job: actor.parts.job,
            text,
        });
    }
    waiting
}
