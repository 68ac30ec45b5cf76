//! The queue to the head. Deaths and states of actors are told once, so none of them may be lost: what finds no place
//! waits here, in order.

use std::collections::VecDeque;

use sparkray_proto::{NodeMessage, node_message};
use tokio::sync::mpsc;
use tracing::debug;

#[derive(Debug)]
pub(crate) struct Outgoing {
    queue: mpsc::Sender<NodeMessage>,
    overflow: VecDeque<NodeMessage>,
}

impl Outgoing {
    /// Messages go into `queue`.
    pub(crate) fn new(queue: mpsc::Sender<NodeMessage>) -> Self {
        Self {
            queue,
            overflow: VecDeque::new(),
        }
    }

    pub(super) fn send(&mut self, message: node_message::Message) {
        self.overflow.push_back(NodeMessage {
            message: Some(message),
            ..NodeMessage::default()
        });
        self.flush();
    }

    /// Moves what waits into the queue, as far as there is room.
    pub(super) fn flush(&mut self) {
        while !self.overflow.is_empty() {
            match self.queue.try_reserve() {
                Ok(place) => {
                    if let Some(message) = self.overflow.pop_front() {
                        place.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    debug!("this raylet ends: the head is told no more");
                    self.overflow.clear();
                }
            }
        }
    }

    /// Whether there is room for what is not essential.
    pub(super) fn is_calm(&self) -> bool {
        self.overflow.is_empty() && self.queue.capacity() > self.queue.max_capacity() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_the_head_are_not_lost_when_its_queue_is_full() {
        let (queue, mut head) = mpsc::channel(4);
        let mut outgoing = Outgoing::new(queue);
        for number in 0..100_u8 {
            outgoing.send(node_message::Message::UnwatchActor(vec![number].into()));
        }
        assert!(!outgoing.is_calm());
        for number in 0..100_u8 {
            let message = head.try_recv().unwrap().message;
            let expected = node_message::Message::UnwatchActor(vec![number].into());
            assert_eq!(message, Some(expected));
            outgoing.flush();
        }
        assert!(outgoing.is_calm() && head.try_recv().is_err());
    }
}
