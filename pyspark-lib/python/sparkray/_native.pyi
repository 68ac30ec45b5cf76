"""Types of the extension module `sparkray._native` (Rust, pyspark-lib/src). Users do not import it."""

from asyncio import Future as AsyncFuture
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NoReturn, Protocol, TypeVar, final, type_check_only

from sparkray._private.ids import HexId

_T = TypeVar("_T")

__all__ = [
    "ActorRef",
    "CoreWorker",
    "ForeignReferenceError",
    "IncomingTask",
    "LocalProcesses",
    "ObjectRef",
    "TaskTemplate",
    "ValueBuffer",
    "__version__",
    "_rebuild_object_ref",
    "after_fork_in_child",
    "decode_feed_report",
    "decode_init_result",
    "decode_raylet_access",
    "decode_status",
    "decode_stop_result",
    "decode_table_schemas",
    "encode_feed_partitions",
    "encode_feed_request",
    "encode_init_request",
    "encode_table",
    "note_fork",
    "set_parent_death_signal",
    "take_interrupt",
]

# The version of the Rust side: it must equal `sparkray.__version__`.
__version__: str

@final
class ObjectRef(Generic[_T]):
    """A reference to the value of a task, an actor call or `put`."""

    def binary(self) -> bytes: ...
    def hex(self) -> str: ...
    def task_id(self) -> HexId: ...
    def is_nil(self) -> bool: ...
    @staticmethod
    def nil() -> ObjectRef[Any]:
        """Raises RuntimeError when sparkray is not running."""
    def future(self) -> Future[_T]:
        """A future that gets the value or the task's exception. It is completed by a native thread."""
    def as_future(self) -> AsyncFuture[_T]:
        """As `future`, for the running event loop. Raises RuntimeError when there is none."""
    @staticmethod
    def job_id() -> NoReturn:
        """Raises NotImplementedError, as do the next ones."""
    @staticmethod
    def call_site() -> NoReturn: ...
    @staticmethod
    def from_binary(_id: bytes) -> NoReturn: ...
    @staticmethod
    def from_hex(_id: str) -> NoReturn: ...
    @staticmethod
    def from_random() -> NoReturn: ...
    def __bytes__(self) -> bytes: ...
    def __copy__(self) -> ObjectRef[_T]: ...
    def __deepcopy__(self, memo: Any, /) -> ObjectRef[_T]: ...
    def __await__(self) -> Generator[Any, None, _T]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __reduce__(self) -> tuple[Any, ...]:
        """Adds itself to the references that the value being serialized contains. Outside of a serialization of the
        runtime (a function that refers to a global reference, pickle.dumps by a user) the object is kept until
        shutdown, as in Ray."""
    @classmethod
    def __class_getitem__(cls, _item: Any) -> Any: ...

@final
class TaskTemplate:
    """What all calls of one remote function with the same options share."""

    def __new__(
        cls,
        function_id: bytes,
        function_blob: bytes,
        name: str,
        num_returns: int,
        resources: dict[str, float],
        max_retries: int,
        retry_exceptions: bool,
        strategy: tuple[Any, ...] | None = None,
        env_vars: dict[str, str] | None = None,
    ) -> TaskTemplate: ...

class ForeignReferenceError(ValueError):
    """A reference or handle belongs to another cluster, or to the process that this one was forked from."""

@final
class ActorRef:
    """An actor as the runtime knows it. Handles of one process share it; the last one that goes out of scope in its
    creator's job ends an actor that is neither named nor detached."""

    def actor_id(self) -> bytes: ...
    def escape(self) -> bytes:
        """A handle is being pickled: the actor does not end with this process's last handle any more. Returns the id of
        its cluster. Raises ForeignReferenceError when that is not this process's."""
    def call_out_of_order(self) -> None:
        """The actor runs several calls at a time: those whose arguments are late do not hold up others."""

@final
class IncomingTask:
    """A call of an actor that Python itself drives (max_concurrency above 1, or async)."""

    @property
    def task_id(self) -> bytes: ...
    @property
    def method(self) -> str: ...
    @property
    def name(self) -> str:
        """`Class.method`, for tracebacks."""
    def is_cancelled(self) -> bool:
        """Whether it is to end."""
    def load_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, with references at the top level replaced by their values. Raises the
        exception of an argument that failed."""
    def has_stored_args(self) -> bool:
        """Whether arguments are in a store, perhaps another node's: `fetch_args` is to be called first."""
    def fetch_args(self) -> None:
        """Brings the arguments that are references to this process. Waits."""
    def build_args(self) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
        """As `load_args`, without waiting. The third: `wait_for_owners` is to be called before the call runs."""
    def wait_for_owners(self) -> None:
        """Waits until the owners of references in the arguments know this process."""

@type_check_only
class WorkerHooks(Protocol):
    """What the worker's main loop asks of Python (sparkray._private.worker_main.Hooks)."""

    def set_job(self, job_id: str) -> None: ...
    def set_threads(self, count: int) -> None: ...
    def set_placement_group(self, group_id: bytes | None, captures_child_tasks: bool) -> None: ...
    def load_function(self, blob: bytes) -> Callable[..., Any]: ...
    def before_actor(self, class_blob: bytes) -> None: ...
    def make_error(self, error: BaseException, name: str, pid: int, ip: str) -> bytes:
        """The body of an Error value: a pickled RayTaskError, or the exception itself if the runtime made it."""
    def create_actor(self, spec: dict[str, Any]) -> object:
        """Makes the instance. Keys: actor_id (bytes), class_blob, class_name, name, namespace, incarnation,
        max_concurrency, is_async, resources (dict), handle_metadata (bytes), args (list), kwargs (dict). What it raises
        is the constructor's error."""
    def actor_label(self) -> str | None:
        """What stands before the output of the actor that was made; None: its class's name."""
    def run_actor(self, instance: object, spec: dict[str, Any]) -> None:
        """Called in place of the native loop for actors with is_async or max_concurrency > 1. Drives
        `event_fd`/`poll_tasks` until `poll_tasks` returns None."""

@final
class CoreWorker:
    """This process in its cluster: driver or worker."""

    @staticmethod
    def connect_driver(config: dict[str, Any]) -> CoreWorker:
        """Keys: node_id (hex) and socket_name of the raylet, cluster_id (hex), token (hex), head_epoch, namespace,
        log_to_driver, python_version ("3.11"), log_callback (called with
        list[(name, pid, ip, text, is_stderr)])."""
    @staticmethod
    def connect_participant(config: dict[str, Any]) -> CoreWorker:
        """Takes part in the job of a driver elsewhere. Keys: those of `connect_driver` up to head_epoch, python_version
        and left_callback (called by another thread, without arguments, once this process takes no part any more)."""
    @staticmethod
    def connect_worker(fd: int, config: dict[str, Any]) -> CoreWorker:
        """In the forked child: `fd` is the connection to the raylet. Keys: what the zygote got from the raylet and
        python_version."""
    def shutdown(self) -> None: ...
    def put(self, value: Any) -> ObjectRef[Any]: ...
    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """Raises the exception of the first reference that failed; GetTimeoutError; KeyboardInterrupt; TypeError for
        something else than a reference."""
    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Raises ValueError when a reference occurs twice; TypeError for something else than a reference."""

    def submit(self, template: TaskTemplate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The reference of the result; a list of them when num_returns is above 1; None when it is 0."""
    def create_actor(
        self,
        options: dict[str, Any],
        class_id: bytes,
        class_blob: bytes,
        class_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        handle_metadata: bytes,
    ) -> ActorRef:
        """Keys of `options`: resources, placement_resources (dict[str, float]), max_restarts, name, namespace (str or
        None), detached, max_concurrency, is_async, strategy. Raises ActorAlreadyExistsError (a ValueError) for a taken
        name."""
    def get_actor(self, name: str, namespace: str | None) -> tuple[ActorRef, bytes]:
        """The actor and its handle_metadata. Raises ActorHandleNotFoundError (a ValueError)."""
    def actor_from_id(self, actor_id: bytes, class_name: str = "", origin: bytes | None = None) -> ActorRef:
        """The actor of a handle. `origin`: the id of the cluster that the handle came from by a pickle. Raises
        ForeignReferenceError when that is another one."""
    def submit_actor(
        self, actor: ActorRef, method: str, num_returns: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As `submit`. `method`: its name; with a NUL and another name behind it, the call is named so."""
    def kill_actor(self, actor: ActorRef, no_restart: bool) -> None: ...
    def cancel(self, reference: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Raises ValueError for the forced end of an actor's call."""
    def is_cancelled(self, task_id: bytes) -> bool:
        """Whether a call that this process runs is to end."""
    def poll_cancelled(self) -> list[bytes]:
        """Ids of the calls of this actor that are to end and were not given before."""
    def nodes(self) -> list[dict[str, Any]]:
        """Keys: node_id (hex), alive, address (host:port), hostname, total, available (dict[str, float]), labels, pid,
        store (dict of StoreStats), report_count (of the node's reports, of which store and available are the last)."""
    def actors(self) -> list[dict[str, Any]]:
        """Keys: actor_id (hex), name, namespace, state, class_name, pid."""
    def create_placement_group(
        self, bundles: list[dict[str, float]], strategy: str, name: str, namespace: str, detached: bool
    ) -> bytes:
        """The id of the new group. `name`: "" for none; `namespace`: "" for the job's."""
    def remove_placement_group(self, group_id: bytes) -> None: ...
    def placement_group(self, group_id: bytes, timeout: float = 0.0) -> dict[str, Any] | None:
        """Keys: placement_group_id (hex), name, strategy, state, bundles (list of amounts by name), nodes (hex of each
        bundle's, or ""), attempts, infeasible. None: the head knows no such group. `timeout`: waits so many seconds at
        most until it is created or removed."""
    def named_placement_group(self, name: str, namespace: str) -> dict[str, Any] | None:
        """As `placement_group`, of the group that has the name."""
    def placement_groups(self) -> list[dict[str, Any]]:
        """As `placement_group`, of all groups that the head knows, removed ones too."""
    def metrics(self, process: str) -> str:
        """What a process has counted, in the OpenMetrics text format. `process`: "worker" (this one), "raylet" (of this
        node) or "head"."""
    def current_task(self) -> dict[str, Any] | None:
        """The task that the native loop runs on this thread. Keys: task_id, name, actor_id, attempt."""
    def kv_put(self, key: bytes, value: bytes, overwrite: bool = True, namespace: str = "") -> bool: ...
    def kv_get(self, key: bytes, namespace: str = "") -> bytes | None: ...
    def kv_del(self, key: bytes, namespace: str = "") -> bool: ...
    def kv_keys(self, prefix: bytes, namespace: str = "") -> list[bytes]: ...
    def run_worker(self, hooks: WorkerHooks) -> None: ...
    def event_fd(self) -> int:
        """Readable when `poll_tasks` has something."""
    def poll_tasks(self) -> list[IncomingTask] | None:
        """Calls that arrived, in order; never blocks. None: the worker was told to end."""
    def finish_task(self, task: IncomingTask, value: Any, more: bool = False) -> None:
        """Any thread. Raises TypeError when the value cannot be pickled; the task is then still open. `more`: other
        answers follow, or `flush`; this one may wait for them, a millisecond at most."""
    def announce_exit(self) -> None:
        """This actor's code wants it to end: it is not to be restarted when the process has ended."""
    def flush(self) -> None:
        """Sends the answers that wait."""
    def fail_task(self, task: IncomingTask, error: BaseException) -> None: ...
    def give_up_task(self, task: IncomingTask) -> None:
        """The answer of a call that was cancelled before it ran."""
    def adopt_blocks(
        self,
        feed_id: bytes,
        blocks: list[tuple[bytes, int, bytes, str]],
        nodes: list[tuple[bytes, str]] = ...,
    ) -> list[ObjectRef[Any]]:
        """Becomes the owner of blocks that Spark's tasks sealed: (object_id, size, node_id, node_address) each. Other
        blocks of the feed are dropped, on `nodes` (node_id, node_address) too."""
    def object_locations(
        self, refs: Sequence[ObjectRef[Any]], timeout: float | None = None
    ) -> list[tuple[bytes, int, list[tuple[bytes, str]], bool]]:
        """Waits until the objects exist: (object_id, size, [(node_id, node_address)], is_error) each. A value that is
        not in a store has no nodes. Raises when an object is lost."""
    def worker_address(self) -> tuple[bytes, bytes, str]:
        """(node_id, worker_id, host:port of the node's raylet) of this process."""
    @property
    def cluster_id(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def worker_id(self) -> str: ...
    @property
    def job_id(self) -> str: ...
    @property
    def node_ip(self) -> str: ...
    @property
    def node_address(self) -> str: ...
    @property
    def is_driver(self) -> bool: ...

@final
class LocalProcesses:
    """Children of this process: `sparkrayd head` and `sparkrayd raylet`."""

    def __new__(cls) -> LocalProcesses: ...
    def start_head(self, binary: str, config_json: str, log_path: str) -> str:
        """Returns the ready line (JSON). Raises RuntimeError with the tail of the log."""
    def start_raylet(self, binary: str, config_json: str, log_path: str) -> str: ...
    def stop(self, pid: int, grace: float) -> None:
        """Closes the leash, then SIGTERM, then SIGKILL after `grace` seconds; waits for the end. An unknown or dead pid
        is no error."""

@final
class ValueBuffer:
    """Part of a value as a read-only buffer, which keeps the value's memory. Made by the module only."""

    def __len__(self) -> int: ...

def _rebuild_object_ref(id: bytes, owner: bytes) -> ObjectRef[Any]:
    """A reference that came out of a pickle."""

# Messages of bridge.proto, which Java carries. Bytes that are no such message: ValueError with its name.

def encode_feed_request(
    cluster_id: bytes, feed_id: bytes, owner: tuple[bytes, bytes, str], max_block_bytes: int
) -> bytes:
    """`owner`: as `CoreWorker.worker_address` gives it."""

def encode_feed_partitions(partitions: Sequence[int]) -> bytes: ...
def decode_feed_report(data: bytes) -> list[tuple[int, list[tuple[bytes, bytes, str, int, int]]]]:
    """For each partition its index and its blocks: (object_id, node_id, node_address, rows, size)."""

def encode_table(
    cluster_id: bytes,
    blocks: Sequence[tuple[bytes, int, Sequence[tuple[bytes, str]], Sequence[str]]],
    hold_bytes: int,
) -> bytes:
    """`blocks`: (object_id, size, [(node_id, node_address)], where Spark should read it) each."""

def decode_raylet_access(data: bytes) -> dict[str, Any]:
    """What the manager of an executor tells a process of its tasks. Keys: failure (None, or why there is no raylet;
    then the others are empty), cluster_id, token, head_epoch, node_id, socket_name."""

def decode_table_schemas(data: bytes) -> list[tuple[int, str | None, tuple[int, str] | None]]:
    """For each block its index, its schema (StructType.json()) and (code, message) of what is wrong with it. Neither:
    an earlier block has the same schema."""

def encode_init_request(
    *,
    cluster_id: str,
    expected_nodes: int,
    node_cpus: float,
    node_resources: dict[str, float],
    object_store_bytes: int,
    driver_cpus: float,
    worker_env: dict[str, str],
    python: str,
    driver_python: str,
    python_version: str,
    sparkray_version: str,
    deadline_seconds: float | None = None,
    encryption: bool | None = None,
) -> bytes:
    """`cluster_id` is hexadecimal. What is None comes from Spark's settings."""

def decode_init_result(data: bytes) -> dict[str, Any]:
    """Keys: cluster_id, token (hex), head_epoch, socket_name, head_address, head_executor_id, head_pid, nodes (list)
    and driver_node; for each node executor_id, node_id (hex), address, socket_name, hostname, container_id, pid,
    executor_pid, cpus, memory_budget_bytes, object_store_bytes, start_count, state, message."""

def decode_status(data: bytes) -> dict[str, Any]:
    """Keys: state, failure (str or None), cluster_id (hex), nodes (list), driver_node (or None)."""

def decode_stop_result(data: bytes) -> list[str]:
    """Who did not answer in time."""

def set_parent_death_signal(signal: int) -> None: ...
def take_interrupt() -> bool:
    """Whether the function that runs on this thread was cancelled. Once for each time that it was."""

def note_fork() -> None: ...  # needed by python: in a child that user code forked
def after_fork_in_child() -> None: ...
