"""The state of this process: which cluster it belongs to, and what public functions do with it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkray import _native, exceptions
from sparkray._native import ObjectRef
from sparkray._private import infeasible, job_modules, process
from sparkray._private.serialization import SerializationError

if TYPE_CHECKING:
    from sparkray._native import CoreWorker
    from sparkray._private.joinable import JoinableCluster

_NEVER_STARTED = (
    "sparkray is not running in this process: call sparkray.init(), or RayContext(sc).init() on Spark, before this"
)
_LEFT = (
    "sparkray.shutdown() has left the cluster that RayContext started, and which runs on: call sparkray.init() to join "
    "it again"
)
_STOPPED = "sparkray was stopped in this process: call sparkray.init(), or RayContext(sc).init() on Spark, again"
_FORKED = (
    "this process was forked from one that uses sparkray and cannot use it: start it with "
    "multiprocessing.get_context('spawn'), or use sparkray tasks and actors"
)


@dataclass(frozen=True)
class Connection:
    """How a driver reaches its local raylet. Holds the cluster's token: never print it."""

    cluster_id: str
    token: str = field(repr=False)
    head_epoch: int
    # Hexadecimal id of the raylet's node, and the name of its abstract Unix socket.
    node_id: str
    socket_name: str


@dataclass(frozen=True)
class CurrentPlacementGroup:
    """The group that what runs here is in."""

    group_id: bytes
    # Whether what is called from here goes there too.
    captures_child_tasks: bool


class _State:
    """Everything global. `core` is read on every call, so it is a plain attribute."""

    def __init__(self) -> None:
        self.core: CoreWorker | None = None
        self.is_driver = True
        # Takes part in the job of a driver elsewhere: see `spark_task`.
        self.is_participant = False
        self.log_to_driver = True
        self.namespace = ""
        # Of a driver's job, or what a participant's `init` was told: see `runtime_env`.
        self.env_vars: dict[str, str] = {}
        # In a worker; None outside of groups.
        self.placement_group: CurrentPlacementGroup | None = None
        # The abstract Unix socket of this node's raylet, in a driver or participant.
        self.socket_name = ""
        self.why_not = _NEVER_STARTED
        # Whether workers may have printed something that is still under way.
        self.expects_output = False
        # Called once at shutdown, after the core worker is closed: ends what `init` started.
        self.on_shutdown: Callable[[], None] | None = None
        # The cluster of RayContext while it runs, connected or not: `init` joins it.
        self.joinable: JoinableCluster | None = None


state = _State()
# Held while this process joins a cluster: another thread that wants to waits, and finds it joined.
joining = threading.RLock()


def _after_fork_in_child() -> None:
    global joining
    joining = threading.RLock()
    _native.note_fork()
    if state.core is not None or state.joinable is not None:
        process.never_free(state.core)
        state.core = None
        state.on_shutdown = None
        state.joinable = None
        state.is_participant = False
        state.why_not = _FORKED


os.register_at_fork(after_in_child=_after_fork_in_child)


def core_worker() -> CoreWorker:
    """The connection to the cluster, which the first use makes where `auto_init` says so.

    Raises:
        RaySystemError: there is none.
    """
    if state.core is None:
        join_in_task()
        if state.core is None and state.why_not is _NEVER_STARTED and state.joinable is None:
            from sparkray._private import auto_init

            auto_init.start()
    return connected()


def connected() -> CoreWorker:
    """The connection to the cluster. Raises RaySystemError when there is none."""
    core = state.core
    if core is None:
        raise exceptions.RaySystemError(state.why_not if state.joinable is None else _LEFT)
    return core


def join_in_task() -> None:
    """Joins the cluster of the executor, in a process that runs a task of Spark and has not; elsewhere nothing happens.

    Raises:
        RaySystemError: there is none.
    """
    # A fork has its parent's task, and not its connection.
    if "pyspark.taskcontext" in sys.modules and state.why_not is not _FORKED:
        from sparkray._private import spark_task

        spark_task.join()


def python_version() -> str:
    """Major and minor version of this interpreter, which all processes of a cluster share."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def connect_driver(
    connection: Connection,
    *,
    namespace: str | None = None,
    log_to_driver: bool = True,
    on_shutdown: Callable[[], None] | None = None,
    origin: job_modules.Origin | None = None,
    env_vars: dict[str, str] | None = None,
    settings_may_change: bool = False,
    remedies: infeasible.Remedies = infeasible.LOCAL,
) -> CoreWorker:
    """Makes this process a driver of the cluster whose raylet runs on this machine.

    Args:
        connection: the raylet.
        namespace: of named actors; None makes a new, anonymous one.
        log_to_driver: whether output of workers is printed here.
        on_shutdown: called after the connection was closed, by `shutdown` or at exit.
        origin: what this process's modules come from beside its `sys.path`.
        env_vars: environment variables of the workers that run what this driver calls.
        settings_may_change: whether `change_settings` may be called.
        remedies: what is advised where no node can meet what the program asks for.
    """
    from sparkray._private import log_output, unhandled

    if state.core is not None:
        raise RuntimeError("this process is connected to a cluster already: call sparkray.shutdown() first")
    chosen = namespace if namespace is not None else _anonymous_namespace()
    infeasible.set_remedies(remedies)
    core = _native.CoreWorker.connect_driver(
        {
            "node_id": connection.node_id,
            "socket_name": connection.socket_name,
            "cluster_id": connection.cluster_id,
            "token": connection.token,
            "head_epoch": connection.head_epoch,
            "namespace": chosen,
            # The raylet is told once.
            "log_to_driver": log_to_driver or settings_may_change,
            "python_version": python_version(),
            "log_callback": log_output.print_lines,
            "report_unhandled_errors": True,
            "report_kept_errors": unhandled.may_be_kept(),
        }
    )
    try:
        # Workers of this job look it up: see `job_namespace`.
        core.kv_put(_namespace_key(core), chosen.encode())
        _publish_env_vars(core, env_vars or {})
        job_modules.begin(core, origin or job_modules.Origin())
    except BaseException:
        core.shutdown()
        raise
    state.namespace = chosen
    state.env_vars = dict(env_vars or {})
    state.socket_name = connection.socket_name
    state.log_to_driver = log_to_driver
    state.is_driver = True
    state.is_participant = False
    state.expects_output = False
    state.on_shutdown = on_shutdown
    log_output.set_local_ip(core.node_ip)
    log_output.set_shown(log_to_driver)
    state.core = core
    return core


def connect_participant(connection: Connection) -> CoreWorker:
    """Makes this process take part in the job of the driver of the cluster whose raylet runs on this machine. It leaves
    when the raylet or the job ends. `joining` is held.

    Args:
        connection: the raylet.

    Raises:
        RaySystemError: the raylet does not answer, or the cluster has no driver.
    """
    mine: list[CoreWorker] = []

    def left() -> None:
        # Only once it has joined: the thread that reports this is another one. It ends with the last reference.
        with joining:
            if mine and state.core is mine.pop():
                disconnect()

    core = _native.CoreWorker.connect_participant(
        {
            "node_id": connection.node_id,
            "socket_name": connection.socket_name,
            "cluster_id": connection.cluster_id,
            "token": connection.token,
            "head_epoch": connection.head_epoch,
            "python_version": python_version(),
            "left_callback": left,
        }
    )
    mine.append(core)
    state.namespace = ""
    state.env_vars = {}
    state.socket_name = connection.socket_name
    # Output of workers goes to the job's driver.
    state.log_to_driver = False
    state.is_driver = False
    state.is_participant = True
    state.core = core
    return core


def change_settings(namespace: str | None, log_to_driver: bool | None, env_vars: dict[str, str] | None = None) -> None:
    """Changes what `connect_driver` was told, for what is submitted and printed from now on. None: as it is."""
    from sparkray._private import log_output, remote_function

    if namespace is not None:
        if state.is_driver:
            core = core_worker()
            core.kv_put(_namespace_key(core), namespace.encode())
        state.namespace = namespace
    if log_to_driver is not None and state.is_driver:
        state.log_to_driver = log_to_driver
        log_output.set_shown(log_to_driver)
    if env_vars is not None and env_vars != state.env_vars:
        if state.is_driver:
            _publish_env_vars(core_worker(), env_vars)
        state.env_vars = dict(env_vars)
        remote_function.forget_templates()


def enter_placement_group(group: CurrentPlacementGroup | None) -> None:
    """What runs in this worker from now on is in another group, or in none."""
    from sparkray._private import remote_function

    former = state.placement_group
    state.placement_group = group
    captures = (former is not None and former.captures_child_tasks) or (
        group is not None and group.captures_child_tasks
    )
    if captures and former != group:
        remote_function.forget_templates()


def _namespace_key(core: CoreWorker) -> bytes:
    return b"sparkray/namespace/" + core.job_id.encode()


def _env_vars_key(core: CoreWorker) -> bytes:
    return b"sparkray/env_vars/" + core.job_id.encode()


def _publish_env_vars(core: CoreWorker, env_vars: dict[str, str]) -> None:
    """For participants. Workers have them from their zygote."""
    if env_vars or state.env_vars:
        core.kv_put(_env_vars_key(core), json.dumps(env_vars).encode())


def job_env_vars() -> dict[str, str]:
    """The environment variables of a participant's job: what its driver said, and over that its own `init`."""
    core = core_worker()
    said: dict[str, str] = json.loads(core.kv_get(_env_vars_key(core)) or "{}")
    return {**said, **state.env_vars}


def job_namespace() -> str:
    """The namespace of the job that this process works for: the driver's. Workers ask each time, for it may change;
    a participant whose `init` was told one has that."""
    core = core_worker()
    if state.is_driver or state.namespace:
        return state.namespace
    return (core.kv_get(_namespace_key(core)) or b"").decode()


def _anonymous_namespace() -> str:
    import uuid

    return str(uuid.uuid4())


def disconnect() -> None:
    """Closes the connection and ends what `init` started. Does nothing when not connected."""
    core, on_shutdown = state.core, state.on_shutdown
    state.core = None
    state.on_shutdown = None
    if core is None:
        return
    state.why_not = _STOPPED
    if state.is_participant:
        state.is_participant = False
        state.is_driver = True
    job_modules.end()
    try:
        if state.expects_output and state.log_to_driver:
            from sparkray._private import log_output

            log_output.drain(lambda: core.kv_get(_namespace_key(core)))
        core.shutdown()
    finally:
        if on_shutdown is not None:
            on_shutdown()


# ------------------------------------------------------------------------------------------- get, put, wait


def get(refs: Any, timeout: float | None) -> Any:
    """See sparkray.get."""
    core = core_worker()
    if isinstance(refs, ObjectRef):
        return core.get([refs], timeout)[0]
    if not isinstance(refs, (list, tuple)):
        raise ValueError(
            f"get() takes an ObjectRef or a list of them, not a {type(refs).__name__}; "
            "for several kinds of things call it for each reference"
        )
    return core.get(refs, timeout) if refs else []


def check_timeout(timeout: float | None) -> float | None:
    """Seconds, or None for no limit."""
    if timeout is None:
        return None
    # Whatever is a number: numpy's scalars too.
    if isinstance(timeout, bool) or not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout is a number of seconds or None, not a {type(timeout).__name__}")
    seconds = float(timeout)
    if seconds != seconds or seconds < 0:
        raise ValueError(f"timeout is at least 0 seconds, not {timeout}")
    return seconds


def get_timeout(timeout: float | None) -> float | None:
    """As `check_timeout`, for `get`, where less than zero means no limit too."""
    if isinstance(timeout, (int, float)) and timeout < 0:
        return None
    return check_timeout(timeout)


def wait(refs: Any, num_returns: int, timeout: float | None) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """See sparkray.wait."""
    if isinstance(refs, ObjectRef):
        raise TypeError("wait() takes a list of ObjectRefs, not one: write wait([ref])")
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"wait() takes a list of ObjectRefs, not a {type(refs).__name__}")
    core = core_worker()
    if not refs:
        return [], []
    if isinstance(num_returns, bool) or not hasattr(num_returns, "__index__"):  # numpy's integers are fine
        raise TypeError(f"num_returns is an int, not a {type(num_returns).__name__}")
    num_returns = int(num_returns)
    if not 0 < num_returns <= len(refs):
        raise ValueError(f"num_returns is between 1 and the number of references ({len(refs)}), not {num_returns}")
    return core.wait(refs, num_returns, check_timeout(timeout))


def put(value: Any) -> ObjectRef[Any]:
    """See sparkray.put."""
    core = core_worker()
    if isinstance(value, ObjectRef):
        raise TypeError("put() of an ObjectRef is not allowed: put a list that contains it, or use it as it is")
    try:
        return core.put(value)
    except SerializationError as error:
        raise TypeError(error.describe("the value given to put()")) from error
