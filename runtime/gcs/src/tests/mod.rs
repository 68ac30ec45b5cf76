//! Tests of the state: events in, replies and effects out.
#![allow(clippy::float_cmp, reason = "amounts are whole numbers of CPUs")]

mod actors;
mod journal;
mod kv;
mod leases;
mod lifetimes;
mod metrics;
mod nodes;
mod placement_groups;
mod properties;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sparkray_common::{
    ActorId, ErrorCode, JobId, NodeId, SchedulingStrategy, VERSION, WorkerAddress, WorkerId,
};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    self as proto, ActorRecord, ActorReport, ActorSpec, ActorState, ActorUpdate, Failure, GetActor,
    HeadReply, HeadRequest, InfeasibleDemand, JoinJob, KillActor, NodeMessage, RegisterActor, RegisterJob,
    RegisterNode, ResourceReport, Resources, WatchActorOnNode, WorkerDeath,
};

use crate::effects::Effect;
use crate::placement::Candidate;
use crate::record::Record;
use crate::state::HeadState;
use crate::tables::Tables;

const EPOCH: u64 = 3;

/// A head, a clock, and what nodes were told and have not looked at.
struct Cluster {
    state: HeadState,
    /// Every record so far.
    journal: Vec<Record>,
    /// What these records make of nothing.
    replica: Tables,
    now: Instant,
    inboxes: HashMap<NodeId, Vec<Message>>,
    detached: Vec<NodeId>,
    job: JobId,
    /// Hosts the driver, has no CPUs.
    driver_node: NodeId,
    driver: WorkerAddress,
}

fn node_id(number: u8) -> NodeId {
    NodeId::from_array([number; 16])
}

fn actor_id(number: u8) -> ActorId {
    ActorId::from_array([number; 16])
}

fn worker(node: NodeId, number: u8) -> WorkerAddress {
    WorkerAddress {
        node_id: node,
        worker_id: WorkerId::from_array([number; 16]),
        node_address: "host:1".to_owned(),
    }
}

fn cpus(amount: f64) -> Resources {
    Resources {
        units: HashMap::from([("CPU".to_owned(), amount)]),
    }
}

fn affinity(node: NodeId, soft: bool) -> proto::SchedulingStrategy {
    (&SchedulingStrategy::NodeAffinity { node, soft }).into()
}

fn register_node(id: NodeId, cpu: f64) -> RegisterNode {
    RegisterNode {
        node_id: id.to_vec().into(),
        address: "host:1".to_owned(),
        total: Some(cpus(cpu)),
        labels: HashMap::new(),
        hostname: "host".to_owned(),
        sparkray_version: VERSION.to_owned(),
        pid: 7,
        head_epoch: EPOCH,
        silence_seconds: 0,
    }
}

impl Cluster {
    /// A driver's node without CPUs, and a running job.
    fn new() -> Self {
        let driver_node = node_id(100);
        let now = Instant::now();
        let mut cluster = Self {
            state: HeadState::new(now, EPOCH, 1, Tables::default()),
            journal: Vec::new(),
            replica: Tables::default(),
            now,
            inboxes: HashMap::new(),
            detached: Vec::new(),
            job: JobId::NIL,
            driver_node,
            driver: worker(driver_node, 100),
        };
        cluster.attach(driver_node, 0.0).unwrap();
        cluster.job = cluster.register_job(&cluster.driver.clone()).unwrap();
        cluster.inbox(driver_node);
        cluster
    }

    /// With nodes 1, 2, … of so many CPUs.
    fn with_nodes(cpu: &[f64]) -> Self {
        let mut cluster = Self::new();
        for (index, cpu) in cpu.iter().enumerate() {
            let id = node_id(index as u8 + 1);
            cluster.attach(id, *cpu).unwrap();
            cluster.inbox(id);
        }
        cluster
    }

    fn attach(&mut self, id: NodeId, cpu: f64) -> Result<NodeId, Failure> {
        let outcome = self.state.attach(self.now, register_node(id, cpu));
        self.collect();
        outcome
    }

    fn register_job(&mut self, driver: &WorkerAddress) -> Result<JobId, Failure> {
        let request = RegisterJob {
            driver: Some(driver.into()),
            namespace: "space".to_owned(),
            python_version: "3.12".to_owned(),
        };
        match self.request(Request::RegisterJob(request))? {
            Reply::Job(reply) => Ok(JobId::from_slice(&reply.job_id).unwrap()),
            other => panic!("no job but {other:?}"),
        }
    }

    fn join_job(&mut self, participant: &WorkerAddress) -> Result<(JobId, WorkerAddress), Failure> {
        let request = JoinJob {
            participant: Some(participant.into()),
        };
        match self.request(Request::JoinJob(request))? {
            Reply::Job(reply) => {
                let driver = reply.driver.as_ref().unwrap();
                let job = JobId::from_slice(&reply.job_id).unwrap();
                Ok((job, WorkerAddress::try_from(driver).unwrap()))
            }
            other => panic!("no job but {other:?}"),
        }
    }

    /// Another head goes on with what the journal of this one says.
    fn restart_head(&mut self) {
        self.collect();
        let mut tables = Tables::default();
        for record in &self.journal {
            tables.apply(record);
        }
        assert_eq!(&tables, self.state.tables());
        self.state = HeadState::new(self.now, EPOCH, 1, tables);
        self.pass(Duration::ZERO);
    }

    /// The journal tells all that has changed.
    fn compare_with_replica(&self) {
        assert_eq!(&self.replica, self.state.tables());
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.state.live().nodes.candidates(self.state.tables())
    }

    fn collect(&mut self) {
        let records = self.state.take_records();
        if !records.is_empty() {
            for record in &records {
                self.replica.apply(record);
            }
            self.compare_with_replica();
        }
        self.journal.extend(records);
        for effect in self.state.take_effects() {
            match effect {
                Effect::Send { node, message } => self.inboxes.entry(node).or_default().push(message),
                Effect::Detach { node } => self.detached.push(node),
            }
        }
    }

    /// What a node was told since the last call.
    fn inbox(&mut self, node: NodeId) -> Vec<Message> {
        self.inboxes.remove(&node).unwrap_or_default()
    }

    fn say(&mut self, node: NodeId, message: FromNode) {
        self.state
            .node_message(
                self.now,
                node,
                NodeMessage {
                    message: Some(message),
                    ..NodeMessage::default()
                },
            )
            .unwrap();
        self.collect();
    }

    fn request(&mut self, request: Request) -> Result<Reply, Failure> {
        let HeadReply { failure, reply } = self.state.request(
            self.now,
            HeadRequest {
                request: Some(request),
            },
        );
        self.collect();
        failure.map_or_else(|| Ok(reply.unwrap()), Err)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.state.tick(self.now);
        self.collect();
    }

    /// Lets time pass in ticks, with all these nodes talking.
    fn pass_alive(&mut self, time: Duration, nodes: &[NodeId]) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(Duration::from_millis(100));
            left -= step;
            for node in nodes.iter().chain([&self.driver_node]) {
                self.state.heard(self.now, *node);
            }
            self.pass(step);
        }
    }

    fn report_resources(&mut self, node: NodeId, cpu: f64) {
        self.say(
            node,
            FromNode::Report(ResourceReport {
                available: Some(cpus(cpu)),
                ..ResourceReport::default()
            }),
        );
    }

    fn spec(&self, number: u8, cpu: f64) -> ActorSpec {
        ActorSpec {
            actor_id: actor_id(number).to_vec().into(),
            job_id: self.job.to_vec().into(),
            owner: Some((&self.driver).into()),
            class_name: "Counter".to_owned(),
            class_blob: "class".into(),
            arguments_value: "arguments".into(),
            resources: Some(cpus(cpu)),
            handle_metadata: "metadata".into(),
            ..ActorSpec::default()
        }
    }

    fn register(&mut self, spec: ActorSpec) -> Result<Reply, Failure> {
        self.request(Request::RegisterActor(RegisterActor {
            spec: Some(spec),
            ..Default::default()
        }))
    }

    fn tell(&mut self, node: NodeId, number: u8, incarnation: u64, outcome: Outcome) {
        let actor_id = actor_id(number).to_vec().into();
        self.say(
            node,
            FromNode::Actor(ActorReport {
                actor_id,
                incarnation,
                outcome: Some(outcome),
                pid: 42,
            }),
        );
    }

    /// What the driver was told of demand that no node can meet; forgets what its node was told else.
    fn infeasible_demand(&mut self) -> Vec<InfeasibleDemand> {
        let told = |message| match message {
            Message::InfeasibleDemand(demand) => Some(demand),
            _ => None,
        };
        let inbox = self.inbox(self.driver_node);
        inbox.into_iter().filter_map(told).collect()
    }

    /// Node and incarnation to which the actor was sent last, and forgets all other messages.
    fn placement(&mut self, number: u8) -> Option<(NodeId, u64)> {
        let mut placed = None;
        for (node, messages) in std::mem::take(&mut self.inboxes) {
            for message in messages {
                if let Message::PlaceActor(place) = message {
                    if place.spec.unwrap().actor_id == actor_id(number).to_vec() {
                        placed = Some((node, place.incarnation));
                    }
                }
            }
        }
        placed
    }

    /// Registers an actor and lets it come alive on the node that the head chose.
    fn alive(&mut self, spec: ActorSpec, worker_number: u8) -> NodeId {
        let number = spec.actor_id[0];
        self.register(spec).unwrap();
        let (node, incarnation) = self.placement(number).unwrap();
        self.tell(
            node,
            number,
            incarnation,
            Outcome::Alive((&worker(node, worker_number)).into()),
        );
        node
    }

    fn worker_dies(&mut self, address: &WorkerAddress) {
        let death = WorkerDeath {
            worker_id: address.worker_id.to_vec().into(),
            cause: "killed".to_owned(),
            job_id: Vec::new().into(),
        };
        self.say(address.node_id, FromNode::WorkerDeath(death));
    }

    fn watch(&mut self, node: NodeId, number: u8) {
        self.say(
            node,
            FromNode::WatchActor(WatchActorOnNode {
                actor_id: actor_id(number).to_vec().into(),
            }),
        );
    }

    fn kill(&mut self, number: u8, no_restart: bool) -> Result<Reply, Failure> {
        let actor_id = actor_id(number).to_vec().into();
        self.request(Request::KillActor(KillActor {
            actor_id,
            no_restart,
            ..KillActor::default()
        }))
    }

    fn record(&mut self, number: u8) -> ActorRecord {
        let request = GetActor {
            actor_id: actor_id(number).to_vec().into(),
            ..GetActor::default()
        };
        match self.request(Request::GetActor(request)) {
            Ok(Reply::Actor(record)) => record,
            other => panic!("no actor but {other:?}"),
        }
    }

    fn update(&mut self, number: u8) -> ActorUpdate {
        self.record(number).state.unwrap()
    }

    fn actor_state(&mut self, number: u8) -> ActorState {
        self.update(number).state()
    }
}

/// The updates among messages.
fn updates(messages: &[Message]) -> Vec<ActorUpdate> {
    let update = |message: &Message| match message {
        Message::Actor(update) => Some(update.clone()),
        _ => None,
    };
    messages.iter().filter_map(update).collect()
}

/// Actors and incarnations to be killed among messages.
fn kills(messages: &[Message]) -> Vec<(ActorId, u64)> {
    let kill = |message: &Message| match message {
        Message::KillActor(kill) => Some((ActorId::from_slice(&kill.actor_id).unwrap(), kill.incarnation)),
        _ => None,
    };
    messages.iter().filter_map(kill).collect()
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> ErrorCode {
    outcome.unwrap_err().error_code()
}
