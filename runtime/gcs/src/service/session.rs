//! What was said between the head and one node, over however many streams: one queue, numbered and kept until the node
//! acknowledges it.

use sparkray_common::NodeId;
use sparkray_proto::head_message::Message;
use sparkray_proto::{HeadMessage, Heartbeat};
use sparkray_rpc::{Gap, Inbox, Outbox};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::received::Received;
use crate::record::RecordNumber;

/// Batches of messages that may wait for a node.
pub(super) const QUEUE: usize = 16 * 1024;
/// Log batches are dropped when fewer places than this are free.
pub(super) const LOG_RESERVE: usize = QUEUE / 2;

pub(super) type Batch = Result<Vec<HeadMessage>, Status>;
pub(super) type Outgoing = mpsc::Sender<Batch>;

/// What was said between the head and one node that is alive, over however many streams.
#[derive(Debug, Default)]
pub(super) struct Session {
    outbox: Outbox<HeadMessage>,
    inbox: Inbox,
    /// The stream that the node has confirmed; `None` while it has none.
    stream: Option<NodeStream>,
    dropped_logs: u64,
    received: Received,
}

#[derive(Debug)]
struct NodeStream {
    number: u64,
    outgoing: Outgoing,
    /// Ends the task that reads from the node.
    cancel: CancellationToken,
}

/// A stream over which a node has registered.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) node: NodeId,
    pub(super) number: u64,
    pub(super) outgoing: Outgoing,
    pub(super) cancel: CancellationToken,
}

impl Session {
    /// The node says over this stream that it has the head's messages up to `received`; `false` when the stream is not the
    /// node's any more.
    pub(super) fn hears(&mut self, attached: &Attached, received: u64) -> bool {
        if !self.is_current(attached, received) {
            return false;
        }
        self.outbox.acknowledge(received);
        true
    }

    /// Whether the stream is the node's. The first word that comes over a newer one than the present confirms it; the node
    /// has all of the head's messages up to `received`.
    fn is_current(&mut self, attached: &Attached, received: u64) -> bool {
        if let Some(stream) = &self.stream {
            if stream.number >= attached.number {
                return stream.number == attached.number;
            }
            stream.cancel.cancel();
        }
        self.stream = Some(NodeStream {
            number: attached.number,
            outgoing: attached.outgoing.clone(),
            cancel: attached.cancel.clone(),
        });
        let missing = self.outbox.after(received);
        if !missing.is_empty() {
            // The queue is as good as empty.
            let _ = attached.outgoing.try_send(Ok(missing));
        }
        true
    }

    /// Whether this is the stream that the node has confirmed last.
    pub(super) fn reads(&self, attached: &Attached) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.number == attached.number)
    }

    /// The stream counts no more; the node makes another one.
    pub(super) fn forget_stream(&mut self) {
        self.stream = None;
    }

    /// Whether a message of the node is to be taken: not one that came before.
    pub(super) fn takes_message(&mut self, sequence: u64) -> Result<bool, Gap> {
        self.inbox.takes(sequence)
    }

    /// A message of the node was taken, and this is the last record since.
    pub(super) fn took(&mut self, sequence: u64, after: RecordNumber) {
        self.received.took(sequence, after);
    }

    /// The node's last message that it need not send again.
    pub(super) fn received(&mut self, durable: RecordNumber) -> u64 {
        self.received.acknowledged(durable)
    }

    /// Says that the head has heard the node.
    pub(super) fn answer_heartbeat(&mut self, heartbeat: Heartbeat, durable: RecordNumber) {
        let reply = unnumbered(Message::HeartbeatReply(heartbeat), self.received(durable));
        if let Some(stream) = &self.stream {
            // A node that does not read its queue loses its lease in time.
            let _ = stream.outgoing.try_send(Ok(vec![reply]));
        }
    }

    /// The node is dead: its stream ends after these messages.
    pub(super) fn end(mut self, last: Vec<Message>, durable: RecordNumber) {
        if !last.is_empty() {
            // It dies anyway.
            let _ = self.send(last, durable);
        }
        if let Some(stream) = self.stream {
            stream.cancel.cancel();
        }
    }

    /// Whether a message is sent; output of workers may have to give way.
    pub(super) fn has_room_for(&mut self, node: NodeId, message: &Message) -> bool {
        if matches!(message, Message::Log(_)) && self.waiting() > QUEUE - LOG_RESERVE {
            self.dropped_logs += 1;
            return false;
        }
        if self.dropped_logs > 0 {
            warn!(node_id = %node, batches = self.dropped_logs, "dropped worker output: the driver's node does not read fast enough");
            self.dropped_logs = 0;
        }
        true
    }

    /// Batches that the node has not taken.
    fn waiting(&self) -> usize {
        let in_queue = self.stream.as_ref().map_or(0, |stream| {
            stream.outgoing.max_capacity() - stream.outgoing.capacity()
        });
        in_queue.max(self.outbox.len())
    }

    /// Sends what one event makes for the node, over the present stream or the next one. Says why the node cannot go on.
    pub(super) fn send(&mut self, messages: Vec<Message>, durable: RecordNumber) -> Result<(), &'static str> {
        let first = self.outbox.next();
        let received = self.received(durable);
        let batch: Vec<HeadMessage> = (first..)
            .zip(messages)
            .map(|(sequence, message)| HeadMessage {
                message: Some(message),
                sequence,
                received,
            })
            .collect();
        if self.outbox.len() >= QUEUE {
            return Err("it does not acknowledge the head's messages");
        }
        self.outbox.keep(batch.clone());
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        match stream.outgoing.try_send(Ok(batch)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err("it does not read the head's messages"),
            // The node makes another stream, or its silence lasts too long.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

pub(super) fn unnumbered(message: Message, received: u64) -> HeadMessage {
    HeadMessage {
        message: Some(message),
        sequence: 0,
        received,
    }
}
