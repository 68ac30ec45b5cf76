"""sparkray in a SparkContext that was started without its plugin.

The driver's Java gets the jar by its own class loader: spark-submit's, which every thread of Java inherits and which
takes more jars while it runs. (SQL's ADD JAR reaches only the thread that says it.) Executors get it by addJar, with
the first task that needs it. The rest is org.sparkray.Attachment's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from sparkray.spark import packaging
from sparkray.spark.errors import RayContextError
from sparkray.spark.spark_conf import PLUGIN_CLASS

# Those of Spark's class loaders that have a public addURL.
_GROWING_LOADERS = frozenset(
    {"org.apache.spark.util.MutableURLClassLoader", "org.apache.spark.util.ChildFirstURLClassLoader"}
)


def find_class(jvm: Any) -> Any:
    """org.sparkray.RayContext as py4j knows it, or None when the driver's Java does not have it."""
    found = jvm.org.sparkray.RayContext
    # Without the jar the name is a package, which has no methods.
    return found if type(found).__name__ == "JavaClass" else None


def attach(java_context: Any, jvm: Any) -> Any:
    """Gives a SparkContext that runs what the plugin would have given it.

    Arguments:
        java_context: the JavaSparkContext.
        jvm: py4j's view of its Java.

    Returns:
        The org.sparkray.RayContext.

    Raises:
        RayContextError: the driver's Java takes no more classes.
        SparkSetupError: this sparkray was installed without its jar.
    """
    jar = packaging.jar_path()
    java_class = find_class(jvm)
    if java_class is None:
        _add_to_driver(jvm, jar)
        java_class = find_class(jvm)
        if java_class is None:
            raise RayContextError(f"{jar} was given to Spark's driver, but its classes are not found there")
    # A jar of this name came by an earlier call, or by --jars.
    if os.path.basename(jar) not in _names_of_jars(java_context):
        java_context.addJar(jar)
    return java_class.attach(java_context)


def warn_of_memory(nodes: Iterable[Mapping[str, Any]]) -> None:
    """Says that nodes live on memory of Spark's own, and what to set; for those in containers only."""
    limited = [node for node in nodes if node["memory_budget_bytes"]]
    if limited:
        budget = min(node["memory_budget_bytes"] for node in limited) >> 20
        store = min(node["object_store_bytes"] for node in limited) >> 20
        warnings.warn(
            f"this Spark application has set no memory aside for Ray: each node has {budget} MiB of what Spark keeps "
            f"for itself beside the heap, {store} MiB of them for objects (more of them go to disk), and a container "
            "that outgrows its memory is ended; start Spark with a larger spark.executor.memoryOverhead, such as 3g",
            RuntimeWarning,
            stacklevel=2,
        )


def _add_to_driver(jvm: Any, jar: str) -> None:
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    while loader is not None:
        if loader.getClass().getName() in _GROWING_LOADERS:
            loader.addURL(jvm.java.io.File(jar).toURI().toURL())
            return
        loader = loader.getParent()
    raise RayContextError(
        "this SparkContext was started without sparkray's plugin, and its driver takes no more classes while it runs: "
        f"start Spark with --jars {jar} --conf spark.plugins={PLUGIN_CLASS}, or with init_spark_on_yarn"
    )


def _names_of_jars(java_context: Any) -> set[str]:
    # A Seq of another Scala for each Spark.
    return {name.rpartition("/")[2] for name in str(java_context.sc().listJars().mkString(",")).split(",")}
