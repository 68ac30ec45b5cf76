//! The nodes: a raylet each, and what its effects do.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use sparkray_common::{MomentClock, NODE_SILENCE, NodeId, ResourceSet, SharedMoment, VERSION, WorkerId};
use sparkray_core_worker::simulation::CloseCause;
use sparkray_object_store::{IoJob, PullTicket};
use sparkray_proto::{ClusterView, FrameKind, HeadStallReply};
use sparkray_raylet::simulation::{
    Birth, ChildEnd, Effect, HeadEffect, Input, NodeSetup, Raylet, ZygoteEvent,
};
use sparkray_rpc::{Accepted, Agreement, Frame, Target};

use crate::agenda::Event;
use crate::cluster::{Cluster, DRIVER, SECOND, TICK, cluster_id, numbered};
use crate::exchanges::{Exchange, Pull};
use crate::head::EPOCH;
use crate::network::{End, Message};
use crate::stream::Streams;

/// One start of a raylet on a host.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) host: usize,
    pub(crate) address: String,
    pub(crate) resources: ResourceSet,
    /// `None`: it waits for the head to take it in, or it has ended.
    pub(crate) raylet: Option<Raylet>,
    ended: bool,
    pub(crate) streams: Streams,
    /// The link of each connection.
    connections: BTreeMap<u64, usize>,
    /// Processes that callers are led to.
    routes: BTreeSet<WorkerId>,
    /// Clients that are watched, as they are no children.
    watched: BTreeMap<u64, usize>,
    /// Connections that are over, with the processes whose end is waited for.
    awaited: Vec<(u64, usize)>,
    /// When its workers end by themselves.
    workers_end_at: Duration,
    pub(crate) exchanges: BTreeMap<u64, Exchange>,
    pub(crate) pulls: BTreeMap<PullTicket, Pull>,
    pub(crate) last_exchange: u64,
    /// Nodes that are known to be dead.
    pub(crate) dead: BTreeSet<NodeId>,
}

impl Node {
    /// Whether its process lives.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ended
    }

    /// Whether the head has taken it in.
    pub(crate) fn is_up(&self) -> bool {
        self.raylet.is_some()
    }
}

pub(crate) fn cpus(count: u32) -> ResourceSet {
    ResourceSet::from_units([("CPU".to_owned(), f64::from(count))]).expect("an amount")
}

impl Cluster {
    // ---- beginning and end ---------------------------------------------------------------------------------

    /// The manager of a host starts a raylet.
    pub(crate) fn start_node(&mut self, host: usize) {
        let number = self.nodes.len();
        self.nodes.push(Node {
            id: NodeId::from_array(numbered(1, number as u64)),
            host,
            address: format!("host{host}:{number}"),
            resources: cpus(self.plan.cpus),
            raylet: None,
            ended: false,
            streams: Streams::default(),
            connections: BTreeMap::new(),
            routes: BTreeSet::new(),
            watched: BTreeMap::new(),
            awaited: Vec::new(),
            workers_end_at: Duration::MAX,
            exchanges: BTreeMap::new(),
            pulls: BTreeMap::new(),
            last_exchange: 0,
            dead: BTreeSet::new(),
        });
        self.say(|| format!("node {number} starts on host {host}"));
        self.attach_until_up(number);
    }

    /// Until the head answers.
    fn attach_until_up(&mut self, node: usize) {
        self.attach(node);
        self.agenda.after(SECOND, Event::RayletTick { node });
    }

    /// The head has taken a node in.
    pub(crate) fn raylet_begins(&mut self, node: usize, attached: u64, view: &ClusterView) {
        let head_address = self
            .head_address()
            .filter(|_| self.nodes[node].host != self.head.host);
        let found = &mut self.nodes[node];
        let setup = NodeSetup {
            node_id: found.id,
            cluster_id: cluster_id(),
            head_epoch: EPOCH,
            address: found.address.clone(),
            head_address,
            resources: found.resources.clone(),
            store_bytes: self.plan.store_bytes,
            spill_dirs: self.plan.spill_dirs.clone(),
            attached: Duration::from_micros(attached),
            silence: NODE_SILENCE,
            ids: node as u64 + 1,
        };
        let raylet = Raylet::new(setup, view, self.agenda.instant());
        found.raylet = Some(raylet.expect("the head's view can be read"));
        self.say(|| format!("node {node} is up"));
        let ready = ZygoteEvent::Ready {
            pid: 1,
            python_version: "3.11".to_owned(),
            sparkray_version: VERSION.to_owned(),
        };
        self.input(node, zygote(ready));
        self.agenda.after(TICK, Event::RayletTick { node });
        self.agenda.after(SECOND / 2, Event::Heartbeat { node });
        self.node_is_up(node);
    }

    /// The address of the raylet of the head's node.
    fn head_address(&self) -> Option<String> {
        let node = self.node_on(self.head.host)?;
        Some(self.nodes[node].address.clone())
    }

    /// A raylet's process ends, and its workers with it; its manager starts another one.
    pub(crate) fn node_ends(&mut self, node: usize, why: &str) {
        if std::mem::replace(&mut self.nodes[node].ended, true) {
            return;
        }
        self.say(|| format!("node {node} ends: {why}"));
        self.nodes[node].raylet = None;
        self.losses.nodes += 1;
        for process in 0..self.processes.len() {
            if self.processes[process].node == node && process != DRIVER {
                self.process_ends(process, ChildEnd::Killed(9));
            }
        }
        for link in 0..self.network.links.len() {
            for side in 0..2 {
                let is_own = match self.network.links[link].ends[side] {
                    End::Raylet(other, _) | End::Exchange(other, _) | End::Stream(other) => other == node,
                    End::Question { node: other, .. } => other == node,
                    _ => false,
                };
                if is_own {
                    self.network.hang_up(&mut self.agenda, link, side);
                }
            }
        }
        let host = self.nodes[node].host;
        self.nodes[node].exchanges.clear();
        self.nodes[node].pulls.clear();
        let pause = self.random.between(300_000, 900_000);
        self.agenda.after(pause, Event::StartNode { host });
    }

    // ---- inputs --------------------------------------------------------------------------------------------

    /// Hands an input to a raylet and carries out what it decides.
    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let now = self.agenda.instant();
        let Some(raylet) = &mut self.nodes[node].raylet else {
            return;
        };
        let effects = raylet.handle(input, now);
        let failure = raylet.take_failure();
        for effect in effects {
            self.carry_out_raylet(node, effect);
        }
        self.give_to_head(node);
        if let Some(failure) = failure {
            self.node_ends(node, &failure.to_string());
        }
    }

    pub(crate) fn raylet_tick(&mut self, node: usize) {
        if !self.nodes[node].is_alive() {
            return;
        }
        if !self.nodes[node].is_up() {
            // Whether it was given up, or is on its way: another attempt replaces it.
            self.attach_until_up(node);
            return;
        }
        self.agenda.after(TICK, Event::RayletTick { node });
        let clock = self.agenda.clock();
        let is_heads = self.nodes[node].host == self.head.host;
        let head_stall = self.head.stall(self.agenda.now).filter(|_| is_heads);
        self.input(node, Input::Tick { clock, head_stall });
        if clock >= self.nodes[node].workers_end_at {
            self.say(|| format!("workers of node {node} end by themselves"));
            for process in 0..self.processes.len() {
                if self.processes[process].node == node && self.processes[process].is_worker() {
                    self.process_ends(process, ChildEnd::Exited(0));
                }
            }
        }
    }

    /// Something comes over a connection.
    pub(crate) fn raylet_hears(&mut self, node: usize, connection: u64, message: Message) {
        let input = match message {
            Message::Frame(frame) => Input::Frame { connection, frame },
            Message::Closed { cause, .. } => Input::Closed {
                connection,
                cause: cause.message,
            },
            other => panic!("a raylet takes no {other:?}"),
        };
        self.input(node, input);
    }

    pub(crate) fn child_ended(&mut self, node: usize, pid: u32, end: ChildEnd) {
        self.input(node, Input::ChildrenEnded(vec![(pid, end)]));
    }

    /// The process behind a connection that is watched, or waited for, has ended.
    pub(crate) fn process_gone(&mut self, node: usize, connection: u64) {
        self.input(node, Input::ProcessEnded { connection });
    }

    pub(crate) fn kill_later(&mut self, node: usize, worker: WorkerId) {
        let worker_id = worker;
        self.input(node, Input::KillWorker { worker_id });
    }

    pub(crate) fn store_work(&mut self, node: usize, job: IoJob) {
        let Some(raylet) = &self.nodes[node].raylet else {
            return;
        };
        if let Some(outcome) = raylet.work(job) {
            self.input(node, Input::StoreIo(outcome));
        }
    }

    pub(crate) fn stall_answered(&mut self, node: usize, asked: Duration, stall: Option<Duration>) {
        let answered = self.agenda.clock();
        let input = Input::HeadStall {
            asked,
            answered,
            stall,
        };
        self.input(node, input);
    }

    // ---- callers -------------------------------------------------------------------------------------------

    /// A caller has come to a host.
    pub(crate) fn knock(&mut self, link: usize, host: usize, target: Target) {
        let (Target::Raylet(wanted) | Target::Worker(wanted, _)) = target else {
            panic!("nobody calls {target:?}");
        };
        let there = self.node_on(host).filter(|node| self.nodes[*node].is_up());
        let admitted = there.filter(|node| {
            let node = &self.nodes[*node];
            let is_routed = match target {
                Target::Worker(_, worker) => node.routes.contains(&worker),
                _ => true,
            };
            node.id == wanted && is_routed
        });
        let Some(node) = admitted else {
            let cause = CloseCause {
                // A host where nobody listens refuses the connection, which is no verdict.
                gone: there.is_some(),
                unused: true,
                ..CloseCause::new("the process that was asked for is not there")
            };
            self.network.end(&mut self.agenda, link, 1, cause, true);
            return;
        };
        if let Target::Worker(_, worker) = target
            && let Some(process) = self.workers.get(&worker)
        {
            self.network.links[link].ends[1] = End::Arriving(*process);
        }
        let local = self.network.hosts(link)[0] == host;
        let accepted = Accepted {
            target,
            socket: ticket(link).into(),
            agreement: Agreement::plain(),
            peer: String::new(),
        };
        self.input(node, Input::Accepted { accepted, local });
    }

    // ---- effects -------------------------------------------------------------------------------------------

    fn carry_out_raylet(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Serve { connection, socket } => {
                let link = link_of(&socket.socket);
                self.network.links[link].ends[1] = End::Raylet(node, connection);
                self.nodes[node].connections.insert(connection, link);
                self.network.deliver_waiting(&mut self.agenda, link);
            }
            Effect::Send { connection, frame }
            | Effect::SendIfRead { connection, frame }
            | Effect::SendWithLease { connection, frame } => {
                self.raylet_sends(node, connection, frame);
            }
            Effect::SendAll { connection, frames } => {
                for frame in frames {
                    self.raylet_sends(node, connection, frame);
                }
            }
            Effect::SendLog { .. }
            | Effect::CloseHeadRoute
            | Effect::KillOrphans { .. }
            | Effect::EndZygote { .. } => {}
            Effect::Close { connection } | Effect::Drain { connection } => {
                self.raylet_closes(node, connection);
            }
            Effect::WatchProcess { connection, .. } => {
                if let Some(process) = self.process_behind(node, connection) {
                    self.nodes[node].watched.insert(connection, process);
                }
            }
            Effect::AwaitProcess { connection } => {
                let watched = self.nodes[node].watched.get(&connection).copied();
                match watched.filter(|process| self.processes[*process].alive) {
                    Some(process) => self.nodes[node].awaited.push((connection, process)),
                    None => self.agenda.after(0, Event::ProcessGone { node, connection }),
                }
            }
            Effect::Release { connection } => {
                if let Some(link) = self.nodes[node].connections.remove(&connection)
                    && let Some(side) = self.network.side_of(link, End::Raylet(node, connection))
                {
                    self.network.hang_up(&mut self.agenda, link, side);
                }
            }
            Effect::OpenRoute { worker } => {
                self.nodes[node].routes.insert(worker);
            }
            Effect::CloseRoute { worker } => {
                self.nodes[node].routes.remove(&worker);
            }
            Effect::ForgetPeer { node: dead } => self.forget_peer(node, dead),
            Effect::Fork { births } => {
                for birth in births {
                    self.fork(node, birth);
                }
            }
            Effect::Kill { pid } => {
                let process = self.processes.iter().position(|process| process.pid == pid);
                if let Some(process) = process {
                    self.process_ends(process, ChildEnd::Killed(9));
                }
            }
            Effect::KillLater { worker, grace } => {
                let grace = u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
                self.agenda.after(grace, Event::KillLater { node, worker });
            }
            Effect::Object(effect) => self.carry_out_for_objects(node, effect),
            Effect::Head(effect) => self.carry_out_for_head(node, effect),
        }
    }

    fn carry_out_for_head(&mut self, node: usize, effect: HeadEffect) {
        let question = |connection, correlation, begins_job| End::Question {
            node,
            connection,
            correlation,
            begins_job,
        };
        match effect {
            HeadEffect::Call {
                connection,
                correlation,
                request,
            } => self.ask_head(question(connection, correlation, false), request),
            HeadEffect::AskForJob {
                connection,
                correlation,
                request,
            } => self.ask_head(question(connection, correlation, true), request),
            HeadEffect::AskStall {
                node: other, asked, ..
            } => self.ask_for_stall(node, other, asked),
            HeadEffect::TellStall {
                connection,
                correlation,
            } => {
                let stall = self.head.stall(self.agenda.now).unwrap_or_default();
                let reply = HeadStallReply {
                    stalled_nanos: u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX),
                };
                let frame = Frame::new(FrameKind::HeadStallReply, correlation, &reply);
                self.raylet_sends(node, connection, frame);
            }
            HeadEffect::PublishLease(SharedMoment { clock, at }) => {
                assert_eq!(clock, MomentClock::Monotonic);
                self.nodes[node].workers_end_at = at;
            }
            HeadEffect::Pass { .. } => {
                panic!("streams of the simulation go straight to the head");
            }
        }
    }

    pub(crate) fn raylet_sends(&mut self, node: usize, connection: u64, frame: Frame) {
        let Some(link) = self.nodes[node].connections.get(&connection).copied() else {
            return;
        };
        if let Some(side) = self.network.side_of(link, End::Raylet(node, connection)) {
            self.network
                .send(&mut self.agenda, link, 1 - side, Message::Frame(frame));
        }
    }

    /// A raylet reads no more of a connection.
    fn raylet_closes(&mut self, node: usize, connection: u64) {
        let Some(link) = self.nodes[node].connections.get(&connection).copied() else {
            return;
        };
        let Some(side) = self.network.side_of(link, End::Raylet(node, connection)) else {
            return;
        };
        if !self.network.is_open(link, 1 - side) {
            // What the other end has sent is on its way, and its end behind that.
            return;
        }
        for side in [1 - side, side] {
            let closed = Message::Closed {
                cause: CloseCause::new("its connection closed"),
                by_peer: true,
            };
            if side_is_own(&self.network.links[link].ends[side], node) {
                self.network.tell_end(&mut self.agenda, link, side, closed);
            } else {
                self.network.send(&mut self.agenda, link, side, closed);
            }
        }
    }

    /// The local process at the other end of a connection.
    fn process_behind(&self, node: usize, connection: u64) -> Option<usize> {
        let link = self.nodes[node].connections.get(&connection)?;
        let ends = &self.network.links[*link].ends;
        ends.iter().find_map(|end| match end {
            End::Process(process, _) => Some(*process),
            _ => None,
        })
    }

    /// A process ended: those who watched it hear that.
    pub(crate) fn tell_watchers(&mut self, process: usize) {
        let node = self.processes[process].node;
        let awaited = &mut self.nodes[node].awaited;
        let gone: Vec<u64> = awaited
            .extract_if(.., |(_, other)| *other == process)
            .map(|(connection, _)| connection)
            .collect();
        for connection in gone {
            self.agenda.after(500, Event::ProcessGone { node, connection });
        }
    }

    fn fork(&mut self, node: usize, birth: Birth) {
        let connection = birth.connection;
        let process = self.new_worker(node, birth);
        let ends = [
            End::Process(process, sparkray_core_worker::simulation::RAYLET),
            End::Raylet(node, connection),
        ];
        let host = self.nodes[node].host;
        let link = self.network.link(ends, [host, host]);
        self.nodes[node].connections.insert(connection, link);
        self.processes[process]
            .links
            .insert(sparkray_core_worker::simulation::RAYLET, link);
        let (forked, registers) = (
            self.random.between(1_000, 8_000),
            self.random.between(2_000, 30_000),
        );
        self.agenda.after(forked, Event::Forked { node, process });
        self.agenda.after(registers, Event::Registers { process });
    }

    pub(crate) fn forked(&mut self, node: usize, process: usize) {
        let found = &self.processes[process];
        let (worker_id, pid) = (found.worker, found.pid);
        self.input(node, zygote(ZygoteEvent::Forked { worker_id, pid }));
    }

    /// A driver connects to the raylet of a node.
    pub(crate) fn dial_raylet(&mut self, process: usize, node: usize) {
        let host = self.nodes[node].host;
        let conn = sparkray_core_worker::simulation::RAYLET;
        let link = self
            .network
            .link([End::Process(process, conn), End::Door(host)], [host, host]);
        self.processes[process].links.insert(conn, link);
        let target = Target::Raylet(self.nodes[node].id);
        self.network
            .send(&mut self.agenda, link, 1, Message::Knock(target));
    }
}

/// A descriptor that names a link, in place of a socket.
fn ticket(link: usize) -> OwnedFd {
    let flags = rustix::event::EventfdFlags::CLOEXEC;
    let number = u32::try_from(link).expect("few links");
    rustix::event::eventfd(number + 1, flags).expect("a descriptor")
}

/// The link that a descriptor names.
pub(crate) fn link_of(ticket: &OwnedFd) -> usize {
    let mut number = [0; 8];
    rustix::io::read(ticket, &mut number).expect("a ticket");
    u64::from_ne_bytes(number) as usize - 1
}

fn side_is_own(end: &End, node: usize) -> bool {
    matches!(end, End::Raylet(other, _) if *other == node)
}

/// News of the only zygote of a node.
fn zygote(event: ZygoteEvent) -> Input {
    Input::Zygote { zygote: 0, event }
}
