"""Spark and the cluster's only node in one JVM."""

from __future__ import annotations

import os

import sparkray
from sparkray.spark import RayContext, init_spark_on_local
from support.ray_processes import Recorded


def test_spark_in_one_process_carries_a_cluster_of_one_node() -> None:
    from pyspark.sql import SparkSession

    sc = init_spark_on_local(cores=2, conf={"spark.ui.enabled": "false"})
    try:
        spark = SparkSession(sc)
        context = RayContext(sc, object_store_memory="64m")
        context.init()
        recorded = Recorded(context)
        (node,) = context.nodes()
        assert context.is_local and node["executor_id"] == "driver" and node["cpus"] == 2
        assert sparkray.cluster_resources()["CPU"] == 2.0

        @sparkray.remote
        def double(table):
            import pyarrow
            import pyarrow.compute

            ids = pyarrow.compute.multiply(table["id"], 2)
            return pyarrow.table({"id": ids, "pid": pyarrow.array([os.getpid()] * len(ids))})

        blocks = sparkray.from_spark(spark.range(0, 10_000, 1, 3))
        back = sparkray.to_spark([double.remote(block) for block in blocks], spark)
        rows = back.selectExpr("count(1)", "sum(id)", "count(distinct pid)", "min(pid)").collect()[0]
        assert rows[:2] == (10_000, 99_990_000)
        # In workers, not in this process.
        assert rows[2] >= 1 and rows[3] != os.getpid()
        # Tasks of Spark join the driver's node.
        seen = sc.parallelize([1, 2], 2).map(
            lambda n: (n, sparkray.put(n), sparkray.get_runtime_context().get_node_id())
        )
        for number, reference, node_id in seen.collect():
            assert sparkray.get(reference) == number and node_id == node["node_id"]
        context.stop()
        recorded.assert_gone()
        recorded.assert_quiet()
        # Spark goes on without it.
        assert spark.range(10).count() == 10
    finally:
        sc.stop()
