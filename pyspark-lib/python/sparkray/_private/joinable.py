"""`init` in a program whose cluster RayContext started, or in a task of Spark: it joins that cluster and starts none.

`shutdown` leaves such a cluster, and whoever started it ends it. What `init` is asked for and a cluster that runs
cannot give any more is said in one warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from sparkray._private import init, spark_task, worker

# Where RayContext is told what `init` is asked for.
_ARGUMENTS_OF_RAY_CONTEXT = {
    "num_cpus": "ray_node_cpu_cores (CPUs of each node)",
    "resources": 'extra_params={"resources": ...}',
    "object_store_memory": "object_store_memory",
}


class JoinableCluster(Protocol):
    """A cluster that runs apart from this process's connection to it (`worker.state.joinable`)."""

    @property
    def addresses(self) -> frozenset[str]:
        """Under which names `init(address=...)` means it."""

    def check(self) -> None:
        """Raises RuntimeError when it is lost."""

    def is_connected(self) -> bool:
        """Whether this process takes part in it now."""

    def connect(self, namespace: str | None = None, log_to_driver: bool | None = None) -> None:
        """Makes this process take part in it, which it does not. None: as when it was started."""


def cluster_for(address: str | None) -> JoinableCluster | None:
    """The cluster that `init` joins; None: there is none, or another one of this process is used or asked for.

    In a task of Spark it is always the executor's, and `init` never starts one.
    """
    in_task = spark_task.cluster()
    if in_task is not None:
        return in_task
    cluster = worker.state.joinable
    if cluster is None or cluster.is_connected():
        return cluster
    if worker.state.core is not None or init.named_address(address) in init.clusters:
        return None
    return cluster


def join(
    cluster: JoinableCluster,
    *,
    address: str | None,
    of_new_clusters: Mapping[str, Any],
    namespace: str | None,
    log_to_driver: bool | None,
    env_vars: dict[str, str] | None,
) -> init.ClusterInfo:
    """Connects to the cluster, if this process is not connected, and has it work as `init` was asked.

    Args:
        cluster: as `cluster_for` gave it.
        address: as `init` was given it.
        of_new_clusters: arguments of `init` that only a cluster that it starts can meet, by name.
        namespace: in which named actors are found from now on; None: as it is.
        log_to_driver: whether workers' output is printed from now on; None: as it is.
        env_vars: variables of the workers of what is called from now on; None: as it is.
    """
    cluster.check()
    _warn_of_unmet(_unmet_address(cluster, address) | {name: value for name, value in of_new_clusters.items() if value})
    if cluster.is_connected():
        worker.change_settings(namespace, log_to_driver, env_vars)
    else:
        cluster.connect(namespace, log_to_driver)
        worker.change_settings(None, None, env_vars)
    return init.current_info(None)


def _unmet_address(cluster: JoinableCluster, address: str | None) -> dict[str, Any]:
    named = init.named_address(address)
    return {} if named in (None, "auto") or named in cluster.addresses else {"address": named}


def _warn_of_unmet(unmet: Mapping[str, Any]) -> None:
    if not unmet:
        return
    given = ", ".join(f"{name}={value!r}" for name, value in unmet.items())
    places = [f"{name} by {place}" for name, place in _ARGUMENTS_OF_RAY_CONTEXT.items() if name in unmet]
    advice = f": leave them out, or tell RayContext ({', '.join(places)})" if places else ": leave them out"
    warnings.warn(
        f"init() uses the cluster that RayContext started, upon which these have no effect: {given}{advice}",
        stacklevel=4,  # whoever called init()
    )
