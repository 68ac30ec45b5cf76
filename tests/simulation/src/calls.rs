//! What programs in processes do: a language binding as small as can be, with a handful of functions and methods.

use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, ObjectId, SchedulingStrategy, WorkerAddress, WorkerKey,
};
use sparkray_core_worker::simulation::Argument;
use sparkray_core_worker::{
    ActorMethod, CallArguments, CoreError, CreateActorWork, Fetched, IncomingTask, TaskTemplate, WorkItem,
};

use crate::cluster::Cluster;
use crate::node::cpus;
use crate::process::{Fetch, Process};
use crate::value::{Item, decode, encode, references, sum};

/// The number of calls that nobody counts.
pub(crate) const UNCOUNTED: u64 = 1 << 60;

/// What a process runs.
#[derive(Debug)]
enum Work {
    Task(IncomingTask),
    Creation(Box<CreateActorWork>),
}

/// A call that a process runs.
#[derive(Debug)]
pub(crate) struct Running {
    work: Work,
    /// Arguments in stores that are being read, with the key of each.
    loading: Vec<(u64, ObjectId)>,
    /// Everything in the arguments, once they are read.
    items: Vec<Item>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Load,
    Run,
    /// A call that it waits for.
    Nested(u64),
    /// A value that is written to the store.
    Writing(u64, ObjectId, Vec<u8>),
}

impl Process {
    // ---- what users do -------------------------------------------------------------------------------------

    /// Every reference that this process holds.
    pub(crate) fn held(&self) -> impl Iterator<Item = &(ObjectId, WorkerAddress)> {
        self.references.iter().chain(&self.call_references)
    }

    pub(crate) fn hold(&mut self, id: ObjectId, owner: WorkerAddress) {
        if self.in_call {
            self.call_references.push((id, owner));
        } else {
            self.references.push((id, owner));
        }
    }

    /// A reference came out of a value.
    fn add_foreign(&mut self, id: ObjectId, owner: &WorkerAddress) -> bool {
        let unknown = self.core.add_foreign_reference(id, owner);
        self.hold(id, owner.clone());
        unknown
    }

    pub(crate) fn drop_reference(&mut self, place: usize) -> ObjectId {
        let (id, _) = self.references.swap_remove(place);
        self.core.drop_reference(id);
        id
    }

    pub(crate) fn drop_all(&mut self) {
        while !self.references.is_empty() {
            self.drop_reference(0);
        }
    }

    pub(crate) fn put(&mut self, items: &[Item]) -> ObjectId {
        let contained = references(items).into_iter().map(|(id, _)| id).collect();
        let id = self.core.put(encode(items).into(), contained);
        let me = self.core.address();
        self.hold(id, me);
        id
    }

    /// Asks for a value; gives the key under which it will be.
    pub(crate) fn fetch(&mut self, id: ObjectId) -> u64 {
        self.last_key += 1;
        let key = self.last_key;
        let fetch = Fetch {
            id,
            told: 0,
            value: None,
        };
        self.fetches.insert(key, fetch);
        // As a language binding keeps what it waits for.
        self.core.add_reference(id);
        self.core.fetch(id, key);
        key
    }

    fn value(&self, key: u64) -> Option<&Result<Vec<Item>, CoreError>> {
        self.fetches.get(&key)?.value.as_ref()
    }

    fn function(&mut self, name: &'static str) -> Arc<TaskTemplate> {
        let make = || Arc::new(template(name, SchedulingStrategy::Default));
        let made = self.functions.entry(name).or_insert_with(make);
        Arc::clone(made)
    }

    /// Calls a function where this strategy wants it; the result is among the references.
    pub(crate) fn submit_where(
        &mut self,
        strategy: SchedulingStrategy,
        name: &str,
        items: &[Item],
    ) -> ObjectId {
        let function = Arc::new(template(name, strategy));
        let arguments = self.arguments(items, &[]);
        let results = self.core.submit(&function, arguments);
        let me = self.core.address();
        self.hold(results[0], me);
        results[0]
    }

    /// Calls a function; the result is among the references.
    pub(crate) fn submit(&mut self, name: &'static str, items: &[Item], slots: &[ObjectId]) -> ObjectId {
        let function = self.function(name);
        let arguments = self.arguments(items, slots);
        let results = self.core.submit(&function, arguments);
        let me = self.core.address();
        self.hold(results[0], me);
        results[0]
    }

    /// Calls a method; the result is among the references.
    pub(crate) fn call(&mut self, actor: ActorId, name: &'static str, items: &[Item]) -> ObjectId {
        let method = self.methods.entry(name).or_insert_with(|| {
            Arc::new(ActorMethod {
                method: name.to_owned(),
                name: format!("A.{name}"),
            })
        });
        let method = Arc::clone(method);
        let arguments = self.arguments(items, &[]);
        let results = self.core.submit_actor(actor, &method, arguments);
        let me = self.core.address();
        self.hold(results[0], me);
        results[0]
    }

    fn arguments(&self, items: &[Item], slots: &[ObjectId]) -> CallArguments {
        CallArguments {
            value: encode(items).into(),
            keyword_names: Vec::new(),
            references: (0..).zip(slots.iter().copied()).collect(),
            contained: references(items).into_iter().map(|(id, _)| id).collect(),
            parent: self.current,
        }
    }

    // ---- what the binding does -----------------------------------------------------------------------------

    /// A value came: its references become the user's.
    fn read(&mut self, key: u64, value: Result<Fetched, CoreError>) {
        let Some(fetch) = self.fetches.get_mut(&key) else {
            panic!("an unknown key was told");
        };
        fetch.told += 1;
        assert_eq!(fetch.told, 1, "the wait for {} was told twice", fetch.id);
        let id = fetch.id;
        let value = value.map(|value| decode(value.as_slice()));
        let mut unknown = Vec::new();
        if let Ok(items) = &value {
            for (inner, owner) in references(items) {
                if self.add_foreign(inner, &owner) {
                    unknown.push(inner);
                }
            }
        }
        self.core.keep_until_borrowed(id, &unknown);
        self.core.drop_reference(id);
        if let Some(fetch) = self.fetches.get_mut(&key) {
            fetch.value = Some(value);
        }
    }

    /// Whether the owners of the references that the call got know this process.
    fn knows_its_owners(&self) -> bool {
        let ids: Vec<ObjectId> = self.call_references.iter().map(|(id, _)| *id).collect();
        self.core.are_borrowed(&ids)
    }

    /// The call that ran is over. Its references go, unless the actor keeps them.
    fn end_call(&mut self, keeps: bool) {
        self.in_call = false;
        self.current = None;
        for (id, owner) in std::mem::take(&mut self.call_references) {
            if keeps {
                self.references.push((id, owner));
            } else {
                self.core.drop_reference(id);
            }
        }
    }

    fn begin(&mut self, work: WorkItem) -> Running {
        self.in_call = true;
        let (work, items, given) = match work {
            WorkItem::Task(task) => {
                self.current = Some(task.task_id);
                let given = self.core.arguments(&task);
                let items = decode(&task.arguments);
                (Work::Task(task), items, given)
            }
            WorkItem::CreateActor(work) => {
                let given = self
                    .core
                    .creation_arguments(&work)
                    .expect("arguments that can be read");
                (Work::Creation(work), Vec::new(), given)
            }
        };
        let mut running = Running {
            work,
            items,
            loading: Vec::new(),
            step: Step::Load,
        };
        for (id, owner) in references(&running.items) {
            self.add_foreign(id, &owner);
        }
        for argument in given {
            match argument {
                Argument::Inline(bytes) => {
                    let items = decode(&bytes);
                    for (id, owner) in references(&items) {
                        self.add_foreign(id, &owner);
                    }
                    running.items.extend(items);
                }
                Argument::Stored(object) => running.loading.push((self.fetch(object), object)),
            }
        }
        running
    }
}

fn template(name: &str, strategy: SchedulingStrategy) -> TaskTemplate {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    TaskTemplate {
        function_id: FunctionId::from_array(id),
        function_blob: Bytes::from_static(b"code"),
        name: name.to_owned(),
        num_returns: 1,
        resources: cpus(1),
        max_retries: -1,
        retry_exceptions: false,
        strategy,
        worker: WorkerKey::default(),
    }
}

impl Cluster {
    /// A process does what it does by itself.
    pub(crate) fn go_on(&mut self, process: usize) {
        let found = &mut self.processes[process];
        for (key, value) in std::mem::take(&mut found.notices) {
            found.read(key, value);
        }
        if process == crate::cluster::DRIVER {
            self.driver_goes_on();
            return;
        }
        match found.running.take() {
            None => {
                if let Some(work) = found.core.take_work() {
                    found.running = Some(found.begin(work));
                    let takes = self.call_takes();
                    self.wake_soon(process, takes);
                }
            }
            Some(running) => self.continue_work(process, running),
        }
    }

    /// How long the code of a call runs, in microseconds.
    fn call_takes(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.between(100_000, 2_000_000),
            1..4 => self.random.between(5_000, 50_000),
            _ => self.random.between(20, 2_000),
        }
    }

    fn continue_work(&mut self, process: usize, mut running: Running) {
        if self.is_interrupted(process, &running) {
            let error = CoreError::new(ErrorCode::Cancelled, "it was interrupted");
            self.finish(process, running, Err(error));
            return;
        }
        let found = &mut self.processes[process];
        match &running.step {
            Step::Load => {
                if running.loading.iter().any(|(key, _)| found.value(*key).is_none()) {
                    found.running = Some(running);
                    return;
                }
                let mut failure = None;
                for (key, object) in std::mem::take(&mut running.loading) {
                    match found.value(key) {
                        Some(Ok(items)) => running.items.extend(items.clone()),
                        Some(Err(error)) => failure = Some(error.clone()),
                        None => {}
                    }
                    found.core.drop_reference(object);
                }
                running.step = Step::Run;
                match failure {
                    Some(error) => self.finish(process, running, Err(error)),
                    None => {
                        found.running = Some(running);
                        self.wake_soon(process, 1);
                    }
                }
            }
            Step::Run if !found.knows_its_owners() => found.running = Some(running),
            Step::Run => self.perform(process, running),
            Step::Nested(key) => match found.value(*key) {
                None => found.running = Some(running),
                Some(value) => {
                    let outcome = value.clone();
                    found.core.set_blocked(false);
                    self.finish(process, running, outcome);
                }
            },
            Step::Writing(slot, id, bytes) => match found.core.fill(*slot, *id, bytes) {
                None => found.running = Some(running),
                Some(Ok(())) => {
                    let length = bytes.len();
                    self.answer(process, running, Some(length), &[]);
                }
                Some(Err(error)) => self.finish(process, running, Err(error)),
            },
        }
    }

    /// Whether the code of a call ends because it was told to; it may go on.
    fn is_interrupted(&mut self, process: usize, running: &Running) -> bool {
        let found = &mut self.processes[process];
        let is_due = found.interrupted.is_some() && found.interrupted == found.current;
        if !is_due || matches!(running.step, Step::Load | Step::Writing(..)) {
            return false;
        }
        found.interrupted = None;
        if self.random.chance(20) {
            return false;
        }
        if let Step::Nested(_) = running.step {
            self.processes[process].core.set_blocked(false);
        }
        true
    }

    /// What functions and methods do.
    fn perform(&mut self, process: usize, mut running: Running) {
        let task = match &running.work {
            Work::Creation(_) => {
                self.becomes_actor(process, running);
                return;
            }
            Work::Task(task) => task,
        };
        let number = match running.items.first() {
            Some(Item::Number(number)) => *number,
            _ => UNCOUNTED,
        };
        let name = if task.method.is_empty() {
            task.name.clone()
        } else {
            task.method.clone()
        };
        self.note_run(process, task.method.is_empty(), number, &running);
        let found = &mut self.processes[process];
        let me = found.core.address();
        let inner: Vec<Item> = references(&running.items)
            .into_iter()
            .map(|(id, owner)| Item::Reference(id, owner))
            .collect();
        let outcome = match name.as_str() {
            "sum" => Ok(vec![Item::Number(sum(&running.items).wrapping_add(1))]),
            "big" => {
                let result = sum(&running.items).wrapping_add(1);
                Ok(vec![
                    Item::Number(result),
                    Item::Padding(200 + (number % 9_000) as usize),
                ])
            }
            "fail" => Err(CoreError::new(ErrorCode::Internal, "it raised")),
            "pass" | "keep" => Ok(inner),
            "make" => {
                let id = found.put(&inner);
                Ok(vec![Item::Reference(id, me)])
            }
            "echo" => Ok(vec![Item::Number(number)]),
            "give" => Ok(found
                .references
                .iter()
                .map(|(id, owner)| Item::Reference(*id, owner.clone()))
                .collect()),
            "clear" => {
                found.drop_all();
                Ok(Vec::new())
            }
            "nest" => {
                let items = [Item::Number(UNCOUNTED), Item::Number(number)];
                let id = found.submit("sum", &items, &[]);
                let key = found.fetch(id);
                found.core.set_blocked(true);
                running.step = Step::Nested(key);
                found.running = Some(running);
                return;
            }
            other => panic!("no function {other}"),
        };
        self.finish(process, running, outcome);
    }

    /// A process has become an actor.
    fn becomes_actor(&mut self, process: usize, running: Running) {
        let Work::Creation(work) = &running.work else {
            return;
        };
        let actor = ActorId::from_slice(&work.spec.actor_id).expect("an actor's id");
        let incarnation = work.incarnation;
        self.say(|| format!("process {process} becomes actor {actor}, incarnation {incarnation}"));
        self.check_one_life(process, actor);
        let found = &mut self.processes[process];
        found.actor = Some((actor, incarnation));
        let told = found.core.finish_create_actor(work);
        assert!(told.is_ok(), "{told:?}");
        found.end_call(true);
        self.wake_soon(process, 1);
    }

    fn finish(&mut self, process: usize, mut running: Running, outcome: Result<Vec<Item>, CoreError>) {
        let found = &mut self.processes[process];
        let task = match &running.work {
            Work::Creation(work) => {
                // Its arguments are lost.
                let _ = found.core.finish_create_actor(work);
                found.end_call(false);
                return;
            }
            Work::Task(task) => task,
        };
        match outcome {
            Err(error) => {
                found.core.fail(task, &error);
                found.end_call(false);
                self.wake_soon(process, 1);
            }
            Ok(items) if task.name == "big" => {
                let bytes = encode(&items);
                let id = ObjectId::for_result(task.task_id, 0);
                let owner = found.core.caller(task).clone();
                let slot = found.core.create(id, &owner, bytes.len());
                running.step = Step::Writing(slot, id, bytes);
                found.running = Some(running);
            }
            Ok(items) => self.answer(process, running, None, &items),
        }
    }

    fn answer(&mut self, process: usize, running: Running, stored: Option<usize>, items: &[Item]) {
        let Work::Task(task) = &running.work else { return };
        let found = &mut self.processes[process];
        found
            .core
            .finish(task, &encode(items), stored, &references(items));
        found.end_call(task.method == "keep");
        self.wake_soon(process, 1);
    }

    /// Whom the call that runs comes from, for the checks of order.
    fn note_run(&mut self, process: usize, is_function: bool, number: u64, running: &Running) {
        let Work::Task(task) = &running.work else { return };
        let found = &self.processes[process];
        if is_function {
            if number != UNCOUNTED {
                *self.program.runs.entry(number).or_default() += 1;
            }
            return;
        }
        let caller = found.core.caller(task).worker_id;
        if let Some((actor, incarnation)) = found.core.current_actor() {
            self.check_order(actor, incarnation, caller, number);
        }
    }
}
