//! What is counted about actors of this node.

use std::time::Duration;

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the raylet began. An actor that is placed here becomes alive, raises, fails or is rejected, unless it is
/// given up before.
#[derive(Debug, Default)]
pub(super) struct ActorMetrics {
    placed: u64,
    raised: u64,
    failed: u64,
    rejected: u64,
    ended: u64,
    creation_time: DurationHistogram,
}

impl ActorMetrics {
    /// The head placed an actor here.
    pub(super) fn placed(&mut self) {
        self.placed += 1;
    }

    /// A constructor ran; so long after the actor was placed here.
    pub(super) fn alive(&mut self, took: Duration) {
        self.creation_time.observe(took);
    }

    /// A constructor raised.
    pub(super) fn raised(&mut self) {
        self.raised += 1;
    }

    /// There was no worker for an actor, or it did not live long enough.
    pub(super) fn failed(&mut self) {
        self.failed += 1;
    }

    /// An actor was given back to the head for want of room.
    pub(super) fn rejected(&mut self) {
        self.rejected += 1;
    }

    /// An actor that was alive is not any more.
    pub(super) fn ended(&mut self) {
        self.ended += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_raylet_actors_placed",
            "Actors that the head placed on this node, restarts included",
            self.placed,
        );
        into.counters(
            "ray_raylet_actor_creations",
            "What became of actors that were placed on this node",
            "Outcome",
            &[
                ("Alive", self.creation_time.count()),
                ("Raised", self.raised),
                ("Failed", self.failed),
                ("Rejected", self.rejected),
            ],
        );
        into.counter(
            "ray_raylet_actors_ended",
            "Actors that were alive on this node and are not any more",
            self.ended,
        );
        into.durations(
            "ray_raylet_actor_creation_time_seconds",
            "Time from the placement of an actor on this node until it was alive",
            &self.creation_time,
        );
    }
}
