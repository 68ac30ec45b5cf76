"""RayContext and OrcaRayContext with the arguments of all their versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkray import spark
from sparkray_zoo_compat.arguments import check_known, warn_ignored

if TYPE_CHECKING:
    from pyspark import SparkContext

_NO_REDIS_SECRET = "there is no Redis, and every cluster has a secret of its own"

# Arguments without a counterpart, and why nothing is lost.
_IGNORED = {
    "redis_port": "there is no Redis, and the kernel chooses ports",
    "password": _NO_REDIS_SECRET,
    "redis_password": _NO_REDIS_SECRET,
    "local_ray_node_num": "each executor has one node, with all its cores",
    "waiting_time_sec": "init() returns when the nodes are there",
    "system_config": "there are no such settings; objects spill to the local directories of the executor",
}
_OWN = frozenset(
    {
        *("object_store_memory", "verbose", "env", "extra_params", "include_webui", "num_ray_nodes"),
        *("ray_node_cpu_cores", "namespace", "log_to_driver", "encryption", "allow_unauthenticated_spark"),
    }
)
# Resources of each node that the first version made of two arguments.
_RESOURCES = {"trainer_per_node": "trainer", "ps_per_node": "ps"}

# Everything that RayContext takes beside the SparkContext.
KNOWN = _OWN | {*_IGNORED, *_RESOURCES}

# Options of `ray start` in extra_params, about files, ports, the dashboard and logs.
_IGNORED_OPTIONS = frozenset(
    {
        *("temp_dir", "plasma_directory", "plasma_store_socket_name", "raylet_socket_name", "node_ip_address"),
        *("port", "redis_port", "redis_shard_ports", "num_redis_shards", "redis_max_clients", "redis_password"),
        *("object_manager_port", "node_manager_port", "gcs_server_port", "ray_client_server_port"),
        *("min_worker_port", "max_worker_port", "worker_port_list", "metrics_export_port"),
        *("include_webui", "include_dashboard", "dashboard_host", "dashboard_port"),
        *("dashboard_agent_listen_port", "disable_usage_stats", "log_style", "log_color", "verbose"),
        *("system_config", "_system_config"),
    }
)
_ARGUMENT_OF_OPTION = {
    "num_cpus": "pass ray_node_cpu_cores to RayContext",
    "object_store_memory": "pass object_store_memory to RayContext",
    "memory": "pass extra_executor_memory_for_ray to init_spark_on_yarn",
}


class RayContext(spark.RayContext):
    """`sparkray.RayContext`, with the arguments of RayOnSpark's versions.

    Arguments:
        sc: the SparkContext.
        redis_port, password: ignored with a warning: there is no Redis.
        object_store_memory, verbose, env: as `sparkray.RayContext` has them.
        arguments: the others, by name only, because their order was not the same in all versions: those of
            `sparkray.RayContext`; ``trainer_per_node`` and ``ps_per_node``, which become resources of each node;
            ``local_ray_node_num``, ``waiting_time_sec``, ``redis_password`` and ``system_config``, which are ignored
            with a warning.

    Raises:
        TypeError: an argument is not known.
        ValueError: an option in ``extra_params`` has an argument of its own, which is named.
        Everything that `sparkray.RayContext` raises.

    Upstream name: ``zoo.ray.RayContext``, ``bigdl.orca.ray.RayContext``.
    """

    def __init__(
        self,
        sc: SparkContext,
        redis_port: int | None = None,
        password: str | None = None,
        object_store_memory: str | None = None,
        verbose: bool = False,
        env: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        ours, ignored = translate({"redis_port": redis_port, "password": password, **arguments})
        warn_ignored("RayContext", ignored)
        super().__init__(sc, object_store_memory=object_store_memory, verbose=verbose, env=env, **ours)


class OrcaRayContext(RayContext):
    """`RayContext` as BigDL Orca makes it.

    Arguments:
        runtime: only ``"spark"``.
        cores, num_nodes: ignored with a warning: Spark's executors say both. (Upstream ignores them for Spark.)
        sc: the SparkContext.
        arguments: as `RayContext`, by name.

    Raises:
        NotImplementedError: ``runtime`` is another one.
        TypeError: ``sc`` is missing.
        Everything that `RayContext` raises.

    Upstream name: ``bigdl.orca.ray.OrcaRayContext``.
    """

    def __init__(
        self,
        runtime: str = "spark",
        cores: int | None = None,
        num_nodes: int | None = None,
        *,
        sc: SparkContext | None = None,
        **arguments: Any,
    ) -> None:
        check_runtime("OrcaRayContext", runtime)
        if sc is None:
            raise TypeError("OrcaRayContext() needs sc=, the SparkContext on whose executors Ray is to run")
        given = {"cores": cores, "num_nodes": num_nodes}
        reason = "Spark's executors say it; ray_node_cpu_cores and num_ray_nodes say otherwise"
        warn_ignored("OrcaRayContext", {name: reason for name, value in given.items() if value is not None})
        self.runtime = runtime
        super().__init__(sc, **arguments)


def check_runtime(function: str, runtime: str) -> None:
    """Refuses another runtime than Spark.

    Arguments:
        function: what was called, for the message.
        runtime: the argument.

    Raises:
        NotImplementedError: it is another one.
    """
    if runtime != "spark":
        raise NotImplementedError(
            f'{function}(runtime={runtime!r}): only "spark" is there; without Spark call ray.init() yourself, which '
            "starts a cluster on this machine"
        )


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What arguments of RayOnSpark mean for `sparkray.RayContext`.

    Arguments:
        given: arguments by name; None for those that were left out.

    Returns:
        The arguments of `sparkray.RayContext`, and the names that are ignored with the reasons.

    Raises:
        TypeError: a name is not known.
        ValueError: an option in ``extra_params`` has an argument of its own, which is named.
    """
    check_known("RayContext", given, KNOWN)
    chosen = {name: value for name, value in given.items() if value is not None}
    ours = {name: value for name, value in chosen.items() if name in _OWN}
    # An empty system_config sets nothing.
    ignored = {name: _IGNORED[name] for name, value in chosen.items() if name in _IGNORED and value != {}}
    options: dict[str, Any] = {}
    for option, value in (ours.pop("extra_params", None) or {}).items():
        name = str(option).lstrip("-").replace("-", "_")
        if name in _ARGUMENT_OF_OPTION:
            raise ValueError(f"extra_params[{option!r}] has an argument of its own: {_ARGUMENT_OF_OPTION[name]}")
        if name in _IGNORED_OPTIONS:
            ignored[f"extra_params[{option!r}]"] = "an option of `ray start`, which does not exist here"
        else:
            # sparkray.RayContext says what it does not take.
            options[name] = value
    resources = {resource: chosen[name] for name, resource in _RESOURCES.items() if name in chosen}
    if resources and "resources" in options:
        raise ValueError(
            "extra_params['resources'] and trainer_per_node or ps_per_node: put all into extra_params['resources'], "
            f"which has {resources} then too"
        )
    if resources:
        options["resources"] = resources
    if options:
        ours["extra_params"] = options
    return ours, ignored
