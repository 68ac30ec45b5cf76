//! The queue to the head. Deaths and states of actors are told once, so none of them may be lost: what finds no place
//! waits here, in order, up to a limit far above what a head that answers ever leaves.

use std::collections::VecDeque;

use prost::Message as _;
use sparkray_proto::{NodeMessage, node_message};
use tokio::sync::mpsc;
use tracing::debug;

/// More than this waits for no head: none of it may be lost, so the node has to end.
const MOST_MESSAGES: usize = 1 << 18;
/// Errors that constructors raised may be large.
const MOST_BYTES: usize = 256 << 20;

#[derive(Debug)]
pub(crate) struct Outgoing {
    queue: mpsc::Sender<NodeMessage>,
    overflow: VecDeque<NodeMessage>,
    /// Of the messages in `overflow`.
    bytes: usize,
}

impl Outgoing {
    /// Messages go into `queue`.
    pub(crate) fn new(queue: mpsc::Sender<NodeMessage>) -> Self {
        Self {
            queue,
            overflow: VecDeque::new(),
            bytes: 0,
        }
    }

    /// How many messages found no place in the queue yet.
    pub(super) fn waiting(&self) -> usize {
        self.overflow.len()
    }

    /// How many messages wait, when they are more than may wait.
    pub(super) fn overrun(&self) -> Option<usize> {
        let waiting = self.overflow.len();
        (waiting > MOST_MESSAGES || self.bytes > MOST_BYTES).then_some(waiting)
    }

    pub(super) fn send(&mut self, message: node_message::Message) {
        let message = NodeMessage {
            message: Some(message),
            ..NodeMessage::default()
        };
        if self.overflow.is_empty() && self.queue.capacity() > 0 {
            // The usual case; closed: this raylet ends.
            let _ = self.queue.try_send(message);
            return;
        }
        self.bytes += message.encoded_len();
        self.overflow.push_back(message);
        self.flush();
    }

    /// Moves what waits into the queue, as far as there is room.
    pub(super) fn flush(&mut self) {
        while !self.overflow.is_empty() {
            match self.queue.try_reserve() {
                Ok(place) => {
                    if let Some(message) = self.overflow.pop_front() {
                        self.bytes = self.bytes.saturating_sub(message.encoded_len());
                        place.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    debug!("this raylet ends: the head is told no more");
                    self.overflow.clear();
                    self.bytes = 0;
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
        assert_eq!(outgoing.bytes, 0);
    }

    #[test]
    fn what_waits_for_a_head_that_takes_nothing_has_a_limit() {
        let (queue, mut head) = mpsc::channel(1);
        let mut outgoing = Outgoing::new(queue);
        let message = |bytes: usize| node_message::Message::UnwatchActor(vec![0; bytes].into());
        for _ in 0..=MOST_MESSAGES {
            outgoing.send(message(0));
        }
        assert_eq!(outgoing.overrun(), None);
        outgoing.send(message(0));
        assert_eq!(outgoing.overrun(), Some(MOST_MESSAGES + 1));
        head.try_recv().unwrap();
        outgoing.flush();
        assert_eq!(outgoing.overrun(), None);

        let (queue, _head) = mpsc::channel(1);
        let mut outgoing = Outgoing::new(queue);
        for _ in 0..4 {
            outgoing.send(message(MOST_BYTES / 3));
        }
        assert_eq!(outgoing.overrun(), Some(3), "few, but large");
    }
}
