//! What is counted about connections.

use sparkray_common::Metrics;

/// Counters since the process joined.
#[derive(Debug, Default)]
pub(super) struct LinkMetrics {
    opened: u64,
    accepted: u64,
    closed: u64,
    sent_bytes: u64,
}

impl LinkMetrics {
    /// This process called another one.
    pub(super) fn opened(&mut self) {
        self.opened += 1;
    }

    /// Another process called this one.
    pub(super) fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self) {
        self.closed += 1;
    }

    /// Frames were handed to a connection.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counters(
            "ray_core_worker_connections",
            "Connections to other processes that began, and that ended",
            "Event",
            &[
                ("Opened", self.opened),
                ("Accepted", self.accepted),
                ("Closed", self.closed),
            ],
        );
        into.counter(
            "ray_core_worker_sent_bytes",
            "Bytes of frames to other processes, the raylet included",
            self.sent_bytes,
        );
    }
}
