//! The checked parts of an actor's specification.

use std::collections::BTreeMap;

use sparkray_common::{ActorId, JobId, NodeId, ResourceSet, WorkerAddress};
use sparkray_proto::{ActorSpec, MessageError};

/// What the head itself reads in a specification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpecParts {
    pub(crate) id: ActorId,
    pub(crate) job: JobId,
    pub(crate) owner: WorkerAddress,
    /// What it takes while it lives.
    pub(crate) held: ResourceSet,
    /// What its node must have, free or not: the larger of placement and running resources.
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
