//! What is counted about leases that this process asked for.

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the process joined.
#[derive(Debug, Default)]
pub(super) struct LeaseMetrics {
    requested: u64,
    spilled: u64,
    refused: u64,
    cancelled: u64,
    pushed: u64,
    wait: DurationHistogram,
}

impl LeaseMetrics {
    /// A raylet is asked for a lease.
    pub(super) fn requested(&mut self) {
        self.requested += 1;
    }

    /// A raylet named another one.
    pub(super) fn spilled(&mut self) {
        self.spilled += 1;
    }

    /// A raylet gives no lease.
    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    /// There is no task for it any more.
    pub(super) fn cancelled(&mut self) {
        self.cancelled += 1;
    }

    /// A lease was granted, so many microseconds after the request.
    pub(super) fn granted(&mut self, micros: u64) {
        self.wait.observe_micros(micros);
    }

    /// A function was sent to a leased worker.
    pub(super) fn pushed(&mut self) {
        self.pushed += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_core_worker_lease_requests",
            "Leases that this process asked for",
            self.requested,
        );
        into.counters(
            "ray_core_worker_lease_replies",
            "What became of requests for leases",
            "Outcome",
            &[
                ("Granted", self.wait.count()),
                ("Spilled", self.spilled),
                ("Refused", self.refused),
                ("Cancelled", self.cancelled),
            ],
        );
        into.durations(
            "ray_core_worker_lease_wait_time_seconds",
            "Time from the request for a lease until it was granted, by whichever node",
            &self.wait,
        );
        into.counter(
            "ray_core_worker_tasks_pushed",
            "Functions that were sent to leased workers, those that came back and were sent again included",
            self.pushed,
        );
    }
}
