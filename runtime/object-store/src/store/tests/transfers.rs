//! Objects that come from other nodes and go to them.

use super::*;
use crate::event::PushBytes;

impl Harness {
    /// Answers the only pull with an object of this many pages.
    pub(super) fn receive(&mut self, pages: u64) {
        let (ticket, number, _) = self.pulls.remove(0);
        self.store
            .pull_room(ticket, pages * PAGE_SIZE, self.owner.clone());
        self.settle();
        self.run_jobs();
        let mut target = self.rooms.remove(&ticket).expect("the pull was given room");
        target.as_mut_slice().fill(number.index() as u8);
        self.store.pull_finished(ticket, target);
        self.settle();
    }

    fn push(&mut self, number: u32) -> Result<PushSource, ErrorCode> {
        self.store.push(client(9), 77, object(number));
        self.settle();
        self.pushed.pop().expect("the push is answered at once").1
    }
}

#[test]
fn one_copy_is_fetched_however_many_ask() {
    let mut harness = Harness::new(8);
    let elsewhere = NodeId::random();
    let first = harness.get_from(1, 1, &[elsewhere]);
    let second = harness.get_from(2, 1, &[harness.node, elsewhere]);
    let third = harness.get(2, 1);
    assert_eq!(harness.pulls.len(), 1);
    assert_eq!(harness.pulls[0].2.len(), 1);
    harness.receive(2);
    for correlation in [first, second, third] {
        assert_eq!(
            harness.bytes(correlation).as_slice(),
            vec![1; 2 * PAGE_SIZE as usize]
        );
    }
    assert_eq!(harness.store.stats().pulled_bytes, 2 * PAGE_SIZE);
}

#[test]
fn a_failed_pull_fails_those_who_named_nodes_after_all_nodes_were_asked() {
    let mut harness = Harness::new(8);
    let (one, other) = (NodeId::random(), NodeId::random());
    let named = harness.get_from(1, 1, &[one]);
    let later = harness.get_from(2, 1, &[one, other]);
    let unnamed = harness.get(3, 1);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness.store.pull_failed(ticket, "gone");
    harness.settle();
    assert!(harness.answer(named).is_none());
    let (ticket, _, locations) = harness.pulls.remove(0);
    assert_eq!(locations[0].node_id[..], other.as_bytes()[..]);
    harness.store.pull_failed(ticket, "gone too");
    harness.settle();
    assert_eq!(harness.failure(named), ErrorCode::ObjectLost);
    assert_eq!(harness.failure(later), ErrorCode::ObjectLost);
    assert!(harness.answer(unnamed).is_none());
    harness.put(1, 1, 1);
    harness.bytes(unnamed);
}

#[test]
fn a_pull_that_reached_nobody_in_time_loses_nothing() {
    let mut harness = Harness::new(8);
    let node = NodeId::random();
    let named = harness.get_from(1, 1, &[node]);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness.store.pull_timed_out(ticket, "no answer");
    harness.settle();
    assert_eq!(harness.failure(named), ErrorCode::FetchTimedOut);
    // The same node is asked again.
    harness.get_from(1, 1, &[node]);
    let (_, _, locations) = harness.pulls.remove(0);
    assert_eq!(locations[0].node_id[..], node.as_bytes()[..]);
}

#[test]
fn an_object_that_only_this_node_had_and_has_no_more_is_lost() {
    let mut harness = Harness::new(8);
    let get = harness.get_from(1, 1, &[harness.node]);
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    let waiting = harness.get(2, 1);
    let get = harness.get_from(1, 1, &[harness.node]);
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    assert!(harness.answer(waiting).is_none());
}

#[test]
fn fetched_copies_are_evicted_rather_than_spilled() {
    let mut harness = Harness::new(4);
    harness.put(1, 2, 2);
    let get = harness.get_from(1, 1, &[NodeId::random()]);
    harness.receive(2);
    drop(harness.bytes(get));
    harness.release(1, 1);
    let create = harness.create(1, 3, 2);
    harness.room(create);
    assert!(harness.jobs.is_empty());
    assert_eq!(harness.gone, [(object(1), false)]);
    assert!(harness.store.contains(object(2)) && !harness.store.contains(object(1)));
}

#[test]
fn a_cancelled_pull_keeps_its_memory_until_the_raylet_has_stopped_writing() {
    let mut harness = Harness::new(4);
    let get = harness.get_from(1, 1, &[NodeId::random()]);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness
        .store
        .pull_room(ticket, 2 * PAGE_SIZE, harness.owner.clone());
    harness.settle();
    harness.free(1);
    assert_eq!(harness.cancelled, [ticket]);
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    harness.rooms.clear();
    harness.store.pull_failed(ticket, "cancelled");
    harness.settle();
    assert!(harness.store.slots.is_empty());
    assert_eq!(harness.store.stats().used_bytes, 0);
}

#[test]
fn an_object_is_sent_from_memory_and_from_disk_and_is_pinned_meanwhile() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 3);
    let source = harness.push(1).unwrap();
    assert!(!source.bytes.blocks());
    let create = harness.create(1, 2, 3);
    assert!(harness.jobs.is_empty(), "what is being sent is not spilled");
    assert_eq!(source.bytes.read(PAGE_SIZE, 10).unwrap(), [1; 10][..]);
    assert_eq!(source.bytes.read(3 * PAGE_SIZE - 1, 10).unwrap(), [1; 1][..]);
    let queued_chunk = source.bytes.read(0, 10).unwrap();
    let ticket = source.ticket;
    drop(source);
    harness.store.push_finished(ticket, 3 * PAGE_SIZE);
    harness.settle();
    assert!(
        harness.jobs.is_empty(),
        "a chunk in a connection's queue pins the object too"
    );
    drop(queued_chunk);
    harness.pass(Duration::from_millis(100));
    harness.run_jobs();
    harness.room(create);
    let source = harness.push(1).unwrap();
    assert!(source.bytes.blocks());
    harness.free(1);
    assert_eq!(
        source.bytes.read(0, 1 << 20).unwrap(),
        vec![1; 3 * PAGE_SIZE as usize]
    );
    harness.store.push_finished(source.ticket, 3 * PAGE_SIZE);
    harness.settle();
    assert_eq!(harness.store.stats().pushed_bytes, 6 * PAGE_SIZE);
    assert_eq!(harness.store.slots.len(), 1);
}

#[test]
fn a_push_waits_for_the_writer_but_not_for_another_node() {
    let mut harness = Harness::new(4);
    assert!(matches!(harness.push(1), Err(ErrorCode::ObjectLost)));
    harness.get_from(1, 1, &[NodeId::random()]);
    assert!(matches!(harness.push(1), Err(ErrorCode::ObjectLost)));
    harness.create(1, 2, 1);
    harness.store.push(client(9), 5, object(2));
    harness.settle();
    assert!(harness.pushed.is_empty());
    harness.seal(1, 2);
    assert!(matches!(harness.pushed.pop(), Some((5, Ok(_)))));
    harness.create(1, 3, 1);
    harness.store.push(client(9), 6, object(3));
    harness.store.client_gone(client(1));
    harness.settle();
    assert!(matches!(
        harness.pushed.pop(),
        Some((6, Err(ErrorCode::ObjectLost)))
    ));
}

#[test]
fn a_writer_waits_for_a_pull_and_takes_over_when_it_fails() {
    let mut harness = Harness::new(4);
    let get = harness.get_from(1, 1, &[NodeId::random()]);
    let create = harness.create(2, 1, 1);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness.store.pull_failed(ticket, "gone");
    harness.settle();
    harness.room(create).as_mut_slice().fill(1);
    harness.seal(2, 1);
    harness.bytes(get);
}

#[test]
fn a_spill_file_that_a_sending_finds_damaged_is_a_lost_object() {
    let mut harness = Harness::new(2);
    harness.put(1, 1, 2);
    harness.create(1, 2, 2);
    harness.run_jobs();
    let source = harness.push(1).unwrap();
    let PushBytes::File(file) = &source.bytes else {
        panic!("{source:?}");
    };
    file.damage();
    assert!(source.bytes.read(0, 1 << 20).is_err());
    harness.store.push_failed(source.ticket, "damaged");
    harness.settle();
    assert_eq!(harness.gone, [(object(1), true)]);
    assert!(!harness.store.contains(object(1)));
    assert!(matches!(harness.push(1), Err(ErrorCode::ObjectLost)));
}

#[test]
fn a_size_that_no_object_has_is_refused() {
    let mut harness = Harness::new(4);
    for size in [u64::MAX, u64::MAX - 4096, (1 << 46) + 1] {
        let create = harness.create_sized(1, 1, size, None);
        assert!(matches!(
            harness.created[&create],
            Answer::Failed(ErrorCode::InvalidArgument, _)
        ));
        let get = harness.get_from(1, 2, &[NodeId::random()]);
        let (ticket, _, _) = harness.pulls.remove(0);
        harness.store.pull_room(ticket, size, harness.owner.clone());
        harness.settle();
        assert_eq!(harness.refused.pop(), Some((ticket, ErrorCode::InvalidArgument)));
        harness
            .store
            .pull_failed(ticket, "it claims a size that no object has");
        harness.settle();
        assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    }
    assert!(harness.store.slots.is_empty());
}
