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
from typing import Any, NamedTuple

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
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RAY_EXCEPTION_TYPES",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
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

    def __reduce__(self) -> tuple[Any, ...]:
        # The parameters of a constructor need not be the `args`.
        return _exception_from, _fields_of(self)


class CrossLanguageError(RayError):
    """A task in another language failed."""


class TaskCancelledError(RayError):
    """The task was cancelled (`cancel`) before it had a result (Ray: ray.exceptions.TaskCancelledError).

    As it is: the task did not run, or its worker was ended. As a RayTaskError too: its code was interrupted.

    Attributes:
        task_id: hexadecimal id of the task, or None when it is not known.
        error_message: what happened, or None.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        task = f"Task: {self.task_id} was cancelled." if self.task_id else ""
        return " ".join(part for part in (task, self.error_message) if part) or "The task was cancelled."


class LocalRayletDiedError(RayError):
    """The raylet of this node ended."""


class WorkerCrashedError(RayError):
    """The worker process ended while it ran the task, and no retry was left."""


class RayActorError(RayError):
    """An actor cannot answer: see the subclasses ActorDiedError and ActorUnavailableError.

    Attributes:
        actor_id: hexadecimal id of the actor, or None when it is not known.
        error_msg: what happened.
    """

    BASE_ERROR_MSG = "the actor failed before it answered"

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        Exception.__init__(self, actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    def __str__(self) -> str:
        return self.error_msg

    @property
    def actor_init_failed(self) -> bool:
        """Whether the constructor raised."""
        return self._actor_init_failed

    @property
    def preempted(self) -> bool:
        """Whether the actor's node was taken away on purpose: always False here."""
        return self._preempted


class ActorDiedError(RayActorError):
    """The actor is dead: its process ended and no restart was left, it was killed, or its constructor raised.

    Args:
        cause: what its constructor raised; None when it is another reason, or not known.
    """

    BASE_ERROR_MSG = "the actor died before it answered"

    def __init__(self, cause: RayTaskError | None = None) -> None:
        if cause is None:
            super().__init__(None, ActorDiedError.BASE_ERROR_MSG)
            return
        text = f"The actor died because of an error raised in its creation task, {RayTaskError.__str__(cause)}"
        super().__init__(cause._facts.actor_id, text, True)
        self.__cause__ = cause

    @staticmethod
    def from_task_error(task_error: RayTaskError) -> ActorDiedError:
        """The error of an actor whose constructor raised.

        Args:
            task_error: what it raised.

        Returns:
            The error that its calls end with.
        """
        return ActorDiedError(task_error)

    @staticmethod
    def of_creation(task_error: RayTaskError, actor_id: str) -> ActorDiedError:
        """The error of an actor that was never made because an argument of its constructor had failed.

        Args:
            task_error: the argument's error.
            actor_id: hexadecimal id of the actor.

        Returns:
            The error that its calls end with.
        """
        error = ActorDiedError(task_error)
        error.actor_id = actor_id
        return error


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached for now, for example while it restarts. The call may or may not have run.

    Args:
        error_message: why.
        actor_id: its id as bytes, or None when it is not known.
    """

    def __init__(self, error_message: str, actor_id: bytes | None = None) -> None:
        name = "the actor" if actor_id is None else f"actor {actor_id.hex()}"
        text = f"{name} is unavailable: {error_message}; the call may have run"
        super().__init__(None if actor_id is None else actor_id.hex(), text)


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
    """Every copy of the object is gone, and it is not computed again.

    Attributes:
        object_ref_hex: hexadecimal id of the object, "" when only the message names it.
        owner_address: where its owner is, or None.
        call_site: where the reference was made; always "" here.
    """

    def __init__(self, object_ref_hex: str = "", owner_address: Any = None, call_site: str = "") -> None:
        Exception.__init__(self, object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site
        self._message = f"object lost: {object_ref_hex}" if object_ref_hex else "an object is lost"

    @classmethod
    def _saying(cls, message: str) -> ObjectLostError:
        """One whose whole text is `message`."""
        error = cls()
        error._message = message
        return error

    def __str__(self) -> str:
        return self._message


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


class PlasmaObjectNotAvailable(RayError):
    """The value was not there within the time that was given."""


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


class ObjectRefStreamEndOfStreamError(RayError):
    """A streaming generator has no more references. Streams are not there yet: nothing raises it."""


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled outside of the runtime while that is forbidden. It is allowed here: nothing raises it."""


class RayChannelError(RaySystemError):
    """A channel of a compiled graph failed. Those are not there yet: nothing raises it."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel of a compiled graph had no value in time. Those are not there yet: nothing raises it."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has too many results in flight. Those are not there yet: nothing raises it."""


class RayDirectTransportError(RaySystemError):
    """A transfer between accelerators failed. Those are not there yet: nothing raises it."""


class UnserializableException(RayError):
    """The task's exception cannot be read here, for example because its module is missing.

    Args:
        original_stack_trace: the worker's traceback.
    """

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(original_stack_trace)
        self._original_stack_trace = original_stack_trace

    def __str__(self) -> str:
        return f"the task's exception cannot be read in this process; it was:\n{self._original_stack_trace}"


class ActorAlreadyExistsError(ValueError, RayError):
    """The actor's name is taken in its namespace."""


class ActorHandleNotFoundError(ValueError, RayError):
    """There is no actor of this name or id."""


# ---------------------------------------------------------------------------------------------- errors of tasks


class _Facts(NamedTuple):
    """What a RayTaskError is made of."""

    function_name: str
    traceback_str: str
    # The exception; in a pickle, the parts of one that cannot be pickled as it is.
    cause: Any
    proctitle: str | None
    pid: int | None
    ip: str | None
    actor_repr: str | None
    actor_id: str | None


class RayTaskError(RayError):
    """A task or actor call raised an exception.

    An error that is an instance of the cause's class too has the cause's attributes where both have one of a name.

    Attributes:
        cause: the exception that the task raised.
        function_name: function, or Class.method.
        traceback_str: the worker's traceback.
        proctitle: name of the worker's process, or None.
        pid: process id of the worker.
        ip: address of the worker's node.
        actor_repr: how the actor describes itself, or None.
        actor_id: hexadecimal id of the actor, or None.
    """

    cause: BaseException

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        # The arguments that make the same error again, whatever the cause's attributes are called.
        self._facts = _Facts(function_name, traceback_str, cause, proctitle, pid, ip, actor_repr, actor_id)
        # Not super(): next to it may stand the class of the cause, whose arguments are others.
        Exception.__init__(self, *self._facts)
        self.proctitle = proctitle
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = actor_id
        # What the task has noted on its error (add_note) is noted on this one.
        self.__dict__.update(_notes_of(cause))
        # Set for a cause whose own way of pickling cannot be read back: class, args and attributes travel instead.
        self._cause_by_fields = False

    def __reduce__(self) -> tuple[Any, ...]:
        facts = self._facts
        is_view = isinstance(self, _CauseView)
        state = (notes,) if (notes := _notes_of(self)) else ()
        if not self._cause_by_fields:
            return _rebuild, (*facts, is_view), *state
        return _rebuild_by_fields, (*facts._replace(cause=_fields_of(facts.cause)), is_view), *state

    def as_instanceof_cause(self) -> RayTaskError:
        """The same error as an instance of the cause's class too.

        Returns:
            That one; itself when that class cannot be subclassed, and for SystemExit, which would end whoever asks for
            the result.
        """
        cause_class = type(self.cause)
        if isinstance(self, _CauseView) or issubclass(RayTaskError, cause_class):
            return self
        if issubclass(cause_class, (SystemExit, KeyboardInterrupt)):
            return self
        try:
            view = _view_class(cause_class)(*self._facts)
            view._cause_by_fields = self._cause_by_fields
            view.__dict__.update(_notes_of(self))
            for name in _OWN_ATTRIBUTES:
                if hasattr(self.cause, name):
                    setattr(view, name, getattr(self.cause, name))
            if isinstance(view, OSError):
                OSError.__init__(view, *self.cause.args)  # errno, strerror
                view.filename = getattr(self.cause, "filename", None)
            view.args = self.cause.args
        except Exception:  # a cause with a will of its own: a final class, a property named `args`, ...
            return self
        view.__cause__ = self.cause
        return view

    def __str__(self) -> str:
        facts = self._facts
        where = f"pid={facts.pid}, ip={facts.ip}"
        if facts.actor_id is not None:
            where += f", actor_id={facts.actor_id}"
        if facts.actor_repr:
            where += f", repr={facts.actor_repr}"
        head = f"ray::{facts.function_name}() ({where})"
        lines = facts.traceback_str.strip().split("\n")
        return "\n".join(head if line.startswith("Traceback (most recent") else line for line in lines)


# Attributes of ours that an exception of the user may have too; those are what `except` clauses look at.
_OWN_ATTRIBUTES = ("proctitle", "function_name", "traceback_str", "pid", "ip", "actor_repr", "actor_id")


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


def _notes_of(error: BaseException) -> dict[str, list[str]]:
    """The notes of an exception, as the part of its attributes that they are; each error has its own list."""
    try:
        notes = getattr(error, "__notes__", None)
    except Exception:  # an exception with a will of its own
        notes = None
    if not isinstance(notes, (list, tuple)) or not notes:
        return {}
    return {"__notes__": [note for note in notes if isinstance(note, str)]}


def _has_own_new(kind: type) -> bool:
    return isinstance(kind.__new__, types.FunctionType)


def _fields_of(error: BaseException) -> tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]:
    return type(error), error.args, dict(error.__dict__)


def _exception_from(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """An exception without a call of its own `__new__` and `__init__`, whose parameters need not be its `args`."""
    error = BaseException.__new__(kind) if _has_own_new(kind) else kind.__new__(kind, *args)
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


_EVENT_LOOP_FILES = tuple(os.path.join("asyncio", file) for file in ("base_events.py", "futures.py", "tasks.py"))
_PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep


def format_traceback(error: BaseException) -> str:
    """The traceback of `error` and of what caused it, without the frames of this package."""
    frames = error.__traceback__
    while frames is not None and _is_internal(frames):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # its truth, its attributes or its text raise
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(frames)]
        return "".join([*lines, f"{type(error).__module__}.{type(error).__qualname__}: {error.args!r}\n"])


def _is_internal(frame: types.TracebackType) -> bool:
    file = frame.tb_frame.f_code.co_filename
    # The event loop stands between our frames and those of an async constructor.
    return file.startswith(_PACKAGE_DIR) or file.endswith(_EVENT_LOOP_FILES)


def task_error(
    error: BaseException,
    name: str,
    pid: int,
    ip: str,
    actor_repr: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
) -> RayTaskError:
    """Wraps what a task raised. A cause that cannot be pickled and read back becomes a RayError with its text."""
    text = format_traceback(error)
    cause: BaseException = error
    if isinstance(error, RayTaskError):
        cause = error.cause  # one level only: the text tells the whole story
    elif isinstance(error, KeyboardInterrupt):
        cause = TaskCancelledError(task_id)
        text = f"{text}\n{_DIRECT_CAUSE}\n{_qualified(TaskCancelledError)}: {cause}\n"
    by_fields = False
    problem = _pickling_problem(cause)
    if problem is not None:
        by_fields = _pickling_problem(cause, by_fields=True) is None
    if problem is not None and not by_fields:
        cause = RayError(
            f"Exception {_qualified(type(cause))} isn't serializable: {problem}\nOriginal exception details:\n{text}"
        )
    wrapped = RayTaskError(name, text, cause, None, pid, ip, actor_repr, actor_id)
    wrapped.__dict__.update(_notes_of(error))
    wrapped._cause_by_fields = by_fields
    return wrapped


# What Python writes between the traceback of an exception and that of the one that it caused.
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception:\n"


def _qualified(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


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


RAY_EXCEPTION_TYPES: list[type[RayError]] = [
    PlasmaObjectNotAvailable,
    RayError,
    RayTaskError,
    WorkerCrashedError,
    RayActorError,
    ObjectStoreFullError,
    ObjectLostError,
    ObjectFetchTimedOutError,
    ReferenceCountingAssertionError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    GetTimeoutError,
    AsyncioActorExit,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    ActorPlacementGroupRemoved,
    PendingCallsLimitExceeded,
    LocalRayletDiedError,
    TaskUnschedulableError,
    ActorDiedError,
    ActorUnschedulableError,
    ActorUnavailableError,
    RayChannelError,
    RayChannelTimeoutError,
    OufOfBandObjectRefSerializationException,
    RayCgraphCapacityExceeded,
    UnserializableException,
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    AuthenticationError,
]
