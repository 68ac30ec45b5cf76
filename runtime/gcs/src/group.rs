//! The checked description of a placement group.

use sparkray_common::{JobId, PlacementGroupId, ResourceSet};
use sparkray_proto::{CreatePlacementGroup, MessageError, PlacementStrategy};

/// What its creator said, complete.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupDescription {
    pub(crate) id: PlacementGroupId,
    pub(crate) job: JobId,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) strategy: PlacementStrategy,
    pub(crate) bundles: Vec<ResourceSet>,
    /// It outlives its job.
    pub(crate) detached: bool,
}

impl GroupDescription {
    /// `namespace`: of its job, when the message has none.
    pub(crate) fn read(message: CreatePlacementGroup, namespace: &str) -> Result<Self, MessageError> {
        let strategy = message.strategy();
        let bundles = message.bundles.iter().map(ResourceSet::try_from);
        Ok(Self {
            id: PlacementGroupId::from_slice(&message.placement_group_id)?,
            job: JobId::from_slice(&message.job_id)?,
            strategy,
            bundles: bundles.collect::<Result<_, _>>()?,
            detached: message.detached,
            name: message.name,
            namespace: if message.namespace.is_empty() {
                namespace.to_owned()
            } else {
                message.namespace
            },
        })
    }
}
