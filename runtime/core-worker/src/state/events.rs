//! What parts tell those above them. A part calls downwards only; what concerns a part above becomes an event, which the
//! router hands on when the handler that runs is over. So nothing changes under a handler's hands, however long a chain of
//! consequences is.

use sparkray_common::{ActorId, LeaseId, TaskId, WorkerAddress};

/// Who waits for objects and is in a part above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependent {
    /// A task whose argument it is.
    Task(TaskId),
    /// An actor whose creation needs it.
    Actor(ActorId),
}

/// Something that a part above has to hear.
#[derive(Debug)]
pub(super) enum Event {
    /// An object that was waited for is there, or never will be.
    DependencyResolved(Dependent),
    /// A call was not sent, because its connection had closed.
    PushLost(TaskId),
    /// A request for a lease was not sent, because its connection had closed.
    LeaseRequestLost(LeaseId),
    /// The head was not asked to create an actor, because the connection to the raylet had closed.
    CreationLost(ActorId),
    /// Something is kept for a process with which there is no connection.
    PeerLost(WorkerAddress),
}
