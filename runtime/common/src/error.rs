//! One table of error codes: what a caller may decide on. Messages are for people.

/// The kind of a failure, stable across processes and languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ErrorCode {
    /// A bug, or a failure without a better name.
    Internal = 1,
    /// The caller's argument cannot be used.
    InvalidArgument = 2,
    /// The named thing does not exist.
    NotFound = 3,
    /// The name or id is taken.
    AlreadyExists = 4,
    /// The sender did not prove that it knows the token.
    Unauthenticated = 5,
    /// The sender belongs to another cluster, an earlier head or a dead node.
    Stale = 6,
    /// The other process cannot be reached.
    Unavailable = 7,
    /// The wait ended before the answer came.
    DeadlineExceeded = 8,
    /// Neither store nor disk has room.
    OutOfStorage = 9,
    /// The object was lost with its node or its writer.
    ObjectLost = 10,
    /// The owner of the object died.
    OwnerDied = 11,
    /// The worker died while it ran the task.
    WorkerDied = 12,
    /// The actor is dead.
    ActorDied = 13,
    /// The actor restarts or cannot be reached for now.
    ActorUnavailable = 14,
    /// No node can ever meet the resource request.
    Infeasible = 15,
    /// The request was cancelled.
    Cancelled = 16,
    /// Versions of sparkray or Python differ.
    VersionMismatch = 17,
    /// The process is not part of a running cluster.
    NotRunning = 18,
    /// No node that has the object could be reached in time, and none of them is known to be dead.
    FetchTimedOut = 19,
    /// No node may ever have the actor.
    ActorUnschedulable = 20,
    /// No worker can start in the environment that its program asked for.
    RuntimeEnvSetup = 21,
    /// The placement group that the task was to run in was removed.
    TaskPlacementGroupRemoved = 22,
    /// The placement group that the actor was to live in was removed before the actor was created.
    ActorPlacementGroupRemoved = 23,
}

impl ErrorCode {
    /// Every code, in order of its number.
    pub const ALL: [Self; 23] = [
        Self::Internal,
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Unauthenticated,
        Self::Stale,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::OutOfStorage,
        Self::ObjectLost,
        Self::OwnerDied,
        Self::WorkerDied,
        Self::ActorDied,
        Self::ActorUnavailable,
        Self::Infeasible,
        Self::Cancelled,
        Self::VersionMismatch,
        Self::NotRunning,
        Self::FetchTimedOut,
        Self::ActorUnschedulable,
        Self::RuntimeEnvSetup,
        Self::TaskPlacementGroupRemoved,
        Self::ActorPlacementGroupRemoved,
    ];

    /// Reads a code from a message; an unknown one is [`ErrorCode::Internal`].
    pub fn from_number(number: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| *code as u32 == number)
            .unwrap_or(Self::Internal)
    }

    /// The number that messages carry.
    pub fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_their_numbers() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), code);
        }
        assert_eq!(ErrorCode::from_number(9999), ErrorCode::Internal);
    }
}
