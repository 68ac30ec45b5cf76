//! How long actors have waited: for a node, and for the end of a process that is to be stopped.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, NodeId};

/// A node that refused an actor is asked again after this long, or when it reports.
const REFUSAL_AGE: Duration = Duration::from_millis(100);
/// A raylet that was told to kill a process and says nothing is told again. It is never believed to have done it: the next
/// process of the actor waits for its word, or for its node's death.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The waits of all actors.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// Of actors without a living process.
    for_node: HashMap<ActorId, Wait>,
    /// When the end of an actor's process was asked for last.
    for_end: BTreeMap<ActorId, Instant>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    /// It was reported.
    warned: bool,
    refusals: Vec<Refusal>,
}

/// A node that had no room, until it reports again or [`REFUSAL_AGE`] later.
#[derive(Debug)]
struct Refusal {
    node: NodeId,
    reports: u64,
    at: Instant,
}

impl Waits {
    /// A node has no room for the actor. `reports`: how many it has made.
    pub(crate) fn refused(&mut self, now: Instant, actor: ActorId, node: NodeId, reports: u64) {
        let refusal = Refusal {
            node,
            reports,
            at: now,
        };
        self.wait(now, actor).refusals.push(refusal);
    }

    /// Nodes that have just refused the actor; forgets older refusals. `reports`: how many a node has made.
    pub(crate) fn refusals(
        &mut self,
        now: Instant,
        actor: ActorId,
        reports: impl Fn(NodeId) -> u64,
    ) -> Vec<NodeId> {
        let Some(wait) = self.for_node.get_mut(&actor) else {
            return Vec::new();
        };
        wait.refusals.retain(|refusal| {
            reports(refusal.node) == refusal.reports
                && now.saturating_duration_since(refusal.at) < REFUSAL_AGE
        });
        wait.refusals.iter().map(|refusal| refusal.node).collect()
    }

    /// How long the actor has waited for a node, unless that was reported before.
    pub(crate) fn unreported(&self, now: Instant, actor: ActorId) -> Option<Duration> {
        let wait = self.for_node.get(&actor).filter(|wait| !wait.warned)?;
        Some(now.saturating_duration_since(wait.since))
    }

    /// The wait is reported.
    pub(crate) fn reported(&mut self, actor: ActorId) {
        if let Some(wait) = self.for_node.get_mut(&actor) {
            wait.warned = true;
        }
    }

    /// Actors whose process has not ended in time. The next call waits as long for them again.
    pub(crate) fn overdue_ends(&mut self, now: Instant) -> Vec<ActorId> {
        let mut overdue = Vec::new();
        for (actor, since) in &mut self.for_end {
            if now.saturating_duration_since(*since) >= STOP_DEADLINE {
                *since = now;
                overdue.push(*actor);
            }
        }
        overdue
    }

    /// Whether a node has refused the actor, for the tests of invariants.
    #[cfg(test)]
    pub(crate) fn has_refusals(&self, actor: ActorId) -> bool {
        self.for_node
            .get(&actor)
            .is_some_and(|wait| !wait.refusals.is_empty())
    }

    pub(super) fn begin(&mut self, now: Instant, actor: ActorId) {
        self.wait(now, actor);
    }

    pub(super) fn begin_again(&mut self, now: Instant, actor: ActorId) {
        self.for_end.remove(&actor);
        let wait = self.wait(now, actor);
        wait.since = now;
        wait.warned = false;
    }

    pub(super) fn stopping(&mut self, now: Instant, actor: ActorId) {
        self.for_end.insert(actor, now);
    }

    /// Whether the end of an actor's process was asked for.
    pub(super) fn is_stopping(&self, actor: ActorId) -> bool {
        self.for_end.contains_key(&actor)
    }

    /// How long the actor has waited for a process, if it did.
    pub(super) fn end(&mut self, now: Instant, actor: ActorId) -> Option<Duration> {
        self.for_end.remove(&actor);
        let wait = self.for_node.remove(&actor)?;
        Some(now.saturating_duration_since(wait.since))
    }

    fn wait(&mut self, now: Instant, actor: ActorId) -> &mut Wait {
        self.for_node.entry(actor).or_insert_with(|| Wait {
            since: now,
            warned: false,
            refusals: Vec::new(),
        })
    }
}
