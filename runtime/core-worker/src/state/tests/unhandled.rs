//! Errors of tasks that nobody asked for.

use super::value::Item;
use super::{DRIVER, Simulation};
use crate::state::{Cancellation, UnhandledErrors};

const SECOND: u64 = 1_000_000;

fn simulation_that_tells(told: UnhandledErrors) -> Simulation {
    let mut simulation = Simulation::new(1, 1, 2);
    simulation.processes[DRIVER].state.report_unhandled(told);
    simulation
}

/// What the driver was told of so far.
fn told(simulation: &Simulation) -> u32 {
    simulation.processes[DRIVER].unhandled_errors
}

fn fail(simulation: &mut Simulation) {
    simulation.processes[DRIVER].submit("raise", &[Item::Number(0)], &[]);
}

#[test]
fn a_kept_error_is_told_once_to_an_interactive_driver_after_a_while() {
    let mut simulation = simulation_that_tells(UnhandledErrors::Kept);
    fail(&mut simulation);
    simulation.pass(4 * SECOND);
    assert_eq!(told(&simulation), 0, "somebody may still ask");
    simulation.pass(2 * SECOND);
    assert_eq!(told(&simulation), 1);
    simulation.processes[DRIVER].drop_all();
    simulation.settle();
    assert_eq!(told(&simulation), 1, "once");
}

#[test]
fn a_kept_error_that_somebody_asked_for_is_not_told() {
    let mut simulation = simulation_that_tells(UnhandledErrors::Kept);
    let failing = simulation.processes[DRIVER].submit("raise", &[Item::Number(0)], &[]);
    simulation.pass(SECOND);
    simulation.processes[DRIVER].fetch(failing);
    simulation.pass(10 * SECOND);
    simulation.processes[DRIVER].drop_all();
    simulation.settle();
    assert_eq!(told(&simulation), 0);
}

#[test]
fn other_drivers_are_told_when_the_last_reference_goes() {
    for (kind, expected) in [(UnhandledErrors::Forgotten, 1), (UnhandledErrors::None, 0)] {
        let mut simulation = simulation_that_tells(kind);
        fail(&mut simulation);
        simulation.pass(10 * SECOND);
        assert_eq!(told(&simulation), 0, "it is kept");
        simulation.processes[DRIVER].drop_all();
        simulation.settle();
        assert_eq!(told(&simulation), expected);
    }
}

#[test]
fn whoever_cancels_a_call_is_not_told_of_its_error() {
    let mut unfinished = 0;
    for steps in 0..40 {
        let mut simulation = simulation_that_tells(UnhandledErrors::Forgotten);
        let failing = simulation.processes[DRIVER].submit("raise", &[Item::Number(0)], &[]);
        simulation.run(steps);
        let is_over = simulation.processes[DRIVER].state.unfinished_tasks() == 0;
        simulation.cancel(failing, Cancellation::default());
        if steps % 2 == 0 {
            simulation.settle();
        }
        simulation.processes[DRIVER].drop_all();
        simulation.settle();
        assert_eq!(told(&simulation), u32::from(is_over), "{steps} steps");
        unfinished += usize::from(!is_over);
    }
    assert!(
        (5..35).contains(&unfinished),
        "{unfinished} of 40 calls were not over"
    );
}
