//! Ids and addresses in the JSON of requests from Java: text there, checked here.

use serde::Deserialize;
use sparkray_common::{ClusterId, ErrorCode, FeedId, IdError, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{ObjectLocation, location_of};

use crate::error::NativeError;

/// The owner of a feed's blocks, as `from_spark` names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerAddress {
    pub(crate) node_id: String,
    pub(crate) worker_id: String,
    pub(crate) node_address: String,
}

fn id<T>(parsed: Result<T, IdError>) -> Result<T, NativeError> {
    parsed.map_err(|error| NativeError::refused(ErrorCode::InvalidArgument, error.to_string()))
}

pub(crate) fn parse_cluster(hex: &str) -> Result<ClusterId, NativeError> {
    id(ClusterId::from_hex(hex))
}

pub(crate) fn parse_feed(hex: &str) -> Result<FeedId, NativeError> {
    id(FeedId::from_hex(hex))
}

pub(crate) fn parse_object(hex: &str) -> Result<ObjectId, NativeError> {
    id(ObjectId::from_hex(hex))
}

pub(crate) fn parse_address(owner: &OwnerAddress) -> Result<WorkerAddress, NativeError> {
    Ok(WorkerAddress {
        node_id: id(NodeId::from_hex(&owner.node_id))?,
        worker_id: id(WorkerId::from_hex(&owner.worker_id))?,
        node_address: owner.node_address.clone(),
    })
}

pub(crate) fn parse_locations(locations: &[(String, String)]) -> Result<Vec<ObjectLocation>, NativeError> {
    locations
        .iter()
        .map(|(node, address)| Ok(location_of(id(NodeId::from_hex(node))?, address)))
        .collect()
}
