//! What reaches the raylet's loop.

use std::time::Duration;

use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_object_store::{IoOutcome, MappedRange, PullTicket, PushTicket};
use sparkray_proto::{AdoptFeed, Failure, FreeEntry, HeadReply, head_message};
use sparkray_rpc::{Accepted, Frame};
use tokio::sync::oneshot;

use crate::outbox::Birth;

/// Something happened; the loop handles one after the other.
#[derive(Debug)]
pub enum Input {
    /// A caller went through the handshake. `local`: over the Unix socket.
    Accepted { accepted: Accepted, local: bool },
    /// A client said something.
    Frame { connection: u64, frame: Frame },
    /// A client's connection ended and was drained.
    Closed { connection: u64, cause: String },
    /// The process of a local client ended after its connection did.
    ProcessEnded { connection: u64 },
    /// Children of this process ended and were collected.
    ChildrenEnded(Vec<(u32, ChildEnd)>),
    /// These workers cannot be asked for now; with the failure, unless the zygote is only busy.
    NotForked {
        births: Vec<Birth>,
        error: Option<String>,
    },
    /// The zygote's news.
    /// Of the zygote with this number.
    Zygote { zygote: u64, event: ZygoteEvent },
    /// Lines that a worker wrote.
    Output {
        worker_id: WorkerId,
        is_stderr: bool,
        lines: Vec<String>,
    },
    /// One of a worker's two pipes ended.
    OutputEnded { worker_id: WorkerId },
    /// A worker had time enough to end by itself.
    KillWorker { worker_id: WorkerId },
    /// The head's news.
    Head(HeadEvent),
    /// What the raylet of the head's node says: asked and answered at these times, how long the head has not run then.
    HeadStall {
        asked: Duration,
        answered: Duration,
        stall: Option<Duration>,
    },
    /// Ten times a second: the time by the lease's clock, and how long the head of this node provably has not run.
    Tick {
        clock: Duration,
        head_stall: Option<Duration>,
    },
    /// A fetch knows the size of its object and needs room for it.
    PullNeedsRoom {
        ticket: PullTicket,
        size: u64,
        owner: WorkerAddress,
        room: oneshot::Sender<Result<MappedRange, Failure>>,
    },
    /// A fetch ended, which took so long.
    PullEnded {
        ticket: PullTicket,
        object: ObjectId,
        took: Duration,
        outcome: Result<MappedRange, Failure>,
    },
    /// The winners of a feed, as the raylet of its owner knows them.
    FeedSettled(AdoptFeed),
    /// A message about freed objects to another node is over; `left` is what it did not take.
    FreesTold { node: NodeId, left: Vec<FreeEntry> },
    /// An object was sent to another node, or as many bytes of it as that node took, or its bytes cannot be read.
    PushEnded {
        ticket: PushTicket,
        outcome: Result<u64, String>,
    },
    /// The store's work on disk or memory is done.
    StoreIo(IoOutcome),
}

/// What is known about the head.
#[derive(Debug)]
pub enum HeadEvent {
    /// The head said something.
    Message(Box<head_message::Message>),
    /// The head's answer to a driver that began its job.
    JobAnswered {
        connection: u64,
        correlation: u64,
        reply: Box<HeadReply>,
    },
    /// The head has what was sent at this time of the lease's clock.
    Acknowledged { sent: Duration },
    /// The head has ended: nobody takes the place of this node.
    Lost { cause: String },
    /// The head does not want this node: it was declared dead.
    Refused(Failure),
}

/// What the zygote task tells the raylet.
#[derive(Debug)]
pub enum ZygoteEvent {
    /// It was started; it is not ready yet.
    Started { pid: u32 },
    /// It can fork now.
    Ready {
        pid: u32,
        python_version: String,
        sparkray_version: String,
    },
    /// A worker runs.
    Forked { worker_id: WorkerId, pid: u32 },
    /// A worker could not be made.
    Failed { worker_id: WorkerId, error: String },
    /// Zygotes fail again and again; no worker will come any more.
    GaveUp { cause: String },
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl std::fmt::Display for ChildEnd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "it exited with code {code}"),
            Self::Killed(9) => {
                formatter.write_str("it was killed by SIGKILL (by hand, or for using too much memory)")
            }
            Self::Killed(11) => formatter.write_str("it crashed with SIGSEGV"),
            Self::Killed(signal) => write!(formatter, "it was killed by signal {signal}"),
        }
    }
}
