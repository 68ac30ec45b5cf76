//! What the store asks of the raylet.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{FeedId, ObjectId, WorkerAddress};
use sparkray_proto::{CreateObjectReply, Failure, ObjectLocation, ObjectReady};

use crate::io::IoJob;
use crate::shm::MappedRange;
use crate::spill::SpillFile;

/// The raylet's name for one connection; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// One fetch of an object from another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PullTicket(pub(crate) u64);

/// One sending of an object to another node; pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushTicket(pub(crate) u64);

/// What the raylet has to do.
#[derive(Debug)]
pub enum StoreEvent {
    /// Send this reply, with the descriptor if there is one.
    Created {
        /// To this client.
        client: ClientId,
        /// With the correlation id of its request.
        correlation: u64,
        /// Frame kind `CreateObjectReply`.
        reply: CreateObjectReply,
        /// A segment that the client has not got yet, writable.
        descriptor: Option<OwnedFd>,
    },
    /// Send this reply, with the descriptor if there is one. The client holds a use of the object now.
    Ready {
        /// To this client.
        client: ClientId,
        /// With the correlation id of its request.
        correlation: u64,
        /// Frame kind `ObjectReady`.
        reply: ObjectReady,
        /// A segment that the client has not got yet, read-only.
        descriptor: Option<OwnedFd>,
    },
    /// Send these bytes to the raylet that asked with `push`, then call `push_finished`.
    PushReady {
        /// The asking connection.
        client: ClientId,
        /// Its correlation id.
        correlation: u64,
        /// The object.
        object: ObjectId,
        /// The bytes, pinned until `push_finished`, or why there are none.
        source: Result<PushSource, Failure>,
    },
    /// Fetch the object from one of these nodes.
    StartPull {
        /// Names this fetch.
        ticket: PullTicket,
        /// The object.
        object: ObjectId,
        /// Nodes that had a copy, this one excluded.
        locations: Vec<ObjectLocation>,
    },
    /// Answer to `pull_room`.
    PullRoom {
        /// The fetch.
        ticket: PullTicket,
        /// Where to write the bytes, or why there is no room: the fetch is over then.
        room: Result<MappedRange, Failure>,
    },
    /// Nobody needs this fetch any more: stop it and call `pull_failed`.
    CancelPull {
        /// The fetch.
        ticket: PullTicket,
    },
    /// Nothing was heard of a feed for long: ask the raylet of its owner with `FeedQuery`, and give its answer to
    /// `adopt_feed` when the winners are known. An owner that still works on the feed is asked again later.
    AskFeed {
        /// The feed.
        feed: FeedId,
        /// Its owner.
        owner: WorkerAddress,
    },
    /// Give this to [`crate::IoExecutor::start`].
    Io(IoJob),
    /// This node has no copy of the object any more, though its owner has not freed it: send the owner
    /// `LocationLost`.
    CopyGone {
        /// The object.
        object: ObjectId,
        /// Its owner.
        owner: WorkerAddress,
        /// True: the bytes were made here and are lost. False: a copy of another node's object was evicted.
        lost: bool,
    },
}

/// The bytes of an object for another node.
#[derive(Debug)]
pub struct PushSource {
    /// For `push_finished`.
    pub ticket: PushTicket,
    /// Bytes in the object.
    pub size: u64,
    /// Its owner.
    pub owner: WorkerAddress,
    /// Where they are. Cheap to clone into a blocking thread.
    pub bytes: PushBytes,
}

/// Where the bytes of an object are.
#[derive(Debug, Clone)]
pub enum PushBytes {
    /// In memory.
    Memory(Arc<MappedRange>),
    /// On disk; reading blocks.
    File(SpillFile),
}

struct Window(Arc<MappedRange>);

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl PushBytes {
    /// Whether [`Self::read`] does disk I/O and belongs on a blocking thread.
    pub fn blocks(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The bytes from `offset`, at most `len` of them; without a copy when they are in memory.
    /// A spill file whose bytes have changed is an error.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(range) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(range.len());
                let end = start.saturating_add(len).min(range.len());
                Ok(Bytes::from_owner(Window(Arc::clone(range))).slice(start..end))
            }
            Self::File(file) => file.read_at(offset, len),
        }
    }
}
