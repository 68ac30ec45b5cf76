//! A process of the simulation: its state, and what a language binding does around it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, JobId, NodeId, ObjectId, ResourceSet, SchedulingStrategy, TaskId,
    WorkerAddress, WorkerId, WorkerKey,
};
use sparkray_proto::{self as proto, location_of};

use super::simulation::{Simulation, numbered_id};
use super::value::{Item, decode, encode, references};
use crate::dropped::{DropQueue, Dropped};
use crate::error::CoreError;
use crate::kick::Kick;
use crate::state::{
    ActorMethod, ArgumentValue, Begun, CallKind, Creation, IdSource, IncomingTask, NewTask, Notice, State,
    StoreAnswer, TaskTemplate, Value, Work,
};
use crate::store::StoredValue;
use crate::values::Fetched;

/// A call that a process runs.
#[derive(Debug)]
struct Running {
    task: IncomingTask,
    /// Arguments in stores that are being read, with the key of each.
    loading: Vec<(u64, ObjectId)>,
    /// Everything in the arguments, once they are read.
    items: Vec<Item>,
    loaded: bool,
    /// A call that it waits for.
    nested: Option<(u64, ObjectId)>,
    /// It ends only when it is told to.
    hangs: bool,
    /// It was told to end.
    interrupted: bool,
}

pub(super) struct Process {
    pub(super) state: State,
    pub(super) alive: bool,
    pub(super) node: usize,
    dropped: Arc<DropQueue>,
    /// Links that the raylet is passing on.
    pub(super) arrivals: VecDeque<usize>,
    pub(super) notices: Vec<Notice>,
    /// Of which it was told.
    pub(super) unhandled_errors: u32,
    /// Values that the store has given.
    pub(super) memory: HashMap<ObjectId, Vec<u8>>,
    /// The user's references, each counted once by the state; for an actor, those that it keeps.
    pub(super) references: Vec<(ObjectId, WorkerAddress)>,
    /// References of the call that runs.
    call_references: Vec<(ObjectId, WorkerAddress)>,
    next_key: u64,
    /// What was asked for, by key: the object, and how often it was told.
    pub(super) told: HashMap<u64, (ObjectId, u32)>,
    pub(super) values: HashMap<u64, Result<Vec<Item>, CoreError>>,
    running: Option<Running>,
    /// The call that runs.
    current: Option<TaskId>,
    in_call: bool,
    pub(super) told_blocked: bool,
    /// Objects of this process in stores.
    pub(super) owned_stored: Vec<ObjectId>,
    functions: HashMap<&'static str, Arc<TaskTemplate>>,
    methods: HashMap<&'static str, Arc<ActorMethod>>,
    /// Counts the calls of actors by this process.
    actor_calls: u64,
}

impl Process {
    pub(super) fn new(number: u64, node: usize, node_id: NodeId, node_address: String) -> Self {
        let me = WorkerAddress {
            node_id,
            worker_id: WorkerId::from_array(numbered_id(2, number)),
            node_address,
        };
        Self {
            state: State::new(
                me,
                JobId::from_array([1; 4]),
                "3.11".to_owned(),
                "socket".to_owned(),
                IdSource::new(number),
            ),
            alive: true,
            node,
            dropped: Arc::new(DropQueue::new(Arc::new(Kick::new().unwrap()))),
            arrivals: VecDeque::new(),
            notices: Vec::new(),
            unhandled_errors: 0,
            memory: HashMap::new(),
            references: Vec::new(),
            call_references: Vec::new(),
            next_key: 0,
            told: HashMap::new(),
            values: HashMap::new(),
            running: None,
            current: None,
            in_call: false,
            told_blocked: false,
            owned_stored: Vec::new(),
            functions: HashMap::new(),
            methods: HashMap::new(),
            actor_calls: 0,
        }
    }

    pub(super) fn take_drops(&mut self) {
        let mut dropped = Dropped::default();
        if self.dropped.take(&mut dropped) {
            self.state.take_dropped(&mut dropped);
        }
    }

    /// Whether it does something by itself.
    pub(super) fn can_go_on(&self) -> bool {
        if !self.notices.is_empty() {
            return true;
        }
        match &self.running {
            None => self.state.execution.has_work(),
            Some(running) if !running.loaded => running
                .loading
                .iter()
                .all(|(key, _)| self.values.contains_key(key)),
            Some(running) if running.interrupted || running.hangs => running.interrupted,
            Some(running) => match &running.nested {
                Some((key, _)) => self.values.contains_key(key),
                None => self.knows_its_owners(),
            },
        }
    }

    /// Whether the owners of the references that the call got know this process.
    fn knows_its_owners(&self) -> bool {
        let ids: Vec<ObjectId> = self.call_references.iter().map(|(id, _)| *id).collect();
        self.state.objects().are_borrowed(&ids)
    }

    // ---- what users do -------------------------------------------------------------------------------------

    /// Every reference that this process holds.
    pub(super) fn held(&self) -> impl Iterator<Item = &(ObjectId, WorkerAddress)> {
        self.references.iter().chain(&self.call_references)
    }

    fn hold(&mut self, id: ObjectId, owner: WorkerAddress) {
        if self.in_call {
            self.call_references.push((id, owner));
        } else {
            self.references.push((id, owner));
        }
    }

    /// A reference came out of a value.
    fn add_foreign(&mut self, id: ObjectId, owner: &WorkerAddress) -> bool {
        let unknown = self.state.add_foreign_ref(id, owner);
        self.hold(id, owner.clone());
        unknown
    }

    pub(super) fn drop_reference(&mut self, index: usize) {
        let (id, _) = self.references.swap_remove(index);
        self.state.drop_ref(id);
    }

    pub(super) fn drop_all(&mut self) {
        while !self.references.is_empty() {
            self.drop_reference(0);
        }
    }

    pub(super) fn put(&mut self, items: &[Item]) -> ObjectId {
        let id = ObjectId::for_result(self.state.next_task_id(), 0);
        let contained = references(items).into_iter().map(|(id, _)| id).collect();
        self.state
            .add_owned(id, Value::Inline(encode(items).into()), contained);
        self.hold(id, WorkerAddress::clone(self.state.me()));
        id
    }

    /// An object whose value comes with [`Process::keep_promise`].
    pub(super) fn promise(&mut self) -> ObjectId {
        let id = ObjectId::for_result(self.state.next_task_id(), 0);
        self.state.add_owned(id, Value::Pending, Vec::new());
        self.hold(id, WorkerAddress::clone(self.state.me()));
        id
    }

    pub(super) fn keep_promise(&mut self, id: ObjectId, items: &[Item]) {
        self.state.resolve(id, Value::Inline(encode(items).into()));
    }

    /// Asks for a value; gives the key under which it will be in `values`.
    pub(super) fn fetch(&mut self, id: ObjectId) -> u64 {
        self.next_key += 1;
        let key = self.next_key;
        self.told.insert(key, (id, 0));
        // As a language binding keeps what it waits for.
        self.state.add_ref(id);
        if let Begun::Done(values) = self.state.fetch_for(id, key) {
            for value in values {
                self.state.notify(Notice::Fetched(key, value));
            }
        }
        key
    }

    fn function(&mut self, name: &'static str, max_retries: i32) -> Arc<TaskTemplate> {
        let made = self.functions.entry(name).or_insert_with(|| {
            let mut id = [0; 16];
            id[..name.len()].copy_from_slice(name.as_bytes());
            Arc::new(TaskTemplate {
                function_id: FunctionId::from_array(id),
                function_blob: Bytes::from_static(b"code"),
                name: name.to_owned(),
                num_returns: 1,
                resources: ResourceSet::from_units([("CPU".to_owned(), 1.0)]).unwrap(),
                max_retries,
                retry_exceptions: false,
                strategy: SchedulingStrategy::Default,
                worker: WorkerKey::default(),
            })
        });
        Arc::clone(made)
    }

    fn call(&mut self, kind: CallKind, items: &[Item], slots: &[ObjectId]) -> ObjectId {
        let results = self.state.submit(NewTask {
            kind,
            num_returns: 1,
            parent: self.current,
            arguments: encode(items).into(),
            keyword_names: Vec::new(),
            slots: slots
                .iter()
                .enumerate()
                .map(|(slot, id)| (slot as u32, *id))
                .collect(),
            contained: references(items).into_iter().map(|(id, _)| id).collect(),
        });
        self.hold(results[0], WorkerAddress::clone(self.state.me()));
        results[0]
    }

    /// Calls a function; the result is among `references`.
    pub(super) fn submit(&mut self, name: &'static str, items: &[Item], slots: &[ObjectId]) -> ObjectId {
        let kind = CallKind::Function(self.function(name, -1));
        self.call(kind, items, slots)
    }

    /// As [`Process::submit`], tried once.
    pub(super) fn submit_once(&mut self, name: &'static str, items: &[Item]) -> ObjectId {
        let kind = CallKind::Function(self.function(name, 0));
        self.call(kind, items, &[])
    }

    /// Calls a method; calls of one process are numbered.
    pub(super) fn call_actor(
        &mut self,
        actor_id: ActorId,
        name: &'static str,
        items: &[Item],
        slots: &[ObjectId],
    ) -> ObjectId {
        let method = self.methods.entry(name).or_insert_with(|| {
            Arc::new(ActorMethod {
                method: name.to_owned(),
                name: format!("A.{name}"),
            })
        });
        let kind = CallKind::Actor {
            actor_id,
            method: Arc::clone(method),
        };
        let mut numbered = vec![Item::Number(self.actor_calls)];
        numbered.extend_from_slice(items);
        self.actor_calls += 1;
        self.call(kind, &numbered, slots)
    }

    // ---- what the binding does -----------------------------------------------------------------------------

    /// A value came: its references become the user's.
    fn read(&mut self, key: u64, value: Result<Fetched, CoreError>) {
        let Some((id, told)) = self.told.get_mut(&key) else {
            panic!("an unknown key was told");
        };
        *told += 1;
        let id = *id;
        let value = value.map(|value| decode(value.as_slice()));
        let mut unknown = Vec::new();
        if let Ok(items) = &value {
            for (inner, owner) in references(items) {
                if self.add_foreign(inner, &owner) {
                    unknown.push(inner);
                }
            }
        }
        self.state.keep_until_borrowed(id, &unknown);
        self.state.drop_ref(id);
        self.values.insert(key, value);
    }

    /// The function that runs is to end.
    fn interrupt(&mut self, task: TaskId) {
        if let Some(running) = self
            .running
            .as_mut()
            .filter(|running| running.task.task_id == task)
        {
            running.interrupted = true;
        }
    }

    /// The call that ran is over. Its references go, unless the actor keeps them.
    fn end_call(&mut self, keeps: bool) {
        self.in_call = false;
        self.current = None;
        for (id, owner) in std::mem::take(&mut self.call_references) {
            if keeps {
                self.references.push((id, owner));
            } else {
                self.state.drop_ref(id);
            }
        }
    }
}

impl Simulation {
    /// Maps what the stores have made ready.
    pub(super) fn map_ready(&mut self) {
        for process in &mut self.processes {
            for answer in process.state.take_store_answers() {
                let StoreAnswer::Read(ready) = answer else {
                    continue;
                };
                let bytes = process.memory.get(&ready.object).cloned().unwrap();
                let value = StoredValue::for_test(ready.object, bytes, Arc::clone(&process.dropped));
                process.state.mapped(ready.object, &Arc::new(value));
            }
        }
    }

    /// A process does what it does by itself.
    pub(super) fn go_on(&mut self, index: usize) {
        let now = self.now;
        let process = &mut self.processes[index];
        process.state.set_now(now);
        for notice in std::mem::take(&mut process.notices) {
            match notice {
                Notice::Interrupt(task) => process.interrupt(task),
                Notice::ForceExit => {
                    self.kill(index);
                    return;
                }
                Notice::Fetched(key, value) => process.read(key, value),
                Notice::UnhandledError { .. } => process.unhandled_errors += 1,
                _ => {}
            }
        }
        match process.running.take() {
            None => self.take_work(index),
            Some(running) => self.continue_work(index, running),
        }
    }

    fn take_work(&mut self, index: usize) {
        let process = &mut self.processes[index];
        match process.state.take_work() {
            None => {}
            Some(Work::CreateActor(work)) => process.state.finish_create_actor(&work, None, None).unwrap(),
            Some(Work::Task(task)) => {
                process.in_call = true;
                let mut running = Running {
                    items: decode(&task.arguments),
                    task,
                    loading: Vec::new(),
                    loaded: false,
                    nested: None,
                    hangs: false,
                    interrupted: false,
                };
                process.current = Some(running.task.task_id);
                for (id, owner) in references(&running.items) {
                    process.add_foreign(id, &owner);
                }
                for (_, argument) in running.task.references.clone() {
                    match argument {
                        ArgumentValue::Inline(bytes) => {
                            let items = decode(&bytes);
                            for (id, owner) in references(&items) {
                                process.add_foreign(id, &owner);
                            }
                            running.items.extend(items);
                        }
                        ArgumentValue::Stored { object, locations } => {
                            process.state.hold_argument(object, locations);
                            running.loading.push((process.fetch(object), object));
                        }
                    }
                }
                process.running = Some(running);
            }
        }
    }

    fn continue_work(&mut self, index: usize, mut running: Running) {
        let process = &mut self.processes[index];
        if !running.loaded {
            let mut failure = None;
            for (key, object) in &running.loading {
                let Some(value) = process.values.get(key) else {
                    process.running = Some(running);
                    return;
                };
                match value {
                    Ok(items) => running.items.extend(items.clone()),
                    Err(error) => failure = Some(error.clone()),
                }
                process.state.drop_ref(*object);
            }
            running.loaded = true;
            running.loading.clear();
            if let Some(error) = failure {
                self.finish(index, &running.task, Err(error), false);
                return;
            }
            process.running = Some(running);
            return;
        }
        if running.interrupted {
            if running.nested.is_some() {
                process.state.set_blocked(false);
            }
            let error = CoreError::new(ErrorCode::Cancelled, "it was interrupted");
            self.finish(index, &running.task, Err(error), false);
            return;
        }
        if let Some((key, _)) = running.nested {
            let Some(value) = process.values.get(&key).cloned() else {
                process.running = Some(running);
                return;
            };
            process.state.set_blocked(false);
            self.finish(index, &running.task, value, false);
            return;
        }
        if !process.knows_its_owners() {
            process.running = Some(running);
            return;
        }
        self.perform(index, running);
    }

    /// What functions and methods do.
    fn perform(&mut self, index: usize, mut running: Running) {
        let inner: Vec<Item> = running
            .items
            .iter()
            .filter(|item| matches!(item, Item::Reference(..)))
            .cloned()
            .collect();
        let number = running.items.iter().find_map(|item| match item {
            Item::Number(number) => Some(*number),
            Item::Reference(..) => None,
        });
        let name = if running.task.method.is_empty() {
            *self.runs.entry(number.unwrap_or_default()).or_default() += 1;
            running.task.name.clone()
        } else {
            let caller = self.process_of(running.task.caller.worker_id.as_bytes()).unwrap();
            let (actor, incarnation) = self.processes[index].state.current_actor().unwrap();
            self.ran
                .push((actor, incarnation, caller, number.unwrap_or_default()));
            running.task.method.clone()
        };
        let process = &mut self.processes[index];
        let outcome = match name.as_str() {
            "value" | "big" | "raise" => Ok(vec![Item::Number(7)]),
            "error" => Err(CoreError::new(ErrorCode::Internal, "it raised")),
            "put" => {
                let id = process.put(&[Item::Number(1)]);
                Ok(vec![Item::Reference(
                    id,
                    WorkerAddress::clone(process.state.me()),
                )])
            }
            "deep" => {
                let id = process.put(&inner);
                Ok(vec![Item::Reference(
                    id,
                    WorkerAddress::clone(process.state.me()),
                )])
            }
            "pass" | "keep" => Ok(inner),
            "give" => {
                let held: Vec<Item> = process
                    .references
                    .iter()
                    .map(|(id, owner)| Item::Reference(*id, owner.clone()))
                    .collect();
                Ok(held)
            }
            "clear" => {
                process.drop_all();
                Ok(Vec::new())
            }
            "hang" => {
                running.hangs = true;
                process.running = Some(running);
                return;
            }
            // A reference to what never ends.
            "lend" => {
                let id = process.submit("hang", &[Item::Number(u64::MAX)], &[]);
                Ok(vec![Item::Reference(
                    id,
                    WorkerAddress::clone(process.state.me()),
                )])
            }
            "nest" | "nest_hang" => {
                let inner = if name == "nest" { "value" } else { "hang" };
                let id = process.submit(inner, &[Item::Number(u64::MAX)], &[]);
                let key = process.fetch(id);
                process.state.set_blocked(true);
                running.nested = Some((key, id));
                process.running = Some(running);
                return;
            }
            other => panic!("no function {other}"),
        };
        self.finish(index, &running.task, outcome, name == "keep");
    }

    fn finish(
        &mut self,
        index: usize,
        task: &IncomingTask,
        outcome: Result<Vec<Item>, CoreError>,
        keeps: bool,
    ) {
        let node = self.processes[index].node;
        let node_id = self.nodes[node];
        let process = &mut self.processes[index];
        match outcome {
            Err(error) => process.state.fail_work(task, &error),
            Ok(items) => {
                let value = encode(&items);
                let inner = references(&items);
                let contained = inner
                    .iter()
                    .map(|(id, owner)| proto::ObjectReference::new(*id, owner))
                    .collect();
                let pins: Vec<ObjectId> = inner.iter().map(|(id, _)| *id).collect();
                for id in &pins {
                    process.state.add_ref(*id);
                }
                let mut result = proto::ReturnValue {
                    contained,
                    is_error: task.name == "raise",
                    ..Default::default()
                };
                let payload: &[u8] = if task.name == "big" {
                    let id = ObjectId::for_result(task.task_id, 0);
                    result.stored_length = value.len() as u64;
                    result.location = Some(location_of(node_id, &Self::address_of(node)));
                    self.stored.insert((node, id), value.clone());
                    &[]
                } else {
                    result.inline_length = Some(value.len() as u64);
                    &value
                };
                process
                    .state
                    .finish_work(task, vec![result], &[payload], pins, false);
            }
        }
        if task.name == "big" {
            let id = ObjectId::for_result(task.task_id, 0);
            if let Some(owner) = self.process_of(task.caller.worker_id.as_bytes()) {
                self.processes[owner].owned_stored.push(id);
            }
        }
        self.processes[index].end_call(keeps);
    }

    /// A reference of a process, as an item of a value.
    pub(super) fn item(&self, process: usize, id: ObjectId) -> Item {
        let owner = self.processes[process]
            .references
            .iter()
            .find(|(other, _)| *other == id)
            .map(|(_, owner)| owner.clone())
            .unwrap();
        Item::Reference(id, owner)
    }

    pub(super) fn index_of_actor(&self, actor: ActorId) -> Option<usize> {
        self.head.actors.get(&actor).and_then(|actor| actor.process)
    }

    /// Creates an actor by a process, which holds one handle, with these arguments.
    pub(super) fn create_actor_with(&mut self, by: usize, max_restarts: i32, slots: &[ObjectId]) -> ActorId {
        self.last_actor += 1;
        let actor_id = ActorId::from_array(numbered_id(3, self.last_actor));
        let state = &mut self.processes[by].state;
        state.add_actor_handle(actor_id, true);
        state.pin_for_actor(actor_id, slots.to_vec());
        let spec = proto::ActorSpec {
            actor_id: actor_id.to_vec().into(),
            max_restarts,
            class_name: "A".to_owned(),
            ..Default::default()
        };
        let references = slots.iter().map(|id| (0, *id)).collect();
        state.register_actor(actor_id, Creation { spec, references });
        actor_id
    }

    pub(super) fn create_actor(&mut self, by: usize, max_restarts: i32) -> ActorId {
        self.create_actor_with(by, max_restarts, &[])
    }
}
