//! What is counted about connections.

use sparkray_common::Metrics;

/// Counters since the raylet began.
#[derive(Debug, Default)]
pub(super) struct GatewayMetrics {
    connections: u64,
    registrations: u64,
}

impl GatewayMetrics {
    /// A connection began.
    pub(super) fn connected(&mut self) {
        self.connections += 1;
    }

    /// Who speaks on a connection is known.
    pub(super) fn registered(&mut self) {
        self.registrations += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_raylet_connections",
            "Connections that processes of this node and others made to the raylet",
            self.connections,
        );
        into.counter(
            "ray_raylet_registrations",
            "Connections whose other end said who it is, and was taken in",
            self.registrations,
        );
    }
}
