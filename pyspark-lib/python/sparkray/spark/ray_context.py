"""RayContext: a Ray cluster on the executors of a SparkContext."""

from __future__ import annotations

import html
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from sparkray._private import job_modules, module_path, worker
from sparkray._version import __version__
from sparkray.spark import attach, manager
from sparkray.spark.cluster_shape import read_shape
from sparkray.spark.errors import RayContextError
from sparkray.spark.ray_arguments import read_arguments
from sparkray.spark.running_cluster import RunningCluster
from sparkray.spark.spark_conf import accept_arguments

if TYPE_CHECKING:
    from pyspark import SparkContext

__all__ = ["RayContext", "RayContextError"]

_FORKED = "this process was forked from the driver program: use the cluster there, or in tasks and actors"
_NEVER_STARTED = "this RayContext has no cluster: call init() first"
_STOPPED = "this RayContext was stopped: call init() for a new cluster"


class RayContext:
    """A Ray cluster on the executors of a Spark application: one node in each executor's container.

    ``init()`` starts it, ``stop()`` or the end of the SparkContext ends it; it can be started again. Used as a context
    manager it does both. One cluster at a time belongs to a SparkContext.

    Any SparkContext will do. One that was started without sparkray's plugin, which ``init_spark_on_yarn`` and
    ``init_spark_on_local`` bring, is given what it lacks by the first ``init()``: the driver's Java gets the jar, and
    each executor a short Spark task, for which it needs a free slot.

    Arguments:
        sc: the SparkContext, or a SparkSession that has one.
        redis_port, redis_password: not used, there is no Redis; only None, so that nobody relies on them.
        object_store_memory: shared memory for objects on each node, with a unit: ``"2g"`` is 2 GiB. None: half of what
            the containers set aside for Ray (``extra_executor_memory_for_ray``), 1 GiB where there is no container. At
            least 128 MiB of what is set aside must be left for raylet and workers.
        verbose: whether ``init`` prints the settings of the cluster too.
        env: environment variables of the workers. PYTHONHOME and thread counts (OMP_NUM_THREADS, …) are left out, as
            upstream does.
        extra_params: more resources of each node: ``{"resources": {"slot": 2}}``. Other keys are refused: they
            are options of ``ray start``, which does not exist here.
        include_webui: accepted; there is no dashboard yet, ``webui_url`` is empty.
        num_ray_nodes: nodes that ``init`` waits for; None: one for each executor of Spark's settings. Each executor
            gets a node, whatever this is.
        ray_node_cpu_cores: CPUs of each node; None: the executor's cores. Spark keeps its own slots: the cores are
            shared.
        system_config: refused unless empty: there are no such settings.
        namespace: namespace of named actors; None makes a new one for each ``init``.
        log_to_driver: whether output of workers is printed by the driver.
        encryption: whether connections between nodes are encrypted; None: as ``spark.ray.encryption`` says, which is on
            unless it is set. False is for closed networks.
        allow_unauthenticated_spark: executors may join although ``spark.authenticate`` is off; then whoever reaches the
            driver's port may join too, and run code. None or False: as ``spark.ray.allowUnauthenticatedSpark`` says.

    Raises:
        TypeError, ValueError: an argument is not known or impossible.
        NotImplementedError: an argument asks for what is not there.
        RayContextError: this is a Spark Connect session, or the SparkContext is stopped.

    Upstream name: ``zoo.ray.RayContext``, ``bigdl.orca.ray.OrcaRayContext``.
    """

    _active: ClassVar[RayContext | None] = None

    def __init__(
        self,
        sc: SparkContext,
        redis_port: int | None = None,
        redis_password: str | None = None,
        object_store_memory: str | None = None,
        verbose: bool = False,
        env: Mapping[str, str] | None = None,
        extra_params: Mapping[str, Any] | None = None,
        include_webui: bool = True,
        num_ray_nodes: int | None = None,
        ray_node_cpu_cores: int | None = None,
        system_config: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        log_to_driver: bool = True,
        encryption: bool | None = None,
        allow_unauthenticated_spark: bool = False,
        **unknown: Any,
    ) -> None:
        accept_arguments(type(self), unknown, {})
        self.sc = manager.spark_context_of(sc)
        self.verbose = verbose
        self.include_webui = include_webui
        self._namespace = namespace
        self._log_to_driver = log_to_driver
        self._allow_unauthenticated_spark = bool(allow_unauthenticated_spark)
        self._shape = read_shape(self.sc.master, self._setting)
        self._options = read_arguments(
            redis_port=redis_port,
            redis_password=redis_password,
            object_store_memory=object_store_memory,
            env=env,
            extra_params=extra_params,
            num_ray_nodes=num_ray_nodes,
            ray_node_cpu_cores=ray_node_cpu_cores,
            system_config=system_config,
            encryption=encryption,
            shape=self._shape,
        )
        self._pid = os.getpid()
        self._cluster: RunningCluster | None = None
        if RayContext._active is None or not RayContext._active._has_cluster():
            RayContext._active = self

    # ------------------------------------------------------------------------------------------ start and stop

    def init(self, driver_cores: float = 0) -> dict[str, Any]:
        """Starts the cluster and connects this program to it; returns when the nodes of all executors are there.

        Calling it again with the same arguments does nothing, also on another RayContext of the same SparkContext:
        both have the same cluster then, and ``stop()`` on one of them ends it for both. ``sparkray.init()`` after it
        returns this cluster, and ``sparkray.shutdown()`` leaves it; this and ``sparkray.init()`` join it again.

        Arguments:
            driver_cores: CPUs of the driver's own node; 0: no task runs beside the driver.

        Returns:
            ``address_info``.

        Raises:
            RayContextError: it cannot be started, for the reason given; nothing of it is left running. Also when the
                cluster that was started before is lost: ``stop()`` ends what is left of it, then this starts anew.
            ValueError: driver_cores is not a number of at least 0.
        """
        if isinstance(driver_cores, bool) or not isinstance(driver_cores, (int, float)) or not driver_cores >= 0:
            raise ValueError(f"driver_cores is a number of at least 0, not {driver_cores!r}")
        with worker.joining:
            return self._init(float(driver_cores))

    def _init(self, driver_cores: float) -> dict[str, Any]:
        active = RayContext._active
        if active is not None and active._has_cluster():
            return self._already_initialized(active, driver_cores)
        self._check_startable()
        started = time.monotonic()
        found = manager.Manager.find(self.sc)
        request = self._request(driver_cores)
        if self.verbose:
            print(f"RayContext: {json.dumps({**request, 'worker_env': sorted(request['worker_env'])})}", flush=True)
        # What fails in there leaves nothing.
        result = found.init(request)
        cluster = RunningCluster(
            found,
            result,
            arguments=(self._options, driver_cores, self._namespace),
            log_to_driver=self._log_to_driver,
            origin=self._origin(),
        )
        try:
            cluster.connect()
        except BaseException:
            # Also Ctrl-C: nothing is left half-started.
            cluster.stop()
            raise
        self._cluster = cluster
        RayContext._active = self
        found.stop_before_spark(self.stop)
        found.publish_after_files()
        print(self._summary(time.monotonic() - started), flush=True)
        if found.takes_sparks_memory():
            attach.warn_of_memory(result["nodes"])
        return self.address_info

    def stop(self) -> None:
        """Ends the cluster: its processes are gone when this returns. Also when this program has left it, or joined it
        again, by ``sparkray.shutdown()`` and ``sparkray.init()``. Does nothing when it was ended before, and in a
        process that was forked from the one that started it.

        Warns (RuntimeWarning) with the names of executors that did not say in time that theirs have ended.
        """
        if self._cluster is not None:
            self._cluster.stop()

    def purge(self) -> None:
        """Same as ``stop``: nothing of a cluster outlives it here. (Upstream name: ``purge``.)"""
        self.stop()

    @classmethod
    def get(cls, initialize: bool = True) -> RayContext:
        """The RayContext of this program.

        Arguments:
            initialize: whether to call ``init()`` when it has no cluster.

        Returns:
            The one that has a cluster, else the one that was made last.

        Raises:
            RayContextError: none was made, or its cluster is lost (unless ``initialize`` is false).
        """
        if cls._active is None:
            raise RayContextError("no RayContext was made in this program: RayContext(sc) makes one")
        if initialize:
            cls._active.__enter__()
        return cls._active

    def __enter__(self) -> RayContext:
        if self.initialized:
            self.check()
        else:
            self.init()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def initialized(self) -> bool:
        """Whether there is a cluster that this program is connected to: not after ``sparkray.shutdown()``, until
        ``init()`` or ``sparkray.init()`` joins it again."""
        return self._cluster is not None and self._cluster.is_connected()

    @property
    def address_info(self) -> dict[str, Any]:
        """Where the cluster is: node_id and node_ip_address of the driver's node, address (of the raylet through which
        the head is reached; also under its old name redis_address), raylet_socket_name, object_store_address,
        cluster_id, webui_url, session_dir. Raises RayContextError before ``init`` and after ``stop``."""
        current = self._current()
        cluster = current.result
        return {
            "node_id": cluster["driver_node"]["node_id"],
            "node_ip_address": current.node_ip,
            "address": cluster["head_address"],
            "redis_address": cluster["head_address"],
            "raylet_socket_name": cluster["socket_name"],
            "object_store_address": cluster["socket_name"],
            "cluster_id": cluster["cluster_id"],
            "webui_url": "",
            "session_dir": None,
        }

    @property
    def redis_address(self) -> str:
        """Address of the head, under its old name."""
        return str(self.address_info["redis_address"])

    @property
    def cluster_id(self) -> str:
        """Hexadecimal id of the cluster, new for every ``init``. Raises RayContextError when there is none."""
        return str(self._running()["cluster_id"])

    @property
    def num_ray_nodes(self) -> int:
        """Nodes that ``init`` waits for; the driver's own is not counted."""
        return self._options.expected_nodes

    @property
    def ray_node_cpu_cores(self) -> float:
        """CPUs of each node."""
        return self._options.node_cpus

    @property
    def total_cores(self) -> float:
        """CPUs of all nodes that ``init`` waits for."""
        return self.num_ray_nodes * self.ray_node_cpu_cores

    @property
    def is_local(self) -> bool:
        """Whether driver and executor are one process (``local[n]``)."""
        return self._shape.is_local

    def nodes(self) -> list[dict[str, Any]]:
        """The executors' nodes as the manager knows them now. Those of a lost cluster too: ``check()`` says whether it
        is lost.

        Returns:
            Dicts with executor_id, node_id, address, hostname, container_id, pid (of the raylet), executor_pid, cpus,
            memory_budget_bytes, object_store_bytes, start_count, state (starting, up, restarting or down), message.

        Raises:
            RayContextError: there is no cluster.
        """
        nodes: list[dict[str, Any]] = self._current().manager.status()["nodes"]
        return nodes

    def check(self) -> None:
        """Raises RayContextError with the reason when there is no cluster or it was lost."""
        self._current().check()

    def keep(self, table_id: str, references: Sequence[Any]) -> None:
        """Keeps the objects of a DataFrame's table alive until `keep_no_longer` or the end; `to_spark` does so.

        Arguments:
            table_id: of the table, new for each `to_spark`.
            references: of its objects.

        Raises:
            RayContextError: there is no cluster.
        """
        self._current().kept[table_id] = references

    def keep_no_longer(self, table_id: str) -> None:
        """The DataFrame is gone.

        Arguments:
            table_id: as given to `keep`; one that is not known is ignored.
        """
        if self._cluster is not None:
            self._cluster.kept.pop(table_id, None)

    def __repr__(self) -> str:
        if not self._has_cluster():
            return f"<RayContext of {self.sc.applicationId}: no cluster>"
        return f"<RayContext of {self.sc.applicationId}: cluster {self.cluster_id}, {self.total_cores:g} cores>"

    def _repr_html_(self) -> str:
        if not self._has_cluster():
            return f"<p>{html.escape(repr(self))}</p>"
        columns = ("executor_id", "state", "address", "hostname", "container_id", "cpus", "object_store_bytes")
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        title = f"Ray on {self.sc.applicationId}, cluster {self.cluster_id}"
        try:
            nodes = self.nodes()
            failure = self._current().failure()
        except RayContextError as error:
            # Spark's driver is gone.
            nodes, failure = [], str(error)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(node[name]))}</td>" for name in columns) + "</tr>" for node in nodes
        )
        title = html.escape(title if failure is None else f"{title}: {failure}")
        return f"<table><caption>{title}</caption><tr>{head}</tr>{rows}</table>"

    # ------------------------------------------------------------------------------------------ inside

    def _already_initialized(self, active: RayContext, driver_cores: float) -> dict[str, Any]:
        if active is not self and active.sc is not self.sc:
            raise RayContextError("another RayContext runs in this program: call stop() on it first")
        cluster = active._current()
        cluster.check()
        if cluster.arguments != (self._options, driver_cores, self._namespace):
            raise RayContextError(
                "a cluster with other arguments runs on this SparkContext: call stop() first, or init() with the same"
            )
        if not cluster.is_connected():
            _check_unconnected()
            cluster.connect()
        self._cluster = cluster
        RayContext._active = self
        print(f"Ray runs already: cluster {self.cluster_id}", flush=True)
        return self.address_info

    def _check_startable(self) -> None:
        if self._pid != os.getpid():
            raise RayContextError(_FORKED)
        _check_unconnected()
        manager.check_alive(self.sc)
        if (self._setting("spark.dynamicAllocation.enabled") or "false").lower() == "true":
            raise RayContextError(
                "dynamic allocation is on (spark.dynamicAllocation.enabled): Spark would take away executors whose "
                "nodes hold objects and actors; turn it off and set spark.executor.instances"
            )

    def _request(self, driver_cores: float) -> dict[str, Any]:
        python = self.sc.pythonExec
        if self.sc.master.startswith("local"):
            # Executors are on this machine: they run this very interpreter unless told otherwise.
            python = self._setting("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON") or sys.executable
        return {
            **self._options.request(),
            "worker_env": {**module_path.environment(self._origin().entries()), **self._options.worker_env},
            "allow_unauthenticated_spark": self._allow_unauthenticated_spark,
            "driver_cpus": driver_cores,
            "python": python,
            "driver_python": sys.executable,
            "python_version": platform.python_version(),
            "sparkray_version": __version__,
        }

    def _origin(self) -> job_modules.Origin:
        """Where workers find modules: as this program, after what `env` says by PYTHONPATH."""
        from pyspark import SparkFiles

        named = self._options.worker_env.get("PYTHONPATH", "")
        return job_modules.Origin(
            first=tuple(["path", entry] for entry in named.split(os.pathsep) if entry),
            files_root=SparkFiles.getRootDirectory(),
            # Executors of the other masters are on machines that do not have that directory.
            ship_files=not self.sc.master.startswith("local"),
        )

    def _setting(self, key: str) -> str | None:
        value: str | None = self.sc.getConf().get(key)
        return value

    def _running(self) -> dict[str, Any]:
        return self._current().result

    def _has_cluster(self) -> bool:
        return self._cluster is not None and not self._cluster.has_ended

    def _current(self) -> RunningCluster:
        if self._pid != os.getpid():
            raise RayContextError(_FORKED)
        if self._cluster is None:
            raise RayContextError(_NEVER_STARTED)
        if self._cluster.has_ended:
            raise RayContextError(_STOPPED)
        return self._cluster

    def _summary(self, seconds: float) -> str:
        cluster = self._running()
        nodes = cluster["nodes"]
        lines = [
            f"Ray on Spark: {len(nodes)} node{'s' if len(nodes) != 1 else ''} with "
            f"{sum(node['cpus'] for node in nodes):g} cores, ready in {seconds:.2f} s"
        ]
        for node in nodes:
            budget = node["memory_budget_bytes"]
            container = f" in {node['container_id']}" if node["container_id"] else ""
            limit = f" of {budget / 2**30:.2f} GiB set aside for Ray" if budget else ""
            lines.append(
                f"  executor {node['executor_id']} at {node['address']}{container}: {node['cpus']:g} cores, "
                f"object store {node['object_store_bytes'] / 2**30:.2f} GiB{limit}"
            )
        lines.append(f"  the head runs on executor {cluster['head_executor_id']}")
        return "\n".join(lines)


def _check_unconnected() -> None:
    if worker.state.core is not None:
        raise RayContextError("this program is connected to another cluster: call sparkray.shutdown() first")
