//! What is counted about nodes, actors and placement groups, since this head began. Most of it follows from the records: what changed is
//! counted in one place, however it came to it.

use std::time::Duration;

use sparkray_common::{DurationHistogram, Metrics};

use crate::record::Record;

/// The counters of nodes.
#[derive(Debug, Default)]
pub(crate) struct NodeMetrics {
    joined: u64,
    attached_again: u64,
    died: u64,
    fell_silent: u64,
    head_stalls: u64,
}

impl NodeMetrics {
    /// A node goes on over another stream.
    pub(crate) fn attached_again(&mut self) {
        self.attached_again += 1;
    }

    /// A node missed its heartbeats for too long.
    pub(crate) fn fell_silent(&mut self) {
        self.fell_silent += 1;
    }

    /// The head itself did not run for a while.
    pub(super) fn head_stalled(&mut self) {
        self.head_stalls += 1;
    }

    pub(super) fn follow(&mut self, record: &Record) {
        match record {
            Record::NodeJoined(_) => self.joined += 1,
            Record::NodeDied { .. } => self.died += 1,
            _ => {}
        }
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter("ray_gcs_nodes_joined", "Nodes that joined", self.joined);
        into.counter(
            "ray_gcs_nodes_attached_again",
            "Times that a node whose stream had broken made another",
            self.attached_again,
        );
        into.counter("ray_gcs_nodes_died", "Nodes that died", self.died);
        into.counter(
            "ray_gcs_nodes_fell_silent",
            "Nodes that were declared dead because their heartbeats did not come",
            self.fell_silent,
        );
        into.counter(
            "ray_gcs_head_stalls",
            "Times that the head itself did not run, which counts against no node",
            self.head_stalls,
        );
    }
}

/// The counters of actors.
#[derive(Debug, Default)]
pub(crate) struct ActorMetrics {
    registered: u64,
    placed: u64,
    refused: u64,
    alive: u64,
    restarted: u64,
    died: u64,
    wait: DurationHistogram,
}

impl ActorMetrics {
    /// `is_stopping`: the actor's next incarnation was decided on before.
    pub(super) fn follow(&mut self, record: &Record, is_stopping: bool) {
        match record {
            Record::ActorRegistered { .. } => self.registered += 1,
            Record::ActorPlaced { .. } => self.placed += 1,
            Record::ActorRefused { .. } => self.refused += 1,
            Record::ActorAlive { .. } => self.alive += 1,
            Record::ActorRestartCounted { .. } | Record::ActorStopping { .. } => self.restarted += 1,
            Record::ActorQueued { .. } if !is_stopping => self.restarted += 1,
            Record::ActorDied { .. } => self.died += 1,
            _ => {}
        }
    }

    /// An actor is alive, so long after it was ready for a node.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.wait.observe(waited);
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_gcs_actors_registered",
            "Actors that were registered",
            self.registered,
        );
        into.counter(
            "ray_gcs_actors_placed",
            "Times that a node was told to create an actor",
            self.placed,
        );
        into.counter(
            "ray_gcs_actors_refused",
            "Times that a node had no room for an actor after all",
            self.refused,
        );
        into.counter(
            "ray_gcs_actors_created",
            "Times that an actor came alive",
            self.alive,
        );
        into.counter("ray_gcs_actors_restarted", "Restarts of actors", self.restarted);
        into.counter("ray_gcs_actors_died", "Actors that died for good", self.died);
        into.durations(
            "ray_gcs_actor_creation_time_seconds",
            "Time until an actor was alive, since it was registered with its arguments or lost its process",
            &self.wait,
        );
    }
}

/// The counters of placement groups.
#[derive(Debug, Default)]
pub(crate) struct GroupMetrics {
    registered: u64,
    reserving: u64,
    refused: u64,
    created: u64,
    removed: u64,
}

impl GroupMetrics {
    pub(super) fn follow(&mut self, record: &Record) {
        match record {
            Record::GroupRegistered(_) => self.registered += 1,
            Record::GroupReserving { .. } => self.reserving += 1,
            Record::GroupRefused { .. } => self.refused += 1,
            Record::GroupCreated { .. } => self.created += 1,
            Record::GroupRemoved { .. } => self.removed += 1,
            _ => {}
        }
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_gcs_placement_groups_registered",
            "Placement groups that were registered",
            self.registered,
        );
        into.counter(
            "ray_gcs_placement_groups_attempts",
            "Times that nodes were asked to reserve the bundles of a placement group",
            self.reserving,
        );
        into.counter(
            "ray_gcs_placement_groups_refused",
            "Times that a node had no room for bundles after all",
            self.refused,
        );
        into.counter(
            "ray_gcs_placement_groups_created",
            "Times that all bundles of a placement group were on their nodes",
            self.created,
        );
        into.counter(
            "ray_gcs_placement_groups_removed",
            "Placement groups that were removed",
            self.removed,
        );
    }
}
