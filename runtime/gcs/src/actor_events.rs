//! What happens to actors: nodes report, processes, owners and nodes die, room appears, time passes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use sparkray_common::{ActorId, JobId, NodeId, ResourceSet, WorkerAddress, WorkerId};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::{ActorReport, MessageError, PlaceActor};
use tracing::{debug, info, warn};

use crate::actor::{Phase, RefusedBy};
use crate::actors::{ActorTable, Context, kill_message, publish};
use crate::placement::{Choice, choose_node, describe, describe_missing};

/// A node that refused an actor is asked again after this long, or when it reports.
const REFUSAL_AGE: Duration = Duration::from_millis(100);
/// A raylet that was told to kill a process and says nothing is told again. It is never believed to have done it: the next
/// process of the actor waits for its word, or for its node's death.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Nodes may still be joining: an actor that fits none is reported after this long.
const INFEASIBLE_PATIENCE: Duration = Duration::from_secs(1);
/// An actor for which no node has room is reported after this long.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// Actors that may be on their way at once to a node that shows no room.
const CROWD_LIMIT: usize = 8;

/// An actor that waits long, for its driver.
#[derive(Debug, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) job: JobId,
    pub(crate) text: String,
}

impl ActorTable {
    /// A node says what became of an actor.
    pub(crate) fn report(
        &mut self,
        context: &mut Context<'_>,
        node: NodeId,
        report: ActorReport,
    ) -> Result<(), MessageError> {
        let id = ActorId::from_slice(&report.actor_id)?;
        let outcome = report.outcome.ok_or(MessageError::Missing("outcome"))?;
        let address = match &outcome {
            Outcome::Alive(address) => Some(WorkerAddress::try_from(address)?),
            _ => None,
        };
        let is_current = self.actors.get(&id).is_some_and(|actor| {
            actor.node() == Some(node) && actor.running_incarnation() == report.incarnation
        });
        if !is_current {
            debug!(actor_id = %id, node_id = %node, incarnation = report.incarnation, "ignored a report of an old incarnation");
            if address.is_some() {
                let cause = "this incarnation of the actor was given up";
                context
                    .effects
                    .send(node, kill_message(id, report.incarnation, cause));
            }
            return Ok(());
        }
        self.apply(context, node, id, outcome, address, report.pid);
        self.place_pending(context);
        Ok(())
    }

    /// A report of the present process of an actor.
    fn apply(
        &mut self,
        context: &mut Context<'_>,
        node: NodeId,
        id: ActorId,
        outcome: Outcome,
        address: Option<WorkerAddress>,
        pid: u32,
    ) {
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        if let Phase::Stopping { incarnation, .. } = actor.phase {
            match address {
                // It came alive while the order to kill it was under way.
                Some(_) => context
                    .effects
                    .send(node, kill_message(id, incarnation, "it is to be restarted")),
                None => self.requeue(context, id),
            }
            return;
        }
        context.nodes.answered(node, id);
        match outcome {
            Outcome::Alive(_) => {
                let (Phase::Placed { .. }, Some(address)) = (&actor.phase, address) else {
                    return;
                };
                info!(actor_id = %id, node_id = %node, worker_id = %address.worker_id, incarnation = actor.incarnation, "actor is alive");
                actor.phase = Phase::Alive { address, pid };
                actor.refusals.clear();
                publish(actor, context.effects);
                self.uncrowd(node, id);
            }
            Outcome::ConstructorError(error) => {
                self.die(context, id, "its constructor raised an exception", error);
            }
            Outcome::WorkerDied(cause) => {
                info!(actor_id = %id, node_id = %node, cause, "the worker of an actor died");
                self.restart_or_die(context, id, &format!("its worker died: {cause}"));
            }
            Outcome::Exited(cause) => self.die(context, id, &cause, Bytes::new()),
            Outcome::Rejected(reason) => {
                if !matches!(actor.phase, Phase::Placed { .. }) {
                    warn!(actor_id = %id, node_id = %node, "ignored the refusal of an actor that is alive");
                    return;
                }
                debug!(actor_id = %id, node_id = %node, reason, "a node has no room for an actor");
                let since = actor.pending_since;
                let warned = actor.warned;
                let reports = context.nodes.report_count(node);
                actor.refusals.push(RefusedBy {
                    node,
                    reports,
                    at: context.now,
                });
                self.requeue(context, id);
                // Still the same wait.
                if let Some(actor) = self.actors.get_mut(&id) {
                    actor.pending_since = since;
                    actor.warned = warned;
                }
            }
        }
    }

    /// A process ended: actors that it hosted restart or end, actors that it owned end.
    pub(crate) fn worker_died(&mut self, context: &mut Context<'_>, worker: WorkerId, cause: &str) {
        for id in self.owned_by(worker) {
            self.die(
                context,
                id,
                &format!("its owner, worker {worker}, died: {cause}"),
                Bytes::new(),
            );
        }
        for id in self.living_where(|actor| actor.worker() == Some(worker)) {
            self.process_gone(context, id, &format!("its worker died: {cause}"));
        }
        self.place_pending(context);
    }

    /// The process of an actor ended without the actor's will.
    fn process_gone(&mut self, context: &mut Context<'_>, id: ActorId, cause: &str) {
        match self.actors.get(&id).map(|actor| &actor.phase) {
            // Its next incarnation was decided on before.
            Some(Phase::Stopping { .. }) => self.requeue(context, id),
            Some(Phase::Placed { .. } | Phase::Alive { .. }) => self.restart_or_die(context, id, cause),
            Some(Phase::Unready | Phase::Pending | Phase::Dead { .. }) | None => {}
        }
    }

    /// A node died with all its processes. `hosted` are the actors that it had.
    pub(crate) fn node_died(
        &mut self,
        context: &mut Context<'_>,
        node: NodeId,
        hosted: impl IntoIterator<Item = ActorId>,
        cause: &str,
    ) {
        self.unwatch_all(node);
        let owned = |owner: &WorkerAddress| owner.node_id == node;
        for id in self.living_where(|actor| owned(&actor.owner) && actor.is_bound()) {
            self.die(
                context,
                id,
                &format!("its owner's node {node} died: {cause}"),
                Bytes::new(),
            );
        }
        for id in hosted {
            self.process_gone(context, id, &format!("its node {node} died: {cause}"));
        }
        self.crowding.remove(&node);
        self.place_pending(context);
    }

    /// A job is over: its actors end, but for detached ones.
    pub(crate) fn job_finished(&mut self, context: &mut Context<'_>, job: JobId) {
        for id in self.living_where(|actor| actor.job == job && actor.is_bound()) {
            self.die(context, id, "its job is over", Bytes::new());
        }
        self.place_pending(context);
    }

    /// Gives every waiting actor a node, as far as there is room.
    pub(crate) fn place_pending(&mut self, context: &mut Context<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let mut view = context.nodes.candidates();
        let mut hopeless: HashSet<[ResourceSet; 2]> = HashSet::new();
        for id in std::mem::take(&mut self.pending) {
            let Some(actor) = self.actors.get_mut(&id) else {
                continue;
            };
            let shape = [actor.held.clone(), actor.needs.clone()];
            if hopeless.contains(&shape) {
                self.pending.push_back(id);
                continue;
            }
            actor.refusals.retain(|refusal| {
                context.nodes.report_count(refusal.node) == refusal.reports
                    && context.now.saturating_duration_since(refusal.at) < REFUSAL_AGE
            });
            let mut avoid: Vec<NodeId> = actor.refusals.iter().map(|refusal| refusal.node).collect();
            let mut choice = choose_node(&view, &actor.held, &actor.needs, actor.preferred, &avoid);
            if matches!(choice, Choice::Busy(_)) {
                let crowded = |node: &NodeId| {
                    self.crowding
                        .get(node)
                        .is_some_and(|crowd| crowd.len() >= CROWD_LIMIT)
                };
                avoid.extend(view.iter().map(|candidate| candidate.node).filter(crowded));
                choice = choose_node(&view, &actor.held, &actor.needs, None, &avoid);
            }
            let (node, taken) = match choice {
                Choice::Room(node) => (node, actor.held.clone()),
                Choice::Busy(node) => {
                    self.crowding.entry(node).or_default().insert(id);
                    // It takes nothing from the view: it may be refused, and others may fit meanwhile.
                    (node, ResourceSet::default())
                }
                Choice::Refused | Choice::Infeasible => {
                    if actor.refusals.is_empty() {
                        hopeless.insert(shape);
                    }
                    self.pending.push_back(id);
                    continue;
                }
            };
            debug!(actor_id = %id, node_id = %node, incarnation = actor.incarnation, "placing an actor");
            actor.phase = Phase::Placed { node };
            context.nodes.reserve(context.now, node, id, &taken);
            if let Some(candidate) = view.iter_mut().find(|candidate| candidate.node == node) {
                candidate.available.subtract(&taken);
                candidate.actors += 1;
            }
            let place = PlaceActor {
                spec: Some(actor.spec.clone()),
                incarnation: actor.incarnation,
            };
            context.effects.send(node, Message::PlaceActor(place));
        }
    }

    /// Time passes: overdue kills are asked for again, waiting actors are tried again and reported.
    pub(crate) fn tick(&mut self, context: &mut Context<'_>) -> Vec<Waiting> {
        let overdue: Vec<_> = self
            .stopping
            .iter()
            .copied()
            .filter(|id| self.is_overdue(*id, context.now))
            .collect();
        for id in overdue {
            let Some(actor) = self.actors.get_mut(&id) else {
                continue;
            };
            let Some(node) = actor.node() else { continue };
            warn!(actor_id = %id, node_id = %node, "the node has not confirmed the end of an actor's process");
            if let Phase::Stopping { since, .. } = &mut actor.phase {
                *since = context.now;
            }
            let message = kill_message(id, actor.running_incarnation(), "it is to be restarted");
            context.effects.send(node, message);
        }
        self.place_pending(context);
        self.report_waiting(context)
    }

    fn is_overdue(&self, id: ActorId, now: Instant) -> bool {
        match self.actors.get(&id).map(|actor| &actor.phase) {
            Some(Phase::Stopping { since, .. }) => now.saturating_duration_since(*since) >= STOP_DEADLINE,
            _ => false,
        }
    }

    /// Actors whose wait has become long enough to be told, once for each wait.
    fn report_waiting(&mut self, context: &mut Context<'_>) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        let mut view = None;
        let crowding = self.crowding.values().flatten();
        for id in self.pending.iter().chain(crowding) {
            let Some(actor) = self.actors.get_mut(id) else {
                continue;
            };
            let waited = context.now.saturating_duration_since(actor.pending_since);
            if actor.warned || waited < INFEASIBLE_PATIENCE {
                continue;
            }
            let view = view.get_or_insert_with(|| context.nodes.candidates());
            let needs = describe(&actor.needs);
            let text = if view.iter().any(|candidate| candidate.total.covers(&actor.needs)) {
                if waited < BUSY_PATIENCE {
                    continue;
                }
                format!(
                    "actor {} has waited for {} s: it needs {needs} and all nodes are busy; end other actors or tasks, ask \
                     for less, or add nodes",
                    actor.title(),
                    waited.as_secs()
                )
            } else {
                format!(
                    "actor {} cannot be placed: it needs {needs} ({}); it waits for a node that has it",
                    actor.title(),
                    describe_missing(view, &actor.needs)
                )
            };
            actor.warned = true;
            // Trouble of the program, not of the head: the driver prints it.
            info!(actor_id = %actor.id, "{text}");
            waiting.push(Waiting { job: actor.job, text });
        }
        waiting
    }
}
