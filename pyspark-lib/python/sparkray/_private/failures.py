"""Which exception users see for a failure that the runtime reports by its code."""

from __future__ import annotations

from sparkray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorUnavailableError,
    AuthenticationError,
    GetTimeoutError,
    ObjectFetchTimedOutError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayActorError,
    RaySystemError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

# sparkray_common::ErrorCode -> the exception that users see.
_CLASS_OF_CODE: dict[int, type[Exception]] = {
    1: RaySystemError,  # Internal
    2: ValueError,  # InvalidArgument
    3: ActorHandleNotFoundError,  # NotFound
    4: ActorAlreadyExistsError,  # AlreadyExists
    5: AuthenticationError,  # Unauthenticated
    6: RaySystemError,  # Stale
    7: RaySystemError,  # Unavailable
    8: GetTimeoutError,  # DeadlineExceeded
    9: ObjectStoreFullError,  # OutOfStorage
    10: ObjectLostError,  # ObjectLost
    11: OwnerDiedError,  # OwnerDied
    12: WorkerCrashedError,  # WorkerDied
    13: ActorDiedError,  # ActorDied
    14: ActorUnavailableError,  # ActorUnavailable
    15: TaskUnschedulableError,  # Infeasible
    16: TaskCancelledError,  # Cancelled
    17: RaySystemError,  # VersionMismatch
    18: RaySystemError,  # NotRunning
    19: ObjectFetchTimedOutError,  # FetchTimedOut
}


def from_failure(code: int, message: str, actor_id: str | None = None) -> Exception:
    """The exception for a failure that the runtime reports: `code` is a number of sparkray_common::ErrorCode."""
    kind = _CLASS_OF_CODE.get(code, RaySystemError)
    if issubclass(kind, RayActorError):
        error = kind.__new__(kind)
        RayActorError.__init__(error, actor_id, message)
        return error
    if issubclass(kind, ObjectLostError):
        return kind._saying(message)
    if kind is TaskCancelledError:
        return TaskCancelledError(error_message=message)
    return kind(message)
