//! What is counted about objects between nodes; the store counts those of this one.

use std::time::Duration;

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the raylet began.
#[derive(Debug, Default)]
pub(super) struct TransferMetrics {
    pulls_started: u64,
    pulls_failed: u64,
    pull_time: DurationHistogram,
    pushes_started: u64,
    pushes_refused: u64,
    pushes_failed: u64,
}

impl TransferMetrics {
    /// An object is fetched.
    pub(super) fn pull_started(&mut self) {
        self.pulls_started += 1;
    }

    /// An object was fetched, which took so long.
    pub(super) fn pulled(&mut self, took: Duration) {
        self.pull_time.observe(took);
    }

    /// An object was not fetched, or nobody needed it any more.
    pub(super) fn pull_failed(&mut self) {
        self.pulls_failed += 1;
    }

    /// An object is sent.
    pub(super) fn push_started(&mut self) {
        self.pushes_started += 1;
    }

    /// This node does not have what another one asked for.
    pub(super) fn push_refused(&mut self) {
        self.pushes_refused += 1;
    }

    /// The bytes of an object could not be read.
    pub(super) fn push_failed(&mut self) {
        self.pushes_failed += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_pull_manager_started_pulls",
            "Fetches of objects from other nodes",
            self.pulls_started,
        );
        into.counter(
            "ray_pull_manager_failed_pulls",
            "Fetches that brought nothing",
            self.pulls_failed,
        );
        into.durations(
            "ray_pull_manager_object_request_time_seconds",
            "Time that the fetch of an object took",
            &self.pull_time,
        );
        into.counters(
            "ray_push_manager_pushes",
            "Objects that other nodes asked for",
            "Outcome",
            &[
                ("Started", self.pushes_started),
                ("Refused", self.pushes_refused),
                ("Failed", self.pushes_failed),
            ],
        );
    }
}
