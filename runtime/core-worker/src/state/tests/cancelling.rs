//! Calls that are cancelled, wherever they are: each ends once, with its value or as cancelled, and leaves nothing.

use sparkray_common::{ErrorCode, ObjectId};

use super::process::Process;
use super::value::{Item, references};
use super::{DRIVER, Simulation};
use crate::error::CoreError;
use crate::state::{Cancellation, SlotResult};

const GENTLE: Cancellation = Cancellation {
    force: false,
    recursive: false,
};
const FORCED: Cancellation = Cancellation {
    force: true,
    recursive: false,
};
const RECURSIVE: Cancellation = Cancellation {
    force: false,
    recursive: true,
};

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

fn submit(simulation: &mut Simulation, name: &'static str, number: u64) -> ObjectId {
    driver(simulation).submit(name, &[Item::Number(number)], &[])
}

impl Simulation {
    /// The driver's user cancels, and does not look at what the owner answers.
    pub(super) fn cancel(&mut self, id: ObjectId, how: Cancellation) {
        let state = &mut self.processes[DRIVER].state;
        if let Ok(Some(slot)) = state.cancel(id, how) {
            state.forget_slot(slot);
        }
    }

    fn outcome(&mut self, id: ObjectId) -> Result<Vec<Item>, CoreError> {
        let key = self.processes[DRIVER].fetch(id);
        self.settle();
        self.processes[DRIVER].values[&key].clone()
    }

    fn assert_cancelled(&mut self, id: ObjectId) {
        let error = self.outcome(id).unwrap_err();
        assert_eq!(
            (error.code, error.task),
            (ErrorCode::Cancelled, Some(id.task_id())),
            "{error}"
        );
    }

    fn assert_value(&mut self, id: ObjectId) {
        assert_eq!(self.outcome(id), Ok(vec![Item::Number(7)]));
    }
}

#[test]
fn what_waits_for_its_arguments_never_runs_and_nor_does_what_waits_for_it() {
    let mut simulation = Simulation::new(1, 1, 1);
    let argument = driver(&mut simulation).promise();
    let late = driver(&mut simulation).submit("value", &[Item::Number(0)], &[argument]);
    let later = driver(&mut simulation).submit("value", &[Item::Number(1)], &[late]);
    simulation.run(20);
    simulation.cancel(late, GENTLE);
    simulation.assert_cancelled(late);
    let error = simulation.outcome(later).unwrap_err();
    assert_eq!(
        (error.code, error.task),
        (ErrorCode::Cancelled, Some(late.task_id()))
    );
    driver(&mut simulation).keep_promise(argument, &[Item::Number(1)]);
    simulation.settle();
    assert!(simulation.runs.is_empty());
    simulation.check_nothing_left();
}

#[test]
fn what_is_queued_never_runs_and_its_lease_is_asked_for_no_more() {
    let mut simulation = Simulation::new(2, 1, 1);
    let hanging = submit(&mut simulation, "hang", 0);
    simulation.settle();
    let queued: Vec<ObjectId> = (1..40)
        .map(|number| submit(&mut simulation, "value", number))
        .collect();
    simulation.settle();
    for id in &queued[1..] {
        simulation.cancel(*id, FORCED);
        simulation.carry_out();
    }
    for id in &queued[1..] {
        simulation.assert_cancelled(*id);
    }
    assert!(driver(&mut simulation).state.leases.any_request().is_some());
    simulation.cancel(queued[0], GENTLE);
    assert_eq!(driver(&mut simulation).state.leases.any_request(), None);
    simulation.cancel(hanging, GENTLE);
    simulation.assert_cancelled(hanging);
    assert_eq!(simulation.runs.keys().copied().collect::<Vec<u64>>(), [0]);
    simulation.check_nothing_left();
}

#[test]
fn what_runs_is_interrupted_and_its_worker_goes_on() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let hanging = submit(&mut simulation, "hang", 0);
        simulation.settle();
        let next = submit(&mut simulation, "value", 1);
        simulation.cancel(hanging, GENTLE);
        simulation.assert_cancelled(hanging);
        simulation.assert_value(next);
        assert_eq!(simulation.processes.len(), 2, "the same worker");
        // It is over: nothing changes.
        simulation.cancel(next, FORCED);
        simulation.cancel(hanging, FORCED);
        simulation.assert_value(next);
        simulation.check_nothing_left();
    }
}

#[test]
fn a_forced_end_takes_the_worker_and_is_not_tried_again() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 1);
        // Short ones first, so that others are pushed ahead.
        for number in 0..10 {
            submit(&mut simulation, "value", number);
        }
        simulation.settle();
        let hanging = submit(&mut simulation, "hang", 20);
        let behind: Vec<ObjectId> = (30..36)
            .map(|number| submit(&mut simulation, "value", number))
            .collect();
        let steps = simulation.random.below(60);
        simulation.run(steps);
        simulation.cancel(hanging, FORCED);
        simulation.assert_cancelled(hanging);
        for id in behind {
            simulation.assert_value(id);
        }
        assert!(
            simulation.runs.values().all(|runs| *runs == 1),
            "{:?}",
            simulation.runs
        );
        simulation.check_nothing_left();
    }
}

#[test]
fn whenever_it_comes_a_call_ends_once_and_no_other_one_is_touched() {
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed, 2, 1);
        let how = Cancellation {
            force: seed % 3 == 0,
            recursive: seed % 2 == 0,
        };
        let names = ["value", "big", "nest"];
        let ids: Vec<ObjectId> = (0..30)
            .map(|number| {
                let id = submit(&mut simulation, names[number as usize % names.len()], number);
                simulation.run(3);
                id
            })
            .collect();
        let steps = simulation.random.below(250);
        simulation.run(steps);
        let cancelled = ids[simulation.random.below(ids.len())];
        simulation.cancel(cancelled, how);
        for id in &ids {
            match simulation.outcome(*id) {
                Ok(items) => assert_eq!(items, [Item::Number(7)]),
                Err(error) => assert_eq!(
                    (*id, error.code),
                    (cancelled, ErrorCode::Cancelled),
                    "seed {seed}"
                ),
            }
        }
        let twice = simulation
            .runs
            .iter()
            .find(|(number, runs)| **number != u64::MAX && **runs > 1);
        assert_eq!(twice, None, "seed {seed}");
        simulation.check_nothing_left();
    }
}

#[test]
fn what_a_call_has_called_ends_with_it_when_that_is_wanted() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let parent = submit(&mut simulation, "nest_hang", 0);
        simulation.settle();
        assert_eq!(simulation.runs.len(), 2, "both run");
        simulation.cancel(parent, RECURSIVE);
        simulation.assert_cancelled(parent);
        // Its worker and the child's are free.
        for number in 1..5 {
            let id = submit(&mut simulation, "value", number);
            simulation.assert_value(id);
        }
        simulation.check_nothing_left();
    }
}

#[test]
fn a_borrower_has_the_owner_cancel() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 2, 2);
        let lent = submit(&mut simulation, "lend", 0);
        let (inner, _) = references(&simulation.outcome(lent).unwrap())[0].clone();
        let slot = driver(&mut simulation)
            .state
            .cancel(inner, GENTLE)
            .unwrap()
            .unwrap();
        let error = simulation.outcome(inner).unwrap_err();
        assert_eq!(error.code, ErrorCode::Cancelled);
        let answer = driver(&mut simulation).state.take_slot(slot);
        assert!(matches!(answer, Some(SlotResult::Done)), "{answer:?}");
        simulation.check_nothing_left();
    }
}

#[test]
fn calls_of_an_actor_end_before_they_run_and_not_while_they_do() {
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let actor = simulation.create_actor(DRIVER, 0);
        let ids: Vec<ObjectId> = (0..12)
            .map(|_| driver(&mut simulation).call_actor(actor, "value", &[], &[]))
            .collect();
        // Before the actor lives, while calls are on the way, and when all have run.
        let steps = simulation.random.below(80);
        simulation.run(steps);
        let cancelled = [ids[2], ids[3], ids[9]];
        for id in cancelled {
            assert!(
                driver(&mut simulation).state.cancel(id, FORCED).is_err() || simulation.outcome(id).is_ok()
            );
            simulation.cancel(id, GENTLE);
        }
        for (number, id) in ids.iter().enumerate() {
            let outcome = simulation.outcome(*id);
            let ran = simulation.ran.iter().any(|(_, _, _, ran)| *ran == number as u64);
            assert_eq!(outcome.is_ok(), ran, "seed {seed}: {outcome:?}");
            assert!(
                ran || cancelled.contains(id),
                "seed {seed}: call {number} did not run"
            );
        }
        simulation.check_actor_order();
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn an_actor_ends_when_its_last_calls_are_cancelled() {
    let mut simulation = Simulation::new(3, 1, 1);
    let actor = simulation.create_actor(DRIVER, 0);
    driver(&mut simulation).state.call_out_of_order(actor);
    simulation.settle();
    let argument = driver(&mut simulation).promise();
    let late = driver(&mut simulation).call_actor(actor, "value", &[], &[argument]);
    simulation.settle();
    driver(&mut simulation)
        .state
        .drop_actor_handle(actor, crate::dropped::HandleKind::Counted);
    simulation.settle();
    assert!(simulation.index_of_actor(actor).is_some(), "a call waits for it");
    simulation.cancel(late, GENTLE);
    simulation.assert_cancelled(late);
    assert_eq!(simulation.index_of_actor(actor), None);
    simulation.check_nothing_left();
}

#[test]
fn a_worker_that_cannot_be_reached_hears_of_it_when_it_can() {
    for seed in 0..30 {
        // All of the driver's node is in use.
        let mut simulation = Simulation::new(seed, 2, 1);
        let ids = [0, 1].map(|number| submit(&mut simulation, "hang", number));
        simulation.settle();
        simulation.cut();
        for id in ids {
            simulation.cancel(id, GENTLE);
        }
        simulation.run(20);
        simulation.notice_all();
        simulation.pass(500_000);
        simulation.heal();
        for id in ids {
            simulation.assert_cancelled(id);
        }
        assert!(simulation.runs.values().all(|runs| *runs == 1));
        simulation.check_nothing_left();
    }
}
