//! The object store, as clients and other raylets see it: frames in, the store's wishes carried out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::Duration;

use prost::Message;
use sparkray_common::{ErrorCode, FeedId, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_object_store::{ClientId, MappedRange, PullTicket, StoreError, StoreEvent};
use sparkray_proto::{
    AdoptFeed, Empty, Failure, FeedQuery, FrameKind, FreeEntry, FreeObjects, LocationLost, MessageError,
    ObjectLocation, PullObject, WorkerHello,
};
use sparkray_rpc::{Endpoint, Frame, RpcError, Target, dial, frame_connection};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::gateway::peers::Peers;
use crate::input::Event;
use crate::objects::frees::Frees;
use crate::objects::transfer::{pull, push, refuse_pull};
use crate::raylet::Raylet;

/// A node that does not acknowledge an adopted feed in this time is asked again, this often.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);
const ADOPT_ATTEMPTS: u32 = 3;
const TELL_DEADLINE: Duration = Duration::from_secs(10);
/// Fetched objects that are remembered before it is looked which of them are still here.
const FETCHED_BY_LIMIT: usize = 4096;

#[derive(Debug)]
struct Pull {
    cancel: CancellationToken,
    room: Option<oneshot::Sender<Result<MappedRange, Failure>>>,
}

/// What the store's work in progress needs.
#[derive(Debug, Default)]
pub(crate) struct StoreSide {
    pulls: HashMap<PullTicket, Pull>,
    /// Told at the next tick.
    pub(crate) frees: Frees,
    /// Nodes that fetched an object from this one. Its owner does not know of their copies: they hear of its end from
    /// here, and pass it on to those that fetched it from them.
    fetched_by: HashMap<ObjectId, BTreeSet<NodeId>>,
    /// Entries of `fetched_by` at which those of objects that are gone are thrown out.
    fetched_by_limit: usize,
    /// Replies of the events that are being carried out, in order: each client gets its own together, because a queue
    /// holds fewer frames than one request may have answers.
    replies: HashMap<ClientId, Vec<Frame>>,
    /// Copies that are gone, until the next tick: their owners on other nodes hear of them.
    lost_locations: HashMap<WorkerId, (WorkerAddress, Vec<ObjectId>)>,
}

/// A frame that breaks the protocol, in one of two ways.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0:?} is not for this connection")]
    NotHere(FrameKind),
}

/// Tells another node which blocks of a feed it is to keep.
async fn forward_adoption(peers: Peers, node: NodeId, address: String, message: AdoptFeed) {
    for attempt in 1..=ADOPT_ATTEMPTS {
        let request = || Frame::new(FrameKind::AdoptFeed, 3, &message);
        match peers.ask(node, &address, request, ADOPT_DEADLINE).await {
            Ok(_) => return,
            // A dead node has lost its blocks: their owner hears of its death.
            Err(error) => {
                warn!(node_id = %node, attempt, %error, "a node did not adopt its blocks of a feed");
            }
        }
    }
}

impl Raylet {
    /// A frame of store.proto.
    pub(crate) fn store_frame(&mut self, connection: u64, frame: &Frame) -> Result<(), FrameError> {
        let client = ClientId(connection);
        match frame.kind {
            FrameKind::CreateObject => self.store.create(client, frame.correlation, &frame.decode()?)?,
            FrameKind::SealObject => self.store.seal(client, &frame.decode()?)?,
            FrameKind::AbortObject => self.store.abort(client, &frame.decode()?)?,
            FrameKind::GetObjects => self.store.get(client, frame.correlation, &frame.decode()?)?,
            FrameKind::ReleaseObjects => self.store.release(client, &frame.decode()?)?,
            FrameKind::FreeObjects => {
                let message: FreeObjects = frame.decode()?;
                self.store.free(&message)?;
                self.note_frees(&message)?;
            }
            FrameKind::AdoptFeed => self.adopt_feed(connection, frame.correlation, frame.decode()?)?,
            FrameKind::FeedQuery => self.answer_feed_query(connection, frame)?,
            FrameKind::PullObject => {
                let message: PullObject = frame.decode()?;
                let object = ObjectId::from_slice(&message.object_id)
                    .map_err(|error| RpcError::Message(error.into()))?;
                if let Some(node) = self.clients.client(connection).and_then(|client| client.node_id) {
                    self.note_fetch(object, node);
                }
                self.store.push(client, frame.correlation, object);
            }
            other => return Err(FrameError::NotHere(other)),
        }
        Ok(())
    }

    fn note_fetch(&mut self, object: ObjectId, node: NodeId) {
        let side = &mut self.store_side;
        if side.fetched_by.len() >= side.fetched_by_limit {
            // Objects whose fetch failed, and those of owners that died, are not freed by a message.
            side.fetched_by.retain(|object, _| self.store.knows(*object));
            side.fetched_by_limit = (2 * side.fetched_by.len()).max(FETCHED_BY_LIMIT);
        }
        side.fetched_by.entry(object).or_default().insert(node);
    }

    fn other_node(&self, location: &ObjectLocation) -> Option<NodeId> {
        NodeId::from_slice(&location.node_id)
            .ok()
            .filter(|node| *node != self.node.node_id)
    }

    fn note_frees(&mut self, message: &FreeObjects) -> Result<(), FrameError> {
        for entry in &message.objects {
            let mut nodes = BTreeMap::new();
            for location in &entry.locations {
                if let Some(node) = self.other_node(location) {
                    nodes.insert(node, location.node_address.clone());
                }
            }
            let object =
                ObjectId::from_slice(&entry.object_id).map_err(|error| RpcError::Message(error.into()))?;
            for node in self.store_side.fetched_by.remove(&object).unwrap_or_default() {
                // A node that is not in the view is dead, and its copies with it.
                if let Some(known) = self.view.get(node) {
                    nodes.insert(node, known.address.clone());
                }
            }
            for (node, address) in nodes {
                let freed = FreeEntry {
                    object_id: entry.object_id.clone(),
                    locations: Vec::new(),
                };
                self.store_side.frees.note(node, &address, freed);
            }
        }
        Ok(())
    }

    /// Tells other nodes what was freed since the last tick.
    pub(crate) fn flush_frees(&mut self) {
        for (node, address, objects) in self.store_side.frees.take_due() {
            let message = FreeObjects { objects };
            let frame = Frame::new(FrameKind::FreeObjects, 0, &message);
            let peers = self.peers.clone();
            let cancel = self.cancel.clone();
            let events = self.events.clone();
            tokio::spawn(async move {
                let tell = tokio::time::timeout(TELL_DEADLINE, peers.tell(node, &address, frame));
                let outcome = tokio::select! {
                    () = cancel.cancelled() => return,
                    outcome = tell => outcome,
                };
                let left = match outcome {
                    Ok(Ok(())) => Vec::new(),
                    Ok(Err(error)) => {
                        debug!(node_id = %node, %error, "cannot tell a node what was freed");
                        message.objects
                    }
                    Err(_) => {
                        debug!(node_id = %node, "a node did not take what was freed in time");
                        message.objects
                    }
                };
                // The receiver is gone only when the raylet ends.
                let _ = events.send(Event::FreesTold { node, left }).await;
            });
        }
    }

    /// Keeps the winners here and on the nodes listed; answers when all of them did.
    fn adopt_feed(
        &mut self,
        connection: u64,
        correlation: u64,
        message: AdoptFeed,
    ) -> Result<(), FrameError> {
        self.store.adopt_feed(&message)?;
        let others: Vec<(NodeId, String)> = message
            .nodes
            .iter()
            .filter_map(|location| Some((self.other_node(location)?, location.node_address.clone())))
            .collect();
        let Some(sender) = self
            .clients
            .get(connection)
            .map(|connection| connection.sender.clone())
        else {
            return Ok(());
        };
        let forwarded = AdoptFeed {
            nodes: Vec::new(),
            ..message
        };
        let peers = self.peers.clone();
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            // A node that hangs keeps only its own blocks waiting.
            let mut forwards = JoinSet::new();
            for (node, address) in others {
                forwards.spawn(forward_adoption(peers.clone(), node, address, forwarded.clone()));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = forwards.join_all() => {}
            }
            if let Err(error) = sender.send(Frame::new(FrameKind::Empty, correlation, &Empty {})) {
                debug!(%error, "a client did not wait for its feed to be adopted");
            }
        });
        Ok(())
    }

    /// FeedQuery of another raylet.
    fn answer_feed_query(&self, connection: u64, frame: &Frame) -> Result<(), FrameError> {
        let query: FeedQuery = frame.decode()?;
        let feed = FeedId::from_slice(&query.feed_id).map_err(|error| RpcError::Message(error.into()))?;
        match self.store.winners_of(feed) {
            Some(adopted) => {
                self.clients
                    .send(connection, FrameKind::AdoptFeed, frame.correlation, &adopted);
            }
            None => self
                .clients
                .send(connection, FrameKind::Empty, frame.correlation, &Empty {}),
        }
        Ok(())
    }

    /// Asks the raylet of a feed's owner what became of the feed.
    fn ask_feed(&self, feed: FeedId, owner: WorkerAddress) {
        if owner.node_id == self.node.node_id {
            // It would have been adopted here.
            return;
        }
        let peers = self.peers.clone();
        let cancel = self.cancel.clone();
        let events = self.events.clone();
        tokio::spawn(async move {
            let query = FeedQuery {
                feed_id: feed.to_vec().into(),
            };
            let request = || Frame::new(FrameKind::FeedQuery, 4, &query);
            let (node, address) = (owner.node_id, owner.node_address.as_str());
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                outcome = peers.ask(node, address, request, ADOPT_DEADLINE) => outcome,
            };
            let winners = outcome.and_then(|frame| match frame.kind {
                FrameKind::AdoptFeed => frame.decode::<AdoptFeed>().map(Some),
                _ => Ok(None),
            });
            match winners {
                Ok(Some(winners)) => {
                    // The receiver is gone only when the raylet ends.
                    let _ = events.send(Event::FeedSettled(winners)).await;
                }
                Ok(None) => debug!(%feed, "a feed goes on"),
                // It is asked again.
                Err(error) => debug!(%feed, %error, "cannot ask what became of a feed"),
            }
        });
    }

    /// Does what the store asks for, until it asks for nothing.
    pub(crate) fn carry_out_store_events(&mut self) {
        while self.store.has_events() {
            for event in self.store.drain_events() {
                self.carry_out(event);
            }
        }
        self.send_replies();
    }

    fn send_replies(&mut self) {
        for (client, frames) in self.store_side.replies.drain() {
            let Some(connection) = self.clients.get(client.0) else {
                continue;
            };
            if let Err(error) = connection.sender.send_all(frames) {
                debug!(connection = client.0, %error, "cannot send to a client");
            }
        }
    }

    fn carry_out(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Created {
                client,
                correlation,
                reply,
                descriptor,
            } => {
                self.reply_with(
                    client,
                    FrameKind::CreateObjectReply,
                    correlation,
                    &reply,
                    descriptor,
                );
            }
            StoreEvent::Ready {
                client,
                correlation,
                reply,
                descriptor,
            } => {
                self.reply_with(client, FrameKind::ObjectReady, correlation, &reply, descriptor);
            }
            StoreEvent::PushReady {
                client,
                correlation,
                object,
                source,
            } => {
                let sender = self
                    .clients
                    .get(client.0)
                    .map(|connection| connection.sender.clone());
                match (source, sender) {
                    (Ok(source), Some(sender)) => {
                        tokio::spawn(push(sender, correlation, object, source, self.events.clone()));
                    }
                    (Ok(source), None) => self.store.push_finished(source.ticket, 0),
                    (Err(failure), Some(sender)) => refuse_pull(&sender, correlation, object, failure),
                    (Err(_), None) => {}
                }
            }
            StoreEvent::StartPull {
                ticket,
                object,
                locations,
            } => self.start_pull(ticket, object, locations),
            StoreEvent::PullRoom { ticket, room } => {
                let waiting = self
                    .store_side
                    .pulls
                    .get_mut(&ticket)
                    .and_then(|pull| pull.room.take());
                if let Some(answer) = waiting {
                    // A fetch that was cancelled meanwhile drops its range.
                    drop(answer.send(room));
                } else {
                    debug!("room came for a fetch that is over");
                }
            }
            StoreEvent::CancelPull { ticket } => {
                // It reports its end once it does not touch its range any more.
                if let Some(pull) = self.store_side.pulls.get(&ticket) {
                    pull.cancel.cancel();
                }
            }
            StoreEvent::Io(job) => self.executor.start(job),
            StoreEvent::AskFeed { feed, owner } => self.ask_feed(feed, owner),
            StoreEvent::CopyGone { object, owner, lost } => {
                debug!(object_id = %object, lost, "this node has no copy of an object any more");
                self.store_side.fetched_by.remove(&object);
                self.tell_owner(object, owner);
            }
        }
    }

    fn reply_with<M: Message>(
        &mut self,
        client: ClientId,
        kind: FrameKind,
        correlation: u64,
        reply: &M,
        descriptor: Option<OwnedFd>,
    ) {
        let mut frame = Frame::new(kind, correlation, reply);
        frame.descriptor = descriptor;
        self.store_side.replies.entry(client).or_default().push(frame);
    }

    fn start_pull(&mut self, ticket: PullTicket, object: ObjectId, locations: Vec<ObjectLocation>) {
        let cancel = self.cancel.child_token();
        self.store_side.pulls.insert(
            ticket,
            Pull {
                cancel: cancel.clone(),
                room: None,
            },
        );
        tokio::spawn(pull(
            self.peers.clone(),
            ticket,
            object,
            locations,
            self.events.clone(),
            cancel,
        ));
    }

    /// A fetch knows the size of its object.
    pub(crate) fn pull_needs_room(
        &mut self,
        ticket: PullTicket,
        size: u64,
        owner: WorkerAddress,
        room: oneshot::Sender<Result<MappedRange, Failure>>,
    ) {
        if let Some(pull) = self.store_side.pulls.get_mut(&ticket) {
            pull.room = Some(room);
            self.store.pull_room(ticket, size, owner);
        }
    }

    /// A fetch is over.
    pub(crate) fn pull_ended(
        &mut self,
        ticket: PullTicket,
        object: ObjectId,
        outcome: Result<MappedRange, Failure>,
    ) {
        self.store_side.pulls.remove(&ticket);
        match outcome {
            Ok(range) => self.store.pull_finished(ticket, range),
            Err(failure) => {
                debug!(object_id = %object, reason = failure.message, "cannot fetch an object");
                if failure.error_code() == ErrorCode::FetchTimedOut {
                    self.store.pull_timed_out(ticket, &failure.message);
                } else {
                    self.store.pull_failed(ticket, &failure.message);
                }
            }
        }
    }

    /// LocationLost, to a process of this node over its raylet connection, to others at the next tick.
    fn tell_owner(&mut self, object: ObjectId, owner: WorkerAddress) {
        if owner.node_id != self.node.node_id {
            let (_, objects) = self
                .store_side
                .lost_locations
                .entry(owner.worker_id)
                .or_insert_with(|| (owner, Vec::new()));
            objects.push(object);
            return;
        }
        if let Some(connection) = self.clients.of_worker(owner.worker_id) {
            // Behind the replies that were decided before.
            let frame = self.location_lost(object);
            let client = ClientId(connection);
            self.store_side.replies.entry(client).or_default().push(frame);
        }
    }

    fn location_lost(&self, object: ObjectId) -> Frame {
        let message = LocationLost {
            object_id: object.to_vec().into(),
            node_id: self.node.node_id.to_vec().into(),
        };
        Frame::new(FrameKind::LocationLost, 0, &message)
    }

    /// Tells owners on other nodes which copies are gone since the last tick, each over one connection.
    pub(crate) fn flush_lost_locations(&mut self) {
        for (_, (owner, objects)) in std::mem::take(&mut self.store_side.lost_locations) {
            let count = objects.len();
            let hello = WorkerHello {
                address: Some((&self.address_of(WorkerId::NIL)).into()),
                ..WorkerHello::default()
            };
            let mut frames = vec![Frame::new(FrameKind::WorkerHello, 0, &hello)];
            frames.extend(objects.into_iter().map(|object| self.location_lost(object)));
            let identity = self.identity.clone();
            let cancel = self.cancel.clone();
            tokio::spawn(async move {
                let tell = async {
                    let endpoint = Endpoint::Tcp(owner.node_address.clone());
                    let target = Target::Worker(owner.node_id, owner.worker_id);
                    let socket = dial(&identity, &endpoint, target, TELL_DEADLINE).await?;
                    let failed = |source| RpcError::Io {
                        action: "use the connection to",
                        peer: owner.node_address.clone(),
                        source,
                    };
                    let (sender, _receiver) = frame_connection(socket).map_err(failed)?;
                    sender.send_all(frames)
                };
                let outcome: Result<(), RpcError> = tokio::select! {
                    () = cancel.cancelled() => return,
                    outcome = tell => outcome,
                };
                if let Err(error) = outcome {
                    let worker = owner.worker_id;
                    debug!(%worker, count, %error, "cannot tell an owner that copies are gone");
                }
            });
        }
    }
}

impl From<MessageError> for FrameError {
    fn from(error: MessageError) -> Self {
        Self::Rpc(error.into())
    }
}
