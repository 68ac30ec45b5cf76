//! The table of actors: what each is and in which phase, their names, the queue of those that wait for a node, and who
//! watches whom.

mod changes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use sparkray_common::{ActorId, NodeId};

use super::actor::Actor;

/// Ids that no actor has (yet) and that have watchers.
const KEPT_EARLY_WATCHERS: usize = 10_000;

/// All actors.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ActorTable {
    actors: BTreeMap<ActorId, Actor>,
    /// Those that are not dead.
    living: BTreeSet<ActorId>,
    /// Those in [`Phase::Pending`](super::actor::Phase::Pending), by their tickets: in the order in which they are to be placed.
    pending: BTreeMap<u64, ActorId>,
    last_ticket: u64,
    /// Those that a node has, or may have, a process of.
    hosted: BTreeMap<NodeId, BTreeSet<ActorId>>,
    /// Those placed on a node that showed no room, so that its raylet asks for idle leases.
    crowding: BTreeMap<NodeId, BTreeSet<ActorId>>,
    /// (namespace, name) of living actors.
    names: HashMap<(String, String), ActorId>,
    /// Oldest first.
    dead: VecDeque<ActorId>,
    early_watchers: BTreeMap<ActorId, BTreeSet<NodeId>>,
}

impl ActorTable {
    /// An actor, alive or dead.
    pub(crate) fn get(&self, id: ActorId) -> Option<&Actor> {
        self.actors.get(&id)
    }

    /// All actors, dead ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Actor> {
        self.actors.values()
    }

    /// Who has a name.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<ActorId> {
        self.names.get(&(namespace.to_owned(), name.to_owned())).copied()
    }

    /// Living actors that satisfy a condition.
    pub(crate) fn living_where(&self, wanted: impl Fn(&Actor) -> bool) -> Vec<ActorId> {
        let is_wanted = |id: &&ActorId| self.actors.get(id).is_some_and(&wanted);
        self.living.iter().filter(is_wanted).copied().collect()
    }

    /// Those that wait for a node, in the order in which they are to be placed.
    pub(crate) fn pending(&self) -> impl Iterator<Item = ActorId> {
        self.pending.values().copied()
    }

    /// Whether nothing waits for a node.
    pub(crate) fn all_are_placed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Those that a node has, or may have, a process of.
    pub(crate) fn hosted(&self, node: NodeId) -> impl Iterator<Item = ActorId> {
        self.hosted.get(&node).into_iter().flatten().copied()
    }

    /// How many those are.
    pub(crate) fn hosted_count(&self, node: NodeId) -> usize {
        self.hosted.get(&node).map_or(0, BTreeSet::len)
    }

    /// Those on their way to a node that showed no room.
    pub(crate) fn crowding(&self) -> impl Iterator<Item = ActorId> {
        self.crowding.values().flatten().copied()
    }

    /// How many are on their way to this node though it showed no room.
    pub(crate) fn crowd(&self, node: NodeId) -> usize {
        self.crowding.get(&node).map_or(0, BTreeSet::len)
    }

    /// Whether the node hears of this actor's changes.
    pub(crate) fn is_watched(&self, id: ActorId, node: NodeId) -> bool {
        let watchers = match self.actors.get(&id) {
            Some(actor) => Some(&actor.watchers),
            None => self.early_watchers.get(&id),
        };
        watchers.is_some_and(|watchers| watchers.contains(&node))
    }

    /// Whether another id that no actor has (yet) may be watched.
    pub(crate) fn takes_early_watchers(&self) -> bool {
        self.early_watchers.len() < KEPT_EARLY_WATCHERS
    }
}
