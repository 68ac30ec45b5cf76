//! The stream that ties this node to the head, for as long as both live.

use std::time::{Duration, Instant};

use sparkray_common::ErrorCode;
use sparkray_proto::head_client::HeadClient;
use sparkray_proto::{
    Failure, HeadMessage, HeadReply, HeadRequest, NodeMessage, RegisterNode, head_message, node_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::error::RayletError;
use crate::event::{Event, HeadEvent};

/// Messages to the head that may wait.
pub(crate) const OUTGOING: usize = 16 * 1024;
/// How long a node tries to register when it starts.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a node tries to reach a head that it had.
const RETRY_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// An actor's specification holds its class and small arguments.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Everything needed to attach.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) channel: Channel,
    /// For messages.
    pub(crate) head: String,
    pub(crate) register: RegisterNode,
}

/// An open stream.
pub(crate) struct Attached {
    to_head: mpsc::Sender<NodeMessage>,
    from_head: Streaming<HeadMessage>,
}

enum AttachError {
    Refused(Failure),
    Unreachable(String),
}

fn client(channel: &Channel) -> HeadClient<Channel> {
    HeadClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Registers this node for the first time.
pub(crate) async fn attach_first(attachment: &Attachment) -> Result<Attached, RayletError> {
    match attach_within(attachment, START_DEADLINE).await {
        Ok(attached) => Ok(attached),
        Err(AttachError::Refused(failure)) => Err(RayletError::Refused {
            code: failure.error_code(),
            message: failure.message,
        }),
        Err(AttachError::Unreachable(cause)) => Err(RayletError::HeadUnreachable {
            head: attachment.head.clone(),
            seconds: START_DEADLINE.as_secs(),
            cause,
        }),
    }
}

/// Tries again and again until the head answers or the deadline passes. An attempt that is under way is not given up
/// before: the head may have registered the node already, and refuses its id the second time.
async fn attach_within(attachment: &Attachment, deadline: Duration) -> Result<Attached, AttachError> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let attempt = tokio::time::timeout(left, attach_once(attachment)).await;
        let cause = match attempt {
            Ok(Ok(attached)) => return Ok(attached),
            Ok(Err(AttachError::Refused(failure))) => return Err(AttachError::Refused(failure)),
            Ok(Err(AttachError::Unreachable(cause))) => cause,
            Err(_) => format!("no answer within {:.1} s", left.as_secs_f64()),
        };
        if Instant::now() + RETRY_INTERVAL >= end {
            return Err(AttachError::Unreachable(cause));
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn attach_once(attachment: &Attachment) -> Result<Attached, AttachError> {
    let unreachable = |status: Status| AttachError::Unreachable(describe(&status));
    let (to_head, outgoing) = mpsc::channel(64);
    let register = NodeMessage {
        message: Some(node_message::Message::Register(attachment.register.clone())),
    };
    if to_head.send(register).await.is_err() {
        return Err(AttachError::Unreachable(
            "the stream closed before it was used".to_owned(),
        ));
    }
    let response = client(&attachment.channel)
        .attach_node(ReceiverStream::new(outgoing))
        .await
        .map_err(unreachable)?;
    let mut from_head = response.into_inner();
    match from_head
        .message()
        .await
        .map_err(unreachable)?
        .and_then(|message| message.message)
    {
        Some(head_message::Message::Registered(registered)) => match registered.failure {
            None => Ok(Attached { to_head, from_head }),
            Some(failure) => Err(AttachError::Refused(failure)),
        },
        Some(_) => Err(AttachError::Unreachable(
            "the head's first message was not Registered".to_owned(),
        )),
        None => Err(AttachError::Unreachable("the head closed the stream".to_owned())),
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

/// Carries messages both ways until `cancel`; attaches again when the stream breaks.
pub(crate) async fn run_head_link(
    attachment: Attachment,
    mut attached: Attached,
    mut outgoing: mpsc::Receiver<NodeMessage>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) {
    loop {
        let cause = tokio::select! {
            () = cancel.cancelled() => return,
            cause = carry(&mut attached, &mut outgoing, &events) => cause,
        };
        info!(cause, "the stream to the head broke");
        let again = tokio::select! {
            () = cancel.cancelled() => return,
            again = attach_within(&attachment, RETRY_DEADLINE) => again,
        };
        let event = match again {
            Ok(again) => {
                attached = again;
                HeadEvent::Attached
            }
            Err(AttachError::Refused(failure)) => HeadEvent::Refused(failure),
            Err(AttachError::Unreachable(last)) => {
                let cause = format!("the head at {} is gone: {cause}; then: {last}", attachment.head);
                warn!(cause, "the head is lost");
                HeadEvent::Lost { cause }
            }
        };
        let goes_on = matches!(event, HeadEvent::Attached);
        if events.send(Event::Head(event)).await.is_err() || !goes_on {
            return;
        }
    }
}

async fn carry(
    attached: &mut Attached,
    outgoing: &mut mpsc::Receiver<NodeMessage>,
    events: &mpsc::Sender<Event>,
) -> String {
    let Attached { to_head, from_head } = attached;
    let send = async {
        while let Some(message) = outgoing.recv().await {
            if to_head.send(message).await.is_err() {
                return "the head does not take messages".to_owned();
            }
        }
        "the raylet ends".to_owned()
    };
    let receive = async {
        loop {
            match from_head.message().await {
                Ok(Some(HeadMessage {
                    message: Some(message),
                })) => {
                    if events
                        .send(Event::Head(HeadEvent::Message(Box::new(message))))
                        .await
                        .is_err()
                    {
                        return "the raylet ends".to_owned();
                    }
                }
                Ok(Some(HeadMessage { message: None })) => {}
                Ok(None) => return "the head closed it".to_owned(),
                Err(status) => return describe(&status),
            }
        }
    };
    tokio::select! {
        cause = send => cause,
        cause = receive => cause,
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
            let message = format!("the head gave no answer within {} s", deadline.as_secs());
            HeadReply {
                failure: Some(Failure::new(ErrorCode::DeadlineExceeded, message)),
                reply: None,
            }
        }
    }
}
