//! Random programs under random deliveries, broken connections and deaths.

use proptest::prelude::*;
use sparkray_common::{ActorId, ObjectId};

use super::value::Item;
use super::{DRIVER, Simulation};
use crate::dropped::HandleKind;
use crate::state::Cancellation;

impl Simulation {
    /// A reference whose owner lives leads to an object that exists.
    pub(super) fn check_references(&self) {
        for (index, process) in self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.alive)
        {
            for (id, owner) in process.held() {
                let owner_index = self.process_of(owner.worker_id.as_bytes()).unwrap();
                let owner = &self.processes[owner_index];
                assert!(
                    !owner.alive || owner.state.objects().contains(id) || self.orphans.contains(id),
                    "process {index} refers to object {id}, which process {owner_index} has freed"
                );
            }
        }
    }

    /// Calls of each caller to each life of an actor run in order, once at most.
    pub(super) fn check_actor_order(&self) {
        let mut last = std::collections::HashMap::new();
        for (actor, incarnation, caller, number) in &self.ran {
            let before = last.insert((*actor, *incarnation, *caller), *number);
            assert!(
                before.is_none_or(|before| before < *number),
                "call {number} of process {caller} ran after {before:?}"
            );
        }
    }

    /// As [`Simulation::settle`], with a look at all references after each step.
    pub(super) fn settle_checked(&mut self) {
        for _ in 0..3000 {
            if !self.step() {
                break;
            }
            self.check_references();
        }
        self.settle();
        self.check_references();
    }

    /// The driver lets go of all actors.
    pub(super) fn end_actors(&mut self) {
        let actors: Vec<ActorId> = self.head.actors.keys().copied().collect();
        for actor in actors {
            self.processes[DRIVER]
                .state
                .drop_actor_handle(actor, HandleKind::Counted);
        }
        self.settle();
    }

    /// When nobody refers to anything any more, nothing is left.
    pub(super) fn check_nothing_left(&mut self) {
        for process in self.processes.iter_mut().filter(|process| process.alive) {
            process.drop_all();
        }
        self.settle();
        for (index, process) in self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.alive)
        {
            process.state.check_empty(&format!("process {index}"));
            for (key, (id, told)) in &process.told {
                assert_eq!(
                    *told, 1,
                    "the wait {key} for {id} of process {index} was told {told} times"
                );
            }
        }
        for ((process, id), uses) in &self.uses {
            assert!(
                *uses == 0 || !self.processes[*process].alive,
                "process {process} has {uses} uses of object {id}"
            );
        }
        assert!(self.raylets.iter().all(super::raylet::Raylet::is_quiet));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put,
    /// Which function, and which references it gets: inside the arguments, and as an argument.
    Submit(u8, usize, Option<usize>),
    Call(usize, u8, usize, Option<usize>),
    Fetch(usize),
    Drop(usize),
    /// Which object's call, and whether what that has called ends too.
    Cancel(usize, bool),
    /// With the worker that runs it.
    ForceCancel(usize),
    Run(usize),
    BreakLink(usize),
    Kill(usize),
    Later(u64),
    /// The network between the nodes.
    Cut,
    Notice(usize),
    Heal,
    /// Seconds.
    Pass(u64),
    /// What is on the way over one connection between the nodes is slow until the network is whole.
    Slow(usize),
    /// Time passes for all at once.
    Tick(u64),
}

/// What happens: what the user does, and what goes wrong.
fn step(disturbed: bool, cut: bool) -> BoxedStrategy<Step> {
    let index = 0..64_usize;
    let argument = prop::option::of(0..64_usize);
    let usual = prop_oneof![
        4 => Just(Step::Put),
        8 => (0..6_u8, index.clone(), argument.clone()).prop_map(|(f, a, b)| Step::Submit(f, a, b)),
        8 => (0..2_usize, 0..5_u8, index.clone(), argument).prop_map(|(a, m, r, s)| Step::Call(a, m, r, s)),
        5 => index.clone().prop_map(Step::Fetch),
        5 => index.clone().prop_map(Step::Drop),
        3 => (index.clone(), any::<bool>()).prop_map(|(id, recursive)| Step::Cancel(id, recursive)),
        16 => (0..60_usize).prop_map(Step::Run),
        2 => (0..30_000_u64).prop_map(Step::Later),
    ];
    let disturbances = prop_oneof![
        index.clone().prop_map(Step::BreakLink),
        index.clone().prop_map(Step::Kill),
        index.clone().prop_map(Step::ForceCancel),
    ];
    let pauses = prop_oneof![
        3 => Just(Step::Cut),
        6 => index.prop_map(Step::Notice),
        2 => Just(Step::Heal),
        2 => (0..40_u64).prop_map(Step::Pass),
        4 => (0..64_usize).prop_map(Step::Slow),
        4 => (0..200_u64).prop_map(|millis| Step::Tick(millis * 1000)),
    ];
    match (disturbed, cut) {
        (false, false) => usual.boxed(),
        (true, false) => prop_oneof![48 => usual, 6 => disturbances].boxed(),
        (false, true) => prop_oneof![48 => usual, 13 => pauses].boxed(),
        (true, true) => prop_oneof![48 => usual, 6 => disturbances, 13 => pauses].boxed(),
    }
}

const FUNCTIONS: [&str; 6] = ["value", "big", "put", "deep", "pass", "nest"];
const METHODS: [&str; 5] = ["keep", "value", "give", "pass", "clear"];

fn choose(simulation: &Simulation, index: usize) -> Option<ObjectId> {
    let held = &simulation.processes[DRIVER].references;
    (!held.is_empty()).then(|| held[index % held.len()].0)
}

fn take(simulation: &mut Simulation, actors: &[ActorId], step: &Step, number: u64) {
    match *step {
        Step::Put => {
            let inner = choose(simulation, number as usize).map(|id| simulation.item(DRIVER, id));
            let items: Vec<Item> = inner.into_iter().chain([Item::Number(number)]).collect();
            simulation.processes[DRIVER].put(&items);
        }
        Step::Submit(function, inner, slot) => {
            let mut items = vec![Item::Number(number)];
            items.extend(choose(simulation, inner).map(|id| simulation.item(DRIVER, id)));
            let slots: Vec<ObjectId> = slot
                .and_then(|slot| choose(simulation, slot))
                .into_iter()
                .collect();
            simulation.processes[DRIVER].submit(FUNCTIONS[usize::from(function)], &items, &slots);
        }
        Step::Call(actor, method, inner, slot) => {
            let items: Vec<Item> = choose(simulation, inner)
                .map(|id| simulation.item(DRIVER, id))
                .into_iter()
                .collect();
            let slots: Vec<ObjectId> = slot
                .and_then(|slot| choose(simulation, slot))
                .into_iter()
                .collect();
            let method = METHODS[usize::from(method)];
            simulation.processes[DRIVER].call_actor(actors[actor], method, &items, &slots);
        }
        Step::Fetch(index) => {
            if let Some(id) = choose(simulation, index) {
                simulation.processes[DRIVER].fetch(id);
            }
        }
        Step::Drop(index) => {
            let held = simulation.processes[DRIVER].references.len();
            if held > 0 {
                simulation.processes[DRIVER].drop_reference(index % held);
            }
        }
        Step::Cancel(index, recursive) => {
            if let Some(id) = choose(simulation, index) {
                simulation.cancel(
                    id,
                    Cancellation {
                        force: false,
                        recursive,
                    },
                );
            }
        }
        Step::ForceCancel(index) => {
            if let Some(id) = choose(simulation, index) {
                simulation.cancel(
                    id,
                    Cancellation {
                        force: true,
                        recursive: true,
                    },
                );
            }
        }
        Step::Run(steps) => {
            for _ in 0..steps {
                simulation.step();
                simulation.check_references();
            }
        }
        Step::BreakLink(index) => {
            let breakable = simulation.breakable();
            if !breakable.is_empty() {
                simulation.break_link(breakable[index % breakable.len()]);
            }
        }
        Step::Kill(index) => {
            let alive: Vec<usize> = (1..simulation.processes.len())
                .filter(|index| simulation.processes[*index].alive)
                .collect();
            if !alive.is_empty() {
                simulation.kill(alive[index % alive.len()]);
            }
        }
        Step::Later(micros) => simulation.now += micros,
        Step::Slow(index) => simulation.slow(index),
        Step::Tick(micros) => simulation.tick(micros),
        Step::Cut => simulation.cut(),
        Step::Notice(index) => simulation.notice(index),
        Step::Heal => simulation.heal(),
        Step::Pass(seconds) => {
            simulation.pass(seconds * 1_000_000);
            simulation.check_references();
        }
    }
}

/// `deaths`: processes die, so that functions may run again.
fn run_program(seed: u64, steps: &[Step], deaths: bool) {
    let mut simulation = Simulation::new(seed, 2, 2);
    let actors = [
        simulation.create_actor(DRIVER, 2),
        simulation.create_actor(DRIVER, 0),
    ];
    for (number, step) in steps.iter().enumerate() {
        take(&mut simulation, &actors, step, number as u64);
        simulation.carry_out();
        simulation.check_references();
    }
    simulation.heal();
    // Every result is told exactly once.
    let held: Vec<ObjectId> = simulation.processes[DRIVER]
        .references
        .iter()
        .map(|(id, _)| *id)
        .collect();
    for id in held {
        simulation.processes[DRIVER].fetch(id);
    }
    simulation.settle_checked();
    simulation.check_actor_order();
    let again = simulation
        .runs
        .iter()
        .find(|(number, runs)| **number != u64::MAX && **runs > 1);
    assert!(deaths || again.is_none(), "a function ran twice: {again:?}");
    for actor in actors {
        simulation.processes[DRIVER].call_actor(actor, "clear", &[], &[]);
    }
    simulation.processes[DRIVER].drop_all();
    simulation.settle_checked();
    simulation.end_actors();
    simulation.check_nothing_left();
}

/// A program of the kind below, with the seed of the deliveries under which it once left a registration behind.
#[test]
fn a_registration_that_another_connection_overtakes_is_not_left_behind() {
    let steps = [
        Step::Put,
        Step::Submit(2, 0, None),
        Step::Submit(5, 0, Some(5)),
        Step::Run(5),
        Step::Put,
        Step::Put,
        Step::Drop(2),
        Step::Run(14),
        Step::Submit(4, 0, Some(21)),
        Step::Drop(2),
        Step::Put,
        Step::Call(0, 0, 0, None),
        Step::Run(45),
        Step::Run(7),
        Step::Cut,
        Step::Notice(14),
        Step::Pass(0),
    ];
    for seed in (1..300).chain([2659]) {
        run_program(seed, &steps, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_leave_nothing_behind(seed in 1..u64::MAX, steps in prop::collection::vec(step(false, false), 1..60)) {
        run_program(seed, &steps, false);
    }

    #[test]
    fn programs_survive_broken_connections_and_deaths(
        seed in 1..u64::MAX,
        steps in prop::collection::vec(step(true, false), 1..60),
    ) {
        run_program(seed, &steps, true);
    }

    #[test]
    fn programs_survive_pauses_of_the_network(
        seed in 1..u64::MAX,
        steps in prop::collection::vec(step(false, true), 1..60),
    ) {
        run_program(seed, &steps, false);
    }

    #[test]
    fn programs_survive_pauses_of_the_network_and_deaths(
        seed in 1..u64::MAX,
        steps in prop::collection::vec(step(true, true), 1..60),
    ) {
        run_program(seed, &steps, true);
    }
}
