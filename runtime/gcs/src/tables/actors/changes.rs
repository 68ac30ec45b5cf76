//! What records do to the table of actors: one function for each kind.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost::bytes::Bytes;
use sparkray_common::{ActorId, NodeId, WorkerAddress};
use sparkray_proto::ActorSpec;

use super::ActorTable;
use crate::death::Death;
use crate::spec::SpecParts;
use crate::tables::actor::{Actor, Phase};

/// Dead actors whose end can still be asked for; older ones are forgotten.
const KEPT_DEAD_ACTORS: usize = 10_000;

impl ActorTable {
    pub(in crate::tables) fn register(
        &mut self,
        spec: &ActorSpec,
        parts: &SpecParts,
        arguments_follow: bool,
    ) {
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

    pub(in crate::tables) fn ready(&mut self, id: ActorId, spec: &ActorSpec) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.spec = spec.clone();
            self.enqueue(id);
        }
    }

    pub(in crate::tables) fn place(&mut self, id: ActorId, node: NodeId, crowds: bool) {
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

    pub(in crate::tables) fn come_alive(&mut self, id: ActorId, address: &WorkerAddress, pid: u32) {
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

    pub(in crate::tables) fn refuse(&mut self, id: ActorId) {
        self.enqueue(id);
    }

    pub(in crate::tables) fn queue(&mut self, id: ActorId, incarnation: u64) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.incarnation = incarnation;
            self.enqueue(id);
        }
    }

    pub(in crate::tables) fn count_restart(&mut self, id: ActorId) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.incarnation += 1;
        }
    }

    pub(in crate::tables) fn stop(&mut self, id: ActorId) {
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

    pub(in crate::tables) fn die(&mut self, id: ActorId, death: &Death) {
        if !self.living.remove(&id) {
            return;
        }
        self.leave_phase(id);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        actor.phase = Phase::Dead(death.clone());
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

    pub(in crate::tables) fn watch(&mut self, id: ActorId, node: NodeId) {
        let watchers = match self.actors.get_mut(&id) {
            Some(actor) => &mut actor.watchers,
            None => self.early_watchers.entry(id).or_default(),
        };
        watchers.insert(node);
    }

    pub(in crate::tables) fn unwatch(&mut self, id: ActorId, node: NodeId) {
        match self.actors.get_mut(&id) {
            Some(actor) => {
                actor.watchers.remove(&node);
            }
            None => remove_from(&mut self.early_watchers, id, node),
        }
    }

    /// A dead node watches nothing, and nothing is on its way there. Its actors are dealt with one by one.
    pub(in crate::tables) fn node_died(&mut self, node: NodeId) {
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
