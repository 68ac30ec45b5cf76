//! The part: frames of store.proto in, what the store asks for out.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use sparkray_common::{ErrorCode, FeedId, Metrics, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_object_store::{
    ClientId, IoOutcome, MappedRange, ObjectStore, PullTicket, PushTicket, StoreConfig, StoreEvent,
};
use sparkray_proto::{
    AdoptFeed, Empty, Failure, FeedQuery, FrameKind, FreeEntry, FreeObjects, ObjectLocation, PullObject,
    StoreStats,
};
use sparkray_rpc::{Frame, RpcError};
use tracing::{debug, warn};

use super::fetched_by::FetchedBy;
use super::frees::Frees;
use super::messages::{location_lost, pull_refused};
use super::metrics::TransferMetrics;
use crate::cluster_view::ClusterView;
use crate::error::FrameError;
use crate::node_info::NodeInfo;
use crate::outbox::{Effect, ObjectEffect, Outbox};

/// A frame of store.proto, and of whom it comes.
pub(crate) struct StoreFrame<'a> {
    pub(crate) connection: u64,
    /// The node of a client that is not of this one.
    pub(crate) node: Option<NodeId>,
    pub(crate) frame: &'a Frame,
}

/// The objects of this node.
pub(crate) struct Objects {
    node: Arc<NodeInfo>,
    store: ObjectStore,
    /// Told at the next tick.
    frees: Frees,
    fetched_by: FetchedBy,
    /// Replies that were decided since they were sent last, in order: each client gets its own together, because a queue
    /// holds fewer frames than one request may have answers.
    replies: HashMap<u64, Vec<Frame>>,
    /// Copies that are gone, until the next tick: their owners on other nodes hear of them.
    lost_locations: HashMap<WorkerId, (WorkerAddress, Vec<ObjectId>)>,
    metrics: TransferMetrics,
}

impl Objects {
    pub(crate) fn new(node: Arc<NodeInfo>, config: StoreConfig, now: Instant) -> Self {
        Self {
            node,
            store: ObjectStore::new(config, now),
            frees: Frees::default(),
            fetched_by: FetchedBy::default(),
            replies: HashMap::new(),
            lost_locations: HashMap::new(),
            metrics: TransferMetrics::default(),
        }
    }

    /// A frame of store.proto.
    pub(crate) fn frame(
        &mut self,
        said: StoreFrame<'_>,
        view: &ClusterView,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let StoreFrame {
            connection,
            node,
            frame,
        } = said;
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
                self.note_frees(&message, view)?;
            }
            FrameKind::AdoptFeed => self.adopt_feed(connection, frame.correlation, frame.decode()?, out)?,
            FrameKind::FeedQuery => self.answer_feed_query(connection, frame, out)?,
            FrameKind::PullObject => {
                let message: PullObject = frame.decode()?;
                let object = ObjectId::from_slice(&message.object_id)
                    .map_err(|error| RpcError::Message(error.into()))?;
                if let Some(node) = node {
                    let store = &self.store;
                    self.fetched_by.note(object, node, |object| store.knows(object));
                }
                self.store.push(client, frame.correlation, object);
            }
            other => return Err(FrameError::NotHere(other)),
        }
        Ok(())
    }

    fn other_node(&self, location: &ObjectLocation) -> Option<NodeId> {
        NodeId::from_slice(&location.node_id)
            .ok()
            .filter(|node| *node != self.node.node_id)
    }

    fn note_frees(&mut self, message: &FreeObjects, view: &ClusterView) -> Result<(), FrameError> {
        for entry in &message.objects {
            let mut nodes = BTreeMap::new();
            for location in &entry.locations {
                if let Some(node) = self.other_node(location) {
                    nodes.insert(node, location.node_address.clone());
                }
            }
            let object =
                ObjectId::from_slice(&entry.object_id).map_err(|error| RpcError::Message(error.into()))?;
            for node in self.fetched_by.take(object) {
                // A node that is not in the view is dead, and its copies with it.
                if let Some(known) = view.get(node) {
                    nodes.insert(node, known.address.clone());
                }
            }
            for (node, address) in nodes {
                let freed = FreeEntry {
                    object_id: entry.object_id.clone(),
                    locations: Vec::new(),
                };
                self.frees.note(node, &address, freed);
            }
        }
        Ok(())
    }

    /// Keeps the winners here and on the nodes listed; answers when all of them did.
    fn adopt_feed(
        &mut self,
        connection: u64,
        correlation: u64,
        message: AdoptFeed,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        self.store.adopt_feed(&message)?;
        let others = message.nodes.iter();
        let nodes = others
            .filter_map(|location| Some((self.other_node(location)?, location.node_address.clone())))
            .collect();
        out.effect(ObjectEffect::ForwardFeed {
            connection,
            correlation,
            nodes,
            message: AdoptFeed {
                nodes: Vec::new(),
                ..message
            },
        });
        Ok(())
    }

    /// FeedQuery of another raylet.
    fn answer_feed_query(&self, connection: u64, frame: &Frame, out: &mut Outbox) -> Result<(), FrameError> {
        let query: FeedQuery = frame.decode()?;
        let feed = FeedId::from_slice(&query.feed_id).map_err(|error| RpcError::Message(error.into()))?;
        match self.store.winners_of(feed) {
            Some(adopted) => out.send(connection, FrameKind::AdoptFeed, frame.correlation, &adopted),
            None => out.send(connection, FrameKind::Empty, frame.correlation, &Empty {}),
        }
        Ok(())
    }

    /// The winners of a feed, as the raylet of its owner knows them.
    pub(crate) fn feed_settled(&mut self, message: &AdoptFeed) {
        if let Err(error) = self.store.adopt_feed(message) {
            warn!(%error, "another raylet named the winners of a feed in a way that cannot be read");
        }
    }

    /// Turns what the store asks for into effects; false when it asks for nothing. `connection_of`: that of a process of
    /// this node.
    pub(crate) fn collect(
        &mut self,
        connection_of: impl Fn(WorkerId) -> Option<u64>,
        out: &mut Outbox,
    ) -> bool {
        if !self.store.has_events() {
            return false;
        }
        for event in self.store.drain_events() {
            self.carry_out(event, &connection_of, out);
        }
        true
    }

    /// Sends the replies that were decided.
    pub(crate) fn send_replies(&mut self, out: &mut Outbox) {
        for (connection, frames) in self.replies.drain() {
            out.effect(Effect::SendAll { connection, frames });
        }
    }

    fn carry_out(
        &mut self,
        event: StoreEvent,
        connection_of: &impl Fn(WorkerId) -> Option<u64>,
        out: &mut Outbox,
    ) {
        match event {
            StoreEvent::Created {
                client,
                correlation,
                reply,
                descriptor,
            } => self.reply(
                client,
                FrameKind::CreateObjectReply,
                correlation,
                &reply,
                descriptor,
            ),
            StoreEvent::Ready {
                client,
                correlation,
                reply,
                descriptor,
            } => self.reply(client, FrameKind::ObjectReady, correlation, &reply, descriptor),
            StoreEvent::PushReady {
                client: ClientId(connection),
                correlation,
                object,
                source,
            } => match source {
                Ok(source) => {
                    self.metrics.push_started();
                    out.effect(ObjectEffect::Push {
                        connection,
                        correlation,
                        object,
                        source,
                    });
                }
                Err(failure) => {
                    self.metrics.push_refused();
                    out.effect(Effect::Send {
                        connection,
                        frame: pull_refused(correlation, object, failure),
                    });
                }
            },
            StoreEvent::StartPull {
                ticket,
                object,
                locations,
            } => {
                self.metrics.pull_started();
                out.effect(ObjectEffect::Pull {
                    ticket,
                    object,
                    locations,
                });
            }
            StoreEvent::PullRoom { ticket, room } => out.effect(ObjectEffect::GiveRoom { ticket, room }),
            StoreEvent::CancelPull { ticket } => out.effect(ObjectEffect::CancelPull { ticket }),
            StoreEvent::Io(job) => out.effect(ObjectEffect::Store(job)),
            StoreEvent::AskFeed { feed, owner } => {
                // The feed of an owner of this node would have been adopted here.
                if owner.node_id != self.node.node_id {
                    out.effect(ObjectEffect::AskFeed { feed, owner });
                }
            }
            StoreEvent::CopyGone { object, owner, lost } => {
                debug!(object_id = %object, lost, "this node has no copy of an object any more");
                self.fetched_by.take(object);
                self.tell_owner(object, owner, connection_of);
            }
        }
    }

    fn reply<M: Message>(
        &mut self,
        client: ClientId,
        kind: FrameKind,
        correlation: u64,
        reply: &M,
        descriptor: Option<OwnedFd>,
    ) {
        let mut frame = Frame::new(kind, correlation, reply);
        frame.descriptor = descriptor;
        self.replies.entry(client.0).or_default().push(frame);
    }

    /// LocationLost, to a process of this node over its raylet connection, to others at the next tick.
    fn tell_owner(
        &mut self,
        object: ObjectId,
        owner: WorkerAddress,
        connection_of: &impl Fn(WorkerId) -> Option<u64>,
    ) {
        if owner.node_id != self.node.node_id {
            let (_, objects) = self
                .lost_locations
                .entry(owner.worker_id)
                .or_insert_with(|| (owner, Vec::new()));
            objects.push(object);
            return;
        }
        if let Some(connection) = connection_of(owner.worker_id) {
            // Behind the replies that were decided before.
            let frame = location_lost(object, self.node.node_id);
            self.replies.entry(connection).or_default().push(frame);
        }
    }

    /// A fetch knows the size of its object.
    pub(crate) fn pull_room(&mut self, ticket: PullTicket, size: u64, owner: WorkerAddress) {
        self.store.pull_room(ticket, size, owner);
    }

    /// A fetch is over, which took so long.
    pub(crate) fn pull_ended(
        &mut self,
        ticket: PullTicket,
        object: ObjectId,
        took: Duration,
        outcome: Result<MappedRange, Failure>,
    ) {
        match outcome {
            Ok(range) => {
                self.metrics.pulled(took);
                self.store.pull_finished(ticket, range);
            }
            Err(failure) => {
                self.metrics.pull_failed();
                debug!(object_id = %object, reason = failure.message, "cannot fetch an object");
                if failure.error_code() == ErrorCode::FetchTimedOut {
                    self.store.pull_timed_out(ticket, &failure.message);
                } else {
                    self.store.pull_failed(ticket, &failure.message);
                }
            }
        }
    }

    /// A sending is over.
    pub(crate) fn push_ended(&mut self, ticket: PushTicket, outcome: Result<u64, String>) {
        match outcome {
            Ok(bytes) => self.store.push_finished(ticket, bytes),
            Err(reason) => {
                self.metrics.push_failed();
                self.store.push_failed(ticket, &reason);
            }
        }
    }

    /// A message about freed objects is over.
    pub(crate) fn frees_told(&mut self, node: NodeId, left: Vec<FreeEntry>, is_alive: bool) {
        self.frees.told(node, left, is_alive);
    }

    /// The store's work on disk or memory is done.
    pub(crate) fn io_done(&mut self, outcome: IoOutcome) {
        self.store.io_done(outcome);
    }

    /// The connection of a client ended. Whether it still has ranges: the store takes them back once its process cannot
    /// touch them any more, and a process may go on without its connection.
    pub(crate) fn client_left(&mut self, connection: u64) -> bool {
        self.store.client_left(ClientId(connection))
    }

    /// The process behind a connection is gone.
    pub(crate) fn client_gone(&mut self, connection: u64) {
        self.store.client_gone(ClientId(connection));
    }

    /// A process died: its objects are freed.
    pub(crate) fn owner_gone(&mut self, worker: WorkerId) {
        self.store.owner_gone(worker);
    }

    /// Another node died, with the owners and copies there.
    pub(crate) fn node_gone(&mut self, node: NodeId) {
        self.frees.forget(node);
        self.store.node_gone(node);
    }

    /// Whether there is a verdict on a process.
    pub(crate) fn is_dead_owner(&self, worker: WorkerId, node: NodeId) -> bool {
        self.store.is_dead_owner(worker, node)
    }

    /// What the store holds and did.
    pub(crate) fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Lists what the store has and did, and what was counted between nodes.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        self.store.list_metrics(into);
        self.metrics.list(into);
    }

    /// Ten times a second.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.store.tick(now);
    }

    /// Tells other nodes what was freed, and which copies are gone, since the last time.
    pub(crate) fn tell_others(&mut self, out: &mut Outbox) {
        for (node, address, objects) in self.frees.take_due() {
            out.effect(ObjectEffect::TellFreed {
                node,
                address,
                objects,
            });
        }
        for (_, (owner, objects)) in self.lost_locations.drain() {
            out.effect(ObjectEffect::TellLost { owner, objects });
        }
    }
}
