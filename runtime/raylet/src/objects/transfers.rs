//! Work for objects that is under way: fetches, sendings, messages to other nodes, disk and memory.

use std::collections::HashMap;
use std::sync::Arc;

use sparkray_common::{FeedId, NodeId, ObjectId, WorkerAddress};
use sparkray_object_store::{IoExecutor, IoJob, MappedRange, PullTicket, PushSource};
use sparkray_proto::{AdoptFeed, Failure, FreeEntry, ObjectLocation};
use sparkray_rpc::{FrameSender, Identity};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span};

use super::feeds::{ask_feed, forward_feed};
use super::lost::{tell_freed, tell_lost};
use super::transfer::{pull, push};
use crate::gateway::Peers;
use crate::input::Input;
use crate::node_info::NodeInfo;
use crate::tasks::Tasks;

#[derive(Debug)]
struct Pull {
    cancel: CancellationToken,
    room: Option<oneshot::Sender<Result<MappedRange, Failure>>>,
}

/// The work, and what it is done with.
pub(crate) struct Transfers {
    node: Arc<NodeInfo>,
    identity: Identity,
    peers: Peers,
    executor: IoExecutor,
    pulls: HashMap<PullTicket, Pull>,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
}

impl Transfers {
    pub(crate) fn new(
        node: Arc<NodeInfo>,
        identity: Identity,
        peers: Peers,
        executor: IoExecutor,
        inputs: mpsc::Sender<Input>,
        tasks: Tasks,
    ) -> Self {
        Self {
            node,
            identity,
            peers,
            executor,
            pulls: HashMap::new(),
            inputs,
            tasks,
        }
    }

    /// Sends an object to the raylet that asked for it.
    pub(crate) fn push(&self, sender: FrameSender, correlation: u64, object: ObjectId, source: PushSource) {
        let span = debug_span!("push", object_id = %object, size = source.size);
        let work = push(sender, correlation, object, source, self.inputs.clone());
        self.tasks.spawn(work.instrument(span));
    }

    /// Fetches an object.
    pub(crate) fn pull(&mut self, ticket: PullTicket, object: ObjectId, locations: Vec<ObjectLocation>) {
        let cancel = CancellationToken::new();
        let under_way = Pull {
            cancel: cancel.clone(),
            room: None,
        };
        self.pulls.insert(ticket, under_way);
        let span = debug_span!("pull", object_id = %object);
        let (peers, inputs) = (self.peers.clone(), self.inputs.clone());
        let work = pull(peers, ticket, object, locations, inputs, cancel);
        self.tasks.spawn(work.instrument(span));
    }

    /// A fetch waits for room.
    pub(crate) fn await_room(
        &mut self,
        ticket: PullTicket,
        room: oneshot::Sender<Result<MappedRange, Failure>>,
    ) {
        if let Some(pull) = self.pulls.get_mut(&ticket) {
            pull.room = Some(room);
        }
    }

    /// Where a fetch may write.
    pub(crate) fn give_room(&mut self, ticket: PullTicket, room: Result<MappedRange, Failure>) {
        let waiting = self.pulls.get_mut(&ticket).and_then(|pull| pull.room.take());
        if let Some(answer) = waiting {
            // A fetch that was cancelled meanwhile drops its range.
            drop(answer.send(room));
        } else {
            debug!("room came for a fetch that is over");
        }
    }

    /// Nobody needs a fetch any more. It reports its end once it does not touch its range any more.
    pub(crate) fn cancel_pull(&self, ticket: PullTicket) {
        if let Some(pull) = self.pulls.get(&ticket) {
            pull.cancel.cancel();
        }
    }

    /// A fetch has reported its end.
    pub(crate) fn forget_pull(&mut self, ticket: PullTicket) {
        self.pulls.remove(&ticket);
    }

    /// Begins the store's work on disk or memory.
    pub(crate) fn start(&mut self, job: IoJob) {
        self.executor.start(job);
    }

    /// Tells other nodes which blocks of a feed they are to keep, and then the client that they do.
    pub(crate) fn forward_feed(
        &self,
        client: FrameSender,
        correlation: u64,
        nodes: Vec<(NodeId, String)>,
        message: AdoptFeed,
    ) {
        let peers = self.peers.clone();
        self.tasks
            .spawn(forward_feed(peers, nodes, message, client, correlation));
    }

    /// Asks the raylet of a feed's owner what became of the feed.
    pub(crate) fn ask_feed(&self, feed: FeedId, owner: WorkerAddress) {
        self.tasks
            .spawn(ask_feed(self.peers.clone(), feed, owner, self.inputs.clone()));
    }

    /// Tells another node what was freed.
    pub(crate) fn tell_freed(&self, node: NodeId, address: String, objects: Vec<FreeEntry>) {
        let (peers, inputs) = (self.peers.clone(), self.inputs.clone());
        self.tasks
            .spawn(tell_freed(peers, node, address, objects, inputs));
    }

    /// Tells an owner on another node which copies are gone here.
    pub(crate) fn tell_lost(&self, owner: WorkerAddress, objects: Vec<ObjectId>) {
        let (identity, node) = (self.identity.clone(), Arc::clone(&self.node));
        self.tasks.spawn(tell_lost(identity, node, owner, objects));
    }
}
