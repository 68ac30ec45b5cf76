//! The link to the head, for as long as both live: one stream after the other.
//!
//! Invariants:
//! 1. Messages are numbered and kept until they are acknowledged, both ways (`conversation`): a stream that breaks loses
//!    nothing.
//! 2. A stream is the node's once the node has confirmed it by a heartbeat. The connection of a confirmed stream stays open
//!    until the head has answered over a later one, or this process ends, after its workers: the head takes its end
//!    for the node's death.
//! 3. A head that is silent is asked for another stream while the present one is kept: the network may have lost the
//!    connection, or the head may only be slow.
//! 4. The link judges nobody: it reports what the head has acknowledged; the lease is the loop's (`lease`).

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use sparkray_common::{ErrorCode, HEARTBEAT_INTERVAL, MomentClock};
use sparkray_proto::head_client::HeadClient;
use sparkray_proto::{
    ClusterView, Failure, HeadMessage, HeadReply, HeadRequest, Heartbeat, NodeMessage, RegisterNode,
    head_message, node_message,
};
use sparkray_rpc::{Endpoint, Identity, Refusal, RpcError, Target, clock_now, connect_tonic};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::conversation::Conversation;
use crate::error::RayletError;
use crate::input::{HeadEvent, Input};

/// Messages to the head that may wait, and as many that it has not acknowledged.
pub(crate) const OUTGOING: usize = 16 * 1024;
/// How long a node tries to register when it starts.
const START_DEADLINE: Duration = Duration::from_secs(15);
/// Between two attempts of a node that starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// For the connection of one attempt: the kernel repeats what began it once.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// For the head's answer to a registration. A head that stands still answers the next one.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// A head that has acknowledged nothing for this long is asked for another stream.
const SILENCE: Duration = Duration::from_secs(2);
/// Messages between this link and its stream.
const STREAM_QUEUE: usize = 64;
/// An actor's specification holds its class and small arguments.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Everything needed to attach.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) identity: Identity,
    pub(crate) head: Endpoint,
    pub(crate) register: RegisterNode,
    /// By which the lease is measured.
    pub(crate) clock: MomentClock,
}

/// A stream over which this node has registered.
pub(crate) struct Attached {
    to_head: mpsc::Sender<NodeMessage>,
    from_head: Streaming<HeadMessage>,
    /// Keeps the connection open.
    pub(crate) channel: Channel,
    /// All of this node's messages up to this one have arrived.
    received: u64,
    /// When the attempt began.
    pub(crate) sent: Duration,
    /// All nodes, as the head knew them then. A node that attaches again has had, or gets, the changes.
    pub(crate) view: ClusterView,
}

enum AttachError {
    Refused(Failure),
    /// The head's process has ended: its node says so.
    Gone(String),
    Unreachable(String),
}

fn client(channel: &Channel) -> HeadClient<Channel> {
    HeadClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Registers this node for the first time. Tries again and again until the head answers or the deadline passes.
pub(crate) async fn attach_first(attachment: &Attachment) -> Result<Attached, RayletError> {
    let end = Instant::now() + START_DEADLINE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let cause = match tokio::time::timeout(left, attach_once(attachment.clone())).await {
            Ok(Ok(attached)) => return Ok(attached),
            Ok(Err(AttachError::Refused(failure))) => {
                return Err(RayletError::Refused {
                    code: failure.error_code(),
                    message: failure.message,
                });
            }
            Ok(Err(AttachError::Unreachable(cause) | AttachError::Gone(cause))) => cause,
            Err(_) => format!("no answer within {:.1} s", left.as_secs_f64()),
        };
        if Instant::now() + RETRY_INTERVAL >= end {
            return Err(RayletError::HeadUnreachable {
                head: attachment.head.to_string(),
                seconds: START_DEADLINE.as_secs(),
                cause,
            });
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// One attempt. It may be given up at any time: what is not confirmed is nothing to the head.
async fn attach_once(attachment: Attachment) -> Result<Attached, AttachError> {
    let unreachable = |status: Status| AttachError::Unreachable(describe(&status));
    let sent = clock_now(attachment.clock);
    let channel = connect_tonic(
        &attachment.identity,
        &attachment.head,
        Target::Head,
        DIAL_DEADLINE,
    )
    .await
    .map_err(|error| judge(&attachment.head, error))?;
    let (to_head, outgoing) = mpsc::channel(STREAM_QUEUE);
    let register = NodeMessage {
        message: Some(node_message::Message::Register(attachment.register)),
        ..NodeMessage::default()
    };
    if to_head.send(register).await.is_err() {
        let cause = "the stream closed before it was used".to_owned();
        return Err(AttachError::Unreachable(cause));
    }
    let answer = async {
        let response = client(&channel)
            .attach_node(ReceiverStream::new(outgoing))
            .await?;
        let mut from_head = response.into_inner();
        let first = from_head.message().await?;
        Ok((from_head, first))
    };
    let (from_head, first) = tokio::time::timeout(ANSWER_DEADLINE, answer)
        .await
        .map_err(|_| AttachError::Unreachable(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())))?
        .map_err(unreachable)?;
    match first.and_then(|message| message.message) {
        Some(head_message::Message::Registered(registered)) => match registered.failure {
            None => Ok(Attached {
                to_head,
                from_head,
                channel,
                received: registered.received,
                sent,
                view: registered.view.unwrap_or_default(),
            }),
            Some(failure) => Err(AttachError::Refused(failure)),
        },
        Some(_) => Err(AttachError::Unreachable(
            "the head's first message was not Registered".to_owned(),
        )),
        None => Err(AttachError::Unreachable("the head closed the stream".to_owned())),
    }
}

/// The raylet of the head's node refuses callers of a head that has ended; its socket on this node is then nobody's.
fn judge(head: &Endpoint, error: RpcError) -> AttachError {
    let is_gone = match (head, &error) {
        (_, RpcError::Refused { refusal, .. }) => *refusal == Refusal::HeadEnded,
        (Endpoint::Abstract(_), RpcError::Io { source, .. }) => {
            source.kind() == std::io::ErrorKind::ConnectionRefused
        }
        _ => false,
    };
    if is_gone {
        AttachError::Gone(format!("the head at {head} has ended"))
    } else {
        AttachError::Unreachable(error.to_string())
    }
}

/// What the transport's layers say, the innermost last.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

type Attempt = Pin<Box<dyn Future<Output = Result<Attached, AttachError>> + Send>>;

/// The link's state.
struct Link {
    attachment: Attachment,
    conversation: Conversation,
    /// The stream that was confirmed last.
    current: Option<Attached>,
    /// Earlier ones, until the head has answered over the current one.
    held: Vec<Attached>,
    /// When the newest acknowledged message was sent.
    acknowledged: Duration,
    attempt: Option<Attempt>,
    /// The current connection, for clients' calls.
    channels: watch::Sender<Channel>,
}

impl Link {
    /// Makes a stream the current one and confirms it.
    fn confirm(&mut self, attached: Attached) {
        self.retire();
        self.conversation.begin_stream(attached.received);
        self.acknowledged = self.acknowledged.max(attached.sent);
        self.channels.send_replace(attached.channel.clone());
        self.current = Some(attached);
        self.send_heartbeat();
    }

    /// The current stream is of no more use; its connection stays.
    fn retire(&mut self) {
        self.held.extend(self.current.take());
    }

    fn send_heartbeat(&mut self) {
        let sent = clock_now(self.attachment.clock);
        let heartbeat = Heartbeat {
            sent_nanos: u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX),
        };
        if let Some(stream) = &self.current {
            // A stream that takes no more shows itself by the head's silence.
            let _ = stream.to_head.try_send(NodeMessage {
                message: Some(node_message::Message::Heartbeat(heartbeat)),
                sequence: 0,
                received: self.conversation.received(),
            });
        }
    }

    /// Begins an attempt when the head cannot be heard and none is under way.
    fn seek(&mut self) {
        let silence = clock_now(self.attachment.clock).saturating_sub(self.acknowledged);
        if self.attempt.is_none() && (self.current.is_none() || silence >= SILENCE) {
            self.attempt = Some(Box::pin(attach_once(self.attachment.clone())));
        }
    }

    /// Takes what the head said over the current stream; an event for the loop.
    fn take(&mut self, message: HeadMessage) -> Option<HeadEvent> {
        self.conversation.acknowledge(message.received);
        let content = message.message?;
        match content {
            head_message::Message::Registered(_) => None,
            head_message::Message::HeartbeatReply(heartbeat) => {
                self.held.clear();
                let sent = Duration::from_nanos(heartbeat.sent_nanos);
                self.acknowledged = self.acknowledged.max(sent);
                Some(HeadEvent::Acknowledged { sent })
            }
            content => match self.conversation.takes(message.sequence) {
                Ok(true) => Some(HeadEvent::Message(Box::new(content))),
                Ok(false) => None,
                Err(gap) => {
                    warn!(%gap, "the head skips messages: another stream is made");
                    self.retire();
                    None
                }
            },
        }
    }
}

/// Carries messages both ways, until the head is gone or refuses this node. Never ends by itself: the connections stay open
/// until the workers have ended.
pub(crate) async fn run_head_link(
    attachment: Attachment,
    attached: Attached,
    channels: watch::Sender<Channel>,
    mut outgoing: mpsc::Receiver<NodeMessage>,
    inputs: mpsc::Sender<Input>,
) {
    let mut link = Link {
        attachment,
        conversation: Conversation::default(),
        current: None,
        held: Vec::new(),
        acknowledged: Duration::ZERO,
        attempt: None,
        channels,
    };
    link.confirm(attached);
    let mut heartbeats = tokio::time::interval(HEARTBEAT_INTERVAL);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = link.conversation.next_to_give();
        let to_head = link.current.as_ref().map(|stream| stream.to_head.clone());
        let event = tokio::select! {
            message = outgoing.recv(), if link.conversation.kept() < OUTGOING => {
                let Some(message) = message else {
                    // The loop has ended.
                    return std::future::pending().await;
                };
                link.conversation.keep(message);
                None
            }
            () = give(to_head, next) => {
                link.conversation.gave();
                None
            }
            message = hear(&mut link.current) => match message {
                Ok(message) => link.take(message),
                Err(cause) => {
                    info!(cause, "the stream to the head broke");
                    link.retire();
                    link.seek();
                    None
                }
            },
            _ = heartbeats.tick() => {
                link.send_heartbeat();
                link.seek();
                None
            }
            outcome = finish(&mut link.attempt) => {
                link.attempt = None;
                attempted(&mut link, outcome)
            }
        };
        let Some(event) = event else { continue };
        let goes_on = matches!(event, HeadEvent::Message(_) | HeadEvent::Acknowledged { .. });
        if inputs.send(Input::Head(event)).await.is_err() || !goes_on {
            return std::future::pending().await;
        }
    }
}

fn attempted(link: &mut Link, outcome: Result<Attached, AttachError>) -> Option<HeadEvent> {
    match outcome {
        Ok(attached) => {
            info!("attached to the head again");
            let sent = attached.sent;
            link.confirm(attached);
            Some(HeadEvent::Acknowledged { sent })
        }
        Err(AttachError::Refused(failure)) => Some(HeadEvent::Refused(failure)),
        Err(AttachError::Gone(cause)) => Some(HeadEvent::Lost { cause }),
        Err(AttachError::Unreachable(cause)) => {
            debug!(cause, "cannot attach to the head again yet");
            None
        }
    }
}

/// Gives a message to a stream once that has room for it. Waits for ever when one of both is lacking.
async fn give(stream: Option<mpsc::Sender<NodeMessage>>, message: Option<NodeMessage>) {
    let (Some(stream), Some(message)) = (stream, message) else {
        return std::future::pending().await;
    };
    match stream.reserve().await {
        Ok(place) => place.send(message),
        // Its other direction shows the end.
        Err(_) => std::future::pending().await,
    }
}

/// What comes over the current stream. Waits for ever when there is none.
async fn hear(stream: &mut Option<Attached>) -> Result<HeadMessage, String> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    match stream.from_head.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("the head closed it".to_owned()),
        Err(status) => Err(describe(&status)),
    }
}

/// The outcome of the attempt under way. Waits for ever when there is none.
async fn finish(attempt: &mut Option<Attempt>) -> Result<Attached, AttachError> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Asks the head for a client; every failure is in the reply.
pub(crate) async fn call(channel: Channel, request: HeadRequest, deadline: Duration) -> HeadReply {
    let mut client = client(&channel);
    match tokio::time::timeout(deadline, client.call(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            let message = format!(
                "the head of the cluster cannot be reached ({}); if that lasts, stop this cluster and start another",
                describe(&status)
            );
            HeadReply {
                failure: Some(Failure::new(ErrorCode::Unavailable, message)),
                reply: None,
            }
        }
        Err(_) => {
            let message = format!(
                "the head of the cluster did not answer within {} s: it is overloaded, stopped or cut off",
                deadline.as_secs()
            );
            HeadReply {
                failure: Some(Failure::new(ErrorCode::Unavailable, message)),
                reply: None,
            }
        }
    }
}
