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

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_proto::head_message::Message;
use sparkray_proto::head_server::Head;
use sparkray_proto::{
    HeadMessage, HeadReply, HeadRequest, NodeMessage, RegisterNode, Registered, node_message,
};
use sparkray_rpc::{ConnectionInfo, Inbox, Outbox};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::effects::Effect;
use crate::state::HeadState;

/// Batches of messages that may wait for a node.
const QUEUE: usize = 16 * 1024;
/// Log batches are dropped when fewer places than this are free.
const LOG_RESERVE: usize = QUEUE / 2;
/// A node that opened its stream registers within this time.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

type Batch = Result<Vec<HeadMessage>, Status>;
type Outgoing = mpsc::Sender<Batch>;

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

/// What was said between the head and one node that is alive, over however many streams.
#[derive(Debug, Default)]
struct Session {
    outbox: Outbox<HeadMessage>,
    inbox: Inbox,
    /// The stream that the node has confirmed; `None` while it has none.
    stream: Option<NodeStream>,
    dropped_logs: u64,
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
struct Attached {
    node: NodeId,
    number: u64,
    outgoing: Outgoing,
    cancel: CancellationToken,
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
                registered.received = session.inbox.received();
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
        if !session.is_current(attached, message.received) {
            return false;
        }
        session.outbox.acknowledge(message.received);
        if let Some(node_message::Message::Heartbeat(heartbeat)) = message.message {
            state.heard(now, node);
            let reply = unnumbered(Message::HeartbeatReply(heartbeat), session.inbox.received());
            // A node that does not read its queue loses its lease in time.
            let _ = attached.outgoing.try_send(Ok(vec![reply]));
            return true;
        }
        let outcome = match session.inbox.takes(message.sequence) {
            Ok(false) => return true,
            Ok(true) => state
                .node_message(now, node, message)
                .map_err(|error| error.to_string()),
            Err(gap) => {
                // It attaches again, and sends what is missing.
                warn!(node_id = %node, %gap, "ended a stream that skips messages");
                session.stream = None;
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
            .and_then(|session| session.stream.as_ref())
            .is_some_and(|stream| stream.number == attached.number);
        // Otherwise the head ends, or the node goes on over another stream.
        if is_current && !self.cancel.is_cancelled() {
            let now = Instant::now();
            core.state
                .detach(now, attached.node, "its raylet ended its connection to the head");
            core.carry_out(now);
        }
    }
}

impl Session {
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

    /// Whether a message is sent; output of workers may have to give way.
    fn takes(&mut self, node: NodeId, message: &Message) -> bool {
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

    fn send(&mut self, messages: Vec<Message>) -> Result<(), &'static str> {
        let first = self.outbox.next();
        let received = self.inbox.received();
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

fn unnumbered(message: Message, received: u64) -> HeadMessage {
    HeadMessage {
        message: Some(message),
        sequence: 0,
        received,
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
                            && session.takes(node, &message)
                        {
                            batches.entry(node).or_default().push(message);
                        }
                    }
                    Effect::Detach { node } => {
                        if let Some(mut session) = self.sessions.remove(&node) {
                            if let Some(last) = batches.remove(&node) {
                                // It dies anyway.
                                let _ = session.send(last);
                            }
                            if let Some(stream) = session.stream {
                                stream.cancel.cancel();
                            }
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

/// The messages of a node's queue, one after the other.
#[derive(Debug)]
pub(crate) struct NodeMessages {
    queue: mpsc::Receiver<Batch>,
    begun: std::vec::IntoIter<HeadMessage>,
}

impl Stream for NodeMessages {
    type Item = Result<HeadMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.begun.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(self.queue.poll_recv(context)) {
                Some(Ok(batch)) => self.begun = batch.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The service that tonic calls.
#[derive(Debug, Clone)]
pub(crate) struct HeadService(pub(crate) Arc<SharedHead>);

#[tonic::async_trait]
impl Head for HeadService {
    type AttachNodeStream = NodeMessages;

    async fn attach_node(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::AttachNodeStream>, Status> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let head = Arc::clone(&self.0);
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        self.0.tasks.spawn(async move {
            head.serve_node(request.into_inner(), outgoing, connection).await;
        });
        let begun = Vec::new().into_iter();
        Ok(Response::new(NodeMessages { queue, begun }))
    }

    async fn call(&self, request: Request<HeadRequest>) -> Result<Response<HeadReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(
            self.0.with_state(|state, now| state.request(now, request)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparkray_common::VERSION;
    use sparkray_proto::{
        ActorSpec, LogBatch, RegisterActor, RegisterJob, Resources, WatchActorOnNode, WorkerAddress,
        WorkerDeath, head_request,
    };

    fn register(id: NodeId) -> RegisterNode {
        RegisterNode {
            node_id: id.to_vec().into(),
            sparkray_version: VERSION.to_owned(),
            head_epoch: 1,
            ..RegisterNode::default()
        }
    }

    /// Attaches and confirms the stream.
    fn join(head: &SharedHead, node: NodeId, outgoing: Outgoing) -> Attached {
        let attached = head.attach(register(node), outgoing).unwrap();
        assert!(head.take_message(&attached, heartbeat(0)));
        attached
    }

    fn heartbeat(received: u64) -> NodeMessage {
        NodeMessage {
            message: Some(node_message::Message::Heartbeat(sparkray_proto::Heartbeat {
                sent_nanos: 7,
            })),
            sequence: 0,
            received,
        }
    }

    fn death(number: u8, sequence: u64) -> NodeMessage {
        let death = WorkerDeath {
            worker_id: vec![number; 16].into(),
            ..WorkerDeath::default()
        };
        NodeMessage {
            message: Some(node_message::Message::WorkerDeath(death)),
            sequence,
            received: 0,
        }
    }

    /// Numbers of the workers whose death was told, in order.
    fn deaths(receiver: &mut mpsc::Receiver<Batch>) -> Vec<u8> {
        let told = received(receiver).into_iter();
        told.filter_map(|message| match message {
            Message::WorkerDeath(notice) => Some(notice.worker_id[0]),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_stream_that_breaks_loses_nothing_and_repeats_nothing() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let (node, other) = (NodeId::random(), NodeId::random());
        let (outgoing, mut other_reads) = mpsc::channel(QUEUE);
        join(&head, other, outgoing);
        let (outgoing, mut first_reads) = mpsc::channel(QUEUE);
        let first = join(&head, node, outgoing);
        assert!(head.take_message(&first, death(1, 1)));
        assert!(head.take_message(&first, death(2, 2)));
        assert_eq!(deaths(&mut first_reads), [1, 2]);

        // The node opens another stream; until it confirms it, the first one goes on.
        let (outgoing, mut second_reads) = mpsc::channel(QUEUE);
        let second = head.attach(register(node), outgoing).unwrap();
        let told = received(&mut second_reads);
        let [Message::Registered(registered)] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((registered.received, &registered.failure), (2, &None));
        assert!(head.take_message(&first, death(3, 3)));
        assert_eq!(deaths(&mut first_reads), [3]);

        // It has the view and the first two deaths; what came by the first stream is not taken twice.
        assert!(head.take_message(&second, heartbeat(3)));
        assert!(first.cancel.is_cancelled());
        assert!(
            !head.take_message(&first, death(9, 4)),
            "an old stream is not heard"
        );
        assert!(head.take_message(&second, death(3, 3)));
        assert!(head.take_message(&second, death(4, 4)));
        assert_eq!(deaths(&mut second_reads), [3, 4]);
        assert_eq!(deaths(&mut other_reads), [1, 2, 3, 4]);
        assert!(!head.take_message(&second, death(7, 7)), "5 and 6 are missing");
    }

    #[test]
    fn only_the_end_of_the_confirmed_stream_is_the_end_of_a_node() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let node = NodeId::random();
        let stream = || mpsc::channel(QUEUE).0;
        let given_up = head.attach(register(node), stream()).unwrap();
        let first = join(&head, node, stream());
        let unconfirmed = head.attach(register(node), stream()).unwrap();
        for attached in [&given_up, &unconfirmed] {
            head.raylet_ended(attached);
            assert!(head.lock().state.nodes.is_alive(node));
        }
        let second = join(&head, node, stream());
        head.raylet_ended(&first);
        assert!(head.lock().state.nodes.is_alive(node));
        head.raylet_ended(&second);
        assert!(!head.lock().state.nodes.is_alive(node));
        assert!(
            head.attach(register(node), stream()).is_none(),
            "the dead stay dead"
        );
        assert!(!head.take_message(&second, heartbeat(0)));
    }

    #[test]
    fn heartbeats_are_answered_and_keep_a_node_alive() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let (outgoing, mut reads) = mpsc::channel(QUEUE);
        let attached = join(&head, NodeId::random(), outgoing);
        received(&mut reads);
        assert!(head.take_message(&attached, death(1, 1)));
        assert!(head.take_message(&attached, heartbeat(0)));
        let Ok(Ok(batch)) = reads.try_recv() else { panic!() };
        assert!(matches!(batch[0].message, Some(Message::WorkerDeath(_))));
        let Ok(Ok(batch)) = reads.try_recv() else { panic!() };
        assert_eq!(batch[0].received, 1);
        assert!(matches!(&batch[0].message, Some(Message::HeartbeatReply(reply)) if reply.sent_nanos == 7));
    }

    fn received(receiver: &mut mpsc::Receiver<Batch>) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Ok(Ok(batch)) = receiver.try_recv() {
            messages.extend(batch.into_iter().filter_map(|message| message.message));
        }
        messages
    }

    fn say(head: &SharedHead, node: NodeId, message: node_message::Message) {
        let message = NodeMessage {
            message: Some(message),
            ..NodeMessage::default()
        };
        head.with_state(|state, now| state.node_message(now, node, message))
            .unwrap();
    }

    #[test]
    fn a_node_that_does_not_read_dies_and_the_others_are_told() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let (reader, idler) = (NodeId::random(), NodeId::random());
        let (to_reader, mut reads) = mpsc::channel(QUEUE);
        let (to_idler, mut idle) = mpsc::channel(4);
        join(&head, reader, to_reader);
        let idler_stream = join(&head, idler, to_idler);
        for number in 0..2 {
            let death = WorkerDeath {
                worker_id: vec![number; 16].into(),
                ..WorkerDeath::default()
            };
            say(&head, reader, node_message::Message::WorkerDeath(death));
        }
        assert!(idler_stream.cancel.is_cancelled());
        drop(idler_stream);
        let told = received(&mut reads);
        let is_death = |message: &Message| matches!(message, Message::NodeDeath(notice) if notice.node_id == idler.to_vec());
        assert!(told.iter().any(is_death), "{told:?}");
        let heard = received(&mut idle);
        let deaths = heard
            .iter()
            .filter(|message| matches!(message, Message::WorkerDeath(_)));
        assert_eq!(deaths.count(), 1, "{heard:?}");
        let end = idle.try_recv();
        assert!(
            matches!(end, Err(mpsc::error::TryRecvError::Disconnected)),
            "its stream ends: {end:?}"
        );
    }

    #[test]
    fn any_number_of_messages_that_one_event_makes_costs_no_node_its_life() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let (first, second) = (NodeId::random(), NodeId::random());
        let places = 8;
        let (to_first, mut reads) = mpsc::channel(places);
        let (to_second, _idle) = mpsc::channel(QUEUE);
        join(&head, first, to_first);
        join(&head, second, to_second);
        received(&mut reads);
        let count = 10 * places;
        let job = RegisterJob {
            job_id: vec![1; 4].into(),
            driver: Some(WorkerAddress {
                node_id: second.to_vec().into(),
                worker_id: vec![1; 16].into(),
                node_address: String::new(),
            }),
            ..RegisterJob::default()
        };
        let register_job = head_request::Request::RegisterJob(job.clone());
        ask(&head, register_job);
        for number in 0..count {
            let mut actor_id = vec![0; 16];
            actor_id[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let spec = ActorSpec {
                actor_id: actor_id.clone().into(),
                job_id: vec![1; 4].into(),
                owner: job.driver.clone(),
                resources: Some(Resources {
                    units: HashMap::from([("CPU".to_owned(), 1.0)]),
                }),
                ..ActorSpec::default()
            };
            ask(
                &head,
                head_request::Request::RegisterActor(RegisterActor {
                    spec: Some(spec),
                    ..Default::default()
                }),
            );
            let watch = WatchActorOnNode {
                actor_id: actor_id.into(),
            };
            say(&head, first, node_message::Message::WatchActor(watch));
            received(&mut reads);
        }
        // The end of the driver's node is the end of all actors.
        head.with_state(|state, now| state.detach(now, second, "test"));
        let told = received(&mut reads);
        assert!(told.len() > count, "{} messages", told.len());
        assert!(head.lock().sessions.contains_key(&first));
    }

    fn ask(head: &SharedHead, request: head_request::Request) {
        let request = HeadRequest {
            request: Some(request),
        };
        let reply = head.with_state(|state, now| state.request(now, request));
        assert_eq!(reply.failure, None);
    }

    #[test]
    fn output_of_workers_gives_way_to_everything_else() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let node = NodeId::random();
        let (outgoing, mut incoming) = mpsc::channel(QUEUE);
        join(&head, node, outgoing);
        let driver = WorkerAddress {
            node_id: node.to_vec().into(),
            worker_id: vec![1; 16].into(),
            node_address: String::new(),
        };
        let job_id = vec![1; 4];
        let job = RegisterJob {
            job_id: job_id.clone().into(),
            driver: Some(driver),
            ..RegisterJob::default()
        };
        let request = HeadRequest {
            request: Some(head_request::Request::RegisterJob(job)),
        };
        assert_eq!(
            head.with_state(|state, now| state.request(now, request)).failure,
            None
        );
        for _ in 0..QUEUE {
            let batch = LogBatch {
                job_id: job_id.clone().into(),
                lines: Vec::new(),
            };
            say(&head, node, node_message::Message::Log(batch));
        }
        let death = WorkerDeath {
            worker_id: vec![9; 16].into(),
            ..WorkerDeath::default()
        };
        say(&head, node, node_message::Message::WorkerDeath(death));
        let told = received(&mut incoming);
        assert!(told.len() < QUEUE - LOG_RESERVE + 4, "{} messages", told.len());
        assert!(matches!(told.last(), Some(Message::WorkerDeath(_))));
    }
}
