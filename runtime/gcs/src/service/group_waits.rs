//! Clients that wait until a placement group is created or removed.

use std::time::Duration;

use sparkray_proto::head_reply::Reply;
use sparkray_proto::{GetPlacementGroup, HeadReply, HeadRequest, PlacementGroupState, head_request};
use tokio::time::{Instant, timeout_at};

use super::SharedHead;

/// A client that wants to wait longer asks again: whoever relays its question does not wait for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl SharedHead {
    /// Answers when the group is created or removed or not known, or the time is over. `None`: the head ends before.
    pub(super) async fn await_group(&self, question: GetPlacementGroup) -> Option<HeadReply> {
        let wait = Duration::from_millis(question.wait_millis.into());
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        // From before the first look, so that nothing happens unseen.
        let mut settled = self.lock().settled_groups();
        loop {
            let request = HeadRequest {
                request: Some(head_request::Request::GetPlacementGroup(question.clone())),
            };
            let reply = self.request(|state, now| state.request(now, request)).await?;
            if !is_under_way(&reply) {
                return Some(reply);
            }
            let news = timeout_at(deadline, settled.changed());
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                // Not an error of the channel: the sender lives as long as this head.
                news = news => if news.is_err() { return Some(reply) },
            }
        }
    }
}

fn is_under_way(reply: &HeadReply) -> bool {
    let Some(Reply::PlacementGroup(record)) = &reply.reply else {
        return false;
    };
    matches!(
        record.state(),
        PlacementGroupState::Pending | PlacementGroupState::Rescheduling
    )
}

#[cfg(test)]
mod tests;
