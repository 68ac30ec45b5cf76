//! The numbers of the frames. A reply has the correlation id of its request.

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Which message a frame's meta holds. Each variant has the name of its message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum FrameKind { $($(#[$doc])* $name = $number,)* }

        impl FrameKind {
            /// Reads the number from a frame's header.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

frame_kinds! {
    // Between core workers.
    WorkerHello = 1,
    PushTask = 2,
    PushTaskReply = 3,
    ReleaseReturnPins = 4,
    GetObject = 5,
    GetObjectReply = 6,
    AddBorrower = 7,
    /// Reply without content.
    Empty = 8,
    RemoveBorrower = 9,
    LocationLost = 10,
    AcknowledgeReplies = 11,
    RegisterAgain = 12,
    AdoptObject = 13,
    CancelTask = 14,
    RequestOwnerToCancelTask = 15,
    RequestOwnerToCancelTaskReply = 16,
    // Between a client and a raylet.
    RegisterClient = 32,
    RegisterClientReply = 33,
    RequestWorkerLease = 34,
    RequestWorkerLeaseReply = 35,
    ReturnWorkerLease = 36,
    CancelWorkerLease = 37,
    LeaseWanted = 38,
    LeaseBroken = 39,
    WorkerBlocked = 40,
    HeadRequest = 41,
    HeadReply = 42,
    WatchActor = 43,
    ActorUpdate = 44,
    CreateActor = 45,
    CreateActorReply = 46,
    /// Carries a descriptor.
    IncomingConnection = 47,
    ExitWorker = 48,
    NodeDied = 49,
    WorkerDied = 50,
    HeadLost = 51,
    WorkerLabel = 52,
    LogBatch = 53,
    InfeasibleDemand = 61,
    HeadStall = 54,
    HeadStallReply = 55,
    /// From the head to the raylet of its node; carries the descriptor of the moment of its last tick.
    HeadClock = 56,
    ActorExits = 57,
    GetMetrics = 58,
    MetricsText = 59,
    ExitWorkerReply = 60,
    /// To participants.
    JobFinished = 62,
    // The object store.
    CreateObject = 64,
    /// May carry a descriptor.
    CreateObjectReply = 65,
    SealObject = 66,
    AbortObject = 67,
    GetObjects = 68,
    /// May carry a descriptor.
    ObjectReady = 69,
    ReleaseObjects = 70,
    FreeObjects = 71,
    AdoptFeed = 72,
    PullObject = 73,
    ObjectChunk = 74,
    FeedQuery = 75,
}
