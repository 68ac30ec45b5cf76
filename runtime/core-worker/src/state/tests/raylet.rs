//! Raylets, stores and the head of the simulation: as simple as can be.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, LeaseId, ObjectId};
use sparkray_proto::{self as proto, ActorState, Failure, FrameKind, head_request};
use sparkray_rpc::Frame;

use super::simulation::Simulation;

/// A request that waits.
#[derive(Debug)]
struct Request {
    lease: LeaseId,
    link: usize,
    correlation: u64,
    spilled: bool,
}

#[derive(Debug)]
pub(super) struct Raylet {
    cpus: usize,
    waiting: VecDeque<Request>,
    /// Granted leases: worker, and the link of the owner.
    pub(super) leases: HashMap<LeaseId, (usize, usize)>,
    idle: Vec<usize>,
    blocked: usize,
}

impl Raylet {
    pub(super) fn new(cpus: usize) -> Self {
        Self {
            cpus,
            waiting: VecDeque::new(),
            leases: HashMap::new(),
            idle: Vec::new(),
            blocked: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.leases.len() < self.cpus + self.blocked
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.leases.is_empty() && self.waiting.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Actor {
    spec: proto::ActorSpec,
    incarnation: u64,
    state: ActorState,
    pub(super) process: Option<usize>,
    cause: String,
    restarts_left: i32,
    /// Its arguments follow.
    unready: bool,
}

#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) actors: HashMap<ActorId, Actor>,
    watchers: Vec<(ActorId, usize)>,
}

impl Simulation {
    pub(super) fn raylet_takes(&mut self, node: usize, link: usize, side: usize, frame: &Frame) {
        let correlation = frame.correlation;
        match frame.kind {
            FrameKind::RegisterClient => {
                let message: proto::RegisterClient = frame.decode().unwrap();
                if let Some(owner) = self.client_of(link, side) {
                    self.owner_registered(node, link, owner, &message);
                }
                let reply = proto::RegisterClientReply::default();
                self.raylet_sends(link, FrameKind::RegisterClientReply, correlation, &reply);
            }
            FrameKind::RequestWorkerLease => {
                let message: proto::RequestWorkerLease = frame.decode().unwrap();
                self.raylets[node].waiting.push_back(Request {
                    lease: LeaseId::from_slice(&message.lease_id).unwrap(),
                    link,
                    correlation,
                    spilled: message.spilled,
                });
                self.grant(node);
            }
            FrameKind::CancelWorkerLease => {
                let message: proto::CancelWorkerLease = frame.decode().unwrap();
                let lease = LeaseId::from_slice(&message.lease_id).unwrap();
                let waiting = &mut self.raylets[node].waiting;
                if let Some(index) = waiting.iter().position(|request| request.lease == lease) {
                    let request = waiting.remove(index).unwrap();
                    let reply = proto::RequestWorkerLeaseReply {
                        failure: Some(Failure::new(ErrorCode::Cancelled, "cancelled")),
                        ..Default::default()
                    };
                    self.raylet_sends(
                        request.link,
                        FrameKind::RequestWorkerLeaseReply,
                        request.correlation,
                        &reply,
                    );
                }
            }
            FrameKind::ReturnWorkerLease => {
                let message: proto::ReturnWorkerLease = frame.decode().unwrap();
                let lease = LeaseId::from_slice(&message.lease_id).unwrap();
                if let Some((worker, _)) = self.raylets[node].leases.remove(&lease) {
                    if message.worker_failed && self.processes[worker].alive {
                        self.kill(worker);
                    } else if self.processes[worker].alive {
                        self.raylets[node].idle.push(worker);
                    }
                }
                self.grant(node);
            }
            FrameKind::WorkerBlocked => {
                let message: proto::WorkerBlocked = frame.decode().unwrap();
                // What a process sent before its death, or twice, changes nothing.
                let process = self.client_of(link, side).map(|index| &mut self.processes[index]);
                if let Some(process) =
                    process.filter(|process| process.alive && process.told_blocked != message.blocked)
                {
                    process.told_blocked = message.blocked;
                    let blocked = &mut self.raylets[node].blocked;
                    *blocked = if message.blocked {
                        *blocked + 1
                    } else {
                        *blocked - 1
                    };
                }
                self.grant(node);
            }
            FrameKind::HeadRequest => self.head_takes(link, correlation, frame.decode().unwrap()),
            FrameKind::WatchActor => {
                let message: proto::WatchActor = frame.decode().unwrap();
                let actor = ActorId::from_slice(&message.actor_id).unwrap();
                self.head.watchers.push((actor, link));
                self.tell_watcher(actor, link);
            }
            FrameKind::CreateActorReply => {
                if let Some(process) = self.client_of(link, side) {
                    self.actor_created(process);
                }
            }
            FrameKind::GetObjects => {
                let message: proto::GetObjects = frame.decode().unwrap();
                if let Some(process) = self.client_of(link, side) {
                    for entry in message.objects {
                        self.read(node, process, link, correlation, &entry);
                    }
                }
            }
            FrameKind::FreeObjects => {
                let message: proto::FreeObjects = frame.decode().unwrap();
                for entry in message.objects {
                    let id = ObjectId::from_slice(&entry.object_id).unwrap();
                    self.stored.remove(&(node, id));
                    for location in &entry.locations {
                        let at = self.node_index(&location.node_id);
                        self.stored.remove(&(at, id));
                    }
                    // Copies that were pulled go too.
                    self.stored.retain(|(_, other), _| *other != id);
                }
            }
            FrameKind::ReleaseObjects => {
                let message: proto::ReleaseObjects = frame.decode().unwrap();
                if let Some(process) = self.client_of(link, side) {
                    for id in message.object_ids {
                        let id = ObjectId::from_slice(&id).unwrap();
                        *self.uses.entry((process, id)).or_default() -= 1;
                    }
                }
            }
            other => panic!("the raylet of the simulation takes no {other:?}"),
        }
    }

    /// A connection to a raylet ended: of a process that lives, or by its death.
    pub(super) fn raylet_lost(&mut self, node: usize, link: usize) {
        self.raylets[node].waiting.retain(|request| request.link != link);
        match self.process_on(link) {
            Some(owner) if !self.processes[owner].alive => self.end_leases_of(node, owner, &[]),
            _ => self.grant(node),
        }
    }

    /// An owner came, or returned over another connection.
    fn owner_registered(&mut self, node: usize, link: usize, owner: usize, message: &proto::RegisterClient) {
        let held: Vec<LeaseId> = message
            .lease_ids
            .iter()
            .map(|id| LeaseId::from_slice(id).unwrap())
            .collect();
        for lease in &held {
            if let Some((_, former)) = self.raylets[node].leases.get_mut(lease) {
                *former = link;
            }
        }
        self.end_leases_of(node, owner, &held);
    }

    fn end_leases_of(&mut self, node: usize, owner: usize, held: &[LeaseId]) {
        let ended: Vec<(LeaseId, usize)> = self.raylets[node]
            .leases
            .iter()
            .filter(|(lease, (_, link))| !held.contains(lease) && self.process_on(*link) == Some(owner))
            .map(|(lease, (worker, _))| (*lease, *worker))
            .collect();
        for (lease, worker) in ended {
            self.raylets[node].leases.remove(&lease);
            if self.processes[worker].alive {
                self.kill(worker);
            }
        }
        self.grant(node);
    }

    fn grant(&mut self, node: usize) {
        while self.raylets[node].has_room() {
            let Some(request) = self.raylets[node].waiting.pop_front() else {
                return;
            };
            let worker = match self.raylets[node].idle.pop() {
                Some(worker) => worker,
                None => self.start_process(node),
            };
            self.raylets[node]
                .leases
                .insert(request.lease, (worker, request.link));
            let reply = proto::RequestWorkerLeaseReply {
                worker: Some(self.processes[worker].state.me_message().clone()),
                worker_pid: worker as u32,
                ..Default::default()
            };
            self.raylet_sends(
                request.link,
                FrameKind::RequestWorkerLeaseReply,
                request.correlation,
                &reply,
            );
        }
        // Those that have waited nowhere else may go to a node with room.
        let elsewhere = (0..self.raylets.len()).find(|other| self.raylets[*other].has_room());
        if let Some(other) = elsewhere {
            let index = self.raylets[node]
                .waiting
                .iter()
                .position(|request| !request.spilled);
            if let Some(request) = index.and_then(|index| self.raylets[node].waiting.remove(index)) {
                let reply = proto::RequestWorkerLeaseReply {
                    spillback: Some(proto::location_of(self.nodes[other], &Self::address_of(other))),
                    ..Default::default()
                };
                self.raylet_sends(
                    request.link,
                    FrameKind::RequestWorkerLeaseReply,
                    request.correlation,
                    &reply,
                );
            }
        }
    }

    /// Others wait for every lease.
    pub(super) fn want_all_leases(&mut self) {
        for node in 0..self.raylets.len() {
            let leases: Vec<(LeaseId, usize)> = self.raylets[node]
                .leases
                .iter()
                .map(|(lease, (_, link))| (*lease, *link))
                .collect();
            for (lease, link) in leases {
                let message = proto::LeaseWanted {
                    lease_id: lease.to_vec().into(),
                };
                self.raylet_sends(link, FrameKind::LeaseWanted, 0, &message);
            }
        }
    }

    // ---- objects -------------------------------------------------------------------------------------------

    fn read(
        &mut self,
        node: usize,
        process: usize,
        link: usize,
        correlation: u64,
        entry: &proto::GetObjectEntry,
    ) {
        let id = ObjectId::from_slice(&entry.object_id).unwrap();
        let elsewhere: Vec<usize> = entry
            .locations
            .iter()
            .map(|location| self.node_index(&location.node_id))
            .collect();
        if !self.stored.contains_key(&(node, id)) {
            let copy = elsewhere
                .iter()
                .find_map(|at| self.stored.get(&(*at, id)).cloned());
            match copy {
                Some(copy) => {
                    self.stored.insert((node, id), copy);
                }
                None => {
                    assert!(
                        !elsewhere.is_empty(),
                        "object {id} is asked for without a location"
                    );
                    let reply = proto::ObjectReady {
                        object_id: entry.object_id.clone(),
                        failure: Some(Failure::new(
                            ErrorCode::ObjectLost,
                            format!("object {id} is lost"),
                        )),
                        range: None,
                    };
                    self.raylet_sends(link, FrameKind::ObjectReady, correlation, &reply);
                    return;
                }
            }
        }
        let value = self.stored[&(node, id)].clone();
        let reply = proto::ObjectReady {
            object_id: entry.object_id.clone(),
            failure: None,
            range: Some(proto::ObjectRange::default()),
        };
        *self.uses.entry((process, id)).or_default() += 1;
        self.processes[process].memory.insert(id, value);
        self.raylet_sends(link, FrameKind::ObjectReady, correlation, &reply);
    }

    // ---- the head ------------------------------------------------------------------------------------------

    fn head_takes(&mut self, link: usize, correlation: u64, message: proto::HeadRequest) {
        match message.request.unwrap() {
            head_request::Request::RegisterActor(request) => {
                let spec = request.spec.unwrap();
                let id = ActorId::from_slice(&spec.actor_id).unwrap();
                let known = self.head.actors.get_mut(&id);
                let is_new = known.is_none();
                if let Some(actor) = known {
                    if actor.unready && !request.arguments_follow && actor.state != ActorState::Dead {
                        (actor.spec, actor.unready) = (spec, false);
                        self.place_actor(id);
                    }
                } else {
                    let actor = Actor {
                        restarts_left: spec.max_restarts,
                        spec,
                        incarnation: 0,
                        state: ActorState::Pending,
                        process: None,
                        cause: String::new(),
                        unready: request.arguments_follow,
                    };
                    self.head.actors.insert(id, actor);
                }
                if is_new && !request.arguments_follow {
                    self.place_actor(id);
                }
            }
            head_request::Request::KillActor(request) => {
                let id = ActorId::from_slice(&request.actor_id).unwrap();
                if let Some(actor) = self.head.actors.get_mut(&id) {
                    actor.restarts_left = 0;
                    actor.cause = request.cause;
                    match actor.process {
                        Some(process) if self.processes[process].alive => self.kill(process),
                        _ => self.actor_over(id),
                    }
                }
            }
            other => panic!("the head of the simulation takes no {other:?}"),
        }
        self.raylet_sends(
            link,
            FrameKind::HeadReply,
            correlation,
            &proto::HeadReply {
                failure: None,
                reply: Some(proto::head_reply::Reply::Done(proto::Empty {})),
            },
        );
    }

    fn place_actor(&mut self, id: ActorId) {
        let node = self.random.below(self.nodes.len());
        let process = self.start_process(node);
        let actor = self.head.actors.get_mut(&id).unwrap();
        actor.process = Some(process);
        let message = proto::CreateActor {
            spec: Some(actor.spec.clone()),
            incarnation: actor.incarnation,
        };
        let link = self.raylet_link(process).unwrap();
        self.raylet_sends(link, FrameKind::CreateActor, 1, &message);
    }

    fn actor_created(&mut self, process: usize) {
        let found = self
            .head
            .actors
            .iter_mut()
            .find(|(_, actor)| actor.process == Some(process));
        if let Some((id, actor)) = found {
            let id = *id;
            actor.state = ActorState::Alive;
            self.tell_watchers(id);
        }
    }

    fn actor_over(&mut self, id: ActorId) {
        let actor = self.head.actors.get_mut(&id).unwrap();
        actor.process = None;
        if actor.state == ActorState::Dead {
            return;
        }
        if actor.restarts_left > 0 {
            actor.restarts_left -= 1;
            actor.incarnation += 1;
            actor.state = ActorState::Restarting;
            self.tell_watchers(id);
            self.place_actor(id);
        } else {
            actor.state = ActorState::Dead;
            self.tell_watchers(id);
        }
    }

    fn tell_watchers(&mut self, id: ActorId) {
        let watchers: Vec<usize> = self
            .head
            .watchers
            .iter()
            .filter(|(actor, _)| *actor == id)
            .map(|(_, link)| *link)
            .collect();
        for link in watchers {
            self.tell_watcher(id, link);
        }
    }

    fn tell_watcher(&mut self, id: ActorId, link: usize) {
        let Some(actor) = self.head.actors.get(&id) else {
            return;
        };
        let address = actor
            .process
            .filter(|_| actor.state == ActorState::Alive)
            .map(|process| self.processes[process].state.me_message().clone());
        let update = proto::ActorUpdate {
            actor_id: id.to_vec().into(),
            state: actor.state.into(),
            incarnation: actor.incarnation,
            address,
            cause: actor.cause.clone(),
            constructor_error: Bytes::new(),
            unschedulable: false,
            pid: 0,
            class_name: "A".to_owned(),
        };
        self.raylet_sends(link, FrameKind::ActorUpdate, 0, &update);
    }

    /// What everybody is told of a death.
    pub(super) fn process_died(&mut self, index: usize) {
        let worker = self.worker_id(index);
        let node = self.processes[index].node;
        self.raylets[node].idle.retain(|other| *other != index);
        if self.processes[index].told_blocked {
            self.raylets[node].blocked -= 1;
        }
        let broken: Vec<(LeaseId, usize)> = self.raylets[node]
            .leases
            .iter()
            .filter(|(_, (worker, _))| *worker == index)
            .map(|(lease, (_, link))| (*lease, *link))
            .collect();
        for (lease, link) in broken {
            self.raylets[node].leases.remove(&lease);
            let message = proto::LeaseBroken {
                lease_id: lease.to_vec().into(),
                cause: "it was killed by the test".to_owned(),
            };
            self.raylet_sends(link, FrameKind::LeaseBroken, 0, &message);
        }
        for other in (0..self.raylets.len()).filter(|other| *other != node) {
            self.end_leases_of(other, index, &[]);
        }
        // The store of its node frees what it owned.
        let owned: Vec<ObjectId> = self.processes[index].owned_stored.drain(..).collect();
        self.stored.retain(|(_, id), _| !owned.contains(id));
        self.broadcast(
            FrameKind::WorkerDied,
            &proto::WorkerDied {
                worker_id: worker.to_vec().into(),
                node_id: self.nodes[node].to_vec().into(),
                cause: "it was killed by the test".to_owned(),
            },
        );
        let actor = self
            .head
            .actors
            .iter()
            .find(|(_, actor)| actor.process == Some(index))
            .map(|(id, _)| *id);
        if let Some(actor) = actor {
            self.actor_over(actor);
        }
        self.grant(node);
    }
}
