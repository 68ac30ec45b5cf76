//! Time passes: the silent are dead, what is overdue is asked for again, who waits long is reported, views go out.

use std::time::{Duration, Instant};

use sparkray_common::JobId;
use sparkray_proto::ClusterView;
use sparkray_proto::head_message::Message;
use tracing::{info, warn};

use super::lifecycle::kill_message;
use super::{log, node_death, place_actors};
use crate::change::Change;
use crate::live::Live;
use crate::placement::{Candidate, describe, describe_missing};
use crate::tables::Tables;
use crate::tables::actor::Actor;

/// Nodes may still be joining: an actor that fits none is reported after this long.
const INFEASIBLE_PATIENCE: Duration = Duration::from_secs(1);
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
    place_actors::place_pending(change);
    let (tables, live) = change.tables_and_live();
    for waiting in long_waits(now, tables, live) {
        log::tell_driver(change, head_pid, waiting.job, waiting.text);
    }
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

/// Actors whose wait has become long enough to be told, once for each wait.
fn long_waits(now: Instant, tables: &Tables, live: &mut Live) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    let mut view = None;
    for id in tables.actors.pending().chain(tables.actors.crowding()) {
        let (Some(actor), Some(waited)) = (tables.actors.get(id), live.waits.unreported(now, id)) else {
            continue;
        };
        if waited < INFEASIBLE_PATIENCE {
            continue;
        }
        let view = view.get_or_insert_with(|| live.nodes.candidates(tables));
        let Some(text) = describe_wait(actor, waited, view) else {
            continue;
        };
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

/// What to tell of a wait; `None` while it is no news.
fn describe_wait(actor: &Actor, waited: Duration, view: &[Candidate]) -> Option<String> {
    let (demand, needs) = (&actor.parts.demand, &actor.parts.demand.needs);
    if !view.iter().any(|candidate| candidate.can_have(demand)) {
        return Some(format!(
            "actor {} cannot be placed: it needs {} ({}); it waits for a node that has it",
            actor.title(),
            describe(needs),
            describe_missing(view, demand)
        ));
    }
    (waited >= BUSY_PATIENCE).then(|| {
        format!(
            "actor {} has waited for {} s: it needs {} and all nodes are busy; end other actors or tasks, ask \
             for less, or add nodes",
            actor.title(),
            waited.as_secs(),
            describe(needs)
        )
    })
}
