//! The tonic service over the state.
//!
//! Invariants:
//! 1. The state is behind one mutex that is never held across an await; effects are carried out under it, so
//!    that a node gets its messages in the order of the events.
//! 2. Every node has one bounded queue; what one event makes for a node takes one place in it, however much that is. A
//!    node that lets it overflow is dead; its log lines are dropped earlier, so that a chatty program does not cost the
//!    driver its node.
//! 3. What a node was told is kept until it acknowledges that, and so the other way round: a stream that breaks loses
//!    nothing and repeats nothing (`rpc::Outbox`, `rpc::Inbox`).
//! 4. A node has one stream, the one that it has confirmed last; others that it opened count for nothing. The end of a
//!    stream says nothing of the node, but for this: a raylet does not close the connection of a stream that it has
//!    confirmed before it has confirmed another and was answered there, or has ended its workers. So when the other
//!    kernel closes it, the node is dead.

mod grpc;
mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_proto::head_message::Message;
use sparkray_proto::{NodeMessage, RegisterNode, Registered, node_message};
use sparkray_rpc::ConnectionInfo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::effects::Effect;
use crate::state::HeadState;

pub(crate) use grpc::HeadService;
use session::{Attached, Outgoing, Session, unnumbered};

/// A node that opened its stream registers within this time.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

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
    sessions: HashMap<NodeId, Session>,
    last_stream: u64,
}

/// Why a stream is read no more.
enum StreamEnd {
    /// The head ends, the node is dead, or it has another stream.
    Over,
    /// For the log.
    Broke(String),
}

impl SharedHead {
    /// A head whose tasks end with `cancel`.
    pub(crate) fn new(state: HeadState, cancel: CancellationToken) -> Arc<Self> {
        let core = Mutex::new(Core {
            state,
            sessions: HashMap::new(),
            last_stream: 0,
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
        self.lock().sessions.clear();
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

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic ends the process (see sparkrayd's `process`), so a poisoned state is seen in tests only.
        self.core.lock()
    }

    /// Registers a node, which hears that over this stream; `None` when it was refused and told so.
    fn attach(&self, register: RegisterNode, outgoing: Outgoing) -> Option<Attached> {
        let mut core = self.lock();
        let now = Instant::now();
        let core = &mut *core;
        let mut registered = Registered {
            head_epoch: core.state.head_epoch(),
            ..Registered::default()
        };
        let node = match core.state.attach(now, register) {
            Ok(node) => {
                let session = core.sessions.entry(node).or_default();
                registered.received = session.received();
                Some(node)
            }
            Err(failure) => {
                warn!(reason = failure.message, "refused a node");
                registered = Registered {
                    failure: Some(failure),
                    ..Registered::default()
                };
                None
            }
        };
        core.carry_out(now);
        // The queue is new and empty; a receiver that is gone needs no answer.
        let _ = outgoing.try_send(Ok(vec![unnumbered(Message::Registered(registered), 0)]));
        let node = node?;
        core.last_stream += 1;
        Some(Attached {
            node,
            number: core.last_stream,
            outgoing,
            cancel: self.cancel.child_token(),
        })
    }

    /// Reads what one node says until its stream ends.
    async fn serve_node(
        &self,
        mut incoming: Streaming<NodeMessage>,
        outgoing: Outgoing,
        connection: Option<ConnectionInfo>,
    ) {
        let first = tokio::select! {
            () = self.cancel.cancelled() => return,
            first = tokio::time::timeout(REGISTER_DEADLINE, incoming.message()) => first,
        };
        let register = match first {
            Ok(Ok(Some(NodeMessage {
                message: Some(node_message::Message::Register(register)),
                ..
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
        if self.cancel.is_cancelled() {
            // A node whose stream ended because the head ends, and that tries again at once.
            return;
        }
        let Some(attached) = self.attach(register, outgoing) else {
            return;
        };
        let StreamEnd::Broke(cause) = self.read_stream(&attached, &mut incoming).await else {
            return;
        };
        let node = attached.node;
        info!(node_id = %node, cause, "a node's stream broke: it is waited for");
        // The stream may end before its connection does.
        let ended = tokio::select! {
            () = attached.cancel.cancelled() => return,
            ended = async { match connection { Some(connection) => connection.ended_by_peer().await, None => false } } => ended,
        };
        if ended {
            self.raylet_ended(&attached);
        }
    }

    async fn read_stream(&self, attached: &Attached, incoming: &mut Streaming<NodeMessage>) -> StreamEnd {
        loop {
            let message = tokio::select! {
                () = attached.cancel.cancelled() => return StreamEnd::Over,
                message = incoming.message() => message,
            };
            match message {
                Ok(Some(message)) => {
                    if !self.take_message(attached, message) {
                        return StreamEnd::Over;
                    }
                }
                Ok(None) => return StreamEnd::Broke("the node ended it".to_owned()),
                Err(status) => return StreamEnd::Broke(status.message().to_owned()),
            }
        }
    }

    /// Takes what came over a stream; `false` when it is not the node's any more.
    fn take_message(&self, attached: &Attached, message: NodeMessage) -> bool {
        let mut core = self.lock();
        let now = Instant::now();
        let Core { state, sessions, .. } = &mut *core;
        let node = attached.node;
        let Some(session) = sessions.get_mut(&node) else {
            return false;
        };
        if !session.hears(attached, message.received) {
            return false;
        }
        if let Some(node_message::Message::Heartbeat(heartbeat)) = message.message {
            state.heard(now, node);
            session.answer_heartbeat(heartbeat);
            return true;
        }
        let outcome = match session.takes_message(message.sequence) {
            Ok(false) => return true,
            Ok(true) => state
                .node_message(now, node, message)
                .map_err(|error| error.to_string()),
            Err(gap) => {
                // It attaches again, and sends what is missing.
                warn!(node_id = %node, %gap, "ended a stream that skips messages");
                session.forget_stream();
                return false;
            }
        };
        if let Err(error) = outcome {
            warn!(node_id = %node, %error, "ignored a message that breaks the protocol");
        }
        core.carry_out(now);
        true
    }

    /// The kernel at the other side closed the connection of a stream.
    fn raylet_ended(&self, attached: &Attached) {
        let mut core = self.lock();
        let is_current = core
            .sessions
            .get(&attached.node)
            .is_some_and(|session| session.reads(attached));
        // Otherwise the head ends, or the node goes on over another stream.
        if is_current && !self.cancel.is_cancelled() {
            let now = Instant::now();
            core.state
                .detach(now, attached.node, "its raylet ended its connection to the head");
            core.carry_out(now);
        }
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
            let mut batches: HashMap<NodeId, Vec<Message>> = HashMap::new();
            for effect in effects {
                match effect {
                    Effect::Send { node, message } => {
                        if let Some(session) = self.sessions.get_mut(&node)
                            && session.has_room_for(node, &message)
                        {
                            batches.entry(node).or_default().push(message);
                        }
                    }
                    Effect::Detach { node } => {
                        if let Some(session) = self.sessions.remove(&node) {
                            session.end(batches.remove(&node).unwrap_or_default());
                        }
                    }
                }
            }
            for (node, batch) in batches {
                if let Some(session) = self.sessions.get_mut(&node)
                    && let Err(cause) = session.send(batch)
                {
                    self.state.detach(now, node, cause);
                }
            }
        }
    }
}
