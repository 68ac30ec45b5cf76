//! The tables: what the head must not forget.
//!
//! Invariants:
//! 1. The tables change in [`Tables::apply`] and nowhere else: what changes a table is private to this folder.
//! 2. The same records in the same order make the same tables. No clock, no random number, nothing of the present (what
//!    nodes report, who was heard when) is read here; that lives in `live`, and is made anew when the head starts.
//! 3. Tables of the dead are bounded.

pub(crate) mod actor;
mod actors;
pub(crate) mod group;
mod groups;
mod jobs;
mod kv;
mod nodes;
mod workers;

pub(crate) use actors::ActorTable;
pub(crate) use groups::GroupTable;
pub(crate) use jobs::JobTable;
pub(crate) use kv::KvTable;
pub(crate) use nodes::{Node, NodeTable};
pub(crate) use workers::DeadWorkers;

use crate::record::Record;

/// Everything that records have made.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tables {
    pub(crate) nodes: NodeTable,
    pub(crate) actors: ActorTable,
    pub(crate) groups: GroupTable,
    pub(crate) jobs: JobTable,
    pub(crate) kv: KvTable,
    pub(crate) dead_workers: DeadWorkers,
}

impl Tables {
    /// Takes over what was decided. Who made the record has checked it against these tables.
    pub(crate) fn apply(&mut self, record: &Record) {
        match record {
            Record::NodeJoined(description) => self.nodes.join(description),
            Record::NodeDied { node } => {
                self.nodes.die(*node);
                self.actors.node_died(*node);
                self.groups.node_died(*node);
            }
            Record::WorkerDied { worker } => self.dead_workers.remember(*worker),
            Record::JobBegun {
                job,
                driver,
                namespace,
            } => self.jobs.begin(*job, driver, namespace),
            Record::JobOver { job } => self.jobs.end(*job),
            Record::ActorRegistered {
                spec,
                parts,
                arguments_follow,
            } => self.actors.register(spec, parts, *arguments_follow),
            Record::ActorReady { actor, spec } => self.actors.ready(*actor, spec),
            Record::ActorPlaced { actor, node, crowds } => self.actors.place(*actor, *node, *crowds),
            Record::ActorAlive { actor, address, pid } => self.actors.come_alive(*actor, address, *pid),
            Record::ActorRefused { actor } => self.actors.refuse(*actor),
            Record::ActorQueued { actor, incarnation } => self.actors.queue(*actor, *incarnation),
            Record::ActorRestartCounted { actor } => self.actors.count_restart(*actor),
            Record::ActorStopping { actor } => self.actors.stop(*actor),
            Record::ActorDied { actor, death } => self.actors.die(*actor, death),
            Record::ActorWatched { actor, node } => self.actors.watch(*actor, *node),
            Record::ActorUnwatched { actor, node } => self.actors.unwatch(*actor, *node),
            Record::GroupRegistered(description) => self.groups.register(description),
            Record::GroupReserving { group, bundles } => self.groups.reserve(*group, bundles),
            Record::BundlesReserved { group, node } => self.groups.reserved(*group, *node),
            Record::GroupRefused { group } => self.groups.refuse(*group),
            Record::GroupCreated { group } => self.groups.create(*group),
            Record::GroupRemoved { group } => self.groups.remove(*group),
            Record::KeyPut {
                namespace,
                key,
                value,
            } => self.kv.put(namespace, key, value),
            Record::KeyDeleted { namespace, key } => self.kv.delete(namespace, key),
        }
    }
}
