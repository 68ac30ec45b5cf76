//! What the store counts, since it began.

use sparkray_common::Metrics;
use sparkray_proto::StoreStats;

/// Objects, and their bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Volume {
    objects: u64,
    bytes: u64,
}

impl Volume {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// The store's counters.
#[derive(Debug, Default)]
pub(super) struct StoreMetrics {
    created: Volume,
    spilled: Volume,
    restored: Volume,
    pulled: Volume,
    pushed_bytes: u64,
    evicted_copies: u64,
    freed_objects: u64,
    lost_objects: u64,
    refused_demands: u64,
}

impl StoreMetrics {
    /// A client of this node has written an object.
    pub(super) fn created(&mut self, bytes: u64) {
        self.created.add(bytes);
    }

    /// An object was written to disk.
    pub(super) fn spilled(&mut self, bytes: u64) {
        self.spilled.add(bytes);
    }

    /// A spilled object can be read again.
    pub(super) fn restored(&mut self, bytes: u64) {
        self.restored.add(bytes);
    }

    /// An object came from another node.
    pub(super) fn pulled(&mut self, bytes: u64) {
        self.pulled.add(bytes);
    }

    /// So much of an object went to another node.
    pub(super) fn pushed(&mut self, bytes: u64) {
        self.pushed_bytes += bytes;
    }

    /// A copy went for the room that it had; there is another one elsewhere.
    pub(super) fn evicted(&mut self) {
        self.evicted_copies += 1;
    }

    /// Nobody has a reference to an object any more, or its owner died.
    pub(super) fn freed(&mut self) {
        self.freed_objects += 1;
    }

    /// The bytes of an object that was made here cannot be had back.
    pub(super) fn lost(&mut self) {
        self.lost_objects += 1;
    }

    /// There was nowhere any room for an object.
    pub(super) fn refused(&mut self) {
        self.refused_demands += 1;
    }

    /// What the node tells the head of it.
    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            created_bytes: self.created.bytes,
            spilled_bytes: self.spilled.bytes,
            restored_bytes: self.restored.bytes,
            pulled_bytes: self.pulled.bytes,
            pushed_bytes: self.pushed_bytes,
            ..StoreStats::default()
        }
    }

    pub(super) fn list(&self, into: &mut Metrics) {
        into.counter(
            "ray_object_store_created_objects",
            "Objects that clients of this node have written",
            self.created.objects,
        );
        into.counter(
            "ray_object_store_created_bytes",
            "Bytes of the objects that clients of this node have written",
            self.created.bytes,
        );
        into.counters(
            "ray_spill_manager_request",
            "Objects that were written to disk, and that were made readable again",
            "Type",
            &[
                ("Spilled", self.spilled.objects),
                ("Restored", self.restored.objects),
            ],
        );
        into.counters(
            "ray_spill_manager_objects_bytes",
            "Bytes of objects that were written to disk, and that were made readable again",
            "State",
            &[("Spilled", self.spilled.bytes), ("Restored", self.restored.bytes)],
        );
        into.counters(
            "ray_object_manager_bytes",
            "Bytes that went to other nodes, and that came from them",
            "Type",
            &[("Pushed", self.pushed_bytes), ("Received", self.pulled.bytes)],
        );
        into.counter(
            "ray_object_manager_received_objects",
            "Objects that came from other nodes",
            self.pulled.objects,
        );
        into.counter(
            "ray_object_store_evicted_objects",
            "Copies of other nodes' objects that went for their room",
            self.evicted_copies,
        );
        into.counter(
            "ray_object_store_freed_objects",
            "Objects that went because nobody has a reference to them",
            self.freed_objects,
        );
        into.counter(
            "ray_object_store_lost_objects",
            "Objects that were made here and cannot be read any more",
            self.lost_objects,
        );
        into.counter(
            "ray_object_store_refused_objects",
            "Objects for which there was room neither in memory nor on disk",
            self.refused_demands,
        );
    }
}
