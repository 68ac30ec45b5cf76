//! What is counted about the head, as seen from this node.

use sparkray_common::Metrics;

/// Counters since the raylet began.
#[derive(Debug, Default)]
pub(super) struct HeadMetrics {
    messages: u64,
    reports: u64,
    dropped_logs: u64,
    relayed_requests: u64,
    acknowledgements: u64,
    stall_questions: u64,
}

impl HeadMetrics {
    /// The head is told something.
    pub(super) fn told(&mut self) {
        self.messages += 1;
    }

    /// It is told what is free.
    pub(super) fn reported(&mut self) {
        self.reports += 1;
    }

    /// Lines of a worker's output gave way to what is more important.
    pub(super) fn log_dropped(&mut self) {
        self.dropped_logs += 1;
    }

    /// A client asked the head something.
    pub(super) fn relayed(&mut self) {
        self.relayed_requests += 1;
    }

    /// The head answered a heartbeat.
    pub(super) fn acknowledged(&mut self) {
        self.acknowledgements += 1;
    }

    /// The head was silent for so long that its node is asked about it.
    pub(super) fn asked_about_silence(&mut self) {
        self.stall_questions += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter("ray_raylet_head_messages", "Messages to the head", self.messages);
        into.counter(
            "ray_raylet_resource_reports",
            "Reports to the head of what is free",
            self.reports,
        );
        into.counter(
            "ray_raylet_dropped_log_batches",
            "Batches of output lines that gave way to other messages to the head",
            self.dropped_logs,
        );
        into.counter(
            "ray_raylet_relayed_head_requests",
            "Requests of this node's clients to the head",
            self.relayed_requests,
        );
        into.counter(
            "ray_raylet_heartbeats_acknowledged",
            "Heartbeats that the head has answered",
            self.acknowledgements,
        );
        into.counter(
            "ray_raylet_head_silences",
            "Times that the head was silent for so long that its node was asked about it",
            self.stall_questions,
        );
    }
}
