//! What is counted about workers.

use std::time::Duration;

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the raylet began.
#[derive(Debug, Default)]
pub(super) struct WorkerMetrics {
    started: u64,
    failed_starts: u64,
    killed: u64,
    ended: u64,
    register_time: DurationHistogram,
}

impl WorkerMetrics {
    /// The zygote is asked for a worker.
    pub(super) fn started(&mut self) {
        self.started += 1;
    }

    /// A worker did not come to be, or ended before it was ready.
    pub(super) fn start_failed(&mut self) {
        self.failed_starts += 1;
    }

    /// A worker registered, so long after it was asked for.
    pub(super) fn registered(&mut self, took: Duration) {
        self.register_time.observe(took);
    }

    /// A worker was not let end by itself.
    pub(super) fn killed(&mut self) {
        self.killed += 1;
    }

    /// A worker's process is gone.
    pub(super) fn ended(&mut self) {
        self.ended += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_internal_num_processes_started",
            "Workers that the zygote was asked for",
            self.started,
        );
        into.counter(
            "ray_scheduler_failed_worker_startup",
            "Workers that did not come to be, or ended before they were ready",
            self.failed_starts,
        );
        into.durations(
            "ray_worker_register_time_seconds",
            "Time from the request for a worker until it was ready",
            &self.register_time,
        );
        into.counter(
            "ray_workers_killed",
            "Workers that were killed by their raylet",
            self.killed,
        );
        into.counter("ray_workers_ended", "Worker processes that are gone", self.ended);
    }
}
