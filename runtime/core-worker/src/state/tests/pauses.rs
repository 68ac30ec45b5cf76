//! Pauses of the network: connections break, and nobody dies.

use sparkray_common::{ActorId, ErrorCode};
use sparkray_proto::{self as proto, FrameKind};

use super::process::Process;
use super::value::{Item, references};
use super::{DRIVER, Simulation};

const SECOND: u64 = 1_000_000;

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

/// A driver on the first of two nodes and an actor on the second.
fn two_nodes(seed: u64) -> (Simulation, ActorId) {
    for attempt in 0.. {
        let mut simulation = Simulation::new(1 + seed * 100 + attempt, 2, 2);
        let actor = simulation.create_actor(DRIVER, 0);
        simulation.settle();
        let process = simulation.index_of_actor(actor).unwrap();
        if simulation.processes[process].node == 1 {
            return (simulation, actor);
        }
    }
    unreachable!("one of two nodes is the second in the long run");
}

#[test]
fn a_pause_frees_nothing_that_is_borrowed_on_either_side() {
    for seed in 0..30 {
        let (mut simulation, actor) = two_nodes(seed);
        // The actor borrows from the driver, and the driver from the actor.
        let lent = driver(&mut simulation).put(&[Item::Number(5)]);
        let item = simulation.item(DRIVER, lent);
        driver(&mut simulation).call_actor(actor, "keep", &[item], &[]);
        let made = driver(&mut simulation).call_actor(actor, "deep", &[], &[]);
        let key = driver(&mut simulation).fetch(made);
        simulation.settle_checked();
        let (borrowed, _) =
            references(&simulation.processes[DRIVER].values[&key].clone().unwrap())[0].clone();
        // Only the actor has the driver's object.
        let process = driver(&mut simulation);
        let index = process.references.iter().position(|(id, _)| *id == lent).unwrap();
        process.drop_reference(index);
        simulation.settle_checked();

        simulation.cut();
        let early = driver(&mut simulation).fetch(borrowed);
        simulation.run(5);
        if seed % 2 == 0 {
            simulation.notice_all();
        } else {
            simulation.notice(seed as usize);
        }
        let call = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let called = driver(&mut simulation).fetch(call);
        simulation.pass(30 * SECOND);
        simulation.check_references();
        simulation.heal();
        simulation.settle_checked();

        let values = &simulation.processes[DRIVER].values;
        assert!(values[&early].is_ok(), "seed {seed}: {:?}", values[&early]);
        assert_eq!(values[&called], Ok(vec![Item::Number(7)]), "seed {seed}");
        let late = driver(&mut simulation).fetch(borrowed);
        let given = driver(&mut simulation).call_actor(actor, "give", &[], &[]);
        let given = driver(&mut simulation).fetch(given);
        simulation.settle_checked();
        let values = &simulation.processes[DRIVER].values;
        assert!(values[&late].is_ok());
        let given = references(&values[&given].clone().unwrap());
        assert!(given.iter().any(|(id, _)| *id == lent), "seed {seed}");
        driver(&mut simulation).call_actor(actor, "clear", &[], &[]);
        driver(&mut simulation).drop_all();
        simulation.settle_checked();
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn what_was_dropped_during_a_pause_is_freed_after_it() {
    for seed in 0..30 {
        let (mut simulation, actor) = two_nodes(seed);
        let lent = driver(&mut simulation).put(&[Item::Number(5)]);
        let item = simulation.item(DRIVER, lent);
        driver(&mut simulation).call_actor(actor, "keep", &[item], &[]);
        let made = driver(&mut simulation).call_actor(actor, "put", &[], &[]);
        driver(&mut simulation).fetch(made);
        simulation.settle_checked();
        simulation.cut();
        simulation.notice_all();
        driver(&mut simulation).drop_all();
        let process = simulation.index_of_actor(actor).unwrap();
        simulation.processes[process].drop_all();
        simulation.pass(30 * SECOND);
        simulation.heal();
        simulation.settle_checked();
        for process in [DRIVER, process] {
            let objects = simulation.processes[process].state.objects();
            let kept: Vec<_> = objects.ids().collect();
            assert!(kept.is_empty(), "seed {seed}: process {process} keeps {kept:?}");
        }
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn a_registration_that_arrives_after_later_ones_is_taken_back() {
    for seed in 0..30 {
        let (mut simulation, actor) = two_nodes(seed);
        let lent = driver(&mut simulation).put(&[Item::Number(5)]);
        let item = simulation.item(DRIVER, lent);
        driver(&mut simulation).call_actor(actor, "keep", &[item], &[]);
        simulation.settle_checked();
        simulation.cut();
        simulation.notice_all();
        simulation.pass(SECOND / 20);
        simulation.heal();
        // Both call at the same time: there are two connections, and what the borrower sent over its own is slow.
        simulation.tick(SECOND / 10);
        simulation.hold_newest_link(true);
        simulation.pass(SECOND / 20);
        // It has registered over the other one, and lets go of everything.
        let process = simulation.index_of_actor(actor).unwrap();
        simulation.processes[process].drop_all();
        simulation.pass(SECOND / 20);
        simulation.hold_newest_link(false);
        simulation.settle_checked();
        let objects = simulation.processes[DRIVER].state.objects();
        assert_eq!(objects.borrower_count(), 0, "seed {seed}: {objects:?}");
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn the_verdict_ends_what_a_pause_only_delays() {
    let (mut simulation, actor) = two_nodes(3);
    let made = driver(&mut simulation).call_actor(actor, "put", &[], &[]);
    let key = driver(&mut simulation).fetch(made);
    simulation.settle_checked();
    let (borrowed, _) = references(&simulation.processes[DRIVER].values[&key].clone().unwrap())[0].clone();
    simulation.cut();
    simulation.notice_all();
    let waits = driver(&mut simulation).fetch(borrowed);
    simulation.pass(300 * SECOND);
    assert!(!simulation.processes[DRIVER].values.contains_key(&waits));
    let died = proto::NodeDied {
        node_id: simulation.nodes[1].to_vec().into(),
        cause: "it was silent".to_owned(),
    };
    simulation.broadcast(FrameKind::NodeDied, &died);
    simulation.pass(SECOND);
    let error = simulation.processes[DRIVER].values[&waits].clone().unwrap_err();
    assert_eq!(error.code, ErrorCode::OwnerDied);
}

#[test]
fn without_a_head_a_lost_connection_is_a_verdict() {
    for head_first in [false, true] {
        let (mut simulation, actor) = two_nodes(4);
        let made = driver(&mut simulation).call_actor(actor, "put", &[], &[]);
        let key = driver(&mut simulation).fetch(made);
        simulation.settle_checked();
        let (borrowed, _) =
            references(&simulation.processes[DRIVER].values[&key].clone().unwrap())[0].clone();
        simulation.cut();
        let call = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let keys = [
            driver(&mut simulation).fetch(borrowed),
            driver(&mut simulation).fetch(call),
        ];
        let lost = proto::HeadLost {
            cause: "its host vanished".to_owned(),
        };
        if head_first {
            simulation.broadcast(FrameKind::HeadLost, &lost);
            simulation.pass(SECOND);
            simulation.notice_all();
        } else {
            simulation.notice_all();
            simulation.pass(5 * SECOND);
            simulation.broadcast(FrameKind::HeadLost, &lost);
        }
        simulation.pass(3 * SECOND);
        for key in keys {
            let value = simulation.processes[DRIVER].values.get(&key);
            assert!(
                matches!(value, Some(Err(_))),
                "head first: {head_first}: {value:?}"
            );
        }
    }
}

#[test]
fn functions_that_run_during_a_pause_run_once_and_their_results_arrive() {
    let mut across = 0;
    for seed in 1..60 {
        let mut simulation = Simulation::new(seed, 2, 1);
        // Short ones first, so that several are pushed ahead.
        for index in 0..6 {
            driver(&mut simulation).submit("value", &[Item::Number(index)], &[]);
        }
        simulation.settle();
        let keys: Vec<u64> = (10..30)
            .map(|index| {
                let id = driver(&mut simulation).submit_once("value", &[Item::Number(index)]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        let steps = simulation.random.below(60);
        simulation.run(steps);
        simulation.cut();
        for index in 0..3 {
            simulation.notice(index);
            simulation.run(5);
        }
        simulation.pass(30 * SECOND);
        simulation.heal();
        simulation.settle();
        for key in keys {
            assert_eq!(
                simulation.processes[DRIVER].values[&key],
                Ok(vec![Item::Number(7)]),
                "seed {seed}"
            );
        }
        assert!(simulation.runs.values().all(|runs| *runs == 1), "seed {seed}");
        across += (1..simulation.processes.len())
            .filter(|index| simulation.processes[*index].node == 1)
            .count();
        driver(&mut simulation).drop_all();
        simulation.settle();
        simulation.check_nothing_left();
    }
    assert!(across > 0, "nothing ran on the second node");
}

#[test]
fn functions_whose_worker_is_found_dead_after_a_pause_are_not_run_again() {
    let mut killed = 0;
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, 2, 2);
        let keys: Vec<u64> = (0..20)
            .map(|index| {
                let id = driver(&mut simulation).submit_once("value", &[Item::Number(index)]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        let steps = simulation.random.below(120);
        simulation.run(steps);
        simulation.cut();
        simulation.notice_all();
        simulation.run(10);
        for index in 1..simulation.processes.len() {
            if simulation.processes[index].node == 1 && simulation.processes[index].alive {
                simulation.vanish(index);
                killed += 1;
            }
        }
        simulation.pass(SECOND);
        simulation.heal();
        simulation.settle();
        for key in keys {
            assert!(
                simulation.processes[DRIVER].values.contains_key(&key),
                "seed {seed}"
            );
        }
        assert!(simulation.runs.values().all(|runs| *runs <= 1), "seed {seed}");
    }
    assert!(killed > 0, "nothing ran on the second node");
}

#[test]
fn leases_outlast_connections_to_their_raylets_that_break_and_none_is_left() {
    let mut broken = 0;
    for seed in 1..200 {
        let mut simulation = Simulation::new(seed, 2, 1);
        for index in 0..6 {
            driver(&mut simulation).submit("value", &[Item::Number(index)], &[]);
        }
        let keys: Vec<u64> = (10..30)
            .map(|index| {
                let id = driver(&mut simulation).submit_once("value", &[Item::Number(index)]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        // Requests, grants and returns are on the way.
        for _ in 0..4 {
            let steps = simulation.random.below(60);
            simulation.run(steps);
            for link in simulation.links_to_other_raylets() {
                simulation.break_link(link);
                broken += 1;
            }
        }
        simulation.settle();
        for key in keys {
            let value = &simulation.processes[DRIVER].values[&key];
            assert_eq!(*value, Ok(vec![Item::Number(7)]), "seed {seed}");
        }
        assert!(simulation.runs.values().all(|runs| *runs == 1), "seed {seed}");
        driver(&mut simulation).drop_all();
        simulation.settle();
        simulation.check_nothing_left();
    }
    assert!(broken > 200, "{broken}");
}

#[test]
fn an_owner_that_dies_without_a_connection_leaves_no_lease() {
    let mut left = 0;
    for seed in 1..60 {
        let mut simulation = Simulation::new(seed, 2, 1);
        for index in 0..8 {
            driver(&mut simulation).submit("value", &[Item::Number(index)], &[]);
        }
        let steps = simulation.random.below(120);
        simulation.run(steps);
        for link in simulation.links_to_other_raylets() {
            simulation.break_link(link);
        }
        left += simulation.raylets[1].leases.len();
        simulation.kill(DRIVER);
        simulation.settle();
        assert!(simulation.raylets[1].is_quiet(), "seed {seed}");
    }
    assert!(left > 0, "no lease of the second node was held");
}

#[test]
fn without_a_head_requests_to_a_node_that_is_lost_end() {
    // More functions than the first node can run: some ask the second one, whose raylet is lost.
    let mut simulation = Simulation::new(5, 2, 1);
    let keys: Vec<u64> = (0..6)
        .map(|index| {
            let id = driver(&mut simulation).submit("value", &[Item::Number(index)], &[]);
            driver(&mut simulation).fetch(id)
        })
        .collect();
    let lost = proto::HeadLost {
        cause: "its host vanished".to_owned(),
    };
    driver(&mut simulation).state.on_head_lost(lost.cause);
    let lease = driver(&mut simulation).state.leases.any_request().unwrap();
    let state = &mut driver(&mut simulation).state;
    state.leases.request_lost(&mut state.base, lease);
    simulation.settle();
    let values = &simulation.processes[DRIVER].values;
    let errors: Vec<_> = keys.iter().filter_map(|key| values[key].as_ref().err()).collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|error| error.code == ErrorCode::Unavailable));
    assert!(errors[0].message.contains("its host vanished"));
}
