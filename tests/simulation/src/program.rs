//! The driver's program: random calls, and what their results must be.

use std::collections::{BTreeMap, BTreeSet};

use sparkray_common::{ActorId, JobId, ObjectId, TaskId, WorkerId};
use sparkray_proto::{ActorSpec, HeadRequest, KillActor, RegisterJob, head_reply, head_request};

use crate::agenda::Event;
use crate::calls::UNCOUNTED;
use crate::cluster::{Cluster, DRIVER, numbered};
use crate::node::cpus;
use crate::random::Random;
use crate::value::{Item, encode};

/// What the value of an object must be, and what may have become of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// The sum of its numbers, when it is known.
    pub(crate) sum: Option<u64>,
    /// It is an error.
    pub(crate) fails: bool,
    /// It, or what it was made of, lies in the store of a node.
    pub(crate) on_nodes: bool,
    /// It, or what it was made of, comes from an actor, or is owned by another process.
    pub(crate) by_processes: bool,
}

/// What came out of a value of another process has gone through others' hands.
const FOREIGN: Expected = Expected {
    sum: None,
    fails: false,
    on_nodes: true,
    by_processes: true,
};

/// A value that the driver writes to the store.
#[derive(Debug)]
struct Writing {
    slot: u64,
    id: ObjectId,
    bytes: Vec<u8>,
    sum: u64,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) random: Random,
    /// Steps that are still to be done, and the longest pause between two.
    pub(crate) left: u32,
    pub(crate) pause: u64,
    /// Whether actors are made and called.
    pub(crate) with_actors: bool,
    /// Whether calls are cancelled.
    pub(crate) with_cancels: bool,
    /// The question for the job.
    job: Option<u64>,
    pub(crate) has_job: bool,
    pub(crate) job_id: JobId,
    next_number: u64,
    writing: Vec<Writing>,
    pub(crate) expected: BTreeMap<ObjectId, Expected>,
    /// Of the fetches, by key.
    pub(crate) awaited: BTreeMap<u64, Expected>,
    pub(crate) actors: Vec<ActorId>,
    pub(crate) killed: Vec<ActorId>,
    /// Calls that were cancelled.
    pub(crate) cancelled: BTreeSet<TaskId>,
    /// How often functions ran, by their number.
    pub(crate) runs: BTreeMap<u64, u32>,
    /// The last call that an incarnation of an actor ran for a caller.
    pub(crate) ran: BTreeMap<(ActorId, u64, WorkerId), u64>,
}

impl Program {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            left: 0,
            pause: 20_000,
            with_actors: false,
            with_cancels: false,
            job: None,
            has_job: false,
            job_id: JobId::NIL,
            next_number: 0,
            writing: Vec::new(),
            expected: BTreeMap::new(),
            awaited: BTreeMap::new(),
            actors: Vec::new(),
            killed: Vec::new(),
            cancelled: BTreeSet::new(),
            runs: BTreeMap::new(),
            ran: BTreeMap::new(),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// What comes of a call with these arguments.
    pub(crate) fn of_call(&self, number: u64, slots: &[ObjectId]) -> Expected {
        let mut outcome = Expected {
            sum: Some(number + 1),
            ..Expected::default()
        };
        for slot in slots {
            let argument = self.expected.get(slot).copied().unwrap_or(FOREIGN);
            outcome.sum = match (outcome.sum, argument.sum) {
                (Some(sum), Some(more)) => Some(sum.wrapping_add(more)),
                _ => None,
            };
            outcome.fails |= argument.fails;
            outcome.on_nodes |= argument.on_nodes;
            outcome.by_processes |= argument.by_processes;
        }
        outcome
    }
}

/// A question to the head.
pub(crate) fn asks(request: head_request::Request) -> HeadRequest {
    HeadRequest {
        request: Some(request),
    }
}

impl Cluster {
    /// Begins so many steps of the program.
    pub(crate) fn begin_program(&mut self, steps: u32) {
        self.program.left = steps;
        self.agenda.after(1, Event::Program);
    }

    pub(crate) fn is_program_over(&self) -> bool {
        self.program.left == 0 && self.program.writing.is_empty()
    }

    /// What the driver does by itself when something came.
    pub(crate) fn driver_goes_on(&mut self) {
        self.take_job();
        let driver = &mut self.processes[DRIVER];
        let mut left = Vec::new();
        for writing in std::mem::take(&mut self.program.writing) {
            match driver.core.fill(writing.slot, writing.id, &writing.bytes) {
                None => left.push(writing),
                Some(Ok(())) => {
                    let (id, size) = (writing.id, writing.bytes.len());
                    driver.core.add_stored(id, size, Vec::new());
                    let me = driver.core.address();
                    driver.hold(id, me);
                    let expected = Expected {
                        sum: Some(writing.sum),
                        on_nodes: true,
                        ..Expected::default()
                    };
                    self.program.expected.insert(id, expected);
                }
                // The store is full.
                Some(Err(_)) => {}
            }
        }
        self.program.writing = left;
        self.check_values();
    }

    /// The head begins the driver's job.
    fn take_job(&mut self) {
        if self.program.has_job {
            return;
        }
        let core = &mut self.processes[DRIVER].core;
        let slot = *self.program.job.get_or_insert_with(|| {
            let job = RegisterJob {
                driver: Some((&core.address()).into()),
                python_version: "3.11".to_owned(),
                ..RegisterJob::default()
            };
            core.ask_head(&asks(head_request::Request::RegisterJob(job)))
        });
        let Some(reply) = core.take_head_reply(slot) else {
            return;
        };
        let reply = reply.expect("the driver's raylet lives");
        let Some(head_reply::Reply::Job(begun)) = reply.reply else {
            // The head could not be reached.
            self.program.job = None;
            self.wake_soon(DRIVER, 100_000);
            return;
        };
        let job = JobId::from_slice(&begun.job_id).expect("a job's id");
        core.set_job_id(job);
        self.program.job_id = job;
        self.program.has_job = true;
    }

    pub(crate) fn run_program(&mut self) {
        if self.program.left == 0 || !self.processes[DRIVER].alive {
            return;
        }
        self.processes[DRIVER].core.set_now(self.agenda.now);
        let burst = if self.program.random.chance(10) { 25 } else { 1 };
        for _ in 0..burst.min(self.program.left) {
            self.program.left -= 1;
            self.next_step();
        }
        self.processes[DRIVER].core.check();
        self.outputs(DRIVER);
        let pause = self.program.random.below(self.program.pause) + 1;
        self.agenda.after(pause, Event::Program);
    }

    fn next_step(&mut self) {
        let kinds = if self.program.with_actors { 100 } else { 70 };
        match self.program.random.below(kinds) {
            0..8 => self.puts(),
            8..12 => self.puts_into_store(),
            12..40 => self.calls_function(),
            40..55 => self.fetches(),
            55..66 => self.drops(),
            66..70 if self.program.with_cancels => self.cancels(),
            66..70 => self.drops(),
            70..74 => self.creates_actor(),
            74..76 => self.kills_actor(),
            _ => self.calls_actor(),
        }
    }

    /// One of the objects that the driver refers to.
    pub(crate) fn some_object(&mut self) -> Option<ObjectId> {
        let held = &self.processes[DRIVER].references;
        self.program.random.choose(held).map(|(id, _)| *id)
    }

    fn some_reference(&mut self) -> Option<Item> {
        let held = &self.processes[DRIVER].references;
        let chosen = self.program.random.choose(held).cloned();
        chosen.map(|(id, owner)| Item::Reference(id, owner))
    }

    fn puts(&mut self) {
        let number = self.program.number();
        let mut items = vec![Item::Number(number)];
        if self.program.random.chance(40) {
            items.extend(self.some_reference());
        }
        let id = self.processes[DRIVER].put(&items);
        self.say(|| format!("driver: puts {items:?} -> {id}"));
        let expected = Expected {
            sum: Some(number),
            ..Expected::default()
        };
        self.program.expected.insert(id, expected);
    }

    fn puts_into_store(&mut self) {
        let number = self.program.number();
        let length = self.program.random.between(100, 20_000) as usize;
        let bytes = encode(&[Item::Number(number), Item::Padding(length)]);
        let core = &mut self.processes[DRIVER].core;
        let (id, me) = (core.next_object(), core.address());
        let slot = core.create(id, &me, bytes.len());
        self.program.writing.push(Writing {
            slot,
            id,
            bytes,
            sum: number,
        });
    }

    fn calls_function(&mut self) {
        let number = self.program.number();
        let mut items = vec![Item::Number(number)];
        let mut slots = Vec::new();
        if self.program.random.chance(45) {
            slots.extend(self.some_object());
        }
        if self.program.random.chance(15) {
            slots.extend(self.some_object());
        }
        let mut expected = self.program.of_call(number, &slots);
        let name = match self.program.random.below(20) {
            0..9 => "sum",
            9..13 => "big",
            13..15 => "nest",
            15..17 => "pass",
            17..19 => "make",
            _ => "fail",
        };
        match name {
            "big" => expected.on_nodes = true,
            "nest" => {
                slots.clear();
                expected = self.program.of_call(number + UNCOUNTED, &[]);
            }
            "fail" => expected.fails = true,
            "pass" | "make" => {
                items.extend(self.some_reference());
                expected.sum = Some(0);
                expected.by_processes = true;
            }
            _ => {}
        }
        let id = self.processes[DRIVER].submit(name, &items, &slots);
        self.say(|| format!("driver: {name} {number} -> {id}"));
        self.program.expected.insert(id, expected);
    }

    fn fetches(&mut self) {
        if let Some(id) = self.some_object() {
            self.fetch_for_check(id);
        }
    }

    pub(crate) fn fetch_for_check(&mut self, id: ObjectId) {
        let key = self.processes[DRIVER].fetch(id);
        let expected = self.program.expected.get(&id).copied();
        let expected = expected.unwrap_or(FOREIGN);
        self.program.awaited.insert(key, expected);
    }

    fn drops(&mut self) {
        let count = self.processes[DRIVER].references.len() as u64;
        if count > 0 {
            let place = self.program.random.below(count) as usize;
            let id = self.processes[DRIVER].drop_reference(place);
            self.say(|| format!("driver: drops {id}"));
        }
    }

    // ---- actors --------------------------------------------------------------------------------------------

    pub(crate) fn create_actor(&mut self, max_restarts: i32) -> ActorId {
        let number = self.program.number();
        let actor = ActorId::from_array(numbered(3, number));
        let needs = (&cpus(1)).into();
        let spec = ActorSpec {
            class_name: "A".to_owned(),
            max_restarts,
            placement_resources: Some(needs),
            ..ActorSpec::default()
        };
        self.say(|| format!("driver: creates actor {actor}"));
        self.processes[DRIVER].core.create_actor(actor, spec, Vec::new());
        self.program.actors.push(actor);
        actor
    }

    fn creates_actor(&mut self) {
        if self.program.actors.len() < 4 {
            let restarts = [-1, 0, 2][self.program.random.below(3) as usize];
            self.create_actor(restarts);
        }
    }

    fn kills_actor(&mut self) {
        let Some(actor) = self.program.random.choose(&self.program.actors).copied() else {
            return;
        };
        if self.program.killed.contains(&actor) || self.program.random.chance(60) {
            return;
        }
        self.program.killed.push(actor);
        let kill = KillActor {
            actor_id: actor.to_vec().into(),
            no_restart: true,
            cause: "it was killed by kill()".to_owned(),
            graceful: false,
        };
        let core = &mut self.processes[DRIVER].core;
        let slot = core.ask_head(&asks(head_request::Request::KillActor(kill)));
        core.forget_slot(slot);
        self.losses.processes += 1;
    }

    pub(crate) fn call_actor(&mut self, actor: ActorId, method: &'static str) -> ObjectId {
        let number = self.program.number();
        let mut items = vec![Item::Number(number)];
        if matches!(method, "keep") {
            items.extend(self.some_reference());
        }
        let id = self.processes[DRIVER].call(actor, method, &items);
        self.say(|| format!("driver: {actor}.{method} {items:?} -> {id}"));
        let expected = Expected {
            sum: (method == "echo").then_some(number),
            by_processes: true,
            ..Expected::default()
        };
        self.program.expected.insert(id, expected);
        id
    }

    fn calls_actor(&mut self) {
        let Some(actor) = self.program.random.choose(&self.program.actors).copied() else {
            return;
        };
        let method = match self.program.random.below(8) {
            0..5 => "echo",
            5 => "keep",
            6 => "give",
            _ => "clear",
        };
        self.call_actor(actor, method);
    }

    /// The driver lets go of everything.
    pub(crate) fn end_program(&mut self) {
        let now = self.agenda.now;
        let driver = &mut self.processes[DRIVER];
        driver.core.set_now(now);
        driver.drop_all();
        for actor in std::mem::take(&mut self.program.actors) {
            driver.core.drop_actor_handle(actor);
        }
        self.outputs(DRIVER);
    }
}
