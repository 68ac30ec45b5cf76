//! Frames that more than one module sends.

use sparkray_common::{NodeId, ObjectId};
use sparkray_proto::{Failure, FrameKind, LocationLost, ObjectChunk};
use sparkray_rpc::Frame;

/// The answer to a pull that cannot be met.
pub(super) fn pull_refused(correlation: u64, object: ObjectId, failure: Failure) -> Frame {
    let meta = ObjectChunk {
        object_id: object.to_vec().into(),
        failure: Some(failure),
        ..ObjectChunk::default()
    };
    Frame::new(FrameKind::ObjectChunk, correlation, &meta)
}

/// LocationLost: `node` has no copy of an object any more.
pub(super) fn location_lost(object: ObjectId, node: NodeId) -> Frame {
    let message = LocationLost {
        object_id: object.to_vec().into(),
        node_id: node.to_vec().into(),
    };
    Frame::new(FrameKind::LocationLost, 0, &message)
}
