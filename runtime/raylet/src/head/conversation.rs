//! What is said between this node and the head, over however many streams: numbered, kept until it is acknowledged, given
//! to the present stream in order. Pure.
//!
//! Invariant: what the head has not acknowledged was given to the present stream, or is next.

use sparkray_proto::NodeMessage;
use sparkray_rpc::{Gap, Inbox, Outbox};

/// Both directions.
#[derive(Debug, Default)]
pub struct Conversation {
    outbox: Outbox<NodeMessage>,
    inbox: Inbox,
    /// The head has all up to this one.
    acknowledged: u64,
    /// The present stream was given all up to this one.
    given: u64,
}

impl Conversation {
    /// Another stream is the present one; as the head registered it, it had all up to `received`. It may have acknowledged
    /// more since, over the one before: those are kept no more.
    pub fn begin_stream(&mut self, received: u64) {
        self.acknowledge(received);
        self.given = self.acknowledged;
    }

    /// The head has all up to this one.
    pub fn acknowledge(&mut self, received: u64) {
        self.acknowledged = self.acknowledged.max(received);
        self.outbox.acknowledge(received);
    }

    /// Numbers a message and keeps it.
    pub fn keep(&mut self, mut message: NodeMessage) {
        message.sequence = self.outbox.next();
        self.outbox.keep(vec![message]);
    }

    /// The next message that the present stream was not given.
    pub fn next_to_give(&self) -> Option<NodeMessage> {
        let mut message = self.outbox.get(self.given + 1)?.clone();
        message.received = self.inbox.received();
        Some(message)
    }

    /// The present stream was given [`Self::next_to_give`].
    pub fn gave(&mut self) {
        self.given += 1;
    }

    /// Messages that the head has not acknowledged.
    pub fn kept(&self) -> usize {
        self.outbox.len()
    }

    /// Whether a message of the head is to be taken: not one that came before.
    pub fn takes(&mut self, sequence: u64) -> Result<bool, Gap> {
        self.inbox.takes(sequence)
    }

    /// All of the head's messages up to this one have come.
    pub fn received(&self) -> u64 {
        self.inbox.received()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give_all(conversation: &mut Conversation) -> Vec<u64> {
        let mut given = Vec::new();
        while let Some(message) = conversation.next_to_give() {
            given.push(message.sequence);
            conversation.gave();
        }
        given
    }

    fn with_messages(count: usize) -> Conversation {
        let mut conversation = Conversation::default();
        for _ in 0..count {
            conversation.keep(NodeMessage::default());
        }
        conversation
    }

    #[test]
    fn another_stream_is_given_what_is_not_acknowledged() {
        let mut conversation = with_messages(4);
        assert_eq!(give_all(&mut conversation), [1, 2, 3, 4]);
        conversation.begin_stream(2);
        assert_eq!(give_all(&mut conversation), [3, 4]);
        assert_eq!(conversation.kept(), 2);
    }

    /// A head that was silent answers over both streams at once: what it says of the older one comes first.
    #[test]
    fn a_stream_that_was_registered_before_the_last_acknowledgement_goes_on_after_it() {
        let mut conversation = with_messages(4);
        give_all(&mut conversation);
        conversation.acknowledge(4);
        conversation.begin_stream(2);
        conversation.keep(NodeMessage::default());
        assert_eq!(give_all(&mut conversation), [5]);
    }
}
