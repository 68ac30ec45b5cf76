"""`init` and `shutdown`."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from sparkray._private import infeasible, units, worker
from sparkray._private import node as local
from sparkray._private import options as option_checks

# Addresses of clusters that this process started (cluster_utils.Cluster).
clusters: dict[str, local.LocalCluster] = {}

# Arguments of Ray's init that have no meaning here.
_WITHOUT_EFFECT = frozenset(
    {
        "configure_logging",
        "logging_level",
        "logging_format",
        "_metrics_export_port",
        "_driver_object_store_memory",
        "_skip_env_hook",
        # There is no Redis; programs have the password that Ray's clusters had for years.
        "_redis_username",
        "_redis_password",
    }
)
# Arguments of Ray's init that have no effect, which is said when they are given: there is no dashboard yet.
_DASHBOARD = frozenset({"include_dashboard", "dashboard_host", "dashboard_port"})
# Arguments of Ray's init that are not there yet.
_LATER = frozenset(
    {
        "job_config",
        "local_mode",
        "logging_config",
        "storage",
        "cgroup_path",
        "proxy_server_url",
        "_cluster_id",
        "_system_config",
        "_tracing_startup_hook",
        "_plasma_directory",
        "_object_spilling_directory",
        "_enable_object_reconstruction",
        "_node_name",
        "enable_resource_isolation",
        "system_reserved_cpu",
        "system_reserved_memory",
    }
)
_KNOWN = frozenset(
    {
        "address",
        "num_cpus",
        "num_gpus",
        "resources",
        "labels",
        "object_store_memory",
        "namespace",
        "log_to_driver",
        "ignore_reinit_error",
        "runtime_env",
        "include_dashboard",
        "dashboard_host",
        "dashboard_port",
        "_memory",
        "_temp_dir",
        "_node_ip_address",
    }
)


class ClusterInfo(Mapping[str, Any]):
    """What `init` returns: a mapping, and a context manager that calls `shutdown` (Ray: BaseContext).

    Keys: node_id, node_ip_address, address and gcs_address (host:port of the raylet, which is the way to the head),
    raylet_address, session_dir (None for a cluster that this process did not start), cluster_id, namespace, webui_url
    (always ""). Ray's raylet_ip_address, object_store_address and raylet_socket_name are there; the store has no socket
    of its own.
    """

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info
        self.dashboard_url = ""

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> ClusterInfo:
        return self

    def __exit__(self, *exception: object) -> None:
        worker.disconnect()

    def disconnect(self) -> None:
        """Same as `sparkray.shutdown()`."""
        worker.disconnect()

    def __repr__(self) -> str:
        facts = self.address_info
        return f"ClusterInfo(address={facts.get('address')!r}, node_id={facts.get('node_id')!r})"


def check_other_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments of `init` that are unknown or not there yet."""
    for name, value in arguments.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name in _DASHBOARD:
            if value not in (None, False, "127.0.0.1", "localhost", 8265):
                warnings.warn(f"init({name}=...) has no effect: there is no dashboard yet", stacklevel=3)
            continue
        if name in _LATER:
            if value not in (None, False, {}):
                raise NotImplementedError(f"init({name}=...) is not there yet: leave it out")
            continue
        raise TypeError(option_checks.unknown(f"argument {name!r} of init()", name, _KNOWN))


def check_namespace(namespace: Any) -> None:
    """Refuses what is no namespace."""
    if namespace is not None and (not isinstance(namespace, str) or not namespace):
        raise ValueError("namespace is a string that is not empty, or None for a new one")


def check_gpus(num_gpus: float) -> None:
    """Refuses nodes with GPUs: they would be counted, and no task would be told which one is its own."""
    if option_checks.check_quantity("num_gpus", num_gpus) > 0:
        raise NotImplementedError(
            f"num_gpus={num_gpus} is not there yet: GPUs are not assigned to tasks (CUDA_VISIBLE_DEVICES); leave it "
            "out, and bound the tasks that share a GPU by a custom resource"
        )


def named_address(address: str | None) -> str | None:
    """The address that `init` was given, or that RAY_ADDRESS names, as in Ray."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address is a string or None, not a {type(address).__name__}")
    if address is None or address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    return address


def address_to_join(address: str | None) -> str | None:
    """What `init` joins; None: a new cluster."""
    named = named_address(address)
    return None if named == "local" else named


def start_local(
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    object_store_memory: int | str | None,
    memory: int | str | None,
    namespace: str | None,
    log_to_driver: bool,
    labels: dict[str, str] | None,
    temp_dir: str | None,
    host: str | None,
    env_vars: dict[str, str],
) -> ClusterInfo:
    """Starts a cluster on this machine and connects to it. Nothing is left when it fails."""
    if num_cpus is not None:
        option_checks.check_quantity("num_cpus", num_cpus)
    if num_gpus is not None:
        check_gpus(num_gpus)
    checked = option_checks.check_resources(resources)
    store = None if object_store_memory is None else units.parse_bytes("object_store_memory", object_store_memory)
    heap = None if memory is None else units.parse_bytes("_memory", memory)
    if store is not None and store < units.STORE_LEAST:
        raise ValueError(f"object_store_memory is at least {units.STORE_LEAST} bytes, not {store}")
    cluster = local.LocalCluster(temp_dir)
    try:
        node = cluster.add_node(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            memory=heap,
            resources=checked,
            object_store_memory=store,
            labels=labels,
            host=host or local.LOOPBACK,
        )
        worker.connect_driver(
            cluster.connection(node),
            namespace=namespace,
            log_to_driver=log_to_driver,
            on_shutdown=cluster.stop,
            env_vars=env_vars,
        )
    except BaseException:
        cluster.stop()
        raise
    return current_info(str(cluster.session.path))


def connect_existing(
    address: str, namespace: str | None, log_to_driver: bool, env_vars: dict[str, str] | None = None
) -> ClusterInfo:
    """Connects to a cluster of `cluster_utils.Cluster` in this process."""
    if address == "auto" and len(clusters) == 1:
        address = next(iter(clusters))
    cluster = clusters.get(address)
    if cluster is None:
        known = f"; this process has: {', '.join(clusters)}" if clusters else ""
        where = " (from RAY_ADDRESS)" if address == os.environ.get("RAY_ADDRESS") else ""
        raise ConnectionError(
            f"address={address!r}{where} is not a cluster of this process, and joining one that another process "
            "started is not there yet: write init(address='local') for a cluster on this machine, or use RayContext on "
            f"Spark{known}"
        )
    worker.connect_driver(
        cluster.connection(cluster.nodes[0]),
        namespace=namespace,
        log_to_driver=log_to_driver,
        env_vars=env_vars,
        remedies=infeasible.NODE_BY_NODE,
    )
    return current_info(str(cluster.session.path))


def current_info(session_dir: str | None) -> ClusterInfo:
    """Describes the cluster that this process is connected to."""
    core = worker.connected()
    return ClusterInfo(
        {
            "node_id": core.node_id,
            "node_ip_address": core.node_ip,
            "address": core.node_address,
            "raylet_address": core.node_address,
            "raylet_ip_address": core.node_ip,
            "gcs_address": core.node_address,
            "object_store_address": worker.state.socket_name,
            "raylet_socket_name": worker.state.socket_name,
            "session_dir": session_dir,
            "cluster_id": core.cluster_id,
            "namespace": worker.job_namespace(),
            "webui_url": "",
        }
    )


def already_connected(ignore: bool) -> ClusterInfo:
    """`init` was called a second time."""
    if not ignore:
        raise RuntimeError(
            "sparkray is running in this process already, by init() or RayContext.init(): leave this call out or pass "
            "ignore_reinit_error=True to use what runs; sparkray.shutdown() ends it"
        )
    warnings.warn("init() was called again; the running cluster and its settings are kept", stacklevel=3)
    return current_info(None)


atexit.register(worker.disconnect)
