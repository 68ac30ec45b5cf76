//! Functions: leases, spilling, giving back, retries.

use super::super::Begun;
use super::process::Process;
use super::value::Item;
use super::{DRIVER, Simulation};

fn number(value: u64) -> Vec<Item> {
    vec![Item::Number(value)]
}

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

#[test]
fn many_calls_run_once_each_and_leave_nothing_behind() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let mut keys = Vec::new();
        for index in 0..60 {
            let id = driver(&mut simulation).submit("value", &number(index), &[]);
            keys.push(driver(&mut simulation).fetch(id));
            let steps = simulation.random.below(20);
            simulation.run(steps);
        }
        simulation.settle();
        for key in keys {
            assert_eq!(simulation.processes[DRIVER].values[&key], Ok(number(7)));
        }
        assert_eq!(simulation.runs.len(), 60);
        assert!(simulation.runs.values().all(|count| *count == 1));
        // Two CPUs: two workers.
        assert_eq!(simulation.processes.len(), 3);
        simulation.check_nothing_left();
    }
}

#[test]
fn arguments_are_waited_for_and_errors_are_passed_on() {
    let mut simulation = Simulation::new(1, 1, 2);
    let first = driver(&mut simulation).submit("value", &number(0), &[]);
    let failing = driver(&mut simulation).submit("error", &number(1), &[]);
    let second = driver(&mut simulation).submit("value", &number(2), &[first]);
    let third = driver(&mut simulation).submit("value", &number(3), &[second, failing]);
    let keys = [second, third].map(|id| driver(&mut simulation).fetch(id));
    simulation.settle();
    let values = &simulation.processes[DRIVER].values;
    assert_eq!(values[&keys[0]], Ok(number(7)));
    assert_eq!(values[&keys[1]].as_ref().unwrap_err().message, "it raised");
    assert!(
        !simulation.runs.contains_key(&3),
        "it has no argument to run with"
    );
    simulation.check_nothing_left();
}

#[test]
fn the_first_failure_ends_a_fetch_of_several() {
    let mut simulation = Simulation::new(1, 1, 1);
    let never = driver(&mut simulation).promise();
    let failing = driver(&mut simulation).submit("error", &number(0), &[]);
    let there = driver(&mut simulation).put(&number(1));
    let ids = [there, never, failing];
    let begun = driver(&mut simulation).state.fetch(&ids, true);
    let Begun::Waiting(wait) = begun else {
        panic!("nothing has failed yet");
    };
    assert!(driver(&mut simulation).state.take_values(wait).is_none());
    simulation.settle();
    let values = driver(&mut simulation).state.take_values(wait).unwrap();
    assert_eq!(values.len(), 2);
    assert!(values[0].is_ok());
    assert!(values[1].is_err());
    // Now it is known from the start; and who wants all values waits for all.
    assert!(matches!(
        driver(&mut simulation).state.fetch(&ids, true),
        Begun::Done(_)
    ));
    let Begun::Waiting(all) = driver(&mut simulation).state.fetch(&ids, false) else {
        panic!("one is missing");
    };
    simulation.settle();
    assert!(driver(&mut simulation).state.take_values(all).is_none());
    driver(&mut simulation).keep_promise(never, &number(2));
    simulation.settle();
    assert_eq!(driver(&mut simulation).state.take_values(all).unwrap().len(), 3);
    simulation.check_nothing_left();
}

#[test]
fn a_full_node_passes_requests_on_and_stored_results_are_read_across() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 2, 1);
        let keys: Vec<u64> = (0..8)
            .map(|index| {
                let id = driver(&mut simulation).submit("big", &number(index), &[]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        simulation.settle();
        for key in keys {
            assert_eq!(simulation.processes[DRIVER].values[&key], Ok(number(7)));
        }
        simulation.check_nothing_left();
        assert!(simulation.stored.is_empty());
    }
}

#[test]
fn a_task_that_waits_for_another_one_does_not_hold_it_up() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed, 1, 1);
        // Short ones first, so that others are pushed ahead.
        for index in 0..10 {
            driver(&mut simulation).submit("value", &number(index), &[]);
        }
        simulation.run(60);
        let keys: Vec<u64> = (10..20)
            .map(|index| {
                let id = driver(&mut simulation).submit("nest", &number(index), &[]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        simulation.settle();
        for key in keys {
            assert_eq!(simulation.processes[DRIVER].values[&key], Ok(number(7)));
        }
        simulation.check_nothing_left();
    }
}

#[test]
fn only_the_task_that_ran_counts_an_attempt() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed, 1, 1);
        for index in 0..4 {
            driver(&mut simulation).submit("value", &number(index), &[]);
        }
        simulation.settle();
        // They are short now: several are pushed ahead to one worker, which dies. Each may be tried once only.
        let keys: Vec<u64> = (10..20)
            .map(|index| {
                let id = driver(&mut simulation).submit_once("value", &number(index));
                driver(&mut simulation).fetch(id)
            })
            .collect();
        let steps = 10 + simulation.random.below(30);
        simulation.run(steps);
        let worker = (1..simulation.processes.len())
            .find(|index| simulation.processes[*index].alive)
            .unwrap();
        simulation.kill(worker);
        simulation.settle();
        let failed = keys
            .iter()
            .filter(|key| simulation.processes[DRIVER].values[*key].is_err())
            .count();
        assert!(failed <= 1, "{failed} of ten tasks count as tried");
        simulation.check_nothing_left();
    }
}

#[test]
fn a_lease_that_others_wait_for_goes_back() {
    let mut simulation = Simulation::new(3, 1, 1);
    for index in 0..40 {
        driver(&mut simulation).submit("value", &number(index), &[]);
    }
    simulation.run(30);
    let lease = *simulation.raylets[0].leases.keys().next().unwrap();
    simulation.now += 200_000;
    simulation.want_all_leases();
    let mut steps = 0;
    while simulation.raylets[0].leases.contains_key(&lease) {
        assert!(simulation.step());
        steps += 1;
    }
    assert!(steps < 400, "it was given back after the queue was empty");
    simulation.settle();
    assert_eq!(simulation.runs.len(), 40);
    simulation.check_nothing_left();
}

#[test]
fn an_error_goes_through_a_long_chain_of_calls() {
    let mut simulation = Simulation::new(1, 1, 1);
    let mut last = driver(&mut simulation).submit("error", &number(0), &[]);
    for index in 1..20_000 {
        last = driver(&mut simulation).submit("value", &number(index), &[last]);
    }
    let key = driver(&mut simulation).fetch(last);
    simulation.settle();
    let error = simulation.processes[DRIVER].values[&key].clone().unwrap_err();
    assert_eq!(error.message, "it raised");
    assert_eq!(simulation.runs.len(), 1);
    simulation.check_nothing_left();
}
