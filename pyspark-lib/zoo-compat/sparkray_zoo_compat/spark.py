"""Starting Spark under the names of Analytics Zoo and BigDL's dllib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from sparkray import spark
from sparkray.spark import init_spark_on_local

if TYPE_CHECKING:
    from pyspark import SparkContext

__all__ = [
    "init_nncontext",
    "init_spark_on_k8s",
    "init_spark_on_local",
    "init_spark_on_yarn",
    "init_spark_on_yarn_cluster",
    "init_spark_standalone",
]


def init_spark_on_yarn(
    hadoop_conf: str | os.PathLike[str] | None,
    conda_name: str | None = None,
    num_executors: int | None = None,
    executor_cores: int | None = None,
    executor_memory: str = "2g",
    *,
    spark_conf: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> SparkContext:
    """`sparkray.init_spark_on_yarn`, with the spellings of earlier versions.

    Arguments:
        hadoop_conf, conda_name, num_executors, executor_cores, executor_memory: as there.
        spark_conf: the old spelling of ``conf``.
        arguments: as there. By name only: their order was not the same in all versions of Analytics Zoo.

    Returns:
        The SparkContext, for ``RayContext(sc)``.

    Raises:
        TypeError: an argument is missing, not known, or given in both spellings.
        Everything that `sparkray.init_spark_on_yarn` raises.
    """
    if spark_conf is not None:
        if "conf" in arguments:
            raise TypeError("init_spark_on_yarn() got conf and spark_conf, its old spelling: pass one")
        arguments["conf"] = spark_conf
    return spark.init_spark_on_yarn(
        hadoop_conf, conda_name, num_executors, executor_cores, executor_memory, **arguments
    )


def init_spark_standalone(*_arguments: Any, **_named: Any) -> NoReturn:
    """Not there: raises NotImplementedError, which says what to use."""
    raise NotImplementedError(
        "init_spark_standalone is not there: run the program with `spark-submit --master spark://HOST:PORT`, take the "
        "SparkContext from SparkContext.getOrCreate(), and give it to RayContext; for several executors on this "
        'machine use init_spark_on_local(conf={"spark.master": "local-cluster[2,1,1024]"})'
    )


def init_spark_on_k8s(*_arguments: Any, **_named: Any) -> NoReturn:
    """Not there: raises NotImplementedError, which says what to use."""
    raise NotImplementedError(
        "init_spark_on_k8s is not there: sparkray starts Spark on YARN (init_spark_on_yarn) and on one machine "
        "(init_spark_on_local)"
    )


def init_spark_on_yarn_cluster(*_arguments: Any, **_named: Any) -> NoReturn:
    """Not there: raises NotImplementedError, which says what to use."""
    raise NotImplementedError(
        "init_spark_on_yarn_cluster is not there: init_spark_on_yarn runs the program on this machine and all else on "
        "YARN"
    )


def init_nncontext(*_arguments: Any, **_named: Any) -> NoReturn:
    """Not there: raises NotImplementedError, which says what to use."""
    raise NotImplementedError(
        "init_nncontext is not there: take the SparkContext from SparkContext.getOrCreate() in a program that "
        "spark-submit has started, or from init_spark_on_yarn or init_spark_on_local, and give it to RayContext"
    )
