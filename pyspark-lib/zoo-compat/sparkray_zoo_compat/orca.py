"""init_orca_context and stop_orca_context: Spark and, on demand, Ray on it, by one call."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sparkray import spark
from sparkray_zoo_compat.arguments import check_known, warn_ignored
from sparkray_zoo_compat.ray_context import KNOWN as _OF_RAY
from sparkray_zoo_compat.ray_context import OrcaRayContext, check_runtime

if TYPE_CHECKING:
    from pyspark import SparkContext

_OF_LOCAL = frozenset(
    {
        *("conf", "spark_log_level", "redirect_spark_log", "python_location"),
        *("jars", "extra_python_lib", "py_files"),
    }
)
_OF_YARN = frozenset(
    {
        *("conf", "spark_log_level", "redirect_spark_log", "hadoop_conf", "hadoop_user_name", "spark_yarn_archive"),
        *("driver_cores", "driver_memory", "extra_executor_memory_for_ray", "extra_python_lib", "penv_archive"),
        *("additional_archive", "jars", "py_files"),
    }
)
# Of the ways to start Spark that are not there, or of BigDL's own.
_OF_OTHERS = frozenset({"master", "container_image", "enable_numa_binding", "init_executor_gateway"})

_INSTEAD = {
    "yarn-cluster": 'use cluster_mode="yarn-client", which runs the program on this machine',
    "standalone": "run the program with `spark-submit --master spark://HOST:PORT` and use cluster_mode="
    '"spark-submit"; RayContext says which --conf and --jars it needs',
    "k8s": 'sparkray starts Spark on YARN ("yarn-client") and on one machine ("local")',
}


def init_orca_context(
    cluster_mode: str | None = None,
    *,
    runtime: str = "spark",
    cores: int | str | None = None,
    memory: str = "2g",
    num_nodes: int = 1,
    init_ray_on_spark: bool = False,
    **arguments: Any,
) -> SparkContext:
    """Starts Spark, or takes the SparkContext that runs, and makes a RayContext for it.

    Arguments:
        cluster_mode: ``"local"``, ``"yarn"`` or ``"yarn-client"``, ``"spark-submit"`` or ``"bigdl-submit"``; None: the
            SparkContext that runs, else ``"local"``. The others by name only, because their order was not the same in
            all versions.
        runtime: only ``"spark"``.
        cores: cores of each executor; None: all of this machine for ``"local"``, else 2, with a warning.
        memory: heap of each executor, with a unit.
        num_nodes: executors.
        init_ray_on_spark: whether Ray is started now; else ``OrcaRayContext.get()`` starts it.
        arguments: those of `sparkray.init_spark_on_yarn` or `init_spark_on_local` and of `RayContext`. What does not
            go with the cluster_mode is ignored with a warning.

    Returns:
        The SparkContext.

    Raises:
        NotImplementedError: a cluster_mode or runtime that is not there; the message says what to use.
        TypeError: an argument is not known.
        Everything that `init_spark_on_yarn`, `init_spark_on_local` and `RayContext` raise; Spark that this call has
        started is stopped then.

    Upstream name: ``bigdl.orca.init_orca_context``, ``zoo.orca.init_orca_context``.
    """
    check_runtime("init_orca_context", runtime)
    check_known("init_orca_context", arguments, _OF_RAY | _OF_LOCAL | _OF_YARN | _OF_OTHERS)
    of_ray = {name: value for name, value in arguments.items() if name in _OF_RAY}
    of_spark = {name: value for name, value in arguments.items() if name not in _OF_RAY}
    running = _running_context()
    sc = running
    if sc is None:
        sc = _start_spark((cluster_mode or "local").lower(), cores, memory, num_nodes, of_spark)
    else:
        given = [*([] if cluster_mode in (None, "spark-submit", "bigdl-submit") else ["cluster_mode"]), *of_spark]
        warn_ignored("init_orca_context", dict.fromkeys(given, "there is a SparkContext, and it is used as it is"))
    try:
        context = OrcaRayContext(sc=sc, **of_ray)
        if init_ray_on_spark:
            context.init()
    except BaseException:
        if running is None:
            sc.stop()
        raise
    return sc


def stop_orca_context() -> None:
    """Stops the SparkContext, and Ray on it before; does nothing when there is none.

    Upstream name: ``bigdl.orca.stop_orca_context``.
    """
    running = _running_context()
    if running is not None:
        # A RayContext ends its cluster when its SparkContext is stopped.
        running.stop()


def _running_context() -> SparkContext | None:
    from pyspark import SparkContext

    running: SparkContext | None = SparkContext._active_spark_context
    return running


def _start_spark(
    mode: str, cores: int | str | None, memory: str, num_nodes: int, arguments: dict[str, Any]
) -> SparkContext:
    if mode == "local":
        chosen = _of_mode(mode, arguments, _OF_LOCAL)
        if num_nodes != 1:
            warn_ignored("init_orca_context", {"num_nodes": 'cluster_mode="local" has one'})
        return spark.init_spark_on_local("*" if cores is None else cores, memory=memory, **chosen)
    if mode in ("yarn", "yarn-client"):
        chosen = _of_mode(mode, arguments, _OF_YARN)
        if cores is None:
            warnings.warn("init_orca_context: 2 cores for each executor: pass cores=", UserWarning, stacklevel=3)
        return spark.init_spark_on_yarn(
            chosen.pop("hadoop_conf", None),
            num_executors=num_nodes,
            executor_cores=cores or 2,
            executor_memory=memory,
            **chosen,
        )
    if mode in ("spark-submit", "bigdl-submit"):
        from pyspark import SparkContext

        _of_mode(mode, arguments, frozenset())
        return SparkContext.getOrCreate()
    instead = _INSTEAD.get("k8s" if mode.startswith("k8s") else mode)
    if instead is not None:
        raise NotImplementedError(f"init_orca_context(cluster_mode={mode!r}) is not there: {instead}")
    raise ValueError(f"cluster_mode is local, yarn-client or spark-submit, not {mode!r}")


def _of_mode(mode: str, arguments: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The arguments that go with a mode; warns of the others."""
    others = [name for name in arguments if name not in known]
    warn_ignored("init_orca_context", dict.fromkeys(others, f"it means nothing with cluster_mode={mode!r}"))
    return {name: value for name, value in arguments.items() if name in known}
