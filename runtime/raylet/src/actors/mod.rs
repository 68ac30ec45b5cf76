//! Actors that the head placed on this node: each takes resources, gets a worker of its own and becomes it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, JobId, LeaseId, ResourceSet, WorkerId};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::{
    ActorReport, ActorSpec, CreateActor, CreateActorReply, Failure, FrameKind, KillActorOnNode, MessageError,
    PlaceActor, Resources, node_message,
};
use sparkray_rpc::{Frame, RpcError};
use tracing::{debug, info, warn};

use crate::leases::manager::{LeaseOwner, LeaseRequest, LeaseState};
use crate::raylet::Raylet;
use crate::workers::descendants::ChildEnd;

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

/// The actors of this node.
#[derive(Debug, Default)]
pub(crate) struct Actors {
    entries: HashMap<ActorId, Actor>,
    by_lease: HashMap<LeaseId, ActorId>,
    /// Creations under way, by the correlation id of CreateActor.
    creating: HashMap<u64, ActorId>,
    last_correlation: u64,
}

impl Actors {
    /// The actor that a lease is for.
    pub(crate) fn by_lease(&self, lease_id: LeaseId) -> Option<ActorId> {
        self.by_lease.get(&lease_id).copied()
    }

    /// The Python that the actor of a lease needs.
    pub(crate) fn python_version_of(&self, lease_id: LeaseId) -> Option<&str> {
        let actor = self.entries.get(self.by_lease.get(&lease_id)?)?;
        Some(actor.spec.python_version.as_str())
    }

    fn remove(&mut self, id: ActorId) -> Option<Actor> {
        let actor = self.entries.remove(&id)?;
        self.by_lease.remove(&actor.lease_id);
        if let Some(correlation) = actor.creation {
            self.creating.remove(&correlation);
        }
        Some(actor)
    }
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

impl Raylet {
    fn report_actor(&mut self, id: ActorId, incarnation: u64, outcome: Outcome, pid: u32) {
        let report = ActorReport {
            actor_id: id.to_vec().into(),
            incarnation,
            outcome: Some(outcome),
            pid,
        };
        self.head.send(node_message::Message::Actor(report));
    }

    /// PlaceActor.
    pub(crate) fn place_actor(&mut self, message: PlaceActor) -> Result<(), MessageError> {
        let spec = message.spec.ok_or(MessageError::Missing("spec"))?;
        let id = ActorId::from_slice(&spec.actor_id)?;
        let job = JobId::from_slice(&spec.job_id)?;
        let resources = read_resources(spec.resources.as_ref())?;
        let needs = larger(&read_resources(spec.placement_resources.as_ref())?, &resources);
        if let Some(known) = self.actors.entries.get(&id) {
            if known.incarnation >= message.incarnation {
                debug!(actor_id = %id, incarnation = message.incarnation, "this actor was placed before");
                return Ok(());
            }
            self.give_up_actor(id, "a newer incarnation was placed here");
        }
        // The placement's resources need only exist: an actor that asks for none is placed on a node with CPUs, busy or not.
        if self.leases.is_infeasible(&needs) {
            let reason = format!("node {} can never meet {:?}", self.node.address, needs.to_units());
            self.report_actor(id, message.incarnation, Outcome::Rejected(reason), 0);
            return Ok(());
        }
        let lease_id = LeaseId::random();
        let request = LeaseRequest {
            lease_id,
            job_id: job,
            owner: LeaseOwner::Head,
            resources,
            pinned: true,
            spilled: false,
        };
        self.leases.request(request, Instant::now());
        let actor = Actor {
            spec,
            incarnation: message.incarnation,
            lease_id,
            job,
            since: Instant::now(),
            phase: Phase::Placing,
            creation: None,
            exits: false,
        };
        self.actors.by_lease.insert(lease_id, id);
        self.actors.entries.insert(id, actor);
        self.look_again();
        Ok(())
    }

    /// A worker was found: it becomes the actor.
    pub(crate) fn create_actor(&mut self, id: ActorId, worker: WorkerId) {
        self.actors.last_correlation += 1;
        let correlation = self.actors.last_correlation;
        let Some(actor) = self.actors.entries.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Creating(worker);
        actor.creation = Some(correlation);
        self.actors.creating.insert(correlation, id);
        let Some(entry) = self.workers.pool.get_mut(worker) else {
            return;
        };
        entry.actor = Some((id, actor.spec.detached));
        let message = CreateActor {
            spec: Some(actor.spec.clone()),
            incarnation: actor.incarnation,
        };
        self.clients
            .send(entry.connection, FrameKind::CreateActor, correlation, &message);
    }

    /// ActorExits.
    pub(crate) fn actor_exits(&mut self, connection: u64) {
        let Some(speaker) = self.clients.client(connection).map(|client| client.worker_id) else {
            return;
        };
        let mut actors = self.actors.entries.values_mut();
        if let Some(actor) = actors.find(|actor| actor.phase == Phase::Alive(speaker)) {
            actor.exits = true;
        }
    }

    /// CreateActorReply.
    pub(crate) fn actor_created(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let reply: CreateActorReply = frame.decode()?;
        let Some(id) = self.actors.creating.get(&frame.correlation).copied() else {
            return Ok(());
        };
        let speaker = self.clients.client(connection).map(|client| client.worker_id);
        let Some(actor) = self.actors.entries.get_mut(&id) else {
            return Ok(());
        };
        let Phase::Creating(worker) = actor.phase else {
            return Ok(());
        };
        if speaker != Some(worker) {
            // The worker that was asked still has to say it.
            warn!(actor_id = %id, worker_id = %worker, ?speaker, "another process answers for a worker that creates an actor");
            return Ok(());
        }
        self.actors.creating.remove(&frame.correlation);
        let incarnation = actor.incarnation;
        if let Some(failure) = reply.failure {
            self.dismiss_actor(id, "the actor could not be created");
            self.report_actor(id, incarnation, Outcome::WorkerDied(failure.message), 0);
        } else if !reply.error.is_empty() {
            self.dismiss_actor(id, "the actor's constructor raised");
            self.report_actor(id, incarnation, Outcome::ConstructorError(reply.error), 0);
        } else {
            actor.phase = Phase::Alive(worker);
            info!(actor_id = %id, worker_id = %worker, incarnation, "actor is alive");
            self.report_alive(id);
        }
        Ok(())
    }

    fn report_alive(&mut self, id: ActorId) {
        let Some(actor) = self.actors.entries.get(&id) else {
            return;
        };
        let Phase::Alive(worker) = actor.phase else { return };
        let pid = self
            .workers
            .pool
            .get(worker)
            .and_then(|worker| worker.pid)
            .unwrap_or(0);
        let outcome = Outcome::Alive((&self.address_of(worker)).into());
        self.report_actor(id, actor.incarnation, outcome, pid);
    }

    /// Forgets an actor and ends its worker in an orderly way, so that what it printed is not lost.
    fn dismiss_actor(&mut self, id: ActorId, reason: &str) {
        let Some(actor) = self.actors.remove(id) else {
            return;
        };
        self.leases.end(actor.lease_id);
        if let Phase::Creating(worker) | Phase::Alive(worker) = actor.phase {
            if let Some(entry) = self.workers.pool.get_mut(worker) {
                entry.actor = None;
            }
            self.end_worker(worker, reason);
        }
        self.look_again();
    }

    /// Forgets an actor and lets its worker do what user code wants done at an actor's end. It holds its resources
    /// meanwhile.
    fn let_actor_end(&mut self, id: ActorId, worker: WorkerId, reason: &str) {
        self.actors.remove(id);
        if let Some(entry) = self.workers.pool.get_mut(worker) {
            entry.actor = None;
        }
        self.end_worker_within(worker, reason, LAST_DEEDS);
    }

    /// Forgets an actor and kills its worker.
    fn give_up_actor(&mut self, id: ActorId, reason: &str) {
        let Some(actor) = self.actors.remove(id) else {
            return;
        };
        debug!(actor_id = %id, incarnation = actor.incarnation, reason, "an actor ends");
        self.leases.end(actor.lease_id);
        if let Phase::Creating(worker) | Phase::Alive(worker) = actor.phase {
            if let Some(entry) = self.workers.pool.get_mut(worker) {
                entry.actor = None;
            }
            self.kill_worker(worker);
        }
        self.look_again();
    }

    /// No worker of this node can become the actor.
    pub(crate) fn actor_cannot_start(&mut self, id: ActorId, failure: Failure) {
        let Some(actor) = self.actors.remove(id) else {
            return;
        };
        self.leases.end(actor.lease_id);
        let outcome = if failure.error_code() == ErrorCode::VersionMismatch {
            // Another try would end the same.
            Outcome::Exited(failure.message)
        } else {
            Outcome::WorkerDied(failure.message)
        };
        self.report_actor(id, actor.incarnation, outcome, 0);
        self.look_again();
    }

    /// KillActorOnNode. Answered also when the actor is not here, so that the head never waits in vain.
    pub(crate) fn kill_actor(&mut self, message: &KillActorOnNode) -> Result<(), MessageError> {
        let id = ActorId::from_slice(&message.actor_id)?;
        let known = self.actors.entries.get(&id);
        if let Some(actor) = known.filter(|actor| actor.incarnation <= message.incarnation) {
            match actor.phase {
                Phase::Alive(worker) if message.graceful => self.let_actor_end(id, worker, &message.cause),
                _ => self.give_up_actor(id, &message.cause),
            }
        }
        self.report_actor(
            id,
            message.incarnation,
            Outcome::WorkerDied(message.cause.clone()),
            0,
        );
        Ok(())
    }

    /// The worker that was an actor is gone.
    pub(crate) fn actor_worker_over(
        &mut self,
        id: ActorId,
        worker: WorkerId,
        end: Option<ChildEnd>,
        cause: &str,
    ) {
        let Some(actor) = self.actors.entries.get(&id) else {
            return;
        };
        let (Phase::Creating(own) | Phase::Alive(own)) = actor.phase else {
            return;
        };
        if own != worker {
            return;
        }
        let was_alive = matches!(actor.phase, Phase::Alive(_));
        let Some(actor) = self.actors.remove(id) else {
            return;
        };
        self.leases.end(actor.lease_id);
        let outcome = match end {
            Some(_) if was_alive && actor.exits => Outcome::Exited("it exited by itself".to_owned()),
            _ => Outcome::WorkerDied(cause.to_owned()),
        };
        self.report_actor(id, actor.incarnation, outcome, 0);
    }

    /// Actors of a finished job go, but for detached ones.
    pub(crate) fn actors_of_finished_job(&mut self, job: JobId) {
        let of_job = self
            .actors
            .entries
            .iter()
            .filter(|(_, actor)| actor.job == job && !actor.spec.detached);
        let ids: Vec<ActorId> = of_job.map(|(id, _)| *id).collect();
        for id in ids {
            self.give_up_actor(id, "its job is over");
        }
    }

    /// Several times a second: actors that wait here while another node has room go back to the head.
    pub(crate) fn tend_actors(&mut self) {
        let now = Instant::now();
        let waiting = self.actors.entries.iter().filter(|(_, actor)| {
            actor.phase == Phase::Placing
                && now.duration_since(actor.since) >= PATIENCE
                && self.leases.state(actor.lease_id) == Some(LeaseState::Queued)
        });
        let elsewhere = waiting.filter(|(_, actor)| {
            let request = self.leases.request_of(actor.lease_id);
            request.is_some_and(|request| self.view.node_with_room(&request.resources).is_some())
        });
        let ids: Vec<ActorId> = elsewhere.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(actor) = self.actors.remove(id) else {
                continue;
            };
            self.leases.end(actor.lease_id);
            let reason = format!("node {} has no room for it now", self.node.address);
            self.report_actor(id, actor.incarnation, Outcome::Rejected(reason), 0);
        }
    }

    /// The last state that the head told about an actor is sent to those who watch it.
    pub(crate) fn actor_update(&mut self, update: sparkray_proto::ActorUpdate) {
        let Ok(id) = ActorId::from_slice(&update.actor_id) else {
            warn!("the head sent an update of an actor without an id");
            return;
        };
        let mut is_watched = false;
        for (connection, client) in self.clients.clients() {
            if client.watched.contains(&id) {
                is_watched = true;
                self.clients.send(connection, FrameKind::ActorUpdate, 0, &update);
            }
        }
        if is_watched {
            self.head.actor_states.insert(id, update);
        }
    }

    /// WatchActor.
    pub(crate) fn watch_actor(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: sparkray_proto::WatchActor = frame.decode()?;
        let id = ActorId::from_slice(&message.actor_id).map_err(MessageError::from)?;
        if let Some(client) = self
            .clients
            .get_mut(connection)
            .and_then(|connection| connection.client.as_mut())
        {
            client.watched.insert(id);
        }
        match self.head.actor_states.get(&id) {
            Some(state) => self.clients.send(connection, FrameKind::ActorUpdate, 0, state),
            None => self.watch_at_head(id),
        }
        Ok(())
    }

    /// Asks the head for an actor's states. The head answers with the present one, each time.
    pub(crate) fn watch_at_head(&mut self, id: ActorId) {
        let message = sparkray_proto::WatchActorOnNode {
            actor_id: id.to_vec().into(),
        };
        self.head.send(node_message::Message::WatchActor(message));
    }

    /// A client that watched actors is gone: the head need not tell what nobody wants to know.
    pub(crate) fn unwatch(&mut self, watched: impl IntoIterator<Item = ActorId>) {
        for id in watched {
            if self
                .clients
                .clients()
                .all(|(_, client)| !client.watched.contains(&id))
            {
                self.head.actor_states.remove(&id);
                let id: Bytes = id.to_vec().into();
                self.head.send(node_message::Message::UnwatchActor(id));
            }
        }
    }
}
