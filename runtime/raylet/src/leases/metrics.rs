//! What is counted about leases.

use std::time::Duration;

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the raylet began. A request ends as one of granted, spilled, refused and cancelled, or with its owner.
#[derive(Debug, Default)]
pub(super) struct LeaseMetrics {
    requested: u64,
    spilled: u64,
    refused: u64,
    cancelled: u64,
    broken: u64,
    wait: DurationHistogram,
}

impl LeaseMetrics {
    /// An owner, or the head for an actor, asked for a lease. Repetitions do not count.
    pub(super) fn requested(&mut self) {
        self.requested += 1;
    }

    /// A worker was found, so long after the request.
    pub(super) fn granted(&mut self, waited: Duration) {
        self.wait.observe(waited);
    }

    /// The owner was sent to another node.
    pub(super) fn spilled(&mut self) {
        self.spilled += 1;
    }

    /// The owner was told why it gets none.
    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    /// The owner does not need it any more.
    pub(super) fn cancelled(&mut self) {
        self.cancelled += 1;
    }

    /// The leased worker is gone.
    pub(super) fn broken(&mut self) {
        self.broken += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_scheduler_lease_requests",
            "Leases that were asked for on this node, also for actors",
            self.requested,
        );
        into.counters(
            "ray_scheduler_lease_replies",
            "What became of requests for leases",
            "Outcome",
            &[
                ("Granted", self.wait.count()),
                ("Spilled", self.spilled),
                ("Refused", self.refused),
                ("Cancelled", self.cancelled),
            ],
        );
        into.counter(
            "ray_scheduler_leases_broken",
            "Leases that ended because their worker did",
            self.broken,
        );
        into.durations(
            "ray_scheduler_lease_wait_time_seconds",
            "Time from the request for a lease to its worker",
            &self.wait,
        );
    }
}
