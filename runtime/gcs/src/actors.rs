//! The table of actors: what each is, in which phase, and what clients ask of it. What happens to actors by
//! themselves is in `actor_events`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use prost::Message as _;
use prost::bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, NodeId, WorkerId};
use sparkray_proto::head_message::Message;
use sparkray_proto::{
    ActorRecord, ActorSpec, ActorState, ActorUpdate, Failure, GetActor, KillActor, KillActorOnNode,
};

use crate::actor::{Actor, Phase, SpecParts};
use crate::effects::Effects;
use crate::nodes::NodeTable;

/// Dead actors whose end can still be asked for; older ones are forgotten.
const KEPT_DEAD_ACTORS: usize = 10_000;
/// Watchers of ids that no actor has (yet).
const KEPT_EARLY_WATCHERS: usize = 10_000;

/// What an event may read and change besides the actors.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) nodes: &'a mut NodeTable,
    pub(crate) effects: &'a mut Effects,
}

/// All actors.
#[derive(Debug, Default)]
pub(crate) struct ActorTable {
    pub(crate) actors: BTreeMap<ActorId, Actor>,
    /// Those that are not dead.
    pub(crate) living: BTreeSet<ActorId>,
    /// Those in [`Phase::Pending`], in the order in which they are to be placed.
    pub(crate) pending: VecDeque<ActorId>,
    /// Those in [`Phase::Stopping`].
    pub(crate) stopping: BTreeSet<ActorId>,
    /// Those placed on a node that showed no room, so that its raylet asks for idle leases.
    pub(crate) crowding: BTreeMap<NodeId, BTreeSet<ActorId>>,
    /// (namespace, name) of living actors.
    names: HashMap<(String, String), ActorId>,
    /// Oldest first.
    dead: VecDeque<ActorId>,
    early_watchers: BTreeMap<ActorId, BTreeSet<NodeId>>,
}

impl ActorTable {
    /// Takes a new actor. Its job runs and its owner lives: the caller has checked. The same id again changes nothing,
    /// but for the arguments that were to follow, which may also come first.
    pub(crate) fn register(
        &mut self,
        context: &mut Context<'_>,
        mut spec: ActorSpec,
        job_namespace: &str,
        arguments_follow: bool,
    ) -> Result<(), Failure> {
        let parts = SpecParts::read(&spec).map_err(|error| invalid(error.to_string()))?;
        if let Some(actor) = self.actors.get_mut(&parts.id) {
            if actor.phase == Phase::Unready && !arguments_follow {
                spec.namespace.clone_from(&actor.spec.namespace);
                actor.spec = spec;
                actor.phase = Phase::Pending;
                actor.pending_since = context.now;
                self.pending.push_back(parts.id);
                self.place_pending(context);
            }
            return Ok(());
        }
        if spec.max_restarts < -1 {
            return Err(invalid(format!(
                "actor {} cannot have max_restarts={}: use -1 for no limit, or 0 or more",
                parts.id, spec.max_restarts
            )));
        }
        if spec.namespace.is_empty() {
            job_namespace.clone_into(&mut spec.namespace);
        }
        if !spec.name.is_empty() {
            let key = (spec.namespace.clone(), spec.name.clone());
            if let Some(holder) = self.names.get(&key) {
                return Err(Failure::new(
                    ErrorCode::AlreadyExists,
                    format!(
                        "the actor name '{}' in namespace '{}' is taken by actor {holder}: choose another name, or get the \
                         existing actor with get_actor('{}', namespace='{}')",
                        spec.name, spec.namespace, spec.name, spec.namespace
                    ),
                ));
            }
            self.names.insert(key, parts.id);
        }
        let SpecParts {
            id,
            job,
            owner,
            held,
            needs,
            preferred,
        } = parts;
        let actor = Actor {
            id,
            job,
            owner,
            spec,
            held,
            needs,
            preferred,
            phase: if arguments_follow {
                Phase::Unready
            } else {
                Phase::Pending
            },
            incarnation: 0,
            watchers: self.early_watchers.remove(&id).unwrap_or_default(),
            refusals: Vec::new(),
            pending_since: context.now,
            warned: false,
        };
        publish(&actor, context.effects);
        self.actors.insert(id, actor);
        self.living.insert(id);
        if !arguments_follow {
            self.pending.push_back(id);
            self.place_pending(context);
        }
        Ok(())
    }

    /// By id, or by name among the living.
    pub(crate) fn get(&self, request: &GetActor) -> Result<ActorRecord, Failure> {
        if !request.actor_id.is_empty() {
            let id = ActorId::from_slice(&request.actor_id).map_err(|error| invalid(error.to_string()))?;
            return self.actors.get(&id).map(Actor::record).ok_or_else(|| unknown(id));
        }
        let key = (request.namespace.clone(), request.name.clone());
        let found = self.names.get(&key).and_then(|id| self.actors.get(id));
        found.map(Actor::record).ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!(
                    "no living actor is named '{}' in namespace '{}': check name and namespace; it may also have died",
                    request.name, request.namespace
                ),
            )
        })
    }

    /// All actors, dead ones too.
    pub(crate) fn records(&self) -> Vec<ActorRecord> {
        self.actors.values().map(Actor::record).collect()
    }

    /// Ends an actor's process, and the actor unless it may be restarted and that is wanted.
    pub(crate) fn kill(&mut self, context: &mut Context<'_>, request: &KillActor) -> Result<(), Failure> {
        let id = ActorId::from_slice(&request.actor_id).map_err(|error| invalid(error.to_string()))?;
        let Some(actor) = self.actors.get_mut(&id) else {
            return Err(unknown(id));
        };
        let cause = if request.cause.is_empty() {
            "it was killed by kill()"
        } else {
            &request.cause
        };
        if request.no_restart {
            self.end(context, id, cause, Bytes::new(), request.graceful);
            self.place_pending(context);
            return Ok(());
        }
        match (&actor.phase, actor.node()) {
            // It is on its way to the next incarnation, or over.
            (Phase::Stopping { .. } | Phase::Dead { .. }, _) => {}
            (_, Some(node)) if actor.may_restart() => {
                let incarnation = actor.incarnation;
                let worker = actor.worker();
                actor.incarnation += 1;
                actor.phase = Phase::Stopping {
                    node,
                    worker,
                    incarnation,
                    since: context.now,
                };
                publish(actor, context.effects);
                self.stopping.insert(id);
                self.uncrowd(node, id);
                context.effects.send(node, kill_message(id, incarnation, cause));
            }
            _ => self.restart_or_die(context, id, cause),
        }
        self.place_pending(context);
        Ok(())
    }

    /// Tells a node of this actor's changes from now on, and its present state at once.
    pub(crate) fn watch(&mut self, node: NodeId, id: ActorId, effects: &mut Effects) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.watchers.insert(node);
            return effects.send(node, Message::Actor(actor.update()));
        }
        // Its registration may be under way on another connection: then the watcher hears of it.
        if self.early_watchers.len() < KEPT_EARLY_WATCHERS {
            self.early_watchers.entry(id).or_default().insert(node);
        }
        let update = ActorUpdate {
            actor_id: id.to_vec().into(),
            state: ActorState::Dead.into(),
            cause: unknown(id).message,
            ..ActorUpdate::default()
        };
        effects.send(node, Message::Actor(update));
    }

    /// The node does not care any more.
    pub(crate) fn unwatch(&mut self, node: NodeId, id: ActorId) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.watchers.remove(&node);
        }
        if let Some(watchers) = self.early_watchers.get_mut(&id) {
            watchers.remove(&node);
            if watchers.is_empty() {
                self.early_watchers.remove(&id);
            }
        }
    }

    /// A dead node watches nothing.
    pub(crate) fn unwatch_all(&mut self, node: NodeId) {
        for actor in self.actors.values_mut() {
            actor.watchers.remove(&node);
        }
        self.early_watchers.retain(|_, watchers| {
            watchers.remove(&node);
            !watchers.is_empty()
        });
    }

    /// Ends an actor for good. Does nothing to a dead one.
    pub(crate) fn die(
        &mut self,
        context: &mut Context<'_>,
        id: ActorId,
        cause: &str,
        constructor_error: Bytes,
    ) {
        self.end(context, id, cause, constructor_error, false);
    }

    /// As [`ActorTable::die`]. `graceful`: what user code wants done at its end is done.
    fn end(
        &mut self,
        context: &mut Context<'_>,
        id: ActorId,
        cause: &str,
        constructor_error: Bytes,
        graceful: bool,
    ) {
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        match actor.phase {
            Phase::Dead { .. } => return,
            Phase::Pending => self.pending.retain(|other| *other != id),
            Phase::Stopping { .. } => {
                self.stopping.remove(&id);
            }
            Phase::Unready | Phase::Placed { .. } | Phase::Alive { .. } => {}
        }
        let node = actor.node();
        if let Some(node) = node.filter(|node| context.nodes.is_alive(*node)) {
            // Also when its process is gone already: then the node has nothing to kill.
            let kill = KillActorOnNode {
                actor_id: id.to_vec().into(),
                incarnation: actor.running_incarnation(),
                cause: cause.to_owned(),
                graceful,
            };
            context.effects.send(node, Message::KillActor(kill));
            context.nodes.release(node, id);
        }
        actor.phase = Phase::Dead {
            cause: cause.to_owned(),
            constructor_error,
        };
        actor.spec.class_blob = Bytes::new();
        actor.spec.arguments_value = Bytes::new();
        actor.spec.arguments = Vec::new();
        actor.spec.inline_arguments = Vec::new();
        let_go_of_the_message(&mut actor.spec);
        publish(actor, context.effects);
        if !actor.spec.name.is_empty() {
            self.names
                .remove(&(actor.spec.namespace.clone(), actor.spec.name.clone()));
        }
        self.living.remove(&id);
        if let Some(node) = node {
            self.uncrowd(node, id);
        }
        self.dead.push_back(id);
        if self.dead.len() > KEPT_DEAD_ACTORS {
            if let Some(forgotten) = self.dead.pop_front() {
                self.actors.remove(&forgotten);
            }
        }
    }

    /// The process of an actor is gone: the next incarnation waits for a node, if there may be one.
    pub(crate) fn restart_or_die(&mut self, context: &mut Context<'_>, id: ActorId, cause: &str) {
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        if !actor.may_restart() {
            let cause = match actor.spec.max_restarts {
                0 => cause.to_owned(),
                limit => format!("{cause}; it was restarted {limit} times, which is its max_restarts"),
            };
            return self.die(context, id, &cause, Bytes::new());
        }
        actor.incarnation += 1;
        self.requeue(context, id);
        if let Some(actor) = self.actors.get(&id) {
            publish(actor, context.effects);
        }
    }

    /// Queues an actor that has no process for a node.
    pub(crate) fn requeue(&mut self, context: &mut Context<'_>, id: ActorId) {
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        if matches!(actor.phase, Phase::Unready | Phase::Pending) {
            return;
        }
        let node = actor.node();
        actor.phase = Phase::Pending;
        actor.pending_since = context.now;
        actor.warned = false;
        self.stopping.remove(&id);
        self.pending.push_back(id);
        if let Some(node) = node {
            context.nodes.release(node, id);
            self.uncrowd(node, id);
        }
    }

    pub(crate) fn uncrowd(&mut self, node: NodeId, id: ActorId) {
        if let Some(crowd) = self.crowding.get_mut(&node) {
            crowd.remove(&id);
            if crowd.is_empty() {
                self.crowding.remove(&node);
            }
        }
    }

    /// Living actors that satisfy a condition.
    pub(crate) fn living_where(&self, wanted: impl Fn(&Actor) -> bool) -> Vec<ActorId> {
        let is_wanted = |id: &&ActorId| self.actors.get(id).is_some_and(&wanted);
        self.living.iter().filter(is_wanted).copied().collect()
    }

    /// Living actors that end with this owner.
    pub(crate) fn owned_by(&self, owner: WorkerId) -> Vec<ActorId> {
        self.living_where(|actor| actor.owner.worker_id == owner && actor.is_bound())
    }
}

/// What came with a message shares the message's buffer: a few bytes of a name would keep a large class in memory.
fn let_go_of_the_message(spec: &mut ActorSpec) {
    let bytes = spec.encode_to_vec();
    match ActorSpec::decode(&bytes[..]) {
        Ok(copy) => *spec = copy,
        Err(error) => tracing::error!(%error, "an actor's specification cannot be copied"),
    }
}

/// Tells the watchers.
pub(crate) fn publish(actor: &Actor, effects: &mut Effects) {
    for node in &actor.watchers {
        effects.send(*node, Message::Actor(actor.update()));
    }
}

pub(crate) fn kill_message(id: ActorId, incarnation: u64, cause: &str) -> Message {
    Message::KillActor(KillActorOnNode {
        actor_id: id.to_vec().into(),
        incarnation,
        cause: cause.to_owned(),
        graceful: false,
    })
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, message)
}

fn unknown(id: ActorId) -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        format!("actor {id} is not known to the head: it was never created, or it died long ago"),
    )
}
