//! The present: who was heard when, what nodes reported, how long actors wait. Nothing of it is journaled, because after a
//! start of the head all of it would be old: it begins anew from the tables and the time, and nodes report again.
//!
//! Invariants:
//! 1. It follows the tables ([`Live::follow`] after every record), and is never read to change them but through a record.
//! 2. A node or an actor that the tables have forgotten is not here.

mod infeasible;
mod metrics;
mod nodes;
mod waits;

use std::time::{Duration, Instant};

use sparkray_common::{HEAD_STALL, Metrics, ResourceSet};
use tracing::{info, warn};

pub(crate) use infeasible::{Infeasible, Kind, Shape, Waiting};
pub(crate) use metrics::{ActorMetrics, GroupMetrics, NodeMetrics};
pub(crate) use nodes::{LiveNodes, Report};
pub(crate) use waits::Waits;

use crate::record::Record;
use crate::tables::Tables;
use crate::tables::actor::{Actor, Phase};
use crate::tables::group::GroupPhase;

/// A head that did not run for so long is worth a warning; on a busy machine a second or two is nothing.
const LONG_HEAD_STALL: Duration = Duration::from_secs(5);

/// What is true now.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) nodes: LiveNodes,
    pub(crate) waits: Waits,
    pub(crate) infeasible: Infeasible,
    pub(crate) node_metrics: NodeMetrics,
    actor_metrics: ActorMetrics,
    group_metrics: GroupMetrics,
    last_tick: Option<Instant>,
}

impl Live {
    /// The present of a head that starts with these tables: every node has just been heard, every wait has just begun.
    pub(crate) fn rebuild(now: Instant, tables: &Tables) -> Self {
        let mut live = Self {
            nodes: LiveNodes::default(),
            waits: Waits::default(),
            infeasible: Infeasible::default(),
            node_metrics: NodeMetrics::default(),
            actor_metrics: ActorMetrics::default(),
            group_metrics: GroupMetrics::default(),
            last_tick: None,
        };
        for node in tables.nodes.all() {
            live.nodes.join(now, &node.description);
            if !node.alive {
                live.nodes.die(node.description.id);
            }
        }
        for actor in tables.actors.all() {
            let id = actor.parts.id;
            match actor.phase {
                Phase::Pending { .. } => live.waits.begin(now, id),
                Phase::Placed { node } => {
                    live.waits.begin(now, id);
                    let crowds = tables.actors.crowding().any(|crowding| crowding == id);
                    live.nodes.reserve(now, node, id, taken(actor, crowds));
                }
                Phase::Stopping { .. } => live.waits.stopping(now, id),
                Phase::Unready | Phase::Alive { .. } | Phase::Dead { .. } => {}
            }
        }
        live
    }

    /// A record was applied: `tables` are those after it.
    pub(crate) fn follow(&mut self, now: Instant, record: &Record, tables: &Tables) {
        self.node_metrics.follow(record);
        self.group_metrics.follow(record);
        let is_stopping =
            matches!(record, Record::ActorQueued { actor, .. } if self.waits.is_stopping(*actor));
        self.actor_metrics.follow(record, is_stopping);
        match record {
            Record::NodeJoined(description) => self.nodes.join(now, description),
            Record::NodeDied { node } => {
                self.nodes.die(*node);
                self.nodes.forget_all_but(|id| tables.nodes.get(id).is_some());
            }
            Record::ActorRegistered {
                parts,
                arguments_follow: false,
                ..
            } => self.waits.begin(now, parts.id),
            Record::ActorReady { actor, .. } => self.waits.begin(now, *actor),
            Record::ActorPlaced { actor, node, crowds } => {
                if let Some(known) = tables.actors.get(*actor) {
                    self.nodes.reserve(now, *node, *actor, taken(known, *crowds));
                }
            }
            Record::ActorAlive { actor, .. } => {
                if let Some(waited) = self.waits.end(now, *actor) {
                    self.actor_metrics.waited(waited);
                }
            }
            // Still the same wait.
            Record::ActorRefused { actor } => self.nodes.release(*actor),
            Record::ActorQueued { actor, .. } => {
                self.nodes.release(*actor);
                self.waits.begin_again(now, *actor);
            }
            Record::ActorStopping { actor } => self.waits.stopping(now, *actor),
            Record::ActorDied { actor, .. } => {
                self.nodes.release(*actor);
                self.waits.end(now, *actor);
            }
            Record::ActorRegistered {
                arguments_follow: true,
                ..
            }
            | Record::ActorRestartCounted { .. }
            | Record::ActorWatched { .. }
            | Record::ActorUnwatched { .. }
            | Record::WorkerDied { .. }
            | Record::JobBegun { .. }
            | Record::JobOver { .. }
            | Record::GroupRegistered(_)
            | Record::GroupReserving { .. }
            | Record::BundlesReserved { .. }
            | Record::GroupRefused { .. }
            | Record::GroupCreated { .. }
            | Record::GroupRemoved { .. }
            | Record::KeyPut { .. }
            | Record::KeyDeleted { .. } => {}
        }
    }

    /// Lists the nodes, actors and placement groups that there are, and what was counted.
    pub(crate) fn list_metrics(&self, tables: &Tables, into: &mut Metrics) {
        let alive = tables.nodes.living().count() as u64;
        into.gauges(
            "ray_gcs_nodes",
            "Nodes",
            "State",
            &[
                ("Alive", alive),
                ("Dead", tables.nodes.all().count() as u64 - alive),
            ],
        );
        self.node_metrics.list(into);
        let count = |wanted: fn(&Phase) -> bool| {
            let found = tables.actors.all().filter(|actor| wanted(&actor.phase));
            found.count() as u64
        };
        into.gauges(
            "ray_gcs_actors_count",
            "Actors",
            "State",
            &[
                ("Unready", count(|phase| matches!(phase, Phase::Unready))),
                ("Pending", count(|phase| matches!(phase, Phase::Pending { .. }))),
                ("Placed", count(|phase| matches!(phase, Phase::Placed { .. }))),
                ("Alive", count(|phase| matches!(phase, Phase::Alive { .. }))),
                (
                    "Restarting",
                    count(|phase| matches!(phase, Phase::Stopping { .. })),
                ),
                ("Dead", count(|phase| matches!(phase, Phase::Dead(_)))),
            ],
        );
        self.actor_metrics.list(into);
        let count = |wanted: fn(&GroupPhase) -> bool| {
            let found = tables.groups.all().filter(|group| wanted(&group.phase));
            found.count() as u64
        };
        into.gauges(
            "ray_gcs_placement_group_count",
            "Placement groups",
            "State",
            &[
                ("Waiting", count(|phase| *phase == GroupPhase::Waiting)),
                (
                    "Reserving",
                    count(|phase| matches!(phase, GroupPhase::Reserving { .. })),
                ),
                ("Created", count(|phase| *phase == GroupPhase::Created)),
                ("Removed", count(|phase| *phase == GroupPhase::Removed)),
            ],
        );
        self.group_metrics.list(into);
    }

    /// The head runs, before its first tick: a stall from here on is one, too.
    pub(crate) fn runs(&mut self, now: Instant) {
        self.last_tick.get_or_insert(now);
    }

    /// Notes a tick. Time in which the head did not run counts against no node: what they said is still in the sockets.
    pub(crate) fn tick(&mut self, now: Instant) {
        let since_last = self
            .last_tick
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_tick = Some(now);
        if since_last <= HEAD_STALL {
            return;
        }
        self.node_metrics.head_stalled();
        let seconds = since_last.as_secs_f64();
        // A busy machine does that for a second or two.
        if since_last > LONG_HEAD_STALL {
            warn!(seconds, "the head did not run for a while");
        } else {
            info!(seconds, "the head did not run for a while");
        }
        self.nodes.excuse(now, since_last);
    }
}

/// What a placement takes from the view: nothing on a node without room, which may refuse, and others may fit meanwhile.
fn taken(actor: &Actor, crowds: bool) -> ResourceSet {
    if crowds {
        return ResourceSet::default();
    }
    actor.parts.demand.held.clone()
}
