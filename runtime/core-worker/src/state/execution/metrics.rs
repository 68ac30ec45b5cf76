//! What is counted about calls that this process runs.

use sparkray_common::{DurationHistogram, Metrics};

/// Counters since the process joined.
#[derive(Debug, Default)]
pub(super) struct ExecutionMetrics {
    started: u64,
    raised: u64,
    refused: u64,
    given_back: u64,
    run_time: DurationHistogram,
}

impl ExecutionMetrics {
    /// A call is about to run.
    pub(super) fn started(&mut self) {
        self.started += 1;
    }

    /// A call ran for so many microseconds.
    pub(super) fn finished(&mut self, raised: bool, micros: u64) {
        self.raised += u64::from(raised);
        self.run_time.observe_micros(micros);
    }

    /// A call did not run, or has no result.
    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    /// A function that waited went back to its owner.
    pub(super) fn given_back(&mut self) {
        self.given_back += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_core_worker_executions_started",
            "Calls of others that this process began to run",
            self.started,
        );
        into.counters(
            "ray_core_worker_executions",
            "What became of calls of others",
            "Outcome",
            &[
                ("Finished", self.run_time.count() - self.raised),
                ("Raised", self.raised),
                ("Refused", self.refused),
                ("GivenBack", self.given_back),
            ],
        );
        into.durations(
            "ray_core_worker_execution_time_seconds",
            "Time that calls of others ran here, from the queue to the answer",
            &self.run_time,
        );
    }
}
