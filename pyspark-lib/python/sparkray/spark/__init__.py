"""Ray on the executors of a Spark application.

Everything here needs pyspark, which is imported when a name is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkray.spark.dataframe import from_spark, to_spark
    from sparkray.spark.errors import ClusterUnreachableError, SparkSetupError, SparkStartError
    from sparkray.spark.ray_context import RayContext, RayContextError
    from sparkray.spark.session import init_spark_on_local, init_spark_on_yarn

__all__ = [
    "ClusterUnreachableError",
    "RayContext",
    "RayContextError",
    "SparkSetupError",
    "SparkStartError",
    "from_spark",
    "init_spark_on_local",
    "init_spark_on_yarn",
    "to_spark",
]

_MODULES = {
    "ClusterUnreachableError": "errors",
    "RayContext": "ray_context",
    "RayContextError": "ray_context",
    "SparkSetupError": "errors",
    "SparkStartError": "errors",
    "from_spark": "dataframe",
    "init_spark_on_local": "session",
    "init_spark_on_yarn": "session",
    "to_spark": "dataframe",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'sparkray.spark' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparkray.spark.{module}"), name)
    globals()[name] = value
    return value
