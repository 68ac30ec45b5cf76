//! The table of actors: what each is and in which phase, their names, the queue of those that wait for a node, and who
//! watches whom.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use prost::Message as _;
use prost::bytes::Bytes;
use sparkray_common::{ActorId, NodeId, WorkerAddress};
use sparkray_proto::ActorSpec;

use super::actor::{Actor, Phase};
use crate::spec::SpecParts;

/// Dead actors whose end can still be asked for; older ones are forgotten.
const KEPT_DEAD_ACTORS: usize = 10_000;
/// Ids that no actor has (yet) and that have watchers.
const KEPT_EARLY_WATCHERS: usize = 10_000;

/// All actors.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ActorTable {
    actors: BTreeMap<ActorId, Actor>,
    /// Those that are not dead.
    living: BTreeSet<ActorId>,
    /// Those in [`Phase::Pending`], by their tickets: in the order in which they are to be placed.
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

/// What may be read.
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

/// What records do.
impl ActorTable {
    pub(super) fn register(&mut self, spec: &ActorSpec, parts: &SpecParts, arguments_follow: bool) {
        let id = parts.id;
        if !spec.name.is_empty() {
            self.names.insert((spec.namespace.clone(), spec.name.clone()), id);
        }
        let actor = Actor {
            parts: parts.clone(),
            spec: spec.clone(),
            phase: Phase::Unready,
            incarnation: 0,
            watchers: self.early_watchers.remove(&id).unwrap_or_default(),
        };
        self.actors.insert(id, actor);
        self.living.insert(id);
        if !arguments_follow {
            self.enqueue(id);
        }
    }

    pub(super) fn ready(&mut self, id: ActorId, spec: &ActorSpec) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.spec = spec.clone();
            self.enqueue(id);
        }
    }

    pub(super) fn place(&mut self, id: ActorId, node: NodeId, crowds: bool) {
        self.leave_phase(id);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Placed { node };
        self.hosted.entry(node).or_default().insert(id);
        if crowds {
            self.crowding.entry(node).or_default().insert(id);
        }
    }

    pub(super) fn come_alive(&mut self, id: ActorId, address: &WorkerAddress, pid: u32) {
        self.leave_phase(id);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Alive {
            address: address.clone(),
            pid,
        };
        self.hosted.entry(address.node_id).or_default().insert(id);
    }

    pub(super) fn refuse(&mut self, id: ActorId) {
        self.enqueue(id);
    }

    pub(super) fn queue(&mut self, id: ActorId, incarnation: u64) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.incarnation = incarnation;
            self.enqueue(id);
        }
    }

    pub(super) fn count_restart(&mut self, id: ActorId) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.incarnation += 1;
        }
    }

    pub(super) fn stop(&mut self, id: ActorId) {
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        let Some(node) = actor.node() else { return };
        actor.phase = Phase::Stopping {
            node,
            worker: actor.worker(),
            incarnation: actor.incarnation,
        };
        actor.incarnation += 1;
        remove_from(&mut self.crowding, node, id);
    }

    pub(super) fn die(&mut self, id: ActorId, cause: &str, constructor_error: &Bytes) {
        if !self.living.remove(&id) {
            return;
        }
        self.leave_phase(id);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Dead {
            cause: cause.to_owned(),
            constructor_error: constructor_error.clone(),
        };
        actor.spec.class_blob = Bytes::new();
        actor.spec.arguments_value = Bytes::new();
        actor.spec.arguments = Vec::new();
        actor.spec.inline_arguments = Vec::new();
        let_go_of_the_message(&mut actor.spec);
        if !actor.spec.name.is_empty() {
            self.names
                .remove(&(actor.spec.namespace.clone(), actor.spec.name.clone()));
        }
        self.dead.push_back(id);
        if self.dead.len() > KEPT_DEAD_ACTORS
            && let Some(forgotten) = self.dead.pop_front()
        {
            self.actors.remove(&forgotten);
        }
    }

    pub(super) fn watch(&mut self, id: ActorId, node: NodeId) {
        let watchers = match self.actors.get_mut(&id) {
            Some(actor) => &mut actor.watchers,
            None => self.early_watchers.entry(id).or_default(),
        };
        watchers.insert(node);
    }

    pub(super) fn unwatch(&mut self, id: ActorId, node: NodeId) {
        match self.actors.get_mut(&id) {
            Some(actor) => {
                actor.watchers.remove(&node);
            }
            None => remove_from(&mut self.early_watchers, id, node),
        }
    }

    /// A dead node watches nothing, and nothing is on its way there. Its actors are dealt with one by one.
    pub(super) fn node_died(&mut self, node: NodeId) {
        for actor in self.actors.values_mut() {
            actor.watchers.remove(&node);
        }
        self.early_watchers.retain(|_, watchers| {
            watchers.remove(&node);
            !watchers.is_empty()
        });
        self.crowding.remove(&node);
    }

    /// Puts an actor that has no process at the end of the queue.
    fn enqueue(&mut self, id: ActorId) {
        self.leave_phase(id);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        self.last_ticket += 1;
        actor.phase = Phase::Pending {
            ticket: self.last_ticket,
        };
        self.pending.insert(self.last_ticket, id);
    }

    /// Takes an actor out of the indices of its phase.
    fn leave_phase(&mut self, id: ActorId) {
        let Some(actor) = self.actors.get(&id) else {
            return;
        };
        if let Phase::Pending { ticket } = actor.phase {
            self.pending.remove(&ticket);
        }
        if let Some(node) = actor.node() {
            remove_from(&mut self.hosted, node, id);
            remove_from(&mut self.crowding, node, id);
        }
    }
}

/// Removes a member of a set, and the set when it was the last one.
fn remove_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: K, member: V) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(&member);
        if set.is_empty() {
            sets.remove(&key);
        }
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
