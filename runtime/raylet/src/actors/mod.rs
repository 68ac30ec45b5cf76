//! Actors that the head placed on this node: each takes resources, gets a worker of its own, and the worker becomes the
//! actor. Without I/O.
//!
//! Invariants:
//! 1. An actor has a lease of its own, which ends with it.
//! 2. An actor that is being created or alive has a worker of its own, which is told to end, or is killed, when the
//!    actor is forgotten.

mod metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{
    ActorId, ErrorCode, JobId, LeaseId, Metrics, ResourceSet, SchedulingStrategy, WorkerId,
};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::{
    self as proto, ActorReport, ActorSpec, CreateActor, CreateActorReply, Failure, FrameKind,
    KillActorOnNode, MessageError, PlaceActor, Resources, node_message,
};
use sparkray_rpc::Frame;
use tracing::{debug, info, warn};

use crate::cluster_view::ClusterView;
use crate::ids::Ids;
use crate::leases::{LeaseOwner, LeaseRequest, Leases};
use crate::node_info::NodeInfo;
use crate::outbox::{Event, Outbox};
use crate::shape::Shape;
use metrics::ActorMetrics;

/// An actor that found no room is given back to the head after this time, when another node has room.
const PATIENCE: Duration = Duration::from_millis(200);
/// An actor that nobody can call any more has this long for what user code wants done at its end, as in Ray.
const LAST_DEEDS: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for resources or a worker.
    Placing,
    /// Its constructor runs.
    Creating(WorkerId),
    Alive(WorkerId),
}

#[derive(Debug)]
struct Actor {
    spec: ActorSpec,
    /// What it holds here, and where else it may be.
    shape: Shape,
    incarnation: u64,
    lease_id: LeaseId,
    job: JobId,
    since: Instant,
    phase: Phase,
    /// Correlation id of its CreateActor.
    creation: Option<u64>,
    /// Its code wants it to end.
    exits: bool,
}

impl Actor {
    fn worker(&self) -> Option<WorkerId> {
        match self.phase {
            Phase::Placing => None,
            Phase::Creating(worker) | Phase::Alive(worker) => Some(worker),
        }
    }
}

/// The actors of this node.
#[derive(Debug)]
pub(crate) struct Actors {
    node: Arc<NodeInfo>,
    /// Of their leases.
    ids: Ids,
    entries: HashMap<ActorId, Actor>,
    by_lease: HashMap<LeaseId, ActorId>,
    by_worker: HashMap<WorkerId, ActorId>,
    /// Creations under way, by the correlation id of CreateActor.
    creating: HashMap<u64, ActorId>,
    last_correlation: u64,
    metrics: ActorMetrics,
}

fn read_resources(message: Option<&Resources>) -> Result<ResourceSet, MessageError> {
    message.map_or_else(|| Ok(ResourceSet::default()), ResourceSet::try_from)
}

/// Enough for both: to place the actor and to run it.
fn larger(left: &ResourceSet, right: &ResourceSet) -> ResourceSet {
    let mut units = left.to_units();
    for (name, amount) in right.to_units() {
        let entry = units.entry(name).or_insert(0.0);
        *entry = entry.max(amount);
    }
    ResourceSet::from_units(units).unwrap_or_default()
}

impl Actors {
    pub(crate) fn new(node: Arc<NodeInfo>, ids: Ids) -> Self {
        Self {
            node,
            ids,
            entries: HashMap::new(),
            by_lease: HashMap::new(),
            by_worker: HashMap::new(),
            creating: HashMap::new(),
            last_correlation: 0,
            metrics: ActorMetrics::default(),
        }
    }

    /// The actor that a lease is for.
    pub(crate) fn by_lease(&self, lease_id: LeaseId) -> Option<ActorId> {
        self.by_lease.get(&lease_id).copied()
    }

    /// Whether a worker is an actor that outlives its job.
    pub(crate) fn is_detached(&self, worker: WorkerId) -> bool {
        let actor = self.by_worker.get(&worker).and_then(|id| self.entries.get(id));
        actor.is_some_and(|actor| actor.spec.detached)
    }

    fn remove(&mut self, id: ActorId) -> Option<Actor> {
        let actor = self.entries.remove(&id)?;
        if matches!(actor.phase, Phase::Alive(_)) {
            self.metrics.ended();
        }
        self.by_lease.remove(&actor.lease_id);
        if let Some(worker) = actor.worker() {
            self.by_worker.remove(&worker);
        }
        if let Some(correlation) = actor.creation {
            self.creating.remove(&correlation);
        }
        Some(actor)
    }

    /// PlaceActor.
    pub(crate) fn place(
        &mut self,
        message: PlaceActor,
        leases: &mut Leases,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let incarnation = message.incarnation;
        let spec = message.spec.ok_or(MessageError::Missing("spec"))?;
        let id = ActorId::from_slice(&spec.actor_id)?;
        let job = JobId::from_slice(&spec.job_id)?;
        let held = read_resources(spec.resources.as_ref())?;
        let strategy = proto::SchedulingStrategy::read(spec.strategy.as_ref())?;
        let needs = larger(&read_resources(spec.placement_resources.as_ref())?, &held);
        let shape = Shape::new(held, strategy);
        if let Some(known) = self.entries.get(&id) {
            if known.incarnation >= incarnation {
                debug!(actor_id = %id, incarnation, "this actor was placed before");
                return Ok(());
            }
            self.give_up(id, "a newer incarnation was placed here", leases, out);
        }
        self.metrics.placed();
        // The placement's resources need only exist: an actor that asks for none is placed on a node with CPUs, busy or not.
        let needed = Shape {
            resources: shape.strategy.demand(needs),
            strategy: SchedulingStrategy::Default,
        };
        if leases.is_infeasible(&needed) {
            let units = needed.resources.to_units();
            let reason = format!("node {} can never meet {units:?}", self.node.address);
            self.metrics.rejected();
            report(id, incarnation, Outcome::Rejected(reason), 0, out);
            return Ok(());
        }
        let lease_id = self.ids.next_lease();
        let request = LeaseRequest {
            lease_id,
            job_id: job,
            owner: LeaseOwner::Head,
            shape: Shape {
                resources: shape.resources.clone(),
                strategy: SchedulingStrategy::only_on(self.node.node_id),
            },
            spilled: false,
            python_version: spec.python_version.clone(),
            worker: proto::WorkerKey::read(spec.worker.as_ref())?,
            task_name: String::new(),
        };
        leases.request_for_actor(request, now);
        let actor = Actor {
            spec,
            shape,
            incarnation,
            lease_id,
            job,
            since: now,
            phase: Phase::Placing,
            creation: None,
            exits: false,
        };
        self.by_lease.insert(lease_id, id);
        self.entries.insert(id, actor);
        out.schedule();
        Ok(())
    }

    /// A worker was found: it becomes the actor.
    pub(crate) fn create(&mut self, id: ActorId, worker: WorkerId, out: &mut Outbox) {
        self.last_correlation += 1;
        let correlation = self.last_correlation;
        let Some(actor) = self.entries.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Creating(worker);
        actor.creation = Some(correlation);
        self.creating.insert(correlation, id);
        self.by_worker.insert(worker, id);
        let message = CreateActor {
            spec: Some(actor.spec.clone()),
            incarnation: actor.incarnation,
        };
        let frame = Frame::new(FrameKind::CreateActor, correlation, &message);
        out.event(Event::SendToProcess { worker, frame });
    }

    /// ActorExits, of its worker.
    pub(crate) fn exits(&mut self, speaker: WorkerId) {
        let actor = self
            .by_worker
            .get(&speaker)
            .and_then(|id| self.entries.get_mut(id));
        if let Some(actor) = actor
            && actor.phase == Phase::Alive(speaker)
        {
            actor.exits = true;
        }
    }

    /// CreateActorReply of a worker with this pid.
    pub(crate) fn created(
        &mut self,
        speaker: WorkerId,
        pid: u32,
        correlation: u64,
        reply: CreateActorReply,
        leases: &mut Leases,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some(id) = self.creating.get(&correlation).copied() else {
            return;
        };
        let Some(actor) = self.entries.get_mut(&id) else {
            return;
        };
        let Phase::Creating(worker) = actor.phase else {
            return;
        };
        if speaker != worker {
            // The worker that was asked still has to say it.
            warn!(actor_id = %id, worker_id = %worker, speaker_id = %speaker, "another process answers for a worker that creates an actor");
            return;
        }
        self.creating.remove(&correlation);
        let incarnation = actor.incarnation;
        if let Some(failure) = reply.failure {
            self.metrics.failed();
            self.dismiss(id, "the actor could not be created", leases, out);
            report(id, incarnation, Outcome::WorkerDied(failure.message), 0, out);
        } else if !reply.error.is_empty() {
            self.metrics.raised();
            self.dismiss(id, "the actor's constructor raised", leases, out);
            report(id, incarnation, Outcome::ConstructorError(reply.error), 0, out);
        } else {
            actor.phase = Phase::Alive(worker);
            self.metrics.alive(now.saturating_duration_since(actor.since));
            info!(actor_id = %id, worker_id = %worker, incarnation, "actor is alive");
            let outcome = Outcome::Alive((&self.node.address_of(worker)).into());
            report(id, incarnation, outcome, pid, out);
        }
    }

    /// Forgets an actor and ends its worker in an orderly way, so that what it printed is not lost.
    fn dismiss(&mut self, id: ActorId, reason: &str, leases: &mut Leases, out: &mut Outbox) {
        let Some(actor) = self.remove(id) else {
            return;
        };
        leases.end_for_actor(actor.lease_id);
        if let Some(worker) = actor.worker() {
            out.event(Event::EndWorker {
                worker,
                reason: reason.to_owned(),
                grace: None,
            });
        }
        out.schedule();
    }

    /// Forgets an actor and lets its worker do what user code wants done at an actor's end. It holds its resources
    /// meanwhile.
    fn let_end(&mut self, id: ActorId, worker: WorkerId, reason: &str, out: &mut Outbox) {
        self.remove(id);
        out.event(Event::EndWorker {
            worker,
            reason: reason.to_owned(),
            grace: Some(LAST_DEEDS),
        });
    }

    /// Forgets an actor and kills its worker.
    fn give_up(&mut self, id: ActorId, reason: &str, leases: &mut Leases, out: &mut Outbox) {
        let Some(actor) = self.remove(id) else {
            return;
        };
        debug!(actor_id = %id, incarnation = actor.incarnation, reason, "an actor ends");
        leases.end_for_actor(actor.lease_id);
        if let Some(worker) = actor.worker() {
            out.event(Event::KillWorker { worker });
        }
        out.schedule();
    }

    /// No worker of this node can become the actor.
    pub(crate) fn cannot_start(
        &mut self,
        id: ActorId,
        failure: Failure,
        leases: &mut Leases,
        out: &mut Outbox,
    ) {
        let Some(actor) = self.remove(id) else {
            return;
        };
        self.metrics.failed();
        leases.end_for_actor(actor.lease_id);
        let outcome = if matches!(
            failure.error_code(),
            ErrorCode::VersionMismatch | ErrorCode::RuntimeEnvSetup
        ) {
            // Another try would end the same.
            Outcome::Exited(failure.message)
        } else {
            Outcome::WorkerDied(failure.message)
        };
        report(id, actor.incarnation, outcome, 0, out);
        out.schedule();
    }

    /// KillActorOnNode. Answered also when the actor is not here, so that the head never waits in vain.
    pub(crate) fn kill(
        &mut self,
        message: &KillActorOnNode,
        leases: &mut Leases,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let id = ActorId::from_slice(&message.actor_id)?;
        let known = self.entries.get(&id);
        if let Some(actor) = known.filter(|actor| actor.incarnation <= message.incarnation) {
            match actor.phase {
                Phase::Alive(worker) if message.graceful => self.let_end(id, worker, &message.cause, out),
                _ => self.give_up(id, &message.cause, leases, out),
            }
        }
        let outcome = Outcome::WorkerDied(message.cause.clone());
        report(id, message.incarnation, outcome, 0, out);
        Ok(())
    }

    /// A worker is gone; if it was an actor, that is over.
    pub(crate) fn worker_ended(
        &mut self,
        worker: WorkerId,
        cause: &str,
        leases: &mut Leases,
        out: &mut Outbox,
    ) {
        let Some(id) = self.by_worker.get(&worker).copied() else {
            return;
        };
        let Some(actor) = self.remove(id) else {
            return;
        };
        leases.end_for_actor(actor.lease_id);
        if actor.phase == Phase::Creating(worker) {
            self.metrics.failed();
        }
        let outcome = if actor.phase == Phase::Alive(worker) && actor.exits {
            Outcome::Exited("it exited by itself".to_owned())
        } else {
            Outcome::WorkerDied(cause.to_owned())
        };
        report(id, actor.incarnation, outcome, 0, out);
    }

    /// Actors of a finished job go, but for detached ones.
    pub(crate) fn job_finished(&mut self, job: JobId, leases: &mut Leases, out: &mut Outbox) {
        let of_job = self
            .entries
            .iter()
            .filter(|(_, actor)| actor.job == job && !actor.spec.detached);
        let ids: Vec<ActorId> = of_job.map(|(id, _)| *id).collect();
        for id in ids {
            self.give_up(id, "its job is over", leases, out);
        }
    }

    /// Lists the actors that there are, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        let count = |wanted: fn(&Phase) -> bool| {
            let found = self.entries.values().filter(|actor| wanted(&actor.phase));
            found.count() as u64
        };
        into.gauges(
            "ray_raylet_actors",
            "Actors on this node: without a worker, with a constructor that runs, alive",
            "State",
            &[
                ("Placing", count(|phase| *phase == Phase::Placing)),
                ("Creating", count(|phase| matches!(phase, Phase::Creating(_)))),
                ("Alive", count(|phase| matches!(phase, Phase::Alive(_)))),
            ],
        );
        self.metrics.list(into);
    }

    /// Several times a second: actors that wait here while another node has room go back to the head.
    pub(crate) fn tick(&mut self, leases: &mut Leases, view: &ClusterView, now: Instant, out: &mut Outbox) {
        let elsewhere = self.entries.iter().filter(|(_, actor)| {
            actor.phase == Phase::Placing
                && now.duration_since(actor.since) >= PATIENCE
                && leases.is_queued(actor.lease_id)
                && leases.may_go_on(&actor.shape, view)
        });
        let ids: Vec<ActorId> = elsewhere.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(actor) = self.remove(id) else {
                continue;
            };
            self.metrics.rejected();
            leases.end_for_actor(actor.lease_id);
            let reason = format!("node {} has no room for it now", self.node.address);
            report(id, actor.incarnation, Outcome::Rejected(reason), 0, out);
        }
    }
}

fn report(id: ActorId, incarnation: u64, outcome: Outcome, pid: u32, out: &mut Outbox) {
    out.tell_head(node_message::Message::Actor(ActorReport {
        actor_id: id.to_vec().into(),
        incarnation,
        outcome: Some(outcome),
        pid,
    }));
}
