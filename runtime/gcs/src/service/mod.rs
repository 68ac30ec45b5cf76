//! The tonic service over the state.
//!
//! Invariants:
//! 1. The state and the journal are behind one mutex that is never held across an await; records are appended and effects
//!    carried out under it, so that a node gets its messages in the order of the events.
//! 2. Every node has one bounded queue; what one event makes for a node takes one place in it, however much that is. A
//!    node that lets it overflow is dead; its log lines are dropped earlier, so that a chatty program does not cost the
//!    driver its node.
//! 3. What a node was told is kept until it acknowledges that, and so the other way round: a stream that breaks loses
//!    nothing and repeats nothing (`rpc::Outbox`, `rpc::Inbox`).
//! 4. A node has one stream, the one that it has confirmed last; others that it opened count for nothing. The end of a
//!    stream says nothing of the node, but for this: a raylet does not close the connection of a stream that it has
//!    confirmed before it has confirmed another and was answered there, or has ended its workers. So when the other
//!    kernel closes it, the node is dead.
//! 5. What an event changed is appended before the lock is let go. No reply, notice, acknowledgement or end of a stream
//!    that follows from it leaves before it is durable; neither does an answer that was read from a state with it.
//!    Heartbeats are answered at once: that speaks of the present, and of no dead node.

mod group_waits;
mod grpc;
#[cfg(test)]
mod late_tests;
mod locked;
mod metrics;
mod received;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_proto::head_message::Message;
use sparkray_proto::{NodeMessage, RegisterNode, node_message};
use sparkray_rpc::ConnectionInfo;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tracing::info;

use crate::journal::Journal;
use crate::record::RecordNumber;
use crate::state::HeadState;

pub(crate) use grpc::HeadService;
use locked::{Locked, Registering};
use session::{Attached, Outgoing, unnumbered};

/// A node that opened its stream registers within this time.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// The state, and the streams that its effects go to.
#[derive(Debug)]
pub(crate) struct SharedHead {
    locked: Mutex<Locked>,
    durable: watch::Receiver<RecordNumber>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Why a stream is read no more.
enum StreamEnd {
    /// The head ends, the node is dead, or it has another stream.
    Over,
    /// For the log.
    Broke(String),
}

impl SharedHead {
    /// A head whose tasks end with `cancel`. The state is that of the journal's records.
    pub(crate) fn new(state: HeadState, journal: Box<dyn Journal>, cancel: CancellationToken) -> Arc<Self> {
        let durable = journal.durable();
        Arc::new(Self {
            locked: Mutex::new(Locked::new(state, journal)),
            durable,
            cancel,
            tasks: TaskTracker::new(),
        })
    }

    /// Tells the state the time. `false`: the journal has fallen too far behind, and the head stands still: streams are not
    /// read, so time counts against nobody.
    pub(crate) fn tick(&self) -> bool {
        let mut locked = self.lock();
        let runs = *self.durable.borrow() >= locked.needed_to_run();
        if runs {
            locked.change(HeadState::tick);
        }
        runs
    }

    /// Sends what was held back, whenever records have become durable. Returns when the head ends.
    pub(crate) async fn release_notices(&self) {
        let mut durable = self.durable.clone();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                grown = durable.changed() => if grown.is_err() { return },
            }
            self.lock().carry_out(Instant::now());
        }
    }

    /// Ends all streams and waits for their tasks.
    pub(crate) async fn close(&self) {
        self.cancel.cancel();
        self.lock().forget_sessions();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What this head has counted. That is no part of the tables: nothing has to be durable first.
    fn render_metrics(&self) -> String {
        self.lock().render_metrics()
    }

    /// Changes the state; the answer comes when the journal has what it speaks of. `None`: the head ends before.
    async fn request<T>(&self, event: impl FnOnce(&mut HeadState, Instant) -> T) -> Option<T> {
        if !self.journal_keeps_up().await {
            return None;
        }
        let (outcome, after) = self.lock().ask(event);
        self.told_all_before(after).await.then_some(outcome)
    }

    /// Waits until this record is durable and what else waited for it has been sent, so that a reply does not overtake the
    /// notices of its event. `false` when the head ends before.
    async fn told_all_before(&self, record: Option<RecordNumber>) -> bool {
        let Some(record) = record else { return true };
        let is_durable = self.until_durable(record).await;
        if is_durable {
            self.lock().carry_out(Instant::now());
        }
        is_durable
    }

    /// Waits while too much is held back; `false` when the head ends before.
    async fn journal_keeps_up(&self) -> bool {
        let needed = self.lock().needed_to_run();
        self.until_durable(needed).await
    }

    /// Waits until the journal has this record; `false` when the head ends before.
    async fn until_durable(&self, record: RecordNumber) -> bool {
        if *self.durable.borrow() >= record {
            return true;
        }
        let mut durable = self.durable.clone();
        tokio::select! {
            () = self.cancel.cancelled() => false,
            grown = durable.wait_for(|durable| *durable >= record) => grown.is_ok(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        // A panic ends the process (see sparkrayd's `process`), so a poisoned state is seen in tests only.
        self.locked.lock()
    }

    /// Registers a node, which hears that over this stream; `None` when it was refused and told so, or the head ends.
    async fn attach(&self, register: RegisterNode, outgoing: Outgoing) -> Option<Attached> {
        let Registering {
            answer,
            stream,
            after,
        } = self.lock().register(register);
        if !self.told_all_before(after).await {
            return None;
        }
        // The queue is new and empty; a receiver that is gone needs no answer.
        let _ = outgoing.try_send(Ok(vec![unnumbered(Message::Registered(answer), 0)]));
        let (node, number) = stream?;
        Some(Attached {
            node,
            number,
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
        let Some(attached) = self.attach(register, outgoing).await else {
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
            if !self.journal_keeps_up().await {
                return StreamEnd::Over;
            }
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
        self.lock().take_message(attached, message)
    }

    /// The kernel at the other side closed the connection of a stream.
    fn raylet_ended(&self, attached: &Attached) {
        let mut locked = self.lock();
        // Otherwise the head ends, or the node goes on over another stream.
        if locked.is_read(attached) && !self.cancel.is_cancelled() {
            let cause = "its raylet ended its connection to the head";
            locked.change(|state, now| state.detach(now, attached.node, cause));
        }
    }
}
