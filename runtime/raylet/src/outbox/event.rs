//! What one part has to say to another.

use std::time::Duration;

use prost::bytes::Bytes;
use sparkray_common::{WorkerId, WorkerKey};
use sparkray_proto::{FrameKind, LogBatch, node_message};
use sparkray_rpc::Frame;

/// Something happened in one part; the router hands it to the parts that it concerns.
#[derive(Debug)]
pub(crate) enum Event {
    /// Resources, workers or requests changed: leases are to be decided on.
    LeasesChanged,
    /// Every client of this node that has a use for notices is to hear this.
    Notify { kind: FrameKind, meta: Bytes },
    /// For a process of this node, if it is connected.
    SendToProcess { worker: WorkerId, frame: Frame },
    /// For the head.
    TellHead(Box<node_message::Message>),
    /// Lines for a job's driver, wherever it is.
    Log(LogBatch),
    /// A connection counts no more: it is to be closed, and nothing that comes over it is heard.
    ConnectionDropped { connection: u64, cause: &'static str },
    /// A lease ended in good order: its worker can serve another one.
    WorkerReturned { worker: WorkerId },
    /// A worker is to be killed at once.
    KillWorker { worker: WorkerId },
    /// A worker is to end by itself; it is killed when it has not done so in time.
    EndWorker {
        worker: WorkerId,
        reason: String,
        /// `None`: the usual one.
        grace: Option<Duration>,
    },
    /// The zygote with this number and key is to be asked for so many workers.
    ForkWorkers {
        zygote: u64,
        key: WorkerKey,
        count: usize,
    },
    /// A worker that was asked for never came to be: its connection is of no use.
    WorkerUnborn { connection: u64 },
    /// A worker is gone for good, with the reason in words.
    WorkerEnded {
        worker: WorkerId,
        connection: u64,
        cause: String,
    },
}
