//! Processes: a core worker each, its sockets, and its beginning and end.

use std::collections::BTreeMap;
use std::sync::Arc;

use sparkray_common::{ActorId, NodeId, ObjectId, TaskId, VERSION, WorkerAddress, WorkerId};
use sparkray_core_worker::simulation::{Output, Process as Core};
use sparkray_core_worker::{ActorMethod, CoreError, Fetched, Notice, TaskTemplate};
use sparkray_proto::{ClientKind, RegisterClient};
use sparkray_raylet::simulation::{Birth, ChildEnd};
use sparkray_rpc::Target;

use crate::agenda::Event;
use crate::calls::Running;
use crate::cluster::{Cluster, DRIVER, numbered};
use crate::network::{End, Message, reset};
use crate::node::link_of;
use crate::value::Item;

/// A value that was asked for: how often it was told, and what it was.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) id: ObjectId,
    pub(crate) told: u32,
    pub(crate) value: Option<Result<Vec<Item>, CoreError>>,
}

pub(crate) struct Process {
    pub(crate) core: Core,
    pub(crate) alive: bool,
    pub(crate) node: usize,
    pub(crate) worker: WorkerId,
    pub(crate) pid: u32,
    pub(crate) registered: bool,
    /// The link of each connection.
    pub(crate) links: BTreeMap<u64, usize>,
    timer_at: Option<u64>,
    is_awake: bool,
    pub(crate) notices: Vec<(u64, Result<Fetched, CoreError>)>,
    pub(crate) fetches: BTreeMap<u64, Fetch>,
    pub(crate) last_key: u64,
    /// The user's references, each counted once by the core; for an actor, those that it keeps.
    pub(crate) references: Vec<(ObjectId, WorkerAddress)>,
    /// References of the call that runs.
    pub(crate) call_references: Vec<(ObjectId, WorkerAddress)>,
    pub(crate) in_call: bool,
    pub(crate) running: Option<Running>,
    /// The call that runs.
    pub(crate) current: Option<TaskId>,
    /// The function that was told to end.
    pub(crate) interrupted: Option<TaskId>,
    /// What it has become.
    pub(crate) actor: Option<(ActorId, u64)>,
    pub(crate) functions: BTreeMap<&'static str, Arc<TaskTemplate>>,
    pub(crate) methods: BTreeMap<&'static str, Arc<ActorMethod>>,
}

impl Process {
    fn new(worker: WorkerId, node: usize, pid: u32, node_id: NodeId, node_address: String) -> Self {
        let me = WorkerAddress {
            node_id,
            worker_id: worker,
            node_address,
        };
        Self {
            core: Core::new(me, u64::from(pid)).expect("a descriptor"),
            alive: true,
            node,
            worker,
            pid,
            registered: false,
            links: BTreeMap::new(),
            timer_at: None,
            is_awake: false,
            notices: Vec::new(),
            fetches: BTreeMap::new(),
            last_key: 0,
            references: Vec::new(),
            call_references: Vec::new(),
            in_call: false,
            running: None,
            current: None,
            interrupted: None,
            actor: None,
            functions: BTreeMap::new(),
            methods: BTreeMap::new(),
        }
    }

    fn registration(&self, kind: ClientKind) -> RegisterClient {
        RegisterClient {
            worker_id: self.worker.to_vec().into(),
            kind: kind.into(),
            pid: self.pid,
            sparkray_version: VERSION.to_owned(),
            python_version: "3.11".to_owned(),
            ..RegisterClient::default()
        }
    }

    /// Whether it lives, and is no driver.
    pub(crate) fn is_worker(&self) -> bool {
        self.alive && self.pid != FIRST_PID
    }
}

const FIRST_PID: u32 = 100;

impl Cluster {
    /// A node has joined: the first one gets the driver.
    pub(crate) fn node_is_up(&mut self, node: usize) {
        if self.nodes[node].host != 0 || !self.processes.is_empty() {
            return;
        }
        let worker = WorkerId::from_array(numbered(2, 0));
        let driver = Process::new(worker, node, FIRST_PID, NodeId::NIL, String::new());
        self.processes.push(driver);
        self.workers.insert(worker, DRIVER);
        self.dial_raylet(DRIVER, node);
        self.registers(DRIVER);
    }

    pub(crate) fn new_worker(&mut self, node: usize, birth: Birth) -> usize {
        let process = self.processes.len();
        let pid = FIRST_PID + process as u32;
        let found = &self.nodes[node];
        let worker = Process::new(birth.worker, node, pid, found.id, found.address.clone());
        self.processes.push(worker);
        self.workers.insert(birth.worker, process);
        process
    }

    /// A process says to its raylet who it is.
    pub(crate) fn registers(&mut self, process: usize) {
        let found = &mut self.processes[process];
        if !found.alive {
            return;
        }
        let kind = match process {
            DRIVER => ClientKind::Driver,
            _ => ClientKind::Worker,
        };
        let message = found.registration(kind);
        found.core.set_now(self.agenda.now);
        found.core.register(&message);
        self.outputs(process);
    }

    /// Something comes over a connection.
    pub(crate) fn process_hears(&mut self, process: usize, conn: u64, message: Message) {
        let found = &mut self.processes[process];
        if !found.alive {
            return;
        }
        found.core.set_now(self.agenda.now);
        match message {
            Message::Frame(frame) => found.core.on_frame(conn, frame),
            Message::Closed { cause, .. } => {
                found.links.remove(&conn);
                found.core.on_closed(conn, &cause);
            }
            other => panic!("a core worker takes no {other:?}"),
        }
        found.core.check();
        // Later ones are of raylets of other nodes.
        if !found.registered
            && let Some(outcome) = found.core.take_registration()
        {
            found.registered = outcome.is_ok();
            if let Err(error) = outcome {
                self.say(|| format!("process {process} cannot register: {error}"));
                self.process_ends(process, ChildEnd::Exited(1));
                return;
            }
        }
        found.core.on_tick(self.agenda.now);
        self.outputs(process);
        self.wake_soon(process, 1);
    }

    pub(crate) fn timer(&mut self, process: usize) {
        let now = self.agenda.now;
        let found = &mut self.processes[process];
        if !found.alive || found.timer_at.is_none_or(|at| at > now) {
            return;
        }
        found.timer_at = None;
        found.core.set_now(now);
        found.core.on_tick(now);
        found.core.check();
        self.outputs(process);
        self.wake_soon(process, 1);
    }

    /// Has a process look at what it can do.
    pub(crate) fn wake_soon(&mut self, process: usize, micros: u64) {
        if !std::mem::replace(&mut self.processes[process].is_awake, true) {
            self.agenda.after(micros, Event::Wake { process });
        }
    }

    pub(crate) fn wake(&mut self, process: usize) {
        let found = &mut self.processes[process];
        found.is_awake = false;
        if !found.alive || !found.registered {
            return;
        }
        found.core.set_now(self.agenda.now);
        let is_over = found.core.broken().is_some() || (found.core.is_ending() && found.running.is_none());
        if process != DRIVER && is_over {
            self.process_ends(process, ChildEnd::Exited(0));
            return;
        }
        self.go_on(process);
        self.processes[process].core.check();
        self.outputs(process);
    }

    /// Carries out what a process has decided.
    pub(crate) fn outputs(&mut self, process: usize) {
        let outputs = self.processes[process].core.take_outputs().expect("whole frames");
        let mut ends = false;
        for output in outputs {
            match output {
                Output::Open { conn, target } => self.open(process, conn, target),
                Output::Adopt { conn, socket } => self.adopt(process, conn, link_of(&socket)),
                Output::Send { conn, frame } => {
                    if let Some((link, side)) = self.place_of(process, conn) {
                        let frame = Message::Frame(frame);
                        self.network.send(&mut self.agenda, link, 1 - side, frame);
                    }
                }
                Output::Close { conn } => {
                    if let Some((link, side)) = self.place_of(process, conn) {
                        self.network.hang_up(&mut self.agenda, link, side);
                    }
                    self.processes[process].links.remove(&conn);
                }
                Output::Notice(Notice::Fetched(key, value)) => {
                    self.processes[process].notices.push((key, value));
                    self.wake_soon(process, 1);
                }
                Output::Notice(Notice::Interrupt(task)) => {
                    self.processes[process].interrupted = Some(task);
                    self.wake_soon(process, 1);
                }
                Output::Notice(Notice::ForceExit) => ends = true,
                Output::Notice(_) => {}
            }
        }
        if ends {
            self.kill_process(process);
            return;
        }
        let now = self.agenda.now;
        let found = &mut self.processes[process];
        let next = found.core.next_tick().map(|wait| now + wait.max(1));
        if let Some(at) = next
            && found.timer_at.is_none_or(|earlier| earlier > at)
        {
            found.timer_at = Some(at);
            self.agenda.at(at, Event::Timer { process });
        }
    }

    fn place_of(&self, process: usize, conn: u64) -> Option<(usize, usize)> {
        let link = *self.processes[process].links.get(&conn)?;
        let side = self.network.side_of(link, End::Process(process, conn))?;
        Some((link, side))
    }

    fn open(&mut self, process: usize, conn: u64, target: Target) {
        let (Target::Raylet(id) | Target::Worker(id, _)) = target else {
            panic!("a core worker does not call {target:?}");
        };
        let here = self.nodes[self.processes[process].node].host;
        let node = self.node_of(id).expect("a node that was");
        let there = self.nodes[node].host;
        let ends = [End::Process(process, conn), End::Door(there)];
        let link = self.network.link(ends, [here, there]);
        self.processes[process].links.insert(conn, link);
        self.network
            .send(&mut self.agenda, link, 1, Message::Knock(target));
    }

    /// A process takes over a connection that its raylet has accepted.
    fn adopt(&mut self, process: usize, conn: u64, link: usize) {
        self.network.links[link].ends[1] = End::Process(process, conn);
        self.processes[process].links.insert(conn, link);
        if self.network.is_open(link, 1) {
            self.network.deliver_waiting(&mut self.agenda, link);
        } else {
            let cause = reset("connection reset");
            self.process_hears(process, conn, cause);
        }
    }

    pub(crate) fn kill_process(&mut self, process: usize) {
        self.process_ends(process, ChildEnd::Killed(9));
    }

    /// A process ends: what it has sent arrives still.
    pub(crate) fn process_ends(&mut self, process: usize, end: ChildEnd) {
        if !std::mem::replace(&mut self.processes[process].alive, false) {
            return;
        }
        self.say(|| format!("process {process} ends: {end}"));
        self.losses.processes += 1;
        for link in 0..self.network.links.len() {
            for side in 0..2 {
                let is_own = match self.network.links[link].ends[side] {
                    End::Process(other, _) | End::Arriving(other) => other == process,
                    _ => false,
                };
                if is_own {
                    self.network.hang_up(&mut self.agenda, link, side);
                }
            }
        }
        let found = &mut self.processes[process];
        self.orphans.extend(found.core.objects());
        found.running = None;
        found.fetches.clear();
        found.notices.clear();
        let (node, pid) = (found.node, found.pid);
        if process != DRIVER {
            let later = self.random.between(200, 5_000);
            self.agenda.after(later, Event::ChildEnded { node, pid, end });
        }
        self.tell_watchers(process);
    }
}
