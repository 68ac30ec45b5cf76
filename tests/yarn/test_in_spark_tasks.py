"""Ray calls inside Spark's own tasks, in containers of a real YARN."""

from __future__ import annotations

import os
from typing import Any

import pytest

import sparkray
from sparkray.spark import RayContext
from support.minicluster import MiniCluster

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

LARGE = 1 << 20


@sparkray.remote
def total(numbers: list[int]) -> int:
    return sum(numbers)


def test_tasks_use_the_raylet_of_their_container_and_write_what_it_made(
    mini_cluster: MiniCluster, shared_spark: Any, shared_ray: RayContext
) -> None:
    # The line that published programs have: it joins the cluster that runs.
    assert sparkray.init()["cluster_id"] == shared_ray.cluster_id
    offset = sparkray.put(1000)

    def work(number: int) -> tuple[int, str, str, int]:
        sparkray.init(ignore_reinit_error=True)
        numbers = sparkray.put(list(range(number)))
        made = sparkray.get(total.remote(numbers)) + sparkray.get(offset)
        runtime = sparkray.get_runtime_context()
        return number, os.environ["CONTAINER_ID"], runtime.get_node_labels()["container_id"], made

    context = shared_spark.sparkContext
    frame = shared_spark.createDataFrame(
        context.parallelize(range(4), 4).map(work), "number int, container string, node string, made int"
    )
    path = f"{mini_cluster.hdfs_uri}/made-in-tasks"
    frame.write.mode("overwrite").parquet(path)
    rows = shared_spark.read.parquet(path).collect()
    assert {row.number: row.made for row in rows} == {0: 1000, 1: 1000, 2: 1001, 3: 1003}
    assert all(row.container == row.node for row in rows)


def test_references_come_back_to_the_driver(shared_spark: Any, shared_ray: RayContext) -> None:
    references = shared_spark.sparkContext.parallelize(range(2), 2).map(lambda n: sparkray.put([n] * LARGE)).collect()
    assert [sparkray.get(reference)[-1] for reference in references] == [0, 1]
    assert sparkray.get(total.remote(references[1])) == LARGE
