"""More data than the stores hold: it lies in the containers' own directories, and every value comes back."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

import sparkray
from sparkray.spark import RayContext
from support.ray_processes import Recorded, look_at, open_spill_files

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

MIB = 1 << 20
ROWS = 1_300_000


def test_a_feed_larger_than_the_stores_spills_into_the_containers_and_stays_exact(shared_spark: Any) -> None:
    with RayContext(shared_spark.sparkContext, object_store_memory="32m") as context:
        recorded = Recorded(context)
        # One partition for each executor, each larger than its store.
        df = shared_spark.range(0, ROWS, 1, 2).selectExpr("id", "sha2(cast(id as string), 256) as text")
        refs = sparkray.from_spark(df, max_block_bytes="4m")
        for node in context.nodes():
            environment = look_at(node["pid"]).environment
            roots = [pathlib.Path(local, node["container_id"]) for local in environment["LOCAL_DIRS"].split(",")]
            files = [pathlib.Path(path.removesuffix(" (deleted)")) for path in open_spill_files(node["pid"])]
            assert files, f"executor {node['executor_id']} has spilled nothing"
            assert all(any(root in file.parents for root in roots) for file in files)
        assert sum(size_of(refs)) > 90 * MIB
        back = sparkray.to_spark(refs, shared_spark)
        wrong = "text is null or text != sha2(cast(id as string), 256)"
        sums = back.selectExpr("count(1)", "sum(id)", f"count_if({wrong})").collect()[0]
        assert tuple(sums) == (ROWS, ROWS * (ROWS - 1) // 2, 0)
    recorded.assert_gone()


def size_of(refs: list[Any]) -> list[int]:
    from sparkray._private import worker

    return [size for _, size, _, _ in worker.core_worker().object_locations(refs, None)]
