//! What is counted about calls that this process made.

use sparkray_common::{DurationHistogram, Metrics};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It has results.
    Finished,
    /// Its code raised.
    Raised,
    /// It has no results: its worker or actor was lost, an argument had failed, nobody could run it.
    Failed,
}

/// Counters since the process joined. A call that was submitted ends as one of finished, raised and failed.
#[derive(Debug, Default)]
pub(super) struct TaskMetrics {
    functions: u64,
    actor_calls: u64,
    retries: u64,
    raised: u64,
    failed: u64,
    time: DurationHistogram,
}

impl TaskMetrics {
    pub(super) fn function_submitted(&mut self) {
        self.functions += 1;
    }

    pub(super) fn actor_call_submitted(&mut self) {
        self.actor_calls += 1;
    }

    /// A call is to run again.
    pub(super) fn retried(&mut self) {
        self.retries += 1;
    }

    /// A call ended, so many microseconds after it was submitted.
    pub(super) fn ended(&mut self, ending: Ending, micros: u64) {
        match ending {
            Ending::Finished => {}
            Ending::Raised => self.raised += 1,
            Ending::Failed => self.failed += 1,
        }
        self.time.observe_micros(micros);
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counters(
            "ray_tasks_submitted",
            "Calls that this process made",
            "Type",
            &[("NORMAL_TASK", self.functions), ("ACTOR_TASK", self.actor_calls)],
        );
        let finished = self.time.count() - self.raised - self.failed;
        into.counters(
            "ray_tasks_ended",
            "Calls of this process that are over",
            "Outcome",
            &[
                ("Finished", finished),
                ("Raised", self.raised),
                ("Failed", self.failed),
            ],
        );
        into.counter(
            "ray_tasks_retried",
            "Times that a call of this process was to run again",
            self.retries,
        );
        into.durations(
            "ray_task_time_seconds",
            "Time from the submission of a call until it was over",
            &self.time,
        );
    }
}
