//! What is counted about objects.

use sparkray_common::Metrics;

/// Counters since the process joined.
#[derive(Debug, Default)]
pub(super) struct ObjectMetrics {
    put: u64,
    owners_asked: u64,
    store_reads: u64,
    failed_store_reads: u64,
    lost: u64,
}

impl ObjectMetrics {
    /// The program put a value.
    pub(super) fn put(&mut self) {
        self.put += 1;
    }

    /// An owner is asked for a value.
    pub(super) fn owner_asked(&mut self) {
        self.owners_asked += 1;
    }

    /// The node's store is asked for so many values.
    pub(super) fn store_asked(&mut self, values: usize) {
        self.store_reads += values as u64;
    }

    /// The node's store could not give a value.
    pub(super) fn store_failed(&mut self) {
        self.failed_store_reads += 1;
    }

    /// No node has the value of an object any more.
    pub(super) fn lost(&mut self) {
        self.lost += 1;
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter("ray_core_worker_objects_put", "Values that were put", self.put);
        into.counter(
            "ray_core_worker_owner_requests",
            "Values that other processes were asked for",
            self.owners_asked,
        );
        into.counters(
            "ray_core_worker_store_reads",
            "Values that the node's store was asked for, and those of them that it could not give",
            "Outcome",
            &[("Asked", self.store_reads), ("Failed", self.failed_store_reads)],
        );
        into.counter(
            "ray_core_worker_objects_lost",
            "Objects that no node has any more",
            self.lost,
        );
    }
}
