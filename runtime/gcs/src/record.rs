//! Records: everything that can happen to the tables. A record says what was decided, complete and checked, so that
//! applying it needs neither a clock nor anything that is not in the tables.

use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use sparkray_common::{
    ActorId, JobId, Labels, NodeId, PlacementGroupId, ResourceSet, WorkerAddress, WorkerId,
};
use sparkray_proto::ActorSpec;

use crate::death::Death;
use crate::group::GroupDescription;
use crate::spec::SpecParts;

/// The place of a record in the journal: the first one is 1, every other one more than the one before. 0 is before all.
pub(crate) type RecordNumber = u64;

/// One change of the tables.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// A node is part of the cluster from now on.
    NodeJoined(Box<NodeDescription>),
    /// A node is dead, with all its processes. It watches nothing any more.
    NodeDied { node: NodeId },
    /// A process ended; what it asked for before is refused.
    WorkerDied { worker: WorkerId },
    /// A job begins.
    JobBegun {
        job: JobId,
        driver: WorkerAddress,
        namespace: String,
    },
    /// A job is over.
    JobOver { job: JobId },
    /// An actor begins its life, under the name in its specification. `arguments_follow`: it waits for them first.
    ActorRegistered {
        spec: Box<ActorSpec>,
        parts: Box<SpecParts>,
        arguments_follow: bool,
    },
    /// The constructor's arguments have come: the actor waits for a node.
    ActorReady { actor: ActorId, spec: Box<ActorSpec> },
    /// A node is told to create the actor's process. `crowds`: the node shows no room, its raylet looks for some.
    ActorPlaced {
        actor: ActorId,
        node: NodeId,
        crowds: bool,
    },
    /// The actor's constructor ran.
    ActorAlive {
        actor: ActorId,
        address: WorkerAddress,
        pid: u32,
    },
    /// The node where it was placed has no room: it goes on waiting.
    ActorRefused { actor: ActorId },
    /// The actor has no process any more: this incarnation waits for a node.
    ActorQueued { actor: ActorId, incarnation: u64 },
    /// An actor that has no process yet is restarted: that only counts.
    ActorRestartCounted { actor: ActorId },
    /// The actor's process is to end, and the next incarnation begins when it has.
    ActorStopping { actor: ActorId },
    /// The actor is dead for good, and its name is free.
    ActorDied { actor: ActorId, death: Death },
    /// A node wants to hear of every change of an actor, which may not be registered yet.
    ActorWatched { actor: ActorId, node: NodeId },
    /// It does not want to any more.
    ActorUnwatched { actor: ActorId, node: NodeId },
    /// A placement group waits for nodes.
    GroupRegistered(Box<GroupDescription>),
    /// Nodes are asked to reserve those bundles of a group that are on none.
    GroupReserving {
        group: PlacementGroupId,
        bundles: Vec<(u32, NodeId)>,
    },
    /// A node has reserved what it was asked for.
    BundlesReserved { group: PlacementGroupId, node: NodeId },
    /// A node has no room for what it was asked for: the group waits again.
    GroupRefused { group: PlacementGroupId },
    /// All bundles of the group are on their nodes.
    GroupCreated { group: PlacementGroupId },
    /// The group is no more, and its name is free.
    GroupRemoved { group: PlacementGroupId },
    /// A key has this value.
    KeyPut {
        namespace: String,
        key: Bytes,
        value: Bytes,
    },
    /// A key has no value.
    KeyDeleted { namespace: String, key: Bytes },
}

impl Record {
    /// Whether those who wait for a placement group to be created may be waiting for it no more.
    pub(crate) fn settles_a_group(&self) -> bool {
        matches!(self, Self::GroupCreated { .. } | Self::GroupRemoved { .. })
    }
}

/// What a node says of itself when it joins, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeDescription {
    pub(crate) id: NodeId,
    pub(crate) address: String,
    pub(crate) hostname: String,
    pub(crate) pid: u32,
    pub(crate) labels: Arc<Labels>,
    pub(crate) total: ResourceSet,
    /// It is dead when it says nothing for this long.
    pub(crate) silence: Duration,
}
