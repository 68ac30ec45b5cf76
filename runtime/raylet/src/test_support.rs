//! Small helpers of the unit tests.

use std::time::Duration;

use sparkray_common::{ClusterId, ClusterToken, Labels, NodeId, ResourceSet};
use sparkray_proto::{FrameKind, RegisterClientReply};
use sparkray_rpc::{
    Frame, FrameReceiver, FrameSender, Identity, Listener, Protection, Target, accept_loop, frame_connection,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::node_info::NodeInfo;

/// Longer than anything in a test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Resources from pairs.
pub(crate) fn resources(units: &[(&str, f64)]) -> ResourceSet {
    ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
}

/// A node's description.
pub(crate) fn node_info(node_id: NodeId) -> NodeInfo {
    NodeInfo {
        node_id,
        cluster_id: ClusterId::random(),
        head_epoch: 1,
        address: "h:1".to_owned(),
        host: "h".to_owned(),
        log_dir: "/logs".to_owned(),
        labels: Labels::new(),
    }
}

/// Another node, as far as a raylet sees it: it lets callers in and says what the test says. Dropped, it is dead.
pub(crate) struct OtherNode {
    pub(crate) id: NodeId,
    pub(crate) address: String,
    pub(crate) identity: Identity,
    /// Registered callers.
    pub(crate) callers: mpsc::Receiver<(FrameSender, FrameReceiver)>,
    _stop: DropGuard,
}

impl OtherNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(Protection::Sealed).await
    }

    pub(crate) async fn start_with(protection: Protection) -> Self {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let listener = Listener::bind_tcp("127.0.0.1", 0, protection).await.unwrap();
        let address = format!("127.0.0.1:{}", listener.local_port());
        let stop = CancellationToken::new();
        let (accepted, mut arrivals) = mpsc::channel(64);
        let admit = |_: Target| Ok(());
        tokio::spawn(accept_loop(
            listener,
            identity.clone(),
            stop.clone(),
            admit,
            accepted,
        ));
        let (caller, callers) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(arrival) = arrivals.recv().await {
                let (sender, mut receiver) = frame_connection(arrival.socket).unwrap();
                let register = receiver.next().await.unwrap().unwrap();
                assert_eq!(register.kind, FrameKind::RegisterClient);
                let reply = RegisterClientReply::default();
                let reply = Frame::new(FrameKind::RegisterClientReply, register.correlation, &reply);
                sender.send(reply).unwrap();
                if caller.send((sender, receiver)).await.is_err() {
                    return;
                }
            }
        });
        Self {
            id: NodeId::random(),
            address,
            identity,
            callers,
            _stop: stop.drop_guard(),
        }
    }
}
