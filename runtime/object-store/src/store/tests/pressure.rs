//! A full store: waiting, evicting, spilling, restoring, and room on disk.

use super::*;

#[test]
fn creates_wait_in_order_until_memory_comes_free() {
    let mut harness = Harness::with(4, false);
    let first = harness.create(1, 1, 3);
    harness.room(first);
    let second = harness.create(1, 2, 2);
    let third = harness.create(1, 3, 1);
    assert!(!harness.created.contains_key(&second) && !harness.created.contains_key(&third));
    harness.abort(1, 1);
    harness.run_jobs();
    harness.room(second);
    harness.room(third);
}

#[test]
fn unused_objects_are_spilled_least_recently_used_first_and_restored_when_asked_for() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 2);
    harness.put(1, 2, 2);
    let get = harness.get(2, 1);
    drop(harness.bytes(get));
    harness.release(2, 1);
    let create = harness.create(1, 3, 1);
    assert!(matches!(harness.jobs[..], [Job::Spill { .. }]));
    harness.run_jobs();
    harness.room(create);
    harness.seal(1, 3);
    assert_eq!(harness.store.stats().spilled_bytes, 2 * PAGE_SIZE);
    // The second object is the one on disk.
    let get = harness.get(2, 1);
    drop(harness.bytes(get));
    harness.release(2, 1);
    let get = harness.get(2, 2);
    assert!(harness.answer(get).is_none());
    harness.run_jobs();
    let read = harness.bytes(get);
    assert_eq!(read.as_slice(), vec![2; 2 * PAGE_SIZE as usize]);
    assert_eq!(harness.store.stats().restored_bytes, 2 * PAGE_SIZE);
    harness.release(2, 2);
    for number in 1..=3 {
        harness.free(number);
    }
    harness.run_jobs();
    assert!(harness.store.slots.is_empty());
    assert_eq!(harness.store.stats().used_bytes, 0);
}

#[test]
fn objects_in_use_are_not_moved_and_after_ten_seconds_room_is_on_disk() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 4);
    let get = harness.get(2, 1);
    let read = harness.bytes(get);
    let create = harness.create(1, 2, 2);
    assert!(harness.jobs.is_empty());
    harness.pass(Duration::from_secs(9));
    assert!(harness.jobs.is_empty());
    harness.pass(Duration::from_secs(2));
    harness.run_jobs();
    harness.room(create).as_mut_slice().fill(8);
    harness.seal(1, 2);
    let other = harness.get(3, 2);
    assert_eq!(harness.bytes(other).as_slice(), vec![8; 2 * PAGE_SIZE as usize]);
    // While nothing comes free, the next one does not wait again, and shares the segment.
    let create = harness.create(1, 3, 2);
    harness.room(create);
    assert!(read.as_slice().iter().all(|byte| *byte == 1));
    harness.release(2, 1);
    let create = harness.create(1, 4, 1);
    harness.run_jobs();
    harness.room(create);
    assert_eq!(harness.store.memory.allocated(), PAGE_SIZE);
    harness.abort(1, 3);
    harness.free(2);
    harness.release(3, 2);
    assert!(matches!(harness.jobs[..], [Job::Close { .. }]));
}

/// The first object, of two pages, is on disk, and the second one fills the memory.
fn spill_the_first(harness: &mut Harness) {
    harness.put(1, 1, 2);
    let create = harness.create(1, 2, 4);
    harness.run_jobs();
    harness.room(create).as_mut_slice().fill(2);
    harness.seal(1, 2);
}

#[test]
fn a_spilled_object_is_read_where_it_lies_when_no_memory_can_be_had() {
    let mut harness = Harness::new(4);
    spill_the_first(&mut harness);
    // Both are in use from now on: the first on disk, the second in memory.
    let get = harness.get(2, 2);
    let second = harness.bytes(get);
    let get = harness.get(3, 1);
    assert!(matches!(harness.jobs[..], [Job::Open { .. }]));
    harness.run_jobs();
    let first = harness.bytes(get);
    assert_eq!(first.as_slice(), vec![1; 2 * PAGE_SIZE as usize]);
    assert_eq!(second.as_slice(), vec![2; 4 * PAGE_SIZE as usize]);
    // Another reader shares it; freeing the object takes nothing from those who read it.
    let get = harness.get(4, 1);
    drop(harness.bytes(get));
    harness.release(4, 1);
    harness.free(1);
    harness.run_jobs();
    assert_eq!(first.as_slice(), vec![1; 2 * PAGE_SIZE as usize]);
    harness.release(3, 1);
    assert!(matches!(
        harness.jobs[..],
        [Job::Close { .. }, Job::Delete { .. }]
    ));
}

#[test]
fn a_spilled_object_that_was_read_on_disk_comes_back_to_memory_that_is_free_again() {
    let mut harness = Harness::new(4);
    spill_the_first(&mut harness);
    let get = harness.get(2, 2);
    drop(harness.bytes(get));
    let get = harness.get(3, 1);
    harness.run_jobs();
    drop(harness.bytes(get));
    harness.release(3, 1);
    harness.release(2, 2);
    harness.free(2);
    harness.run_jobs();
    let get = harness.get(3, 1);
    assert!(matches!(harness.jobs[..], [Job::Restore { .. }]));
    harness.run_jobs();
    assert_eq!(harness.bytes(get).as_slice(), vec![1; 2 * PAGE_SIZE as usize]);
    assert!(harness.store.opened.is_empty());
}

#[test]
fn a_reader_that_leaves_while_a_file_is_opened_leaves_nothing_open() {
    let mut harness = Harness::new(4);
    spill_the_first(&mut harness);
    let get = harness.get(2, 2);
    let second = harness.bytes(get);
    harness.get(3, 1);
    assert!(matches!(harness.jobs[..], [Job::Open { .. }]));
    harness.store.client_gone(client(3));
    harness.run_jobs();
    assert!(harness.store.opened.is_empty());
    harness.get(3, 1);
    harness.free(1);
    harness.run_jobs();
    assert!(harness.store.opened.is_empty());
    drop(second);
}

#[test]
fn an_object_larger_than_the_store_goes_to_disk_at_once() {
    let mut harness = Harness::new(4);
    let create = harness.create(1, 1, 9);
    harness.run_jobs();
    harness.room(create).as_mut_slice().fill(1);
    harness.seal(1, 1);
    let get = harness.get(2, 1);
    assert_eq!(harness.bytes(get).as_slice(), vec![1; 9 * PAGE_SIZE as usize]);
}

#[test]
fn a_full_disk_refuses_with_a_sentence_that_says_what_to_change() {
    for can_spill in [true, false] {
        let mut harness = Harness::with(4, can_spill);
        let waiting = harness.get(2, 1);
        let create = harness.create(1, 1, 9);
        harness.fail_jobs();
        match harness.created.remove(&create) {
            Some(Answer::Failed(ErrorCode::OutOfStorage, message)) => {
                assert!(
                    message.contains("36864 bytes") && message.contains("raise object_store_memory"),
                    "{message}"
                );
            }
            other => panic!("not refused: {other:?}"),
        }
        assert_eq!(harness.failure(waiting), ErrorCode::ObjectLost);
        assert!(harness.store.slots.is_empty());
    }
}

#[test]
fn a_spill_that_fails_is_tried_again_and_nothing_is_lost() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 4);
    let create = harness.create(1, 2, 4);
    harness.fail_jobs();
    assert!(harness.jobs.is_empty() && !harness.created.contains_key(&create));
    harness.pass(Duration::from_secs(2));
    harness.run_jobs();
    harness.room(create).as_mut_slice().fill(2);
    harness.seal(1, 2);
    let get = harness.get(2, 1);
    harness.run_jobs();
    assert_eq!(harness.bytes(get).as_slice(), vec![1; 4 * PAGE_SIZE as usize]);
}

#[test]
fn after_a_full_disk_has_refused_objects_change_places_as_soon_as_one_goes() {
    let mut harness = Harness::new(4);
    for number in 1..=4 {
        let create = harness.create(1, number, 2);
        harness.run_jobs();
        harness.room(create).as_mut_slice().fill(number as u8);
        harness.seal(1, number);
    }
    let refused = harness.create(1, 5, 2);
    harness.fail_jobs();
    harness.pass(Duration::from_secs(11));
    harness.fail_jobs();
    assert!(matches!(
        harness.created.remove(&refused),
        Some(Answer::Failed(ErrorCode::OutOfStorage, _))
    ));
    harness.free(1);
    let get = harness.get(2, 2);
    // It does not ask for more room on disk, which would be refused: another object goes to where the first was.
    assert!(!harness.jobs.iter().any(|job| matches!(job, Job::Fallback { .. })));
    assert!(harness.jobs.iter().any(|job| matches!(job, Job::Spill { .. })));
    harness.run_jobs();
    assert_eq!(harness.bytes(get).as_slice(), vec![2; 2 * PAGE_SIZE as usize]);
}

#[test]
fn a_damaged_spill_file_is_a_lost_object() {
    let mut harness = Harness::new(2);
    harness.put(1, 1, 2);
    harness.create(1, 2, 2);
    harness.run_jobs();
    harness.abort(1, 2);
    let get = harness.get(2, 1);
    let Some(Job::Restore { file, .. }) = harness.jobs.first() else {
        panic!("no restore: {:?}", harness.jobs);
    };
    file.damage();
    harness.run_jobs();
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    assert_eq!(harness.gone, [(object(1), true)]);
    assert!(harness.store.slots.is_empty());
}

#[test]
fn an_object_that_is_freed_while_it_is_spilled_or_restored_goes_afterwards() {
    let mut harness = Harness::new(2);
    harness.put(1, 1, 2);
    let create = harness.create(1, 2, 2);
    harness.free(1);
    assert!(!harness.created.contains_key(&create));
    harness.run_jobs();
    harness.room(create);
    harness.seal(1, 2);
    harness.put_behind(3);
    let get = harness.get(2, 2);
    assert!(matches!(harness.jobs[..], [Job::Restore { .. }]));
    harness.free(2);
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    harness.run_jobs();
    assert!(harness.store.slots.is_empty());
    assert_eq!(harness.store.stats().used_bytes, 0);
}

#[test]
fn fragments_do_not_keep_a_large_object_out() {
    let mut harness = Harness::new(64);
    for number in 0..64 {
        harness.put(1, number, 1);
    }
    for number in (0..64).filter(|number| number % 2 == 0) {
        harness.free(number);
    }
    let create = harness.create(1, 100, 32);
    assert!(harness.jobs.iter().all(|job| matches!(job, Job::Discard { .. })));
    harness.run_jobs();
    harness.room(create);
    assert_eq!(harness.store.stats().spilled_bytes, 0);
}

#[test]
fn free_memory_goes_back_to_the_kernel_when_nobody_creates() {
    let mut harness = Harness::new(64);
    harness.put(1, 1, 40);
    harness.put(1, 2, 10);
    harness.free(1);
    harness.pass(Duration::from_secs(1));
    assert_eq!(harness.store.memory.warm(), 40 * PAGE_SIZE);
    harness.pass(Duration::from_secs(5));
    harness.run_jobs();
    assert_eq!(harness.store.memory.warm(), 2 * PAGE_SIZE);
    let get = harness.get(2, 2);
    assert!(harness.bytes(get).as_slice().iter().all(|byte| *byte == 2));
}

#[test]
fn free_memory_goes_back_to_the_kernel_on_a_node_that_only_fetches() {
    let mut harness = Harness::new(64);
    harness.get_from(1, 1, &[NodeId::random()]);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness
        .store
        .pull_room(ticket, 40 * PAGE_SIZE, harness.owner.clone());
    harness.settle();
    let target = harness.rooms.remove(&ticket).unwrap();
    harness.store.pull_finished(ticket, target);
    harness.settle();
    harness.store.client_gone(client(1));
    harness.free(1);
    assert_eq!(harness.store.memory.warm(), 40 * PAGE_SIZE);
    harness.pass(Duration::from_secs(5));
    harness.run_jobs();
    assert_eq!(harness.store.memory.warm(), 2 * PAGE_SIZE);
}

impl Harness {
    /// Pushes everything else out of a store of two pages, and frees the object that did it.
    fn put_behind(&mut self, number: u32) {
        let create = self.create(1, number, 2);
        self.run_jobs();
        self.room(create);
        self.seal(1, number);
        self.free(number);
    }
}
