//! The tonic service over the state.
//!
//! Invariants:
//! 1. The state is behind one mutex that is never held across an await; effects are carried out under it, so
//!    that a node gets its messages in the order of the events.
//! 2. Every node has one bounded queue of messages. A node that lets it overflow is dead; its log lines are
//!    dropped earlier, so that a chatty program does not cost the driver its node.
//! 3. A node's stream is read by one task; its end, whatever the cause, detaches the node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_server::Head;
use sparkray_proto::{
    HeadMessage, HeadReply, HeadRequest, NodeMessage, RegisterNode, Registered, node_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::effects::Effect;
use crate::state::HeadState;

/// Messages that may wait for a node.
const QUEUE: usize = 16 * 1024;
/// Log batches are dropped when fewer places than this are free.
const LOG_RESERVE: usize = QUEUE / 2;
/// A node that opened its stream registers within this time.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

type Outgoing = mpsc::Sender<Result<HeadMessage, Status>>;

/// The state and the streams that its effects go to.
#[derive(Debug)]
pub(crate) struct SharedHead {
    core: Mutex<Core>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Core {
    state: HeadState,
    streams: HashMap<NodeId, NodeStream>,
}

#[derive(Debug)]
struct NodeStream {
    outgoing: Outgoing,
    /// Ends the task that reads from the node.
    cancel: CancellationToken,
    dropped_logs: u64,
}

impl SharedHead {
    /// A head whose tasks end with `cancel`.
    pub(crate) fn new(state: HeadState, cancel: CancellationToken) -> Arc<Self> {
        let core = Mutex::new(Core {
            state,
            streams: HashMap::new(),
        });
        Arc::new(Self {
            core,
            cancel,
            tasks: TaskTracker::new(),
        })
    }

    /// Tells the state the time.
    pub(crate) fn tick(&self) {
        self.with_state(HeadState::tick);
    }

    /// Ends all streams and waits for their tasks.
    pub(crate) async fn close(&self) {
        self.cancel.cancel();
        self.lock().streams.clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Changes the state and carries out what it asks for.
    fn with_state<T>(&self, change: impl FnOnce(&mut HeadState, Instant) -> T) -> T {
        let mut core = self.lock();
        let now = Instant::now();
        let outcome = change(&mut core.state, now);
        core.carry_out(now);
        outcome
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Core> {
        // A panic ends the process (see sparkrayd's `process`), so a poisoned state is seen in tests only.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a node and connects its stream; `None` when it was refused and told so.
    fn attach(&self, register: RegisterNode, outgoing: Outgoing) -> Option<(NodeId, CancellationToken)> {
        let mut core = self.lock();
        let now = Instant::now();
        let core = &mut *core;
        let outcome = core.state.attach(now, register);
        let attached = match outcome {
            Ok(node) => {
                let cancel = self.cancel.child_token();
                let stream = NodeStream {
                    outgoing,
                    cancel: cancel.clone(),
                    dropped_logs: 0,
                };
                core.streams.insert(node, stream);
                Some((node, cancel))
            }
            Err(failure) => {
                warn!(reason = failure.message, "refused a node");
                let refusal = Registered {
                    head_epoch: 0,
                    failure: Some(failure),
                };
                // The queue is new and empty; a receiver that is gone needs no answer.
                let _ = outgoing.try_send(Ok(HeadMessage {
                    message: Some(Message::Registered(refusal)),
                }));
                None
            }
        };
        core.carry_out(now);
        attached
    }

    /// Reads what one node says until its stream ends.
    async fn serve_node(&self, mut incoming: Streaming<NodeMessage>, outgoing: Outgoing) {
        let first = tokio::select! {
            () = self.cancel.cancelled() => return,
            first = tokio::time::timeout(REGISTER_DEADLINE, incoming.message()) => first,
        };
        let register = match first {
            Ok(Ok(Some(NodeMessage {
                message: Some(node_message::Message::Register(register)),
            }))) => register,
            Ok(Ok(_)) => {
                let _ = outgoing.try_send(Err(Status::invalid_argument(
                    "a node's first message is Register",
                )));
                return;
            }
            Ok(Err(status)) => {
                info!(%status, "a node's stream ended before it registered");
                return;
            }
            Err(_) => {
                let _ = outgoing.try_send(Err(Status::deadline_exceeded(
                    "the node did not register in time",
                )));
                return;
            }
        };
        let Some((node, cancel)) = self.attach(register, outgoing) else {
            return;
        };
        let cause = loop {
            let message = tokio::select! {
                () = cancel.cancelled() => break "the head ended its stream".to_owned(),
                message = incoming.message() => message,
            };
            match message {
                Ok(Some(message)) => {
                    if let Err(error) = self.with_state(|state, now| state.node_message(now, node, message)) {
                        warn!(node_id = %node, %error, "ignored a message that breaks the protocol");
                    }
                }
                Ok(None) => break "its raylet ended its connection to the head".to_owned(),
                Err(status) => break format!("the connection to its raylet broke: {}", status.message()),
            }
        };
        self.with_state(|state, now| state.detach(now, node, &cause));
    }
}

impl Core {
    /// Carries out effects until there are none; the death of a node that does not read makes new ones.
    fn carry_out(&mut self, now: Instant) {
        loop {
            let effects = self.state.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send { node, message } => {
                        let Some(stream) = self.streams.get_mut(&node) else {
                            continue;
                        };
                        if let Err(cause) = stream.send(node, message) {
                            self.state.detach(now, node, cause);
                        }
                    }
                    Effect::Detach { node } => {
                        if let Some(stream) = self.streams.remove(&node) {
                            stream.cancel.cancel();
                        }
                    }
                }
            }
        }
    }
}

impl NodeStream {
    fn send(&mut self, node: NodeId, message: Message) -> Result<(), &'static str> {
        if matches!(message, Message::Log(_)) && self.outgoing.capacity() < LOG_RESERVE {
            self.dropped_logs += 1;
            return Ok(());
        }
        if self.dropped_logs > 0 {
            warn!(node_id = %node, batches = self.dropped_logs, "dropped worker output: the driver's node does not read fast enough");
            self.dropped_logs = 0;
        }
        self.outgoing
            .try_send(Ok(HeadMessage {
                message: Some(message),
            }))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => "it does not read the head's messages",
                mpsc::error::TrySendError::Closed(_) => "its raylet closed its connection to the head",
            })
    }
}

/// The service that tonic calls.
#[derive(Debug, Clone)]
pub(crate) struct HeadService(pub(crate) Arc<SharedHead>);

#[tonic::async_trait]
impl Head for HeadService {
    type AttachNodeStream = ReceiverStream<Result<HeadMessage, Status>>;

    async fn attach_node(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::AttachNodeStream>, Status> {
        let (outgoing, receiver) = mpsc::channel(QUEUE);
        let head = Arc::clone(&self.0);
        self.0
            .tasks
            .spawn(async move { head.serve_node(request.into_inner(), outgoing).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn call(&self, request: Request<HeadRequest>) -> Result<Response<HeadReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(
            self.0.with_state(|state, now| state.request(now, request)),
        ))
    }
}
