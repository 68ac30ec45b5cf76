//! What is counted about actors that this process calls.

use sparkray_common::Metrics;

/// Counters since the process joined.
#[derive(Debug, Default)]
pub(super) struct ActorMetrics {
    pushed: u64,
    pushed_again: u64,
    reconnections: u64,
    deaths: u64,
}

impl ActorMetrics {
    /// A call was sent to its actor.
    pub(super) fn pushed(&mut self) {
        self.pushed += 1;
    }

    /// An actor whose connection had broken is called again.
    pub(super) fn reconnected(&mut self) {
        self.reconnections += 1;
    }

    /// A call was sent once more, because a connection had broken.
    pub(super) fn pushed_again(&mut self) {
        self.pushed_again += 1;
    }

    /// An actor is dead for good.
    pub(super) fn died(&mut self) {
        self.deaths += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_core_worker_actor_calls_pushed",
            "Calls that were sent to their actors",
            self.pushed,
        );
        into.counter(
            "ray_core_worker_actor_calls_pushed_again",
            "Calls that were sent once more over another connection",
            self.pushed_again,
        );
        into.counter(
            "ray_core_worker_actor_reconnections",
            "Times that an actor was called again after its connection had broken",
            self.reconnections,
        );
        into.counter(
            "ray_core_worker_actors_died",
            "Actors of which this process heard that they are dead",
            self.deaths,
        );
    }
}
