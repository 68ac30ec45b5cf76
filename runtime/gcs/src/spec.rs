//! The checked parts of an actor's specification.

use std::collections::BTreeMap;

use sparkray_common::{ActorId, JobId, Labels, NodeId, ResourceSet, SchedulingStrategy, WorkerAddress};
use sparkray_proto::{self as proto, ActorSpec, MessageError};

/// What the head itself reads in a specification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpecParts {
    pub(crate) id: ActorId,
    pub(crate) job: JobId,
    pub(crate) owner: WorkerAddress,
    pub(crate) demand: Demand,
}

/// What an actor asks of a node; in a bundle, by the names that resources have there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Demand {
    /// What it takes while it lives.
    pub(crate) held: ResourceSet,
    /// What its node must have, free or not: the larger of placement and running resources.
    pub(crate) needs: ResourceSet,
    /// Which nodes may have it, and which come first.
    pub(crate) strategy: SchedulingStrategy,
}

impl Demand {
    /// Whether a node can ever have the actor.
    pub(crate) fn is_met_by(&self, node: NodeId, labels: &Labels, total: &ResourceSet) -> bool {
        total.covers(&self.needs) && self.strategy.allows(node, labels)
    }
}

impl SpecParts {
    pub(crate) fn read(spec: &ActorSpec) -> Result<Self, MessageError> {
        let owner = spec.owner.as_ref().ok_or(MessageError::Missing("owner"))?;
        let mut needs = BTreeMap::new();
        for resources in [&spec.resources, &spec.placement_resources].into_iter().flatten() {
            for (name, amount) in ResourceSet::try_from(resources)?.to_units() {
                let largest = needs.entry(name).or_insert(amount);
                *largest = amount.max(*largest);
            }
        }
        let held = spec.resources.as_ref().map(ResourceSet::try_from).transpose()?;
        let strategy = proto::SchedulingStrategy::read(spec.strategy.as_ref())?;
        Ok(Self {
            id: ActorId::from_slice(&spec.actor_id)?,
            job: JobId::from_slice(&spec.job_id)?,
            owner: owner.try_into()?,
            demand: Demand {
                held: strategy.demand(held.unwrap_or_default()),
                needs: strategy.demand(ResourceSet::from_units(needs)?),
                strategy,
            },
        })
    }
}
