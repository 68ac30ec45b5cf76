//! One actor: its specification, its phase, and how it looks to others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use prost::bytes::Bytes;
use sparkray_common::{ActorId, JobId, NodeId, ResourceSet, WorkerAddress, WorkerId};
use sparkray_proto::{ActorRecord, ActorSpec, ActorState, ActorUpdate, MessageError};

/// Where an actor is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Its constructor's arguments are not there yet (Ray: DEPENDENCIES_UNREADY).
    Unready,
    /// Waits for a node.
    Pending,
    /// A node was told to create it.
    Placed { node: NodeId },
    /// Its constructor ran.
    Alive { address: WorkerAddress, pid: u32 },
    /// To be restarted, when `node` has said that the process of `incarnation` is gone.
    Stopping {
        node: NodeId,
        worker: Option<WorkerId>,
        incarnation: u64,
        since: Instant,
    },
    /// For good.
    Dead { cause: String, constructor_error: Bytes },
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) id: ActorId,
    pub(crate) job: JobId,
    pub(crate) owner: WorkerAddress,
    /// Without class and arguments once it is dead.
    pub(crate) spec: ActorSpec,
    /// What it takes while it lives.
    pub(crate) held: ResourceSet,
    /// What its node must have, free or not: the larger of placement and running resources.
    pub(crate) needs: ResourceSet,
    pub(crate) preferred: Option<NodeId>,
    pub(crate) phase: Phase,
    /// Restarts so far.
    pub(crate) incarnation: u64,
    /// Nodes that want to hear of every change.
    pub(crate) watchers: BTreeSet<NodeId>,
    pub(crate) refusals: Vec<RefusedBy>,
    pub(crate) pending_since: Instant,
    /// Its wait was reported.
    pub(crate) warned: bool,
}

/// A node that had no room, until it reports again or 100 ms later.
#[derive(Debug)]
pub(crate) struct RefusedBy {
    pub(crate) node: NodeId,
    pub(crate) reports: u64,
    pub(crate) at: Instant,
}

impl Actor {
    /// Whether it ends with its owner and its job: also a detached one, while only its owner can still bring its arguments.
    pub(crate) fn is_bound(&self) -> bool {
        !self.spec.detached || self.phase == Phase::Unready
    }

    /// The node that has, or may have, its process.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match &self.phase {
            Phase::Placed { node } | Phase::Stopping { node, .. } => Some(*node),
            Phase::Alive { address, .. } => Some(address.node_id),
            Phase::Unready | Phase::Pending | Phase::Dead { .. } => None,
        }
    }

    /// Its process, when it has told.
    pub(crate) fn worker(&self) -> Option<WorkerId> {
        match &self.phase {
            Phase::Alive { address, .. } => Some(address.worker_id),
            Phase::Stopping { worker, .. } => *worker,
            Phase::Unready | Phase::Pending | Phase::Placed { .. } | Phase::Dead { .. } => None,
        }
    }

    /// The incarnation of the process that [`Actor::node`] has.
    pub(crate) fn running_incarnation(&self) -> u64 {
        match self.phase {
            Phase::Stopping { incarnation, .. } => incarnation,
            _ => self.incarnation,
        }
    }

    /// `Foo (id)`, with its name if it has one.
    pub(crate) fn title(&self) -> String {
        if self.spec.name.is_empty() {
            return format!("{} ({})", self.spec.class_name, self.id);
        }
        format!("{} '{}' ({})", self.spec.class_name, self.spec.name, self.id)
    }

    pub(crate) fn may_restart(&self) -> bool {
        match u64::try_from(self.spec.max_restarts) {
            Ok(limit) => self.incarnation < limit,
            Err(_) => true,
        }
    }

    pub(crate) fn update(&self) -> ActorUpdate {
        let mut update = ActorUpdate {
            actor_id: self.id.to_vec().into(),
            incarnation: self.incarnation,
            class_name: self.spec.class_name.clone(),
            ..ActorUpdate::default()
        };
        let state = match &self.phase {
            Phase::Alive { address, pid } => {
                update.address = Some(address.into());
                update.pid = *pid;
                ActorState::Alive
            }
            Phase::Dead {
                cause,
                constructor_error,
            } => {
                update.cause.clone_from(cause);
                update.constructor_error = constructor_error.clone();
                ActorState::Dead
            }
            Phase::Unready | Phase::Pending | Phase::Placed { .. } | Phase::Stopping { .. } => {
                if self.incarnation == 0 {
                    ActorState::Pending
                } else {
                    ActorState::Restarting
                }
            }
        };
        update.state = state.into();
        update
    }

    pub(crate) fn record(&self) -> ActorRecord {
        ActorRecord {
            state: Some(self.update()),
            handle_metadata: self.spec.handle_metadata.clone(),
            name: self.spec.name.clone(),
            namespace: self.spec.namespace.clone(),
        }
    }
}

/// The checked parts of a specification.
pub(crate) struct SpecParts {
    pub(crate) id: ActorId,
    pub(crate) job: JobId,
    pub(crate) owner: WorkerAddress,
    pub(crate) held: ResourceSet,
    pub(crate) needs: ResourceSet,
    pub(crate) preferred: Option<NodeId>,
}

impl SpecParts {
    pub(crate) fn read(spec: &ActorSpec) -> Result<Self, MessageError> {
        let owner = spec.owner.as_ref().ok_or(MessageError::Missing("owner"))?;
        let preferred = if spec.preferred_node.is_empty() {
            None
        } else {
            Some(NodeId::from_slice(&spec.preferred_node)?)
        };
        let mut needs = BTreeMap::new();
        for resources in [&spec.resources, &spec.placement_resources].into_iter().flatten() {
            for (name, amount) in ResourceSet::try_from(resources)?.to_units() {
                let largest = needs.entry(name).or_insert(amount);
                *largest = amount.max(*largest);
            }
        }
        let held = spec.resources.as_ref().map(ResourceSet::try_from).transpose()?;
        Ok(Self {
            id: ActorId::from_slice(&spec.actor_id)?,
            held: held.unwrap_or_default(),
            job: JobId::from_slice(&spec.job_id)?,
            owner: owner.try_into()?,
            needs: ResourceSet::from_units(needs)?,
            preferred,
        })
    }
}
