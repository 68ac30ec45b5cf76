//! The cluster: everything that lives, and what arrives where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sparkray_common::{ClusterId, NodeId, ObjectId, WorkerId};

use crate::agenda::{Agenda, Event};
use crate::faults::Faults;
use crate::head::HeadSide;
use crate::network::{End, Message, Network};
use crate::node::Node;
use crate::process::Process;
use crate::program::Program;
use crate::random::Random;

pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const TICK: u64 = SECOND / 10;

/// What a run is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hosts: usize,
    pub(crate) cpus: u32,
    /// Where the head is; the driver is on the first host.
    pub(crate) head_host: usize,
    pub(crate) store_bytes: u64,
    pub(crate) spill_dirs: Vec<PathBuf>,
}

/// What went wrong so far: by that it is judged which failures may be.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) nodes: u32,
    /// Workers that ended, for whatever reason, and actors.
    pub(crate) processes: u32,
    /// Cuts that lasted longer than a fetch is tried.
    pub(crate) cuts: u32,
    /// Questions to the head that nobody has answered.
    pub(crate) questions: u32,
    /// Workers that were killed.
    pub(crate) killed: u32,
}

pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) agenda: Agenda,
    pub(crate) network: Network,
    pub(crate) head: HeadSide,
    /// Every raylet that ever was.
    pub(crate) nodes: Vec<Node>,
    /// Every process that ever was; the driver is the first.
    pub(crate) processes: Vec<Process>,
    pub(crate) workers: BTreeMap<WorkerId, usize>,
    pub(crate) program: Program,
    pub(crate) losses: Losses,
    /// Objects that a process knew that ended: values that it owned may have been copied with references to them, which
    /// nobody keeps any more.
    pub(crate) orphans: BTreeSet<ObjectId>,
    pub(crate) faults: Faults,
    pub(crate) trace: Option<crate::trace::Trace>,
}

pub(crate) const DRIVER: usize = 0;

pub(crate) fn cluster_id() -> ClusterId {
    ClusterId::from_array([9; 16])
}

/// An id that is the same in every run.
pub(crate) fn numbered(kind: u8, number: u64) -> [u8; 16] {
    let mut id = [kind; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// A message, for the trace.
fn describe(message: &Message) -> String {
    let text = match message {
        Message::Frame(frame) => format!("{:?} {} {:?}", frame.kind, frame.correlation, frame.meta),
        other => format!("{other:?}"),
    };
    text.chars().take(300).collect()
}

impl Cluster {
    /// A cluster whose nodes begin; the driver joins once its node is there.
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let mut agenda = Agenda::new();
        let head = HeadSide::new(plan.head_host, agenda.instant());
        agenda.after(TICK, Event::HeadTick);
        for host in 0..plan.hosts {
            agenda.after(1000 + host as u64, Event::StartNode { host });
        }
        Self {
            plan,
            random: Random::new(seed),
            network: Network::new(seed ^ 0x5eed),
            agenda,
            head,
            nodes: Vec::new(),
            processes: Vec::new(),
            workers: BTreeMap::new(),
            program: Program::new(seed ^ 0xf00d),
            losses: Losses::default(),
            orphans: BTreeSet::new(),
            faults: Faults::default(),
            trace: crate::trace::Trace::wanted(),
        }
    }

    /// Whether the driver takes part still: its node was not cut off.
    pub(crate) fn driver_takes_part(&self) -> bool {
        self.processes[DRIVER].core.broken().is_none()
    }

    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.say(self.agenda.now, text());
        }
    }

    /// The node of an id, dead or alive.
    pub(crate) fn node_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// The raylet that lives on a host.
    pub(crate) fn node_on(&self, host: usize) -> Option<usize> {
        self.nodes
            .iter()
            .rposition(|node| node.host == host && node.is_alive())
    }

    /// Lets this time pass, in microseconds.
    pub(crate) fn pass(&mut self, micros: u64) {
        let end = self.agenda.now + micros;
        while let Some(event) = self.agenda.next(end) {
            self.happen(event);
        }
    }

    /// Lets time pass until this is true, or fails after so long.
    pub(crate) fn until(&mut self, what: &str, seconds: u64, is_so: impl Fn(&mut Self) -> bool) {
        let end = self.agenda.now + seconds * SECOND;
        while !is_so(self) {
            assert!(self.agenda.now < end, "after {seconds} s still not: {what}");
            self.pass(TICK);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { link, side } => self.deliver(link, side),
            Event::GiveUp { link, side } => self.give_up(link, side),
            Event::LetGo { link } => self.network.let_go(&mut self.agenda, link),
            Event::HeadTick => self.head_tick(),
            Event::HeadContinues => self.head_continues(),
            Event::RayletTick { node } => self.raylet_tick(node),
            Event::Heartbeat { node } => self.heartbeat(node),
            Event::TooLate { link } => self.too_late(link),
            Event::StartNode { host } => self.start_node(host),
            Event::Forked { node, process } => self.forked(node, process),
            Event::Registers { process } => self.registers(process),
            Event::ChildEnded { node, pid, end } => self.child_ended(node, pid, end),
            Event::ProcessGone { node, connection } => self.process_gone(node, connection),
            Event::KillLater { node, worker } => self.kill_later(node, worker),
            Event::StoreWork { node, job } => self.store_work(node, job),
            Event::Pushed { node, ticket, bytes } => self.pushed(node, ticket, bytes),
            Event::PullEnded {
                node,
                ticket,
                object,
                outcome,
            } => self.pull_ended(node, ticket, object, *outcome),
            Event::RetryPull { node, ticket } => self.retry_pull(node, ticket),
            Event::ExchangeTooLate { node, exchange } => self.exchange_too_late(node, exchange),
            Event::StallAnswered { node, asked, stall } => self.stall_answered(node, asked, stall),
            Event::FreesTold { node, target, left } => self.frees_told(node, target, left),
            Event::Wake { process } => self.wake(process),
            Event::Timer { process } => self.timer(process),
            Event::Program => self.run_program(),
            Event::Fault => self.next_fault(),
            Event::Heal => self.heal(),
        }
    }

    fn is_ready(&self, link: usize, side: usize) -> bool {
        match self.network.links[link].ends[side] {
            End::Door(_) => self.network.next_is_knock(link, side),
            End::Arriving(_) => false,
            End::Head => self.head.runs(),
            _ => true,
        }
    }

    fn deliver(&mut self, link: usize, side: usize) {
        if !self.is_ready(link, side) {
            return;
        }
        if let Some(message) = self.network.take(self.agenda.now, link, side) {
            let end = self.network.links[link].ends[side];
            self.say(|| format!("link {link} {end:?} < {}", describe(&message)));
            self.arrive(link, end, message);
        }
    }

    fn arrive(&mut self, link: usize, end: End, message: Message) {
        match (end, message) {
            (End::Door(host), Message::Knock(target)) => self.knock(link, host, target),
            (End::Process(process, conn), message) => self.process_hears(process, conn, message),
            (End::Raylet(node, connection), message) => self.raylet_hears(node, connection, message),
            (End::Exchange(node, exchange), message) => self.exchange_hears(node, exchange, message),
            (End::Stream(node), message) => self.stream_hears(node, link, message),
            (end @ End::Question { .. }, message) => self.question_answered(link, end, message),
            (End::Head, message) => self.head_hears(link, message),
            // What the other side has closed before anybody took it over.
            (End::Door(_) | End::Arriving(_), _) => {}
        }
    }

    fn give_up(&mut self, link: usize, side: usize) {
        let end = self.network.links[link].ends[side];
        if let Some(message) = self.network.give_up(&mut self.agenda, link, side) {
            self.say(|| format!("link {link} {end:?} gives up"));
            self.arrive(link, end, message);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.say(|| "heal".to_owned());
        self.network.heal(&mut self.agenda);
    }
}
