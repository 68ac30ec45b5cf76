//! Create, seal, get, release, free, and the ends of clients and owners.

use super::*;
use sparkray_proto::AdoptFeed;

#[test]
fn a_sealed_object_is_read_by_another_client_in_place() {
    let mut harness = Harness::new(16);
    let waiting = harness.get(2, 1);
    let create = harness.create_sized(1, 1, 5000, None);
    let mut range = harness.room(create);
    assert_eq!(range.len(), 5000);
    range.as_mut_slice().fill(3);
    assert!(harness.answer(waiting).is_none());
    harness.seal(1, 1);
    let read = harness.bytes(waiting);
    assert_eq!(read.as_slice(), vec![3; 5000]);
    let again = harness.get(2, 1);
    assert_eq!(harness.bytes(again).as_slice(), read.as_slice());
    let stats = harness.store.stats();
    assert_eq!(
        (stats.object_count, stats.used_bytes, stats.created_bytes),
        (1, 8192, 5000)
    );
}

#[test]
fn a_freed_object_stays_until_its_last_use_is_released() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 2);
    let get = harness.get(2, 1);
    let read = harness.bytes(get);
    harness.free(1);
    assert_eq!(harness.store.stats().object_count, 0);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    harness.put(1, 1, 2);
    assert!(read.as_slice().iter().all(|byte| *byte == 1));
    harness.release(2, 1);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    harness.free(1);
    assert_eq!(harness.store.stats().used_bytes, 0);
}

#[test]
fn uses_of_two_lives_of_an_object_go_together() {
    let mut harness = Harness::new(8);
    harness.put(1, 1, 1);
    let first = harness.get(2, 1);
    let first = harness.bytes(first);
    harness.free(1);
    let create = harness.create(1, 1, 1);
    harness.room(create).as_mut_slice().fill(99);
    harness.seal(1, 1);
    let second = harness.get(2, 1);
    assert_eq!(harness.bytes(second).as_slice()[0], 99);
    harness.release(2, 1);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    assert_eq!(first.as_slice()[0], 1);
    harness.release(2, 1);
    assert_eq!(harness.store.stats().used_bytes, PAGE_SIZE);
}

#[test]
fn a_repeated_create_is_answered_with_the_same_room_and_a_late_one_with_sealed() {
    let mut harness = Harness::new(8);
    let first = harness.create(1, 1, 1);
    harness.room(first).as_mut_slice()[0] = 42;
    let repeated = harness.create(1, 1, 1);
    assert_eq!(harness.room(repeated).as_slice()[0], 42);
    let other_size = harness.create(1, 1, 2);
    assert!(matches!(
        harness.created[&other_size],
        Answer::Failed(ErrorCode::AlreadyExists, _)
    ));
    let other_writer = harness.create(2, 1, 1);
    assert!(!harness.created.contains_key(&other_writer));
    harness.seal(1, 1);
    assert!(matches!(harness.created[&other_writer], Answer::AlreadySealed));
    let late = harness.create(3, 1, 1);
    assert!(matches!(harness.created[&late], Answer::AlreadySealed));
}

#[test]
fn a_second_writer_takes_over_when_the_first_one_dies() {
    let mut harness = Harness::new(8);
    harness.create(1, 1, 1);
    let waiting = harness.get(3, 1);
    let second = harness.create(2, 1, 2);
    harness.store.client_gone(client(1));
    harness.settle();
    harness.room(second).as_mut_slice().fill(5);
    harness.seal(2, 1);
    assert_eq!(harness.bytes(waiting).as_slice(), vec![5; 2 * PAGE_SIZE as usize]);
}

#[test]
fn a_writer_that_waits_twice_leaves_nothing_when_it_dies() {
    let mut harness = Harness::new(8);
    harness.create(1, 1, 1);
    harness.create(2, 1, 1);
    harness.create(2, 1, 1);
    harness.abort(1, 1);
    harness.store.client_gone(client(2));
    harness.settle();
    assert!(harness.store.slots.is_empty());
}

#[test]
fn an_object_is_lost_with_its_only_writer() {
    let mut harness = Harness::new(8);
    harness.create(1, 1, 1);
    let waiting = harness.get(3, 1);
    harness.store.client_gone(client(1));
    harness.settle();
    assert_eq!(harness.failure(waiting), ErrorCode::ObjectLost);
    harness.create(1, 2, 1);
    let waiting = harness.get(3, 2);
    harness.abort(1, 2);
    assert_eq!(harness.failure(waiting), ErrorCode::ObjectLost);
    assert_eq!(harness.store.stats().used_bytes, 0);
    assert!(harness.store.slots.is_empty());
}

#[test]
fn a_dead_client_gives_back_all_that_it_had() {
    let mut harness = Harness::new(4);
    harness.put(1, 1, 2);
    harness.get(2, 1);
    harness.create(2, 2, 2);
    harness.get(2, 3);
    let blocked = harness.create(1, 4, 3);
    harness.create(2, 5, 1);
    harness.free(1);
    assert!(!harness.created.contains_key(&blocked));
    harness.store.client_gone(client(2));
    harness.settle();
    harness.run_jobs();
    harness.room(blocked);
    assert_eq!(harness.store.slots.len(), 1);
}

#[test]
fn objects_go_with_their_owner_and_their_node() {
    let mut harness = Harness::new(16);
    harness.put(1, 1, 1);
    let first = harness.owner.clone();
    let elsewhere = NodeId::random();
    harness.owner = WorkerAddress {
        node_id: elsewhere,
        worker_id: WorkerId::random(),
        ..first.clone()
    };
    harness.put(1, 2, 1);
    harness.create(1, 3, 1);
    let waiting = harness.get(2, 3);
    harness.store.owner_gone(first.worker_id);
    harness.settle();
    assert!(!harness.store.contains(object(1)) && harness.store.contains(object(2)));
    harness.store.node_gone(elsewhere);
    harness.settle();
    assert_eq!(harness.failure(waiting), ErrorCode::OwnerDied);
    assert_eq!(harness.store.stats().object_count, 0);
    // Its writer does not know yet.
    harness.seal(1, 3);
    assert_eq!(harness.store.stats().used_bytes, 0);
}

#[test]
fn only_the_winners_of_a_feed_stay() {
    let mut harness = Harness::new(16);
    let feed = FeedId::random();
    for number in 1..=4 {
        harness.create_sized(1, number, 100, Some(feed));
    }
    for number in 1..=3 {
        harness.seal(1, number);
    }
    let winners = vec![object(1).to_vec().into(), object(4).to_vec().into()];
    let message = AdoptFeed {
        feed_id: feed.to_vec().into(),
        winners,
        nodes: Vec::new(),
    };
    harness.store.adopt_feed(&message).unwrap();
    harness.settle();
    harness.seal(1, 4);
    harness.create_sized(1, 5, 100, Some(feed));
    harness.seal(1, 5);
    let here: Vec<bool> = (1..=5)
        .map(|number| harness.store.contains(object(number)))
        .collect();
    assert_eq!(here, [true, false, false, true, false]);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    harness.free(1);
    harness.free(4);
    assert!(harness.store.slots.is_empty() && harness.store.feeds.is_empty());
}

#[test]
fn broken_messages_are_refused() {
    let mut harness = Harness::new(4);
    let message = CreateObject {
        object_id: vec![1, 2].into(),
        ..CreateObject::default()
    };
    assert!(harness.store.create(client(1), 1, &message).is_err());
    let message = CreateObject {
        object_id: object(1).to_vec().into(),
        ..CreateObject::default()
    };
    assert!(harness.store.create(client(1), 1, &message).is_err());
    assert!(harness.store.seal(client(1), &SealObject::default()).is_err());
    // Sealing, aborting and releasing what one does not have changes nothing.
    harness.put(1, 1, 1);
    harness.seal(2, 1);
    harness.abort(2, 1);
    harness.release(2, 1);
    assert!(harness.store.contains(object(1)));
}

#[test]
fn ranges_stay_with_a_process_that_lost_its_connection_until_it_ends() {
    let mut harness = Harness::new(4);
    let create = harness.create(1, 1, 1);
    let mut written = harness.room(create);
    harness.put(2, 2, 1);
    let get = harness.get(1, 2);
    let read = harness.bytes(get);
    let queued = harness.create(1, 3, 3);
    let waiting = harness.get(3, 1);
    assert!(harness.store.client_left(client(1)));
    harness.settle();
    assert!(!harness.created.contains_key(&queued));
    assert_eq!(harness.failure(waiting), ErrorCode::ObjectLost);
    harness.free(2);
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    harness.put(2, 4, 1);
    harness.put(2, 5, 1);
    written.as_mut_slice().fill(99);
    for number in [4, 5] {
        let get = harness.get(3, number);
        assert!(
            harness
                .bytes(get)
                .as_slice()
                .iter()
                .all(|byte| *byte == number as u8)
        );
    }
    assert!(read.as_slice().iter().all(|byte| *byte == 2));
    drop((read, written));
    harness.store.client_gone(client(1));
    harness.settle();
    assert_eq!(harness.store.stats().used_bytes, 2 * PAGE_SIZE);
    assert!(
        !harness.store.client_left(client(2)),
        "sealed objects are not its own"
    );
}

#[test]
fn the_next_writer_takes_over_when_the_first_one_lost_its_connection() {
    let mut harness = Harness::new(4);
    let create = harness.create(1, 1, 1);
    let mut written = harness.room(create);
    let waiting = harness.get(3, 1);
    let next = harness.create(2, 1, 1);
    assert!(harness.store.client_left(client(1)));
    harness.settle();
    harness.room(next).as_mut_slice().fill(7);
    written.as_mut_slice().fill(99);
    harness.seal(2, 1);
    assert!(harness.bytes(waiting).as_slice().iter().all(|byte| *byte == 7));
    harness.store.client_gone(client(1));
    harness.settle();
    assert_eq!(harness.store.stats().used_bytes, PAGE_SIZE);
}

#[test]
fn nothing_is_made_for_an_owner_that_died() {
    let mut harness = Harness::new(4);
    let owner = harness.owner.clone();
    let get = harness.get_from(1, 1, &[NodeId::random()]);
    let (ticket, _, _) = harness.pulls.remove(0);
    harness.store.owner_gone(owner.worker_id);
    let create = harness.create(1, 2, 1);
    assert!(matches!(
        harness.created[&create],
        Answer::Failed(ErrorCode::OwnerDied, _)
    ));
    harness.store.pull_room(ticket, PAGE_SIZE, owner);
    harness.settle();
    assert_eq!(harness.refused.pop(), Some((ticket, ErrorCode::OwnerDied)));
    harness.store.pull_failed(ticket, "its owner died");
    harness.settle();
    assert_eq!(harness.failure(get), ErrorCode::ObjectLost);
    harness.owner.worker_id = WorkerId::random();
    harness.store.node_gone(harness.owner.node_id);
    let create = harness.create(1, 3, 1);
    assert!(matches!(
        harness.created[&create],
        Answer::Failed(ErrorCode::OwnerDied, _)
    ));
    assert!(harness.store.slots.is_empty());
}

#[test]
fn a_feed_that_was_settled_elsewhere_is_asked_about_and_its_blocks_go() {
    let mut harness = Harness::new(8);
    let feed = FeedId::random();
    harness.create_sized(1, 1, 100, Some(feed));
    harness.seal(1, 1);
    harness.pass(Duration::from_mins(4));
    harness.create_sized(1, 2, 100, Some(feed));
    harness.pass(Duration::from_mins(4));
    assert!(harness.asked.is_empty(), "a feed that goes on is not asked about");
    harness.seal(1, 2);
    harness.pass(Duration::from_mins(4));
    assert!(harness.asked.is_empty());
    harness.pass(Duration::from_mins(1));
    harness.pass(Duration::from_mins(4));
    assert_eq!(harness.asked, [feed], "once in a while");
    harness.pass(Duration::from_mins(1));
    assert_eq!(harness.asked, [feed, feed], "as long as nobody answers");

    // The raylet of the owner knows the winners.
    let mut elsewhere = Harness::new(8);
    assert_eq!(elsewhere.store.winners_of(feed), None);
    let adopt = AdoptFeed {
        feed_id: feed.to_vec().into(),
        winners: vec![object(2).to_vec().into()],
        nodes: Vec::new(),
    };
    elsewhere.store.adopt_feed(&adopt).unwrap();
    let answer = elsewhere.store.winners_of(feed).unwrap();
    harness.store.adopt_feed(&answer).unwrap();
    harness.settle();
    assert!(harness.store.contains(object(2)) && !harness.store.contains(object(1)));
    harness.pass(Duration::from_mins(10));
    assert_eq!(harness.asked.len(), 2);
}
