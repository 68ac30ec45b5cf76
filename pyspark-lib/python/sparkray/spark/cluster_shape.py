"""How many nodes a Ray cluster has on a Spark application, and with how many cores. Decides only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sparkray._private import limits

Setting = Callable[[str], "str | None"]
_LOCAL = re.compile(r"local(?:\[\s*(\*|\d+)\s*(?:,\s*\d+\s*)?\])?")
_LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


@dataclass(frozen=True)
class ClusterShape:
    """What Spark's settings say about the executors."""

    # Executors that will be there; None when the settings do not say.
    executors: int | None
    # Cores of each.
    cores: int
    # Driver and executor are one process.
    is_local: bool


def read_shape(master: str, setting: Setting) -> ClusterShape:
    """Reads the settings of a running SparkContext.

    Args:
        master: ``sc.master``.
        setting: gives the value of a Spark setting, or None.

    Raises:
        ValueError: a setting is not a number.
    """
    local = _LOCAL.fullmatch(master)
    if local is not None:
        cores = local.group(1) or "1"
        return ClusterShape(1, limits.cpus() if cores == "*" else int(cores), True)
    local_cluster = _LOCAL_CLUSTER.fullmatch(master)
    if local_cluster is not None:
        cores = _number(setting, "spark.executor.cores") or int(local_cluster.group(2))
        return ClusterShape(int(local_cluster.group(1)), cores, False)
    executor_cores = _number(setting, "spark.executor.cores")
    executors = _number(setting, "spark.executor.instances")
    if executors is None and master == "yarn":
        # Spark's own default.
        executors = 2
    cores_max = _number(setting, "spark.cores.max")
    if executors is None and cores_max is not None and executor_cores:
        executors = cores_max // executor_cores
    return ClusterShape(executors, executor_cores or 1, False)


def _number(setting: Setting, key: str) -> int | None:
    value = setting(key)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{key}={value} is not a whole number") from None
