//! References in values: nothing is freed that somebody refers to, and everything that nobody does.

use super::process::Process;
use super::value::{Item, references};
use super::{DRIVER, Simulation};

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

/// The reference in a value that the driver got.
fn only_reference(simulation: &Simulation, key: u64) -> Item {
    let items = simulation.processes[DRIVER].values[&key].clone().unwrap();
    let (id, owner) = references(&items)[0].clone();
    Item::Reference(id, owner)
}

#[test]
fn a_reference_goes_through_three_processes_and_is_freed_with_the_last() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, 2, 2);
        // The driver's object goes to an actor, from there to a task, and from there into an object that the task owns.
        let object = driver(&mut simulation).put(&[Item::Number(5)]);
        let keeper = simulation.create_actor(DRIVER, 0);
        let item = simulation.item(DRIVER, object);
        driver(&mut simulation).call_actor(keeper, "keep", std::slice::from_ref(&item), &[]);
        let deep = driver(&mut simulation).submit("deep", &[Item::Number(0), item], &[]);
        let key = driver(&mut simulation).fetch(deep);
        simulation.settle_checked();
        let made = only_reference(&simulation, key);
        // The driver keeps only what the task made.
        let process = driver(&mut simulation);
        process.references.retain(|(id, _)| {
            let keep = matches!(&made, Item::Reference(other, _) if other == id);
            if !keep {
                process.state.drop_ref(*id);
            }
            keep
        });
        simulation.settle_checked();
        assert!(simulation.processes[DRIVER].state.objects().contains(&object));
        // The actor lets go, then the driver.
        driver(&mut simulation).call_actor(keeper, "clear", &[], &[]);
        simulation.settle_checked();
        assert!(
            simulation.processes[DRIVER].state.objects().contains(&object),
            "the task's object refers to it"
        );
        driver(&mut simulation).drop_all();
        simulation.settle_checked();
        assert!(!simulation.processes[DRIVER].state.objects().contains(&object));
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn references_in_results_stay_until_the_caller_has_taken_them_over() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let put = driver(&mut simulation).submit("put", &[Item::Number(0)], &[]);
        let passed = driver(&mut simulation).submit("pass", &[Item::Number(1)], &[put]);
        let key = driver(&mut simulation).fetch(passed);
        simulation.settle_checked();
        let (inner, _) = references(&[only_reference(&simulation, key)])[0].clone();
        let inner_key = driver(&mut simulation).fetch(inner);
        simulation.settle_checked();
        assert_eq!(
            simulation.processes[DRIVER].values[&inner_key],
            Ok(vec![Item::Number(1)])
        );
        driver(&mut simulation).drop_all();
        simulation.settle_checked();
        simulation.check_nothing_left();
    }
}

#[test]
fn a_reference_put_into_an_object_keeps_the_inner_one() {
    let mut simulation = Simulation::new(0, 1, 1);
    let inner = driver(&mut simulation).put(&[Item::Number(1)]);
    let item = simulation.item(DRIVER, inner);
    let outer = driver(&mut simulation).put(&[item]);
    let process = driver(&mut simulation);
    let index = process
        .references
        .iter()
        .position(|(id, _)| *id == inner)
        .unwrap();
    process.drop_reference(index);
    simulation.settle_checked();
    assert_eq!(simulation.processes[DRIVER].state.objects().refs(&inner), 1);
    let process = driver(&mut simulation);
    assert_eq!(process.references[0].0, outer);
    process.drop_reference(0);
    simulation.settle_checked();
    simulation.check_nothing_left();
}

#[test]
fn a_borrower_keeps_an_object_over_a_broken_connection() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, 2, 2);
        let object = driver(&mut simulation).put(&[Item::Number(5)]);
        let keeper = simulation.create_actor(DRIVER, 0);
        let item = simulation.item(DRIVER, object);
        driver(&mut simulation).call_actor(keeper, "keep", &[item], &[]);
        simulation.settle_checked();
        driver(&mut simulation).drop_all();
        for link in simulation.breakable() {
            simulation.break_link(link);
        }
        simulation.settle_checked();
        assert!(simulation.processes[DRIVER].state.objects().contains(&object));
        // It is still lent, and given back.
        let given = driver(&mut simulation).call_actor(keeper, "give", &[], &[]);
        let key = driver(&mut simulation).fetch(given);
        simulation.settle_checked();
        assert!(matches!(only_reference(&simulation, key), Item::Reference(id, _) if id == object));
        driver(&mut simulation).call_actor(keeper, "clear", &[], &[]);
        driver(&mut simulation).drop_all();
        simulation.settle_checked();
        assert!(!simulation.processes[DRIVER].state.objects().contains(&object));
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn a_dead_borrower_borrows_nothing() {
    let mut simulation = Simulation::new(4, 1, 1);
    let object = driver(&mut simulation).put(&[Item::Number(5)]);
    let keeper = simulation.create_actor(DRIVER, 0);
    let item = simulation.item(DRIVER, object);
    driver(&mut simulation).call_actor(keeper, "keep", &[item], &[]);
    simulation.settle_checked();
    assert_eq!(
        simulation.processes[DRIVER].state.objects().borrowers_of(&object),
        1
    );
    let process = simulation.index_of_actor(keeper).unwrap();
    simulation.kill(process);
    driver(&mut simulation).drop_all();
    simulation.settle_checked();
    simulation.end_actors();
    simulation.check_nothing_left();
}
