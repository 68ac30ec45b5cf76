"""Ray's API on the executors of a Spark application, or on one machine.

On Spark::

    from sparkray import RayContext, init_spark_on_yarn

    sc = init_spark_on_yarn(hadoop_conf=..., num_executors=3, executor_cores=4, extra_executor_memory_for_ray="3g", ...)
    ray_context = RayContext(sc, object_store_memory="2g")
    ray_context.init()

On one machine::

    import sparkray

    sparkray.init()

    @sparkray.remote
    def square(x):
        return x * x

    print(sparkray.get([square.remote(x) for x in range(4)]))

Names, arguments and exceptions are Ray's. What Ray has and sparkray does not have yet raises an error that says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sparkray import actor, exceptions, runtime_context, util
from sparkray._native import ObjectRef
from sparkray._private import actor as _actor
from sparkray._private import init as _init
from sparkray._private import joinable as _joinable
from sparkray._private import options as _options
from sparkray._private import runtime_env as _runtime_env
from sparkray._private import worker as _worker
from sparkray._private.actor import ActorClass, ActorHandle, method
from sparkray._private.init import ClusterInfo
from sparkray._private.remote_function import RemoteFunction
from sparkray._version import __version__
from sparkray.runtime_context import get_runtime_context

if TYPE_CHECKING:
    from sparkray.spark import RayContext, from_spark, init_spark_on_local, init_spark_on_yarn, to_spark

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ClusterInfo",
    "ObjectRef",
    "RayContext",
    "RemoteFunction",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "from_spark",
    "get",
    "get_actor",
    "get_runtime_context",
    "init",
    "init_spark_on_local",
    "init_spark_on_yarn",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "shutdown",
    "to_spark",
    "util",
    "wait",
]

T = TypeVar("T")
ObjectID = ObjectRef

# Imported when asked for, so that `import sparkray` needs no pyspark.
_ON_SPARK = frozenset({"RayContext", "from_spark", "init_spark_on_local", "init_spark_on_yarn", "to_spark"})
_SUBMODULES = frozenset({"cluster_utils", "spark"})
_LATER = frozenset(
    {
        "ActorClassID",
        "ActorID",
        "ClientBuilder",
        "DynamicObjectRefGenerator",
        "FunctionID",
        "JobID",
        "LOCAL_MODE",
        "Language",
        "NodeID",
        "ObjectRefGenerator",
        "PlacementGroupID",
        "SCRIPT_MODE",
        "TaskID",
        "UniqueID",
        "WORKER_MODE",
        "WorkerID",
        "internal",
        "show_in_dashboard",
        "widgets",
        "air",
        "autoscaler",
        "client",
        "cpp_function",
        "dag",
        "data",
        "experimental",
        "get_gpu_ids",
        "java_actor_class",
        "java_function",
        "job_submission",
        "LoggingConfig",
        "rllib",
        "serve",
        "timeline",
        "train",
        "tune",
        "workflow",
    }
)


def __getattr__(name: str) -> Any:
    if name in _ON_SPARK:
        return getattr(importlib.import_module("sparkray.spark"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"sparkray.{name}")
    if name in _LATER:
        raise AttributeError(f"sparkray.{name} is not there yet (docs/STATUS.md lists what is missing)")
    raise AttributeError(f"module 'sparkray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_SPARK, *_SUBMODULES})


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | str | None = None,
    namespace: str | None = None,
    log_to_driver: bool | None = None,
    ignore_reinit_error: bool = False,
    runtime_env: dict[str, Any] | None = None,
    include_dashboard: bool | None = None,
    _memory: int | str | None = None,
    _temp_dir: str | None = None,
    _node_ip_address: str | None = None,
    **other: Any,
) -> ClusterInfo:
    """Starts a cluster on this machine, or joins one of this process (Ray: ray.init).

    On Spark `RayContext(sc).init()` starts the cluster, and connects this process. This returns it then, joins it again
    after `shutdown`, and never starts another one beside it. `namespace` and `log_to_driver` hold from then on; what it
    cannot meet any more (other resources, another address) is named in a warning. In tasks of Spark, too, it returns
    that cluster; they need no `init`.

    A program that uses sparkray without `init` gets what `init()` gives, as in Ray, at its first call of a task, `put`,
    `get` and so on. It does not where RAY_ENABLE_AUTO_CONNECT is 0, where it has a SparkContext, and after `shutdown`.

    Args:
        address: "local" for a new cluster; the address of a `cluster_utils.Cluster` of this process, or "auto" when
            there is only one. None: what the environment variable RAY_ADDRESS says, else a new cluster.
        num_cpus: CPUs that tasks may ask for. Default: those that this process may run on.
        num_gpus: not there yet; must be None or 0.
        resources: custom resources, for example {"special": 2}.
        labels: labels of the node.
        object_store_memory: bytes of shared memory for objects, or a string such as "2g" (binary units). Default: 30 %
            of the memory that is free.
        namespace: in which named actors are found. Default: a new one for each driver, or RayContext's.
        log_to_driver: print what tasks and actors print. None: True, or as RayContext was told.
        ignore_reinit_error: keep a cluster that `init` started instead of raising.
        runtime_env: {"env_vars": {...}}: environment variables of the workers that run what this program calls. Other
            parts of Ray's runtime_env are not there yet.
        include_dashboard: without effect: there is no dashboard yet. A warning when it is True.
        _memory: bytes that tasks may ask for, or a string such as "2g". Default: what is free, without the store.
        _temp_dir: directory for the session's logs and spilled objects. Default: that of Python's tempfile.
        _node_ip_address: address to bind and to advertise. Default: 127.0.0.1.
        other: arguments of Ray's init that have no effect (logging_level, ...); others are refused.

    Returns:
        A mapping with node_id, node_ip_address, address, session_dir, cluster_id, namespace and more (see ClusterInfo);
        as a context manager it calls `shutdown`.

    Raises:
        RuntimeError: a cluster that `init` started or joined runs in this process already, or a process of the new one
            ended (the end of its log is in the message). RayContext's cluster is lost.
        ConnectionError: the address is not known.
        ValueError, TypeError: an argument cannot be used, or is unknown.
        NotImplementedError: an argument of Ray's that is not there yet.
    """
    _init.check_other_arguments({"include_dashboard": include_dashboard, **other})
    env_vars = _runtime_env.check(runtime_env)
    print_output = log_to_driver is None or bool(log_to_driver)
    with _worker.joining:
        cluster = _joinable.cluster_for(address)
        if cluster is not None:
            _init.check_namespace(namespace)
            return _joinable.join(
                cluster,
                address=address,
                of_new_clusters={
                    "num_cpus": num_cpus,
                    "num_gpus": num_gpus,
                    "resources": resources,
                    "labels": labels,
                    "object_store_memory": object_store_memory,
                    "_memory": _memory,
                    "_temp_dir": _temp_dir,
                    "_node_ip_address": _node_ip_address,
                },
                namespace=namespace,
                log_to_driver=None if log_to_driver is None else print_output,
                env_vars=None if runtime_env is None else env_vars,
            )
        if _worker.state.core is not None:
            return _init.already_connected(ignore_reinit_error)
        _init.check_namespace(namespace)
        address = _init.address_to_join(address)
        if address is not None:
            for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus), ("resources", resources)):
                if value is not None:
                    raise ValueError(f"{name} belongs to a new cluster: leave it out when address is given")
            if object_store_memory is not None:
                raise ValueError("object_store_memory belongs to a new cluster: leave it out when address is given")
            return _init.connect_existing(address, namespace, print_output, env_vars)
        return _init.start_local(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=resources,
            object_store_memory=object_store_memory,
            memory=_memory,
            namespace=namespace,
            log_to_driver=print_output,
            labels=labels,
            temp_dir=_temp_dir,
            host=_node_ip_address,
            env_vars=env_vars,
        )


def shutdown() -> None:
    """Leaves the cluster; ends it when `init` started it (Ray: ray.shutdown).

    Its processes, shared memory and files are gone when this returns. References and handles of it are of no use any
    more. Does nothing when sparkray is not running. Also called when Python ends.

    A cluster that `RayContext.init` started runs on, without this program's objects and actors (detached ones stay):
    `init` joins it again, `RayContext.stop` or the end of the SparkContext ends it. In a task of Spark it leaves the
    cluster, and the next use of sparkray joins it again.

    Raises:
        RuntimeError: called in a task or actor of sparkray, which cannot leave the cluster.
    """
    if _worker.state.core is not None and not (_worker.state.is_driver or _worker.state.is_participant):
        raise RuntimeError("shutdown() is for drivers: a task ends when it returns, an actor by exit_actor()")
    _worker.disconnect()


def is_initialized() -> bool:
    """Whether this process belongs to a cluster (Ray: ray.is_initialized).

    Returns:
        True after `init` or `RayContext.init`, and in tasks and actors; False after `shutdown`.
    """
    return _worker.state.core is not None


@overload
def remote(definition: type, /) -> ActorClass: ...  # type: ignore[overload-overlap]
@overload
def remote(definition: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: int | None = None,
    resources: dict[str, float] | None = None,
    num_returns: int | None = None,
    max_retries: int = 3,
    retry_exceptions: bool = False,
    max_restarts: int = 0,
    max_concurrency: int | None = None,
    name: str | None = None,
    namespace: str | None = None,
    lifetime: str | None = None,
    get_if_exists: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]: ...
def remote(*definition: Any, **options: Any) -> Any:
    """Makes a function a task, or a class an actor (Ray: ray.remote).

    As `@remote`, as `@remote(option=...)`, or as `remote(function_or_class)`.

    Args:
        num_cpus: CPUs that a task holds while it runs (default 1), or an actor while it lives (default: 1 to be placed,
            0 to live).
        num_gpus: GPUs, likewise (default 0).
        memory: bytes, likewise; counted, not enforced (default 0).
        resources: custom resources, likewise, for example {"special": 0.5}.
        num_returns: tasks: how many references a call returns (default 1).
        max_retries: tasks: how often a task is run again when its worker or node died; -1: always (default 3).
        retry_exceptions: tasks: whether it is run again when it raised, too (default False).
        max_restarts: actors: how often the actor is made again when its worker or node died; -1: always (default 0).
        max_concurrency: actors: how many calls run at a time (default 1; 1000 for async actors).
        name: actors: a name for `get_actor`; tasks: the name in logs.
        namespace: actors: in which the name lives; None: this driver's.
        lifetime: actors: "detached" lets it outlive its driver.
        get_if_exists: actors: return the actor that has the name, if there is one.
        allow_out_of_order_execution: actors: whether a call whose arguments are late lets later ones go first. None:
            for actors that run several calls at a time.

    Returns:
        A RemoteFunction or ActorClass: call `.remote(...)`; `.options(...)` changes options for a call.

    Raises:
        ValueError, TypeError: an unknown option or a wrong value.
        NotImplementedError: an option of Ray's that is not there yet.
    """
    if definition and not options and len(definition) == 1 and callable(definition[0]):
        return _make_remote(definition[0], {})
    if definition or not options:
        raise TypeError("write @remote, @remote(num_cpus=1, ...) or remote(function); options are given by name")
    return lambda decorated: _make_remote(decorated, options)


def _make_remote(definition: Any, options: dict[str, Any]) -> Any:
    if isinstance(definition, (RemoteFunction, ActorClass)):
        raise TypeError("this is remote already: apply @remote once")
    if isinstance(definition, type):
        return ActorClass(definition, _options.check(options, is_actor=True))
    if not callable(definition):
        raise TypeError(f"@remote is for functions and classes, not for a {type(definition).__name__}")
    return RemoteFunction(definition, _options.check(options, is_actor=False))


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(object_refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(object_refs: Any, *, timeout: float | None = None) -> Any:
    """Waits for values and returns them (Ray: ray.get).

    numpy arrays and Arrow tables are read-only views of shared memory.

    Args:
        object_refs: one ObjectRef, or a list of them.
        timeout: seconds to wait at most; None or less than zero: without limit; 0: only what is there already.

    Returns:
        The value, or the list of values in the order of the references.

    Raises:
        RayTaskError: the task raised; it is an instance of the exception's class too, with the worker's traceback.
        GetTimeoutError: the time is over.
        RayActorError, WorkerCrashedError, ObjectLostError, ...: see sparkray.exceptions.
        RaySystemError: sparkray is not running in this process.
        ValueError, TypeError: something else than references.
    """
    # Most calls have none, and are short.
    return _worker.get(object_refs, None if timeout is None else _worker.get_timeout(timeout))


def put(value: T) -> ObjectRef[T]:
    """Stores a value and returns a reference to it (Ray: ray.put).

    Args:
        value: any object that can be pickled. Large ones, and Arrow tables, go to the node's shared memory.

    Returns:
        The reference. The value is freed when the last reference is gone.

    Raises:
        TypeError: the value cannot be pickled (the part is named), or it is a reference itself.
        ObjectStoreFullError: neither shared memory nor disk has room.
        RaySystemError: sparkray is not running in this process.
    """
    return _worker.put(value)


def wait(
    ray_waitables: Sequence[ObjectRef[T]] | None = None,
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
    object_refs: Sequence[ObjectRef[T]] | None = None,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Waits until some references are ready (Ray: ray.wait). A failed task is ready.

    Args:
        ray_waitables: a list of different references.
        num_returns: how many to wait for.
        timeout: seconds to wait at most; None: without limit; 0: only look.
        fetch_local: accepted; a value that exists anywhere is ready, and `get` brings it to this node.
        object_refs: the name that `ray_waitables` had in older versions of Ray.

    Returns:
        (ready, others): at most `num_returns` that are ready, and the rest; both in the order that was given.

    Raises:
        TypeError, ValueError: not a list of different references, or `num_returns` does not fit.
        RaySystemError: sparkray is not running in this process.
    """
    if object_refs is not None:
        if ray_waitables is not None:
            raise TypeError("wait() takes ray_waitables, or object_refs as it was called before, not both")
        ray_waitables = object_refs
    return _worker.wait(ray_waitables, num_returns, timeout)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """Ends an actor at once, in the middle of what it does (Ray: ray.kill).

    Args:
        actor: its handle.
        no_restart: False lets it start again if max_restarts allows.

    Raises:
        ValueError: not the handle of an actor.
        RaySystemError: sparkray is not running in this process.
    """
    _actor.kill(actor, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor (Ray: ray.get_actor).

    Args:
        name: as given by `.options(name=...)`.
        namespace: None: this driver's.

    Returns:
        A handle that does not keep the actor alive: unless detached, it ends when its creator has no handle left.

    Raises:
        ValueError: there is none.
        RaySystemError: sparkray is not running in this process.
    """
    return _actor.get_actor(name, namespace)


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, dead ones too (Ray: ray.nodes).

    Returns:
        Dicts with NodeID, Alive, NodeManagerAddress, NodeManagerPort, NodeManagerHostname, NodeName, Resources (in
        units; memory in bytes), Labels, and of our own: Pid (of the raylet), ObjectStore (bytes and counts),
        ReportCount (of the node's reports so far: it sends one when something changed, ten times a second at most, and
        one each second when nothing did; ObjectStore is as of the last one). Ray's ObjectManagerPort is that of the
        raylet; MetricsExportPort is 0, and socket names are "": there are none.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    return [_describe_node(node) for node in _worker.core_worker().nodes()]


def _describe_node(node: dict[str, Any]) -> dict[str, Any]:
    host, _, port = str(node["address"]).rpartition(":")
    return {
        "NodeID": node["node_id"],
        "Alive": node["alive"],
        "alive": node["alive"],
        "NodeManagerAddress": host,
        "NodeManagerHostname": node.get("hostname", ""),
        "NodeManagerPort": int(port or 0),
        "NodeName": host,
        # One port serves all; there are neither metrics nor sockets of the object store.
        "ObjectManagerPort": int(port or 0),
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "MetricsExportPort": 0,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": 0,
        "DeathReasonMessage": "",
        "Resources": dict(node["total"]) if node["alive"] else {},
        "Labels": dict(node.get("labels", {})),
        "Pid": node.get("pid", 0),
        "ReportCount": node.get("report_count", 0),
        "ObjectStore": dict(node.get("store") or {}),
    }


def _sum_resources(key: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for node in _worker.core_worker().nodes():
        if node["alive"]:
            for name, amount in node[key].items():
                totals[name] = totals.get(name, 0.0) + amount
    return totals


def cluster_resources() -> dict[str, float]:
    """What all live nodes have (Ray: ray.cluster_resources).

    Returns:
        Amounts by name: units; memory and object_store_memory in bytes.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    return _sum_resources("total")


def available_resources() -> dict[str, float]:
    """What is not in use, as the head knows it: up to a tenth of a second old (Ray: ray.available_resources).

    Returns:
        Amounts by name, as of `cluster_resources`; what is used up is left out.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    return {name: amount for name, amount in _sum_resources("available").items() if amount > 0}


def cancel(ray_waitable: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Ends the call that makes an object, if it is not over (Ray: ray.cancel). Does not wait until it has ended.

    - A call that has not begun never does: `get` raises TaskCancelledError.
    - In a task that runs, KeyboardInterrupt is raised, also where Python waits. Its caller gets an error that is both
      TaskCancelledError and RayTaskError, or what the task returns that catches the interrupt.
    - The coroutine of an async actor's method is cancelled as asyncio does it. Other methods that run are not touched:
      they may ask `get_runtime_context().is_canceled()`.
    - What is over stays as it is. Nothing that was cancelled is tried again.

    Args:
        ray_waitable: a reference to a result of the call. Any process that has one may cancel.
        force: end the worker process that runs the task. Not for calls of actors.
        recursive: cancel the calls that the call has made and that are not over, too.

    Raises:
        TypeError: it is no ObjectRef; `kill` ends actors.
        ValueError: `force` for a call of an actor.
        RaySystemError: sparkray is not running in this process.
    """
    given: object = ray_waitable
    if not isinstance(given, ObjectRef):
        raise TypeError(f"cancel() takes an ObjectRef, not {type(given).__name__}: kill() ends an actor")
    _worker.core_worker().cancel(given, force, recursive)
