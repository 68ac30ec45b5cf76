"""Sessions of Spark on this machine, ended with all that belongs to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sparkray
from sparkray.spark import gateway


@contextlib.contextmanager
def spark_session(**arguments: Any) -> Iterator[Any]:
    """A SparkSession by `init_spark_on_local` with these arguments. Its JVM ends with it, so that another may begin."""
    from pyspark.sql import SparkSession

    context = sparkray.init_spark_on_local(**arguments)
    try:
        yield SparkSession(context)
    finally:
        context.stop()
        gateway.end_gateway()
