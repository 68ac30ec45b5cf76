//! What is counted, by what happens.

use sparkray_common::Metrics;

use super::*;

impl Harness {
    fn counted(&self, name: &str, label: &str) -> u64 {
        let mut metrics = Metrics::default();
        self.store.list_metrics(&mut metrics);
        metrics
            .value(name, label)
            .unwrap_or_else(|| panic!("{name} is not listed"))
    }
}

#[test]
fn objects_that_are_written_and_freed_are_counted_with_their_bytes() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 2);
    harness.put(1, 2, 1);
    assert_eq!(harness.counted("ray_object_store_created_objects", ""), 2);
    assert_eq!(
        harness.counted("ray_object_store_created_bytes", ""),
        3 * PAGE_SIZE
    );
    assert_eq!(harness.counted("ray_object_store_used_memory", ""), 3 * PAGE_SIZE);
    assert_eq!(
        harness.counted("ray_object_store_available_memory", ""),
        PAGE_SIZE
    );
    assert_eq!(harness.counted("ray_object_store_num_local_objects", ""), 2);
    harness.free(1);
    harness.free(7);
    assert_eq!(harness.counted("ray_object_store_freed_objects", ""), 1);
    assert_eq!(harness.counted("ray_object_store_num_local_objects", ""), 1);
    harness.store.owner_gone(harness.owner.worker_id);
    assert_eq!(harness.counted("ray_object_store_freed_objects", ""), 2);
}

#[test]
fn objects_that_go_to_disk_and_come_back_are_counted() {
    let mut harness = Harness::new(2);
    harness.put(1, 1, 2);
    let create = harness.create(1, 2, 2);
    harness.run_jobs();
    harness.room(create);
    harness.abort(1, 2);
    assert_eq!(harness.counted("ray_spill_manager_request", "Spilled"), 1);
    assert_eq!(harness.counted("ray_spill_manager_request", "Restored"), 0);
    harness.get(2, 1);
    harness.run_jobs();
    for state in ["Spilled", "Restored"] {
        assert_eq!(harness.counted("ray_spill_manager_request", state), 1);
        let bytes = harness.counted("ray_spill_manager_objects_bytes", state);
        assert_eq!(bytes, 2 * PAGE_SIZE);
    }
}

#[test]
fn copies_that_are_evicted_and_objects_without_room_are_counted() {
    let mut harness = Harness::with(4, false);
    harness.get_from(1, 1, &[NodeId::random()]);
    harness.receive(2);
    harness.release(1, 1);
    assert_eq!(
        harness.counted("ray_object_manager_bytes", "Received"),
        2 * PAGE_SIZE
    );
    assert_eq!(harness.counted("ray_object_manager_received_objects", ""), 1);
    let create = harness.create(1, 2, 4);
    harness.room(create);
    assert_eq!(harness.counted("ray_object_store_evicted_objects", ""), 1);
    harness.create(1, 3, 9);
    assert_eq!(harness.counted("ray_object_store_refused_objects", ""), 1);
}
