//! The tonic service over the state.
//!
//! Invariants:
//! 1. The state is behind one mutex that is never held across an await; effects are carried out under it, so
//!    that a node gets its messages in the order of the events.
//! 2. Every node has one bounded queue; what one event makes for a node takes one place in it, however much that is. A
//!    node that lets it overflow is dead; its log lines are dropped earlier, so that a chatty program does not cost the
//!    driver its node.
//! 3. A node's stream is read by one task; its end, whatever the cause, detaches the node.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_server::Head;
use sparkray_proto::{
    HeadMessage, HeadReply, HeadRequest, NodeMessage, RegisterNode, Registered, node_message,
};
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
                let _ = outgoing.try_send(Ok(vec![HeadMessage {
                    message: Some(Message::Registered(refusal)),
                }]));
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
        if self.cancel.is_cancelled() {
            // A node whose stream ended because the head ends, and that tries again at once.
            return;
        }
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
        if self.cancel.is_cancelled() {
            // The head ends, not the node: nobody is to hear of a death.
            return;
        }
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
            let mut batches: HashMap<NodeId, Vec<HeadMessage>> = HashMap::new();
            for effect in effects {
                match effect {
                    Effect::Send { node, message } => {
                        if let Some(stream) = self.streams.get_mut(&node)
                            && stream.takes(node, &message)
                        {
                            let message = Some(message);
                            batches.entry(node).or_default().push(HeadMessage { message });
                        }
                    }
                    Effect::Detach { node } => {
                        if let Some(stream) = self.streams.remove(&node) {
                            if let Some(last) = batches.remove(&node) {
                                // It dies anyway.
                                let _ = stream.outgoing.try_send(Ok(last));
                            }
                            stream.cancel.cancel();
                        }
                    }
                }
            }
            for (node, batch) in batches {
                if let Some(stream) = self.streams.get(&node)
                    && let Err(cause) = stream.send(batch)
                {
                    self.state.detach(now, node, cause);
                }
            }
        }
    }
}

impl NodeStream {
    /// Whether a message is sent; output of workers may have to give way.
    fn takes(&mut self, node: NodeId, message: &Message) -> bool {
        if matches!(message, Message::Log(_)) && self.outgoing.capacity() < LOG_RESERVE {
            self.dropped_logs += 1;
            return false;
        }
        if self.dropped_logs > 0 {
            warn!(node_id = %node, batches = self.dropped_logs, "dropped worker output: the driver's node does not read fast enough");
            self.dropped_logs = 0;
        }
        true
    }

    fn send(&self, batch: Vec<HeadMessage>) -> Result<(), &'static str> {
        self.outgoing.try_send(Ok(batch)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "it does not read the head's messages",
            mpsc::error::TrySendError::Closed(_) => "its raylet closed its connection to the head",
        })
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
        self.0
            .tasks
            .spawn(async move { head.serve_node(request.into_inner(), outgoing).await });
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
        };
        head.with_state(|state, now| state.node_message(now, node, message))
            .unwrap();
    }

    #[test]
    fn a_node_that_does_not_read_dies_and_the_others_are_told() {
        let head = SharedHead::new(HeadState::new(1, 1), CancellationToken::new());
        let (reader, idler) = (NodeId::random(), NodeId::random());
        let (to_reader, mut reads) = mpsc::channel(QUEUE);
        let (to_idler, mut idle) = mpsc::channel(2);
        head.attach(register(reader), to_reader).unwrap();
        let (_, idler_cancel) = head.attach(register(idler), to_idler).unwrap();
        for number in 0..2 {
            let death = WorkerDeath {
                worker_id: vec![number; 16].into(),
                ..WorkerDeath::default()
            };
            say(&head, reader, node_message::Message::WorkerDeath(death));
        }
        assert!(idler_cancel.is_cancelled());
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
        head.attach(register(first), to_first).unwrap();
        head.attach(register(second), to_second).unwrap();
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
                head_request::Request::RegisterActor(RegisterActor { spec: Some(spec) }),
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
        assert!(head.lock().streams.contains_key(&first));
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
        head.attach(register(node), outgoing).unwrap();
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
