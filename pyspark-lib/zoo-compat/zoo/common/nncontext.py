"""Where programs find the functions that start Spark."""

from sparkray_zoo_compat.spark import (
    init_nncontext,
    init_spark_on_k8s,
    init_spark_on_local,
    init_spark_on_yarn,
    init_spark_on_yarn_cluster,
    init_spark_standalone,
)

__all__ = [
    "init_nncontext",
    "init_spark_on_k8s",
    "init_spark_on_local",
    "init_spark_on_yarn",
    "init_spark_on_yarn_cluster",
    "init_spark_standalone",
]
