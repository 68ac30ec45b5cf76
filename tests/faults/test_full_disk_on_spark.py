"""A feed that fits neither into the store nor onto the disk is refused by a sentence, and leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions
from sparkray.spark import RayContext, gateway, init_spark_on_local
from support.disk import small_disk
from support.ray_processes import Recorded

pytestmark = pytest.mark.trouble

MIB = 1 << 20
DISK = 72 * MIB
STORE = 32 * MIB


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[Any]:
    """One executor, all of whose files are on a small disk."""
    from pyspark.sql import SparkSession

    with small_disk(tmp_path / "disk", DISK) as disk:
        conf = {
            "spark.master": "local-cluster[1,2,1024]",
            "spark.ui.enabled": "false",
            "spark.ray.memory.budget": "1g",
            "spark.ray.init.timeout": "120s",
            "spark.executor.extraJavaOptions": f"-Djava.io.tmpdir={disk}",
            # Spark's own files would take room too.
            "spark.local.dir": str(tmp_path),
        }
        context = init_spark_on_local(memory="1g", conf=conf)
        try:
            yield SparkSession(context)
        finally:
            context.stop()
            gateway.end_gateway()
            wait_until(lambda: not list(disk.glob("sparkray-*")), 60, "the executor's files are gone")


def free_bytes(directory: str) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def test_a_feed_larger_than_store_and_disk_is_refused_and_a_smaller_one_goes_on(spark: Any) -> None:
    def rows(count: int) -> Any:
        return spark.range(0, count, 1, 4).selectExpr("id", "sha2(cast(id as string), 256) as text")

    with RayContext(spark.sparkContext, object_store_memory=f"{STORE // MIB}m") as context:
        recorded = Recorded(context)
        (place,) = (path for path in recorded.spill_directories if os.stat(path).st_dev == disk_of(context))
        assert STORE < free_bytes(place) < DISK
        before = free_bytes(place)
        # More than both together: 72 bytes and more for each row.
        with pytest.raises((exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)) as caught:
            sparkray.from_spark(rows((STORE + DISK) // 60), max_block_bytes="4m")
        sentence = str(caught.value)
        assert "bytes" in sentence and str(STORE) in sentence, sentence
        # What had been written of it is dropped, and there is room again.
        wait_until(lambda: free_bytes(place) > before - 8 * MIB, 60, "the room on disk is free again")
        blocks = sparkray.from_spark(rows(600_000), max_block_bytes="4m")
        back = sparkray.to_spark(blocks, spark)
        wrong = "text is null or text != sha2(cast(id as string), 256)"
        assert tuple(back.selectExpr("count(1)", f"count_if({wrong})").collect()[0]) == (600_000, 0)
        context.check()
    recorded.assert_gone()


def disk_of(context: RayContext) -> int:
    """The device that the executor's files are on."""
    (node,) = context.nodes()
    return os.stat(os.path.dirname(os.readlink(f"/proc/{node['pid']}/exe"))).st_dev
