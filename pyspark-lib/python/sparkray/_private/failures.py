"""Which exception users see for a failure that the runtime reports by its code."""

from __future__ import annotations

from sparkray._private.error_codes import ErrorCode
from sparkray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AuthenticationError,
    GetTimeoutError,
    ObjectFetchTimedOutError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayActorError,
    RaySystemError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)

# The exception that users see.
_CLASS_OF_CODE: dict[int, type[Exception]] = {
    ErrorCode.INTERNAL: RaySystemError,
    ErrorCode.INVALID_ARGUMENT: ValueError,
    ErrorCode.NOT_FOUND: ActorHandleNotFoundError,
    ErrorCode.ALREADY_EXISTS: ActorAlreadyExistsError,
    ErrorCode.UNAUTHENTICATED: AuthenticationError,
    ErrorCode.STALE: RaySystemError,
    ErrorCode.UNAVAILABLE: RaySystemError,
    ErrorCode.DEADLINE_EXCEEDED: GetTimeoutError,
    ErrorCode.OUT_OF_STORAGE: ObjectStoreFullError,
    ErrorCode.OBJECT_LOST: ObjectLostError,
    ErrorCode.OWNER_DIED: OwnerDiedError,
    ErrorCode.WORKER_DIED: WorkerCrashedError,
    ErrorCode.ACTOR_DIED: ActorDiedError,
    ErrorCode.ACTOR_UNAVAILABLE: ActorUnavailableError,
    ErrorCode.INFEASIBLE: TaskUnschedulableError,
    ErrorCode.CANCELLED: TaskCancelledError,
    ErrorCode.VERSION_MISMATCH: RaySystemError,
    ErrorCode.NOT_RUNNING: RaySystemError,
    ErrorCode.FETCH_TIMED_OUT: ObjectFetchTimedOutError,
    ErrorCode.ACTOR_UNSCHEDULABLE: ActorUnschedulableError,
    ErrorCode.RUNTIME_ENV_SETUP: RuntimeEnvSetupError,
    ErrorCode.TASK_PLACEMENT_GROUP_REMOVED: TaskPlacementGroupRemoved,
    ErrorCode.ACTOR_PLACEMENT_GROUP_REMOVED: ActorPlacementGroupRemoved,
}


def from_failure(code: int, message: str, actor_id: str | None = None, task_id: str | None = None) -> Exception:
    """The exception for a failure that the runtime reports: `code` is a number of sparkray_common::ErrorCode."""
    kind = _CLASS_OF_CODE.get(code, RaySystemError)
    if issubclass(kind, RayActorError):
        error = kind.__new__(kind)
        RayActorError.__init__(error, actor_id, message)
        return error
    if issubclass(kind, ObjectLostError):
        return kind._saying(message)
    if kind is TaskCancelledError:
        return TaskCancelledError(task_id) if task_id else TaskCancelledError(error_message=message)
    return kind(message)
