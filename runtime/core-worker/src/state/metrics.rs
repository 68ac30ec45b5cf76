//! What all parts have counted, as text.

use sparkray_common::Metrics;

use super::State;

impl State {
    /// The text that Prometheus reads.
    pub(crate) fn render_metrics(&self) -> String {
        let mut metrics = Metrics::default();
        self.base.links.list_metrics(&mut metrics);
        self.base.objects.list_metrics(&mut metrics);
        self.base.tasks.list_metrics(&mut metrics);
        self.leases.list_metrics(&mut metrics);
        self.actors.list_metrics(&mut metrics);
        self.execution.list_metrics(&mut metrics);
        metrics.render()
    }
}
