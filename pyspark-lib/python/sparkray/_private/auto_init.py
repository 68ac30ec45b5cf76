"""The cluster of a program that uses Ray without calling `init`: one on this machine, as in Ray.

A program that has a SparkContext gets none by itself: its cluster belongs on the executors, and RayContext starts it.
Neither does one that has left or stopped its cluster: what it still uses may be of that one.
"""

from __future__ import annotations

import os
import sys

from sparkray._private import worker

# "0" turns it off, as in Ray.
_ENABLED = "RAY_ENABLE_AUTO_CONNECT"


def start() -> None:
    """Does what `init()` does, unless it is turned off or the program runs on Spark. Raises what `init` raises."""
    import sparkray

    if os.environ.get(_ENABLED) == "0" or _has_spark():
        return
    # Threads that are first at the same time get one cluster.
    with worker.joining:
        if worker.state.core is None:
            sparkray.init()


def _has_spark() -> bool:
    pyspark = sys.modules.get("pyspark")
    context = getattr(pyspark, "SparkContext", None)
    return getattr(context, "_active_spark_context", None) is not None
