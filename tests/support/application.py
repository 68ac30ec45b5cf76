"""A Spark application on the mini cluster that several modules of tests share."""

from __future__ import annotations

import pathlib
from typing import Any

from sparkray.spark import init_spark_on_yarn
from support.minicluster import MiniCluster, wait_until

STORE = "64m"
CONTAINERS_END_SECONDS = 60


class Application:
    """A Spark application with two executors, started when it is first needed. Its event log is in `events`."""

    def __init__(self, cluster: MiniCluster, events: pathlib.Path) -> None:
        self.events = events
        self._cluster = cluster
        self._context: Any = None

    def context(self) -> Any:
        """Its SparkContext."""
        if self._context is None:
            self._context = init_spark_on_yarn(
                hadoop_conf=self._cluster.conf_dir,
                num_executors=2,
                executor_cores=1,
                executor_memory="640m",
                driver_cores=1,
                driver_memory="700m",
                extra_executor_memory_for_ray="640m",
                conf={
                    **self._cluster.spark_conf(),
                    "spark.ui.enabled": "false",
                    "spark.ray.init.timeout": "120s",
                    "spark.sql.shuffle.partitions": "4",
                    # Tests kill executors.
                    "spark.yarn.max.executor.failures": "1000",
                    "spark.eventLog.enabled": "true",
                    "spark.eventLog.dir": self.events.as_uri(),
                },
            )
        return self._context

    def stop(self) -> None:
        """Ends it, if it runs."""
        context, self._context = self._context, None
        if context is not None:
            context.stop()
            wait_until(lambda: not self._cluster.container_processes(), CONTAINERS_END_SECONDS, "the containers end")
