//! What becomes of feeds on other nodes.

use std::time::Duration;

use sparkray_common::{FeedId, NodeId, WorkerAddress};
use sparkray_proto::{AdoptFeed, Empty, FeedQuery, FrameKind};
use sparkray_rpc::{Frame, FrameSender};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::gateway::Peers;
use crate::input::Input;

/// A node that does not acknowledge an adopted feed in this time is asked again, this often.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);
const ADOPT_ATTEMPTS: u32 = 3;

/// Tells other nodes which blocks of a feed they are to keep, and then the client that they do.
pub(super) async fn forward_feed(
    peers: Peers,
    nodes: Vec<(NodeId, String)>,
    message: AdoptFeed,
    client: FrameSender,
    correlation: u64,
) {
    // A node that hangs keeps only its own blocks waiting.
    let mut forwards = JoinSet::new();
    for (node, address) in nodes {
        forwards.spawn(forward_adoption(peers.clone(), node, address, message.clone()));
    }
    forwards.join_all().await;
    if let Err(error) = client.send(Frame::new(FrameKind::Empty, correlation, &Empty {})) {
        debug!(%error, "a client did not wait for its feed to be adopted");
    }
}

async fn forward_adoption(peers: Peers, node: NodeId, address: String, message: AdoptFeed) {
    for attempt in 1..=ADOPT_ATTEMPTS {
        let request = || Frame::new(FrameKind::AdoptFeed, 3, &message);
        match peers.ask(node, &address, request, ADOPT_DEADLINE).await {
            Ok(_) => return,
            // A dead node has lost its blocks: their owner hears of its death.
            Err(error) => {
                warn!(node_id = %node, attempt, %error, "a node did not adopt its blocks of a feed");
            }
        }
    }
}

/// Asks the raylet of a feed's owner what became of the feed.
pub(super) async fn ask_feed(peers: Peers, feed: FeedId, owner: WorkerAddress, inputs: mpsc::Sender<Input>) {
    let query = FeedQuery {
        feed_id: feed.to_vec().into(),
    };
    let request = || Frame::new(FrameKind::FeedQuery, 4, &query);
    let answer = peers
        .ask(owner.node_id, &owner.node_address, request, ADOPT_DEADLINE)
        .await;
    let winners = answer.and_then(|frame| match frame.kind {
        FrameKind::AdoptFeed => frame.decode::<AdoptFeed>().map(Some),
        _ => Ok(None),
    });
    match winners {
        Ok(Some(winners)) => {
            // The receiver is gone only when the raylet ends.
            let _ = inputs.send(Input::FeedSettled(winners)).await;
        }
        Ok(None) => debug!(%feed, "a feed goes on"),
        // It is asked again.
        Err(error) => debug!(%feed, %error, "cannot ask what became of a feed"),
    }
}
