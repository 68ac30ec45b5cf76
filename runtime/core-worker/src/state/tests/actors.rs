//! Actors: the order of calls, and their duplicates.

use super::process::Process;
use super::value::Item;
use super::{DRIVER, Simulation};
use crate::dropped::HandleKind;

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

#[test]
fn calls_run_in_order_over_broken_connections() {
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let actor = simulation.create_actor(DRIVER, 0);
        let mut keys = Vec::new();
        for _ in 0..40 {
            let id = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
            keys.push(driver(&mut simulation).fetch(id));
            let steps = simulation.random.below(12);
            simulation.run(steps);
            let breakable = simulation.breakable();
            if !breakable.is_empty() && simulation.random.below(8) == 0 {
                let link = breakable[simulation.random.below(breakable.len())];
                simulation.break_link(link);
            }
        }
        simulation.settle();
        for key in keys {
            assert_eq!(
                simulation.processes[DRIVER].values[&key],
                Ok(vec![Item::Number(7)])
            );
        }
        let order: Vec<u64> = simulation.ran.iter().map(|(_, _, _, number)| *number).collect();
        assert_eq!(order, (0..40).collect::<Vec<u64>>(), "each once, in order");
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn answers_are_kept_only_until_they_are_acknowledged() {
    let mut simulation = Simulation::new(2, 1, 1);
    let actor = simulation.create_actor(DRIVER, 0);
    for _ in 0..300 {
        driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        simulation.run(3);
    }
    simulation.settle();
    let process = simulation.index_of_actor(actor).unwrap();
    let execution = &simulation.processes[process].state.execution;
    assert_eq!(execution.queues().kept_answers(), 0);
    assert_eq!(execution.queues().len(), 1);
    simulation.end_actors();
    simulation.check_nothing_left();
}

#[test]
fn calls_wait_in_order_for_their_arguments_and_over_a_restart() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let actor = simulation.create_actor(DRIVER, 1);
        simulation.settle();
        let slow = driver(&mut simulation).submit("nest", &[Item::Number(0)], &[]);
        let mut keys = Vec::new();
        for index in 0..10 {
            let slots = if index % 3 == 1 { vec![slow] } else { Vec::new() };
            let id = driver(&mut simulation).call_actor(actor, "value", &[], &slots);
            keys.push(driver(&mut simulation).fetch(id));
        }
        let steps = simulation.random.below(60);
        simulation.run(steps);
        let process = simulation.index_of_actor(actor).unwrap();
        simulation.kill(process);
        simulation.settle();
        simulation.check_actor_order();
        let values = &simulation.processes[DRIVER].values;
        assert!(keys.iter().all(|key| values.contains_key(key)));
        // What was not sent runs in the next life.
        let last = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let key = driver(&mut simulation).fetch(last);
        simulation.settle();
        assert_eq!(
            simulation.processes[DRIVER].values[&key],
            Ok(vec![Item::Number(7)])
        );
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn a_late_argument_holds_up_only_its_own_call_when_order_does_not_matter() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let actor = simulation.create_actor(DRIVER, 0);
        driver(&mut simulation).state.call_out_of_order(actor);
        let steps = simulation.random.below(60);
        simulation.run(steps);
        let argument = driver(&mut simulation).promise();
        let late = driver(&mut simulation).call_actor(actor, "value", &[], &[argument]);
        let late = driver(&mut simulation).fetch(late);
        for _ in 0..3 {
            driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        }
        simulation.settle();
        assert!(!simulation.processes[DRIVER].values.contains_key(&late));
        driver(&mut simulation).keep_promise(argument, &[Item::Number(1)]);
        simulation.settle();
        assert_eq!(
            simulation.processes[DRIVER].values[&late],
            Ok(vec![Item::Number(7)])
        );
        let order: Vec<u64> = simulation.ran.iter().map(|(_, _, _, number)| *number).collect();
        assert_eq!(order, [1, 2, 3, 0]);
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn calls_that_wait_for_arguments_end_with_their_actor() {
    let mut simulation = Simulation::new(4, 1, 1);
    let actor = simulation.create_actor(DRIVER, 0);
    driver(&mut simulation).state.call_out_of_order(actor);
    simulation.settle();
    let argument = driver(&mut simulation).promise();
    let late = driver(&mut simulation).call_actor(actor, "value", &[], &[argument]);
    let late = driver(&mut simulation).fetch(late);
    let process = simulation.index_of_actor(actor).unwrap();
    simulation.kill(process);
    simulation.settle();
    let error = simulation.processes[DRIVER].values[&late].clone().unwrap_err();
    assert_eq!(error.actor, Some(actor));
    driver(&mut simulation).keep_promise(argument, &[Item::Number(1)]);
    simulation.settle();
    simulation.end_actors();
    simulation.check_nothing_left();
}

#[test]
fn an_actor_ends_with_its_last_handle_after_its_calls() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let actor = simulation.create_actor(DRIVER, 3);
        let id = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let key = driver(&mut simulation).fetch(id);
        driver(&mut simulation)
            .state
            .drop_actor_handle(actor, HandleKind::Counted);
        simulation.settle();
        assert_eq!(
            simulation.processes[DRIVER].values[&key],
            Ok(vec![Item::Number(7)])
        );
        assert_eq!(simulation.index_of_actor(actor), None);
        assert!(simulation.processes[DRIVER].state.actors.is_empty());
        simulation.check_nothing_left();
    }
}

#[test]
fn an_actor_is_created_when_its_arguments_are_there() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let argument = driver(&mut simulation).submit("nest", &[Item::Number(0)], &[]);
        let actor = simulation.create_actor_with(DRIVER, 0, &[argument]);
        let id = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let key = driver(&mut simulation).fetch(id);
        let failing = driver(&mut simulation).submit("error", &[Item::Number(1)], &[]);
        let dead = simulation.create_actor_with(DRIVER, 0, &[argument, failing]);
        let id = driver(&mut simulation).call_actor(dead, "value", &[], &[]);
        let dead_key = driver(&mut simulation).fetch(id);
        simulation.settle();
        let values = &simulation.processes[DRIVER].values;
        assert_eq!(values[&key], Ok(vec![Item::Number(7)]));
        assert_eq!(values[&dead_key].as_ref().unwrap_err().message, "it raised");
        simulation.end_actors();
        driver(&mut simulation)
            .state
            .drop_actor_handle(dead, HandleKind::Counted);
        simulation.check_nothing_left();
    }
}
