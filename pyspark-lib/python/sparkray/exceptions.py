"""Exceptions with Ray's names and hierarchy.

A task's own exception arrives as a :class:`RayTaskError` that is also an instance of the exception's class, so that
`except ValueError` works; its text is the worker's traceback.
"""

from __future__ import annotations

import os
import pickle
import traceback
import types
import weakref
from collections.abc import Callable
from typing import Any

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


class RayError(Exception):
    """Base of every exception of the runtime (Ray: ray.exceptions.RayError)."""


class CrossLanguageError(RayError):
    """A task in another language failed."""


class TaskCancelledError(RayError):
    """The task was cancelled before it had a result."""


class LocalRayletDiedError(RayError):
    """The raylet of this node ended."""


class WorkerCrashedError(RayError):
    """The worker process ended while it ran the task, and no retry was left."""


class RayActorError(RayError):
    """An actor cannot answer: see the subclasses ActorDiedError and ActorUnavailableError.

    Attributes:
        actor_id: hexadecimal id of the actor, or None when it is not known.
    """

    def __init__(
        self,
        error_msg: str = "The actor experienced an error before finishing this task.",
        actor_id: str | None = None,
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(error_msg, actor_id, actor_init_failed)
        self.error_msg = error_msg
        self.actor_id = actor_id
        self._actor_init_failed = actor_init_failed

    def __str__(self) -> str:
        return self.error_msg

    @property
    def actor_init_failed(self) -> bool:
        """Whether the constructor raised."""
        return self._actor_init_failed

    @property
    def preempted(self) -> bool:
        """Whether the actor's node was taken away on purpose: always False here."""
        return False


class ActorDiedError(RayActorError):
    """The actor is dead: its process ended and no restart was left, it was killed, or its constructor raised."""

    def __init__(
        self,
        error_msg: str = "The actor died unexpectedly before finishing this task.",
        actor_id: str | None = None,
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(error_msg, actor_id, actor_init_failed)

    @staticmethod
    def from_task_error(task_error: RayTaskError) -> ActorDiedError:
        """The error of an actor whose constructor raised `task_error`."""
        text = f"The actor died because of an error raised in its creation task, {RayTaskError.__str__(task_error)}"
        error = ActorDiedError(text, task_error.actor_id, True)
        error.__cause__ = task_error
        return error


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached for now, for example while it restarts. The call may or may not have run."""


class RaySystemError(RayError):
    """The runtime itself failed, or is not running in this process."""

    def __init__(self, client_exc: object = "", traceback_str: str | None = None) -> None:
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        text = str(self.client_exc)
        if self.traceback_str:
            text += f"\ntraceback: {self.traceback_str}"
        return text


class AuthenticationError(RayError):
    """The other side did not accept this cluster's token."""


class RpcError(RayError):
    """A connection between two processes of the cluster broke."""

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class UserCodeException(RayError):
    """An exception of user code, named so by a library."""


class ObjectStoreFullError(RayError):
    """The value has no room in the object store, nor on disk."""


class OutOfDiskError(RayError):
    """The directories for spilled objects are full."""


class OutOfMemoryError(RayError):
    """The node ran out of memory and ended the task."""


class NodeDiedError(RayError):
    """The node that was needed is dead."""


class ObjectLostError(RayError):
    """Every copy of the object is gone, and it is not computed again."""


class ObjectFetchTimedOutError(ObjectLostError):
    """The object could not be fetched from another node in time."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed although a reference is left."""


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand."""


class OwnerDiedError(ObjectLostError):
    """The process that made the reference ended; it alone knew where the value is."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and could not be computed again."""


class GetTimeoutError(RayError, TimeoutError):
    """`get` waited for `timeout` seconds in vain."""


class AsyncioActorExit(RayError):
    """Ends an async actor."""


class RuntimeEnvSetupError(RayError):
    """The environment of a worker could not be made."""


class TaskPlacementGroupRemoved(RayError):
    """The task's placement group was removed."""


class ActorPlacementGroupRemoved(RayError):
    """The actor's placement group was removed."""


class PendingCallsLimitExceeded(RayError):
    """Too many calls of the actor wait."""


class TaskUnschedulableError(RayError):
    """No node can ever run the task."""


class ActorUnschedulableError(RayError):
    """No node can ever run the actor."""


class UnserializableException(RayError):
    """The task's exception could not be sent; the text holds its traceback."""


class ActorAlreadyExistsError(ValueError, RayError):
    """The actor's name is taken in its namespace."""


class ActorHandleNotFoundError(ValueError, RayError):
    """There is no actor of this name or id."""


# ---------------------------------------------------------------------------------------------- errors of tasks


class RayTaskError(RayError):
    """A task or actor call raised an exception.

    Attributes:
        cause: the exception that the task raised.
        function_name: function, or Class.method.
        traceback_str: the worker's traceback.
        pid: process id of the worker.
        ip: address of the worker's node.
        actor_id: hexadecimal id of the actor, or None.
    """

    cause: BaseException

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        pid: int = 0,
        ip: str = "",
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        # Not super(): next to it may stand the class of the cause, whose arguments are others.
        Exception.__init__(self, function_name, traceback_str, cause, pid, ip, actor_repr, actor_id)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = actor_id
        # Set for a cause whose own way of pickling cannot be read back: class, args and attributes travel instead.
        self._cause_by_fields = False

    def fields(self) -> tuple[Any, ...]:
        """The arguments that make the same error again."""
        return (
            self.function_name,
            self.traceback_str,
            self.cause,
            self.pid,
            self.ip,
            self.actor_repr,
            self.actor_id,
        )

    def __reduce__(self) -> tuple[Callable[..., RayTaskError], tuple[Any, ...]]:
        fields = list(self.fields())
        if not self._cause_by_fields:
            return _rebuild, (*fields, isinstance(self, _CauseView))
        fields[2] = _fields_of(self.cause)
        return _rebuild_by_fields, (*fields, isinstance(self, _CauseView))

    def as_instanceof_cause(self) -> RayTaskError:
        """The same error as an instance of the cause's class too.

        Itself when that class cannot be subclassed, and for SystemExit and KeyboardInterrupt, which would end whoever
        asks for the result.
        """
        cause_class = type(self.cause)
        if isinstance(self, _CauseView) or issubclass(RayTaskError, cause_class):
            return self
        if not issubclass(cause_class, Exception) and not hasattr(cause_class, "derive"):
            return self
        try:
            view = _view_class(cause_class)(*self.fields())
            view._cause_by_fields = self._cause_by_fields
            if isinstance(view, OSError):
                OSError.__init__(view, *self.cause.args)  # errno, strerror
                view.filename = getattr(self.cause, "filename", None)
            view.args = self.cause.args
        except Exception:  # a cause with a will of its own: a final class, a property named `args`, ...
            return self
        view.__cause__ = self.cause
        return view

    def __str__(self) -> str:
        where = f"pid={self.pid}, ip={self.ip}"
        if self.actor_id is not None:
            where += f", actor_id={self.actor_id}"
        if self.actor_repr:
            where += f", repr={self.actor_repr}"
        head = f"ray::{self.function_name}() ({where})"
        lines = self.traceback_str.strip().split("\n")
        return "\n".join(head if line.startswith("Traceback (most recent") else line for line in lines)


class _CauseView:
    """Marks the classes that join RayTaskError and the class of a cause."""


_view_classes: weakref.WeakKeyDictionary[type, type[RayTaskError]] = weakref.WeakKeyDictionary()


def _rebuild(*fields: Any) -> RayTaskError:
    error = RayTaskError(*fields[:-1])
    return error.as_instanceof_cause() if fields[-1] else error


def _rebuild_by_fields(name: str, text: str, cause_fields: tuple[Any, ...], *rest: Any) -> RayTaskError:
    error = RayTaskError(name, text, _exception_from(*cause_fields), *rest[:-1])
    error._cause_by_fields = True
    return error.as_instanceof_cause() if rest[-1] else error


def _has_own_new(kind: type) -> bool:
    return isinstance(kind.__new__, types.FunctionType)


def _fields_of(error: BaseException) -> tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]:
    return type(error), error.args, dict(error.__dict__)


def _exception_from(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """An exception without a call of its own `__new__` and `__init__`, whose parameters need not be its `args`."""
    error = Exception.__new__(kind) if _has_own_new(kind) else kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _view_class(cause_class: type) -> type[RayTaskError]:
    known = _view_classes.get(cause_class)
    if known is not None:
        return known

    def attribute_of_cause(self: RayTaskError, name: str) -> Any:
        cause = self.__dict__.get("cause")
        if cause is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(cause, name)

    def make(cls: type[RayTaskError], *fields: Any) -> Any:
        if hasattr(cause_class, "derive"):  # groups insist on their message and exceptions
            make_group: Any = cause_class.__new__
            return make_group(cls, getattr(fields[2], "message", ""), fields[2].exceptions)
        return Exception.__new__(cls)

    name = f"RayTaskError({cause_class.__name__})"
    namespace: dict[str, Any] = {
        "__module__": "sparkray.exceptions",
        "__doc__": f"A task raised {cause_class.__name__}.",
        "__init__": RayTaskError.__init__,
        "__str__": RayTaskError.__str__,
        "__reduce__": RayTaskError.__reduce__,
        "__getattr__": attribute_of_cause,
    }
    if hasattr(cause_class, "derive") or _has_own_new(cause_class):
        namespace["__new__"] = make
    view: type[RayTaskError] = type(name, (_CauseView, RayTaskError, cause_class), namespace)
    _view_classes[cause_class] = view
    return view


_PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep


def format_traceback(error: BaseException) -> str:
    """The traceback of `error` and of what caused it, without the frames of this package."""
    frames = error.__traceback__
    while frames is not None and _is_internal(frames):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _is_internal(frame: types.TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_PACKAGE_DIR)


def task_error(
    error: BaseException,
    name: str,
    pid: int,
    ip: str,
    actor_repr: str | None = None,
    actor_id: str | None = None,
) -> RayTaskError:
    """Wraps what a task raised. A cause that cannot be pickled and read back becomes a RayError with its text."""
    text = format_traceback(error)
    cause: BaseException = error
    if isinstance(error, RayTaskError):
        cause = error.cause  # one level only: the text tells the whole story
    by_fields = False
    problem = _pickling_problem(cause)
    if problem is not None:
        by_fields = _pickling_problem(cause, by_fields=True) is None
    if problem is not None and not by_fields:
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}"
        cause = RayError(f"Exception {kind} isn't serializable: {problem}\nOriginal exception details:\n{text}")
    wrapped = RayTaskError(name, text, cause, pid, ip, actor_repr, actor_id)
    wrapped._cause_by_fields = by_fields
    return wrapped


def _pickling_problem(cause: BaseException, *, by_fields: bool = False) -> str | None:
    from sparkray._private import serialization

    try:
        if by_fields:
            _exception_from(*pickle.loads(serialization.pickle_by_value(_fields_of(cause))))
        else:
            pickle.loads(serialization.pickle_by_value(cause))
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


# ---------------------------------------------------------------------------------- failures of the runtime

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
}


def from_failure(code: int, message: str) -> Exception:
    """The exception for a failure that the runtime reports: `code` is a number of sparkray_common::ErrorCode."""
    return _CLASS_OF_CODE.get(code, RaySystemError)(message)
