//! What all parts have counted, as text.

use sparkray_common::Metrics;

use super::Router;

impl Router {
    /// The text that Prometheus reads.
    pub(super) fn render_metrics(&self) -> String {
        let mut metrics = Metrics::default();
        self.clients.list_metrics(&mut metrics);
        self.leases.list_metrics(&mut metrics);
        self.workers.list_metrics(&mut metrics);
        self.actors.list_metrics(&mut metrics);
        self.objects.list_metrics(&mut metrics);
        self.head.list_metrics(&mut metrics);
        metrics.render()
    }
}
