"""init_orca_context and stop_orca_context: Spark and, on demand, Ray on it, by one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkray import spark
from sparkray_zoo_compat.arguments import check_known, warn, warn_ignored
from sparkray_zoo_compat.orca_context import running_spark
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
_SUBMITTED = ("spark-submit", "bigdl-submit")
_OPTION_OF_SUBMIT = {"cores": "--executor-cores", "memory": "--executor-memory", "num_nodes": "--num-executors"}
# Of the ways to start Spark that are not there, or of BigDL's own.
_OF_OTHERS = frozenset({"master", "container_image", "enable_numa_binding", "init_executor_gateway"})

_INSTEAD = {
    "yarn-cluster": 'use cluster_mode="yarn-client", which runs the program on this machine',
    "standalone": 'run the program with `spark-submit --master spark://HOST:PORT` and use cluster_mode="spark-submit"',
    "k8s": 'sparkray starts Spark on YARN ("yarn-client") and on one machine ("local")',
}


def init_orca_context(
    cluster_mode: str | None = None,
    *,
    runtime: str = "spark",
    cores: int | str | None = None,
    memory: str | None = None,
    num_nodes: int | None = None,
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
        memory: heap of each executor, with a unit; None: ``"2g"``.
        num_nodes: executors; None: 1.
        init_ray_on_spark: whether Ray is started now; else ``OrcaRayContext.get()`` starts it.
        arguments: those of `sparkray.init_spark_on_yarn` or `init_spark_on_local` and of `RayContext`.

    What is said of Spark and does not go with the cluster_mode, or with the SparkContext that runs, is ignored with a
    warning that names it: cores, memory and num_nodes too.

    Returns:
        The SparkContext.

    Raises:
        NotImplementedError: a cluster_mode or runtime that is not there; the message says what to use.
        ValueError: there is no such cluster_mode.
        TypeError: an argument is not known.
        Everything that `init_spark_on_yarn`, `init_spark_on_local` and `RayContext` raise; Spark that this call has
        started is stopped then.

    Upstream name: ``bigdl.orca.init_orca_context``, ``zoo.orca.init_orca_context``.
    """
    check_runtime("init_orca_context", runtime)
    check_known("init_orca_context", arguments, _OF_RAY | _OF_LOCAL | _OF_YARN | _OF_OTHERS)
    of_ray = {name: value for name, value in arguments.items() if name in _OF_RAY}
    of_spark = {name: value for name, value in arguments.items() if name not in _OF_RAY}
    sizes = {"cores": cores, "memory": memory, "num_nodes": num_nodes}
    of_spark |= {name: value for name, value in sizes.items() if value is not None}
    mode = (cluster_mode or "local").lower()
    running = running_spark()
    if running is None:
        _check_mode(mode)
        ignored = _ignored_by_mode(mode, of_spark)
        if mode in ("yarn", "yarn-client") and cores is None:
            warn("init_orca_context: 2 cores for each executor: pass cores=")
    else:
        named_mode = [] if cluster_mode is None or mode in _SUBMITTED else ["cluster_mode"]
        ignored = dict.fromkeys([*named_mode, *of_spark], "there is a SparkContext, and it is used as it is")
    warn_ignored("init_orca_context", ignored)
    sc = running
    if sc is None:
        sc = _start_spark(mode, {name: value for name, value in of_spark.items() if name not in ignored})
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

    Upstream name: ``bigdl.orca.stop_orca_context``, ``zoo.orca.stop_orca_context``.
    """
    running = running_spark()
    if running is not None:
        # A RayContext ends its cluster when its SparkContext is stopped.
        running.stop()


def _check_mode(mode: str) -> None:
    if mode in ("local", "yarn", "yarn-client", *_SUBMITTED):
        return
    instead = _INSTEAD.get("k8s" if mode.startswith("k8s") else mode)
    if instead is None:
        raise ValueError(f"cluster_mode is local, yarn-client or spark-submit, not {mode!r}")
    raise NotImplementedError(f"init_orca_context(cluster_mode={mode!r}) is not there: {instead}")


def _ignored_by_mode(mode: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Which arguments mean nothing for Spark that a mode starts, with the reasons."""
    if mode in _SUBMITTED:
        return {name: f"spark-submit has {_OPTION_OF_SUBMIT.get(name, 'its own options')}" for name in given}
    if mode == "local":
        known = _OF_LOCAL | {"cores", "memory"}
        if given.get("num_nodes") == 1:
            known |= {"num_nodes"}
    else:
        known = _OF_YARN | _OPTION_OF_SUBMIT.keys()
    return {name: f"it means nothing with cluster_mode={mode!r}" for name in given if name not in known}


def _start_spark(mode: str, arguments: dict[str, Any]) -> SparkContext:
    """Starts Spark; the arguments are those that mean something for the mode."""
    if mode in _SUBMITTED:
        from pyspark import SparkContext

        return SparkContext.getOrCreate()
    cores = arguments.pop("cores", None)
    memory = arguments.pop("memory", "2g")
    num_nodes = arguments.pop("num_nodes", 1)
    if mode == "local":
        return spark.init_spark_on_local("*" if cores is None else cores, memory=memory, **arguments)
    return spark.init_spark_on_yarn(
        arguments.pop("hadoop_conf", None),
        num_executors=num_nodes,
        executor_cores=2 if cores is None else cores,
        executor_memory=memory,
        **arguments,
    )
