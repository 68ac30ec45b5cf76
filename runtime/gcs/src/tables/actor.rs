//! One actor: its specification, its phase, and how it looks to others.

use std::collections::BTreeSet;

use sparkray_common::{NodeId, WorkerAddress, WorkerId};
use sparkray_proto::{ActorRecord, ActorSpec, ActorState, ActorUpdate};

use crate::death::Death;
use crate::spec::SpecParts;

/// Where an actor is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Its constructor's arguments are not there yet (Ray: DEPENDENCIES_UNREADY).
    Unready,
    /// Waits for a node, in the queue under this ticket.
    Pending { ticket: u64 },
    /// A node was told to create it.
    Placed { node: NodeId },
    /// Its constructor ran.
    Alive { address: WorkerAddress, pid: u32 },
    /// To be restarted, when `node` has said that the process of `incarnation` is gone.
    Stopping {
        node: NodeId,
        worker: Option<WorkerId>,
        incarnation: u64,
    },
    /// For good.
    Dead(Death),
}

/// What the head keeps of an actor.
#[derive(Debug, PartialEq)]
pub(crate) struct Actor {
    pub(crate) parts: SpecParts,
    /// Without class and arguments once it is dead.
    pub(crate) spec: ActorSpec,
    pub(crate) phase: Phase,
    /// Restarts so far.
    pub(crate) incarnation: u64,
    /// Nodes that want to hear of every change.
    pub(crate) watchers: BTreeSet<NodeId>,
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
            Phase::Unready | Phase::Pending { .. } | Phase::Dead { .. } => None,
        }
    }

    /// Its process, when it has told.
    pub(crate) fn worker(&self) -> Option<WorkerId> {
        match &self.phase {
            Phase::Alive { address, .. } => Some(address.worker_id),
            Phase::Stopping { worker, .. } => *worker,
            Phase::Unready | Phase::Pending { .. } | Phase::Placed { .. } | Phase::Dead { .. } => None,
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
            return format!("{} ({})", self.spec.class_name, self.parts.id);
        }
        format!(
            "{} '{}' ({})",
            self.spec.class_name, self.spec.name, self.parts.id
        )
    }

    pub(crate) fn may_restart(&self) -> bool {
        match u64::try_from(self.spec.max_restarts) {
            Ok(limit) => self.incarnation < limit,
            Err(_) => true,
        }
    }

    pub(crate) fn update(&self) -> ActorUpdate {
        let mut update = ActorUpdate {
            actor_id: self.parts.id.to_vec().into(),
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
            Phase::Dead(death) => {
                update.cause.clone_from(&death.cause);
                update.constructor_error = death.constructor_error.clone();
                update.unschedulable = death.unschedulable;
                ActorState::Dead
            }
            Phase::Unready | Phase::Pending { .. } | Phase::Placed { .. } | Phase::Stopping { .. } => {
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
