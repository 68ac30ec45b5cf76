//! The network: links between processes and raylets, and the order in which things happen.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use sparkray_common::{ActorId, NodeId, ObjectId, WorkerId};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Frame, FrameDecoder, Target};

use super::process::Process;
use super::raylet::{Head, Raylet};
use crate::state::Effect;
use crate::state::{CloseCause, ConnId, RAYLET_CONN};

/// The first process.
pub(super) const DRIVER: usize = 0;

/// Small, fast and seeded.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// An id that is the same in every run.
pub(super) fn numbered_id(kind: u8, number: u64) -> [u8; 16] {
    let mut id = [kind; 16];
    id[8..].copy_from_slice(&number.to_le_bytes());
    id
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Process(usize, ConnId),
    /// A process that has not taken the connection over yet.
    Arriving(usize),
    Raylet(usize),
}

/// What travels.
#[derive(Debug)]
enum Message {
    Frame(Frame),
    Closed(CloseCause),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) ends: [End; 2],
    /// On the way to each end.
    queues: [VecDeque<Message>; 2],
    /// What is on the way to this end waits until the network is whole again.
    held: [bool; 2],
    broken: bool,
}

pub(super) struct Simulation {
    pub(super) random: Random,
    /// Microseconds.
    pub(super) now: u64,
    pub(super) nodes: Vec<NodeId>,
    pub(super) processes: Vec<Process>,
    pub(super) raylets: Vec<Raylet>,
    pub(super) head: Head,
    links: Vec<Link>,
    pub(super) last_actor: u64,
    /// Values in the stores, by node.
    pub(super) stored: HashMap<(usize, ObjectId), Vec<u8>>,
    /// Uses of stored values by processes.
    pub(super) uses: HashMap<(usize, ObjectId), i64>,
    /// Calls that actors ran: actor, incarnation, caller, the caller's number.
    pub(super) ran: Vec<(ActorId, u64, usize, u64)>,
    /// How often functions ran, by their number.
    pub(super) runs: BTreeMap<u64, u32>,
    /// Objects that a process knew that died: values that it owned may have been copied with references to them, which
    /// nobody keeps any more.
    pub(super) orphans: HashSet<ObjectId>,
    /// Frames are delivered in the order of their links, not at random.
    pub(super) orderly: bool,
    /// Nothing passes between processes of different nodes.
    cut: bool,
    /// Connections that are being made over the cut: the callee, and the link.
    knocking: Vec<(usize, usize)>,
}

impl Simulation {
    /// Nodes with `cpus` each, and a driver on the first.
    pub(super) fn new(seed: u64, nodes: usize, cpus: usize) -> Self {
        let nodes: Vec<NodeId> = (0..nodes as u64)
            .map(|number| NodeId::from_array(numbered_id(1, number)))
            .collect();
        let mut simulation = Self {
            random: Random::new(seed),
            now: 0,
            raylets: nodes.iter().map(|_| Raylet::new(cpus)).collect(),
            nodes,
            processes: Vec::new(),
            head: Head::default(),
            links: Vec::new(),
            last_actor: 0,
            stored: HashMap::new(),
            uses: HashMap::new(),
            ran: Vec::new(),
            runs: BTreeMap::new(),
            orphans: HashSet::new(),
            orderly: false,
            cut: false,
            knocking: Vec::new(),
        };
        simulation.start_process(0);
        simulation
    }

    pub(super) fn address_of(node: usize) -> String {
        format!("node{node}:1")
    }

    pub(super) fn node_index(&self, id: &[u8]) -> usize {
        self.nodes
            .iter()
            .position(|node| node.as_bytes()[..] == *id)
            .unwrap()
    }

    /// A new process, connected to its raylet.
    pub(super) fn start_process(&mut self, node: usize) -> usize {
        let index = self.processes.len();
        let process = Process::new(index as u64, node, self.nodes[node], Self::address_of(node));
        self.processes.push(process);
        self.add_link(End::Process(index, RAYLET_CONN), End::Raylet(node));
        index
    }

    fn add_link(&mut self, one: End, other: End) -> usize {
        self.links.push(Link {
            ends: [one, other],
            queues: [VecDeque::new(), VecDeque::new()],
            held: [false, false],
            broken: false,
        });
        self.links.len() - 1
    }

    fn link_of(&self, end: End) -> Option<(usize, usize)> {
        self.links.iter().enumerate().find_map(|(index, link)| {
            let side = link.ends.iter().position(|other| *other == end)?;
            (!link.broken).then_some((index, side))
        })
    }

    /// Sends from the raylet of `node` over `link`.
    pub(super) fn raylet_sends<M: prost::Message>(
        &mut self,
        link: usize,
        kind: FrameKind,
        correlation: u64,
        message: &M,
    ) {
        let link = &mut self.links[link];
        let Some(side) = link.ends.iter().position(|end| !matches!(end, End::Raylet(_))) else {
            return;
        };
        if !link.broken {
            link.queues[side].push_back(Message::Frame(Frame::new(kind, correlation, message)));
        }
    }

    /// The link between a process and its raylet.
    pub(super) fn raylet_link(&self, process: usize) -> Option<usize> {
        self.link_of(End::Process(process, RAYLET_CONN))
            .map(|(link, _)| link)
    }

    /// Tells every process that lives.
    pub(super) fn broadcast<M: prost::Message>(&mut self, kind: FrameKind, message: &M) {
        for process in 0..self.processes.len() {
            if let Some(link) = self.raylet_link(process) {
                self.raylet_sends(link, kind, 0, message);
            }
        }
    }

    // ---- what processes want -------------------------------------------------------------------------------

    /// Carries out what the states want.
    pub(super) fn carry_out(&mut self) {
        for index in 0..self.processes.len() {
            if self.processes[index].alive {
                self.carry_out_of(index);
            }
        }
    }

    fn carry_out_of(&mut self, index: usize) {
        self.processes[index].state.set_now(self.now);
        self.processes[index].take_drops();
        self.processes[index].state.settle();
        self.processes[index].state.check();
        for effect in self.processes[index].state.take_effects() {
            match effect {
                Effect::Open { conn, target, .. } => self.open(index, conn, target),
                Effect::Close { conn } => self.break_end(End::Process(index, conn)),
                Effect::Adopt { conn, .. } => {
                    let arriving = End::Arriving(index);
                    let taken = self.processes[index].arrivals.pop_front().unwrap();
                    let link = &mut self.links[taken];
                    if let Some(side) = link.ends.iter().position(|end| *end == arriving) {
                        link.ends[side] = End::Process(index, conn);
                    }
                }
                Effect::Notify(notice) => self.processes[index].notices.push(notice),
            }
        }
        let mut sent = Vec::new();
        self.processes[index]
            .state
            .take_outgoing(|conn, bytes, _| sent.push((conn, std::mem::take(bytes))));
        for (conn, bytes) in sent {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                if let Some((link, side)) = self.link_of(End::Process(index, conn)) {
                    self.links[link].queues[1 - side].push_back(Message::Frame(frame));
                }
            }
        }
    }

    fn open(&mut self, index: usize, conn: ConnId, target: Target) {
        let here = End::Process(index, conn);
        match target {
            Target::Worker(_, worker) => {
                let callee = self
                    .processes
                    .iter()
                    .position(|process| process.alive && process.state.me().worker_id == worker);
                let Some(callee) = callee else {
                    self.refuse(here);
                    return;
                };
                let link = self.add_link(here, End::Arriving(callee));
                if self.cut && self.crosses(link) {
                    self.links[link].held = [true, true];
                    self.knocking.push((callee, link));
                } else {
                    self.arrive(callee, link);
                }
            }
            Target::Raylet(node) => {
                let node = self.node_index(node.as_bytes());
                self.add_link(here, End::Raylet(node));
            }
            other => panic!("a core worker does not call {other:?}"),
        }
    }

    /// The raylet of the callee passes the socket on.
    fn arrive(&mut self, callee: usize, link: usize) {
        self.processes[callee].arrivals.push_back(link);
        let descriptor = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let incoming = proto::IncomingConnection {
            agreement: sparkray_rpc::Agreement::plain().encode().into(),
        };
        let frame = Frame::new(FrameKind::IncomingConnection, 0, &incoming).with_descriptor(descriptor);
        let raylet = self.raylet_link(callee).unwrap();
        self.links[raylet].queues[0].push_back(Message::Frame(frame));
    }

    fn refuse(&mut self, end: End) {
        let link = self.add_link(end, end);
        self.links[link].broken = true;
        let cause = CloseCause {
            gone: true,
            unused: true,
            ..CloseCause::new("no such process")
        };
        self.links[link].queues[0].push_back(Message::Closed(cause));
    }

    // ---- what goes wrong -----------------------------------------------------------------------------------

    /// This end closes: what it has sent arrives still.
    fn break_end(&mut self, end: End) {
        if let Some((link, side)) = self.link_of(end) {
            let link = &mut self.links[link];
            link.broken = true;
            link.queues[side].clear();
            link.queues[1 - side].push_back(Message::Closed(CloseCause::new(
                "the other side closed the connection",
            )));
        }
    }

    /// Links between processes.
    pub(super) fn breakable(&self) -> Vec<usize> {
        let is_process = |end: &End| matches!(end, End::Process(..));
        (0..self.links.len())
            .filter(|index| !self.links[*index].broken && self.links[*index].ends.iter().all(is_process))
            .collect()
    }

    /// Links between processes and raylets of other nodes.
    pub(super) fn links_to_other_raylets(&self) -> Vec<usize> {
        let is_across = |ends: &[End; 2]| match ends {
            [End::Process(process, _), End::Raylet(node)] => self.processes[*process].node != *node,
            _ => false,
        };
        (0..self.links.len())
            .filter(|index| !self.links[*index].broken && is_across(&self.links[*index].ends))
            .collect()
    }

    /// A connection breaks, with everything on the way. Both processes live.
    pub(super) fn break_link(&mut self, index: usize) {
        let link = &mut self.links[index];
        link.broken = true;
        for queue in &mut link.queues {
            queue.clear();
            queue.push_back(Message::Closed(CloseCause::new("connection reset")));
        }
    }

    /// Whether a link is between processes of different nodes.
    fn crosses(&self, link: usize) -> bool {
        let node = |end: &End| match end {
            End::Process(process, _) | End::Arriving(process) => Some(self.processes[*process].node),
            End::Raylet(_) => None,
        };
        let [one, other] = &self.links[link].ends;
        matches!((node(one), node(other)), (Some(one), Some(other)) if one != other)
    }

    /// Nothing passes between the nodes any more, in silence.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        for link in 0..self.links.len() {
            if self.crosses(link) {
                self.links[link].held = [true, true];
            }
        }
    }

    /// One end of a connection over the cut gives it up. What it has sent arrives after the cut, as far as it does.
    pub(super) fn notice(&mut self, index: usize) {
        let ends: Vec<(usize, usize)> = (0..self.links.len())
            .filter(|link| self.crosses(*link))
            .flat_map(|link| [(link, 0), (link, 1)])
            .filter(|(link, side)| {
                let link = &self.links[*link];
                link.held[*side] && matches!(link.ends[*side], End::Process(..))
            })
            .collect();
        if ends.is_empty() {
            return;
        }
        let (link, side) = ends[index % ends.len()];
        let kept = self.random.below(4);
        let link = &mut self.links[link];
        link.held[side] = false;
        link.queues[side].clear();
        link.queues[side].push_back(Message::Closed(CloseCause::new("no acknowledgement")));
        if !link.broken {
            link.broken = true;
            link.queues[1 - side].truncate(kept);
            link.queues[1 - side].push_back(Message::Closed(CloseCause::new("connection reset")));
        }
    }

    /// Both ends of every connection over the cut give it up.
    pub(super) fn notice_all(&mut self) {
        for _ in 0..2 * self.links.len() {
            self.notice(0);
        }
    }

    /// The network is whole again: what was on the way arrives.
    pub(super) fn heal(&mut self) {
        self.cut = false;
        for link in &mut self.links {
            link.held = [false, false];
        }
        for (callee, link) in std::mem::take(&mut self.knocking) {
            if self.links[link].broken {
                continue;
            }
            if self.processes[callee].alive {
                self.arrive(callee, link);
            } else {
                let cause = CloseCause {
                    gone: true,
                    unused: true,
                    ..CloseCause::new("no such process")
                };
                self.links[link].broken = true;
                self.links[link].queues[0].push_back(Message::Closed(cause));
            }
        }
    }

    /// What is on the way over one connection between the nodes, in one direction or both, waits until the network is
    /// whole.
    pub(super) fn slow(&mut self, index: usize) {
        let links: Vec<usize> = (0..self.links.len())
            .filter(|link| !self.links[*link].broken && self.crosses(*link))
            .collect();
        if !links.is_empty() {
            self.links[links[index % links.len()]].held = [true, index.is_multiple_of(2)];
        }
    }

    /// Time passes for all processes before anything is delivered.
    pub(super) fn tick(&mut self, micros: u64) {
        self.now += micros;
        for process in self.processes.iter_mut().filter(|process| process.alive) {
            process.state.on_tick(self.now);
        }
        self.carry_out();
    }

    /// What is on the way over the link that was made last waits, or goes on.
    pub(super) fn hold_newest_link(&mut self, held: bool) {
        if let Some(link) = self.links.last_mut() {
            link.held = [held, held];
        }
    }

    /// A process dies. What it has sent arrives still.
    pub(super) fn kill(&mut self, index: usize) {
        self.vanish(index);
        self.process_died(index);
    }

    /// A process dies with all that could tell of it.
    pub(super) fn vanish(&mut self, index: usize) {
        self.processes[index].alive = false;
        self.orphans.extend(self.processes[index].state.objects().ids());
        let ends: Vec<End> = self
            .links
            .iter()
            .flat_map(|link| link.ends)
            .filter(|end| matches!(end, End::Process(other, _) | End::Arriving(other) if *other == index))
            .collect();
        for end in ends {
            self.break_end(end);
        }
        self.uses.retain(|(process, _), _| *process != index);
    }

    // ---- steps ---------------------------------------------------------------------------------------------

    /// One frame is delivered, or one process goes on. False: nothing is to be done before time passes.
    pub(super) fn step(&mut self) -> bool {
        self.carry_out();
        let mut choices: Vec<(usize, usize)> = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            for side in 0..2 {
                let arrives = !matches!(link.ends[side], End::Arriving(_)) && !link.held[side];
                if arrives && !link.queues[side].is_empty() {
                    choices.push((index, side));
                }
            }
        }
        let busy: Vec<usize> = (0..self.processes.len())
            .filter(|index| self.processes[*index].alive && self.processes[*index].can_go_on())
            .collect();
        let count = choices.len() + busy.len();
        if count == 0 {
            return false;
        }
        let choice = if self.orderly { 0 } else { self.random.below(count) };
        self.now += 3;
        match choices.get(choice) {
            Some((link, side)) => self.deliver(*link, *side),
            None => self.go_on(busy[choice - choices.len()]),
        }
        self.carry_out();
        true
    }

    fn deliver(&mut self, link: usize, side: usize) {
        let Some(message) = self.links[link].queues[side].pop_front() else {
            return;
        };
        match self.links[link].ends[side] {
            End::Process(process, conn) => {
                let process = &mut self.processes[process];
                if !process.alive {
                    return;
                }
                process.state.set_now(self.now);
                match message {
                    Message::Frame(frame) => process.state.on_frame(conn, frame),
                    Message::Closed(cause) => process.state.on_closed(conn, &cause),
                }
                process.state.check();
                process.state.on_tick(self.now);
                self.map_ready();
            }
            End::Raylet(node) => match message {
                Message::Frame(frame) => self.raylet_takes(node, link, side, &frame),
                Message::Closed(_) => self.raylet_lost(node, link),
            },
            End::Arriving(_) => {}
        }
    }

    /// Lets everything happen that happens by itself.
    pub(super) fn settle(&mut self) {
        for _ in 0..400_000 {
            if self.step() {
                continue;
            }
            let next = self
                .processes
                .iter()
                .filter(|process| process.alive)
                .filter_map(|process| process.state.next_tick())
                .min();
            let Some(wait) = next else { return };
            self.now += wait.max(1);
            for process in self.processes.iter_mut().filter(|process| process.alive) {
                process.state.on_tick(self.now);
            }
        }
        panic!("the simulation does not come to rest");
    }

    /// Lets everything happen that happens by itself in this time, in microseconds.
    pub(super) fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        for _ in 0..400_000 {
            if self.step() {
                continue;
            }
            let wait = self
                .processes
                .iter()
                .filter(|process| process.alive)
                .filter_map(|process| process.state.next_tick())
                .min()
                .map_or(u64::MAX, |wait| wait.max(1));
            if self.now.saturating_add(wait) > end {
                self.now = self.now.max(end);
                return;
            }
            self.now += wait;
            for process in self.processes.iter_mut().filter(|process| process.alive) {
                process.state.on_tick(self.now);
            }
        }
        panic!("the simulation does not come to rest");
    }

    /// A few steps.
    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if !self.step() {
                return;
            }
        }
    }

    pub(super) fn process_of(&self, worker: &[u8]) -> Option<usize> {
        self.processes
            .iter()
            .position(|process| process.state.me().worker_id.as_bytes()[..] == *worker)
    }

    pub(super) fn worker_id(&self, process: usize) -> WorkerId {
        self.processes[process].state.me().worker_id
    }

    /// The process at one of the ends of a raylet's link.
    pub(super) fn process_on(&self, link: usize) -> Option<usize> {
        self.links[link].ends.iter().find_map(|end| match end {
            End::Process(process, _) => Some(*process),
            _ => None,
        })
    }

    /// The process at the other end of a raylet's link.
    pub(super) fn client_of(&self, link: usize, side: usize) -> Option<usize> {
        match self.links[link].ends[1 - side] {
            End::Process(process, _) => Some(process),
            _ => None,
        }
    }
}
