//! What is done outside of the parts.

use std::collections::HashSet;
use std::time::Duration;

use sparkray_common::{FeedId, NodeId, ObjectId, SharedMoment, WorkerAddress, WorkerId, WorkerKey};
use sparkray_object_store::{IoJob, MappedRange, PullTicket, PushSource};
use sparkray_proto::{AdoptFeed, Failure, FreeEntry, HeadRequest, LogBatch, ObjectLocation};
use sparkray_rpc::{Frame, SecuredSocket};
use tokio::sync::oneshot;

/// A worker that the zygote is to be asked for, and the connection that it will have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Birth {
    pub worker: WorkerId,
    pub connection: u64,
    pub key: WorkerKey,
    /// Number of the zygote.
    pub zygote: u64,
}

/// Something that only sockets, processes, files or tasks can do.
#[derive(Debug)]
pub enum Effect {
    /// Reads from this socket, whose connection has this number.
    Serve {
        connection: u64,
        socket: SecuredSocket,
    },
    Send {
        connection: u64,
        frame: Frame,
    },
    /// Frames that belong together, however many.
    SendAll {
        connection: u64,
        frames: Vec<Frame>,
    },
    /// The answer to a worker's registration carries this node's lease.
    SendWithLease {
        connection: u64,
        frame: Frame,
    },
    /// Lines for a driver of this node, unless it does not read.
    SendLog {
        connection: u64,
        batch: LogBatch,
    },
    /// Something that a driver can do without: it is lost when the driver does not read.
    SendIfRead {
        connection: u64,
        frame: Frame,
    },
    /// Closes both directions. The end comes as an input.
    Close {
        connection: u64,
    },
    /// Reads what the socket still holds and no more; what was sent still leaves.
    Drain {
        connection: u64,
    },
    /// Drains the connection when this process, which is no child, ends.
    WatchProcess {
        connection: u64,
        pid: u32,
    },
    /// The end of the process behind a connection that is over is an input.
    AwaitProcess {
        connection: u64,
    },
    /// Forgets a connection; what was sent still leaves.
    Release {
        connection: u64,
    },
    /// Callers are let in to a process of this node from now on.
    OpenRoute {
        worker: WorkerId,
    },
    CloseRoute {
        worker: WorkerId,
    },
    /// The head has ended: callers are told that there is none.
    CloseHeadRoute,
    /// A node died: who uses a connection to it, or waits for one, hears that.
    ForgetPeer {
        node: NodeId,
    },
    /// Asks zygotes for workers; starts one whose number is new.
    Fork {
        births: Vec<Birth>,
    },
    /// A zygote ends. The workers that it forked go on.
    EndZygote {
        zygote: u64,
    },
    /// Kills a child that was not collected.
    Kill {
        pid: u32,
    },
    /// An input after this time.
    KillLater {
        worker: WorkerId,
        grace: Duration,
    },
    /// Kills what these workers left behind. Of the children these are known.
    KillOrphans {
        gone: HashSet<WorkerId>,
        known: HashSet<u32>,
    },
    Object(ObjectEffect),
    Head(HeadEffect),
}

/// Work for objects.
#[derive(Debug)]
pub enum ObjectEffect {
    /// Sends an object to the raylet that asked for it.
    Push {
        connection: u64,
        correlation: u64,
        object: ObjectId,
        source: PushSource,
    },
    /// Fetches an object from one of these nodes.
    Pull {
        ticket: PullTicket,
        object: ObjectId,
        locations: Vec<ObjectLocation>,
    },
    /// A fetch waits until it is told where to write.
    AwaitRoom {
        ticket: PullTicket,
        room: oneshot::Sender<Result<MappedRange, Failure>>,
    },
    /// Where a fetch may write.
    GiveRoom {
        ticket: PullTicket,
        room: Result<MappedRange, Failure>,
    },
    CancelPull {
        ticket: PullTicket,
    },
    /// A fetch has reported its end.
    ForgetPull {
        ticket: PullTicket,
    },
    /// Work of the store on disk and memory.
    Store(IoJob),
    /// Tells other nodes which blocks of a feed they are to keep; answers when all of them do.
    ForwardFeed {
        connection: u64,
        correlation: u64,
        nodes: Vec<(NodeId, String)>,
        message: AdoptFeed,
    },
    /// Asks the raylet of a feed's owner what became of the feed.
    AskFeed {
        feed: FeedId,
        owner: WorkerAddress,
    },
    /// Tells another node what was freed.
    TellFreed {
        node: NodeId,
        address: String,
        objects: Vec<FreeEntry>,
    },
    /// Tells an owner on another node which copies are gone here.
    TellLost {
        owner: WorkerAddress,
        objects: Vec<ObjectId>,
    },
}

/// What is for the head, or about it.
#[derive(Debug)]
pub enum HeadEffect {
    /// Asks the head for a client.
    Call {
        connection: u64,
        correlation: u64,
        request: HeadRequest,
    },
    /// Begins a driver's job, or has a participant take part in one. The head's answer is an input, for the raylet to
    /// know the job before its client does.
    AskForJob {
        connection: u64,
        correlation: u64,
        request: HeadRequest,
    },
    /// A connection from another node for the head of this one.
    Pass { frame: Frame },
    /// Asks the raylet of the head's node whether the head runs.
    AskStall {
        node: NodeId,
        address: String,
        asked: Duration,
    },
    /// Answers such a question.
    TellStall { connection: u64, correlation: u64 },
    /// When workers must have ended.
    PublishLease(SharedMoment),
}

impl From<ObjectEffect> for Effect {
    fn from(effect: ObjectEffect) -> Self {
        Self::Object(effect)
    }
}

impl From<HeadEffect> for Effect {
    fn from(effect: HeadEffect) -> Self {
        Self::Head(effect)
    }
}
