//! Values of objects as the state knows them.

use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::NodeId;
use sparkray_proto::{self as proto, location_of};

use crate::aligned::{copy_aligned, must_move};
use crate::error::CoreError;

/// Values up to this length are copied out of the buffer that they were read into, which they would keep whole.
const COPIED_BYTES: usize = 8 * 1024;

/// Nodes that hold an object, with the addresses of their raylets.
pub(crate) type Locations = Vec<(NodeId, String)>;

/// Where the value of an object is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Not known yet.
    Pending,
    /// The whole value.
    Inline(Bytes),
    /// In the stores of these nodes.
    Stored { size: u64, locations: Locations },
    /// The whole value, an error: getting it raises it.
    Raised(Bytes),
    /// There is none.
    Failed(Arc<CoreError>),
}

impl Value {
    pub(crate) fn failed(error: CoreError) -> Self {
        Self::Failed(Arc::new(error))
    }

    /// An inline value that does not keep the buffer it was read into, and whose buffers are aligned.
    pub(in crate::state) fn read_inline(bytes: Bytes, is_error: bool) -> Self {
        let bytes = if must_move(&bytes) {
            copy_aligned(&bytes)
        } else if bytes.len() <= COPIED_BYTES {
            Bytes::copy_from_slice(&bytes)
        } else {
            bytes
        };
        if is_error {
            Self::Raised(bytes)
        } else {
            Self::Inline(bytes)
        }
    }

    /// Whether the value is known, or known not to be.
    pub(crate) fn is_resolved(&self) -> bool {
        !matches!(self, Self::Pending)
    }

    /// Whether nothing can be made of it: neither a call that it is an argument of, nor an actor.
    pub(in crate::state) fn is_failure(&self) -> bool {
        matches!(self, Self::Raised(_) | Self::Failed(_))
    }
}

pub(in crate::state) fn describe_locations(locations: &Locations) -> Vec<proto::ObjectLocation> {
    locations
        .iter()
        .map(|(node, address)| location_of(*node, address))
        .collect()
}

pub(in crate::state) fn read_locations(messages: &[proto::ObjectLocation]) -> Result<Locations, CoreError> {
    let mut locations = Vec::with_capacity(messages.len());
    for message in messages {
        locations.push((
            NodeId::from_slice(&message.node_id)?,
            message.node_address.clone(),
        ));
    }
    Ok(locations)
}
