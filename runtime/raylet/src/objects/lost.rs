//! Telling other nodes what is gone here.

use std::sync::Arc;
use std::time::Duration;

use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{FrameKind, FreeEntry, FreeObjects, WorkerHello};
use sparkray_rpc::{Endpoint, Frame, Identity, RpcError, Target, dial, frame_connection};
use tokio::sync::mpsc;
use tracing::debug;

use super::messages::location_lost;
use crate::gateway::Peers;
use crate::input::Input;
use crate::node_info::NodeInfo;

const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// Tells another node what was freed.
pub(super) async fn tell_freed(
    peers: Peers,
    node: NodeId,
    address: String,
    objects: Vec<FreeEntry>,
    inputs: mpsc::Sender<Input>,
) {
    let message = FreeObjects { objects };
    let frame = Frame::new(FrameKind::FreeObjects, 0, &message);
    let left = match tokio::time::timeout(TELL_DEADLINE, peers.tell(node, &address, frame)).await {
        Ok(Ok(())) => Vec::new(),
        Ok(Err(error)) => {
            debug!(node_id = %node, %error, "cannot tell a node what was freed");
            message.objects
        }
        Err(_) => {
            debug!(node_id = %node, "a node did not take what was freed in time");
            message.objects
        }
    };
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(Input::FreesTold { node, left }).await;
}

/// Tells an owner on another node which copies are gone here, over one connection.
pub(super) async fn tell_lost(
    identity: Identity,
    node: Arc<NodeInfo>,
    owner: WorkerAddress,
    objects: Vec<ObjectId>,
) {
    let (worker, count) = (owner.worker_id, objects.len());
    let hello = WorkerHello {
        address: Some((&node.address_of(WorkerId::NIL)).into()),
        ..WorkerHello::default()
    };
    let mut frames = vec![Frame::new(FrameKind::WorkerHello, 0, &hello)];
    frames.extend(
        objects
            .into_iter()
            .map(|object| location_lost(object, node.node_id)),
    );
    if let Err(error) = send_to_owner(&identity, owner, frames).await {
        debug!(worker_id = %worker, count, %error, "cannot tell an owner that copies are gone");
    }
}

async fn send_to_owner(
    identity: &Identity,
    owner: WorkerAddress,
    frames: Vec<Frame>,
) -> Result<(), RpcError> {
    let endpoint = Endpoint::Tcp(owner.node_address.clone());
    let target = Target::Worker(owner.node_id, owner.worker_id);
    let socket = dial(identity, &endpoint, target, TELL_DEADLINE).await?;
    let failed = |source| RpcError::Io {
        action: "use the connection to",
        peer: owner.node_address.clone(),
        source,
    };
    let (sender, _receiver) = frame_connection(socket).map_err(failed)?;
    sender.send_all(frames)
}
