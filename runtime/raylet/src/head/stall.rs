//! Whether the head stands still, as the raylet of its node knows.

use std::time::Duration;

use sparkray_common::{MomentClock, NodeId};
use sparkray_proto::{FrameKind, HeadStall, HeadStallReply};
use sparkray_rpc::{Frame, clock_now};
use tokio::sync::mpsc;
use tracing::debug;

use crate::gateway::Peers;
use crate::input::Input;

const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Asks that raylet and tells the loop. Times are of the lease's clock.
pub(super) async fn ask_for_stall(
    peers: Peers,
    node: NodeId,
    address: String,
    clock: MomentClock,
    asked: Duration,
    inputs: mpsc::Sender<Input>,
) {
    let question = || Frame::new(FrameKind::HeadStall, 1, &HeadStall {});
    let answer = peers.ask(node, &address, question, ASK_DEADLINE).await;
    let answered = clock_now(clock);
    let stall = match answer.and_then(|frame| frame.decode::<HeadStallReply>()) {
        Ok(reply) => Some(Duration::from_nanos(reply.stalled_nanos)),
        Err(error) => {
            debug!(%error, "the raylet of the head's node does not say whether the head runs");
            None
        }
    };
    let input = Input::HeadStall {
        asked,
        answered,
        stall,
    };
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(input).await;
}

/// The answer to such a question.
pub(super) fn stall_reply(correlation: u64, stall: Duration) -> Frame {
    let reply = HeadStallReply {
        stalled_nanos: u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX),
    };
    Frame::new(FrameKind::HeadStallReply, correlation, &reply)
}
