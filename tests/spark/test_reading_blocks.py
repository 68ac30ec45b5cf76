"""Tasks of Spark that read many blocks: when they let go of them, and what they may hold on to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sparkray
from process.helpers import wait_until
from support.figures import reported_stores
from support.sessions import spark_session

STORE = 32 << 20
ROWS = 800_000


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with (
        spark_session(cores=2, conf={"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2"}) as session,
        sparkray.RayContext(session.sparkContext, object_store_memory=str(STORE >> 20) + "m"),
    ):
        yield session


def frame(spark: Any) -> Any:
    return spark.range(0, ROWS, 1, 4).selectExpr("id", "sha2(cast(id as string), 512) as text", "id % 7 as key")


@pytest.fixture(scope="module")
def refs(spark: Any) -> Any:
    found = sparkray.from_spark(frame(spark), max_block_bytes="4m")
    written = sum(store["created_bytes"] for store in reported_stores())
    assert written > 3 * STORE and len(found) > 20
    return found


def test_one_task_reads_more_than_the_store_holds(spark: Any, refs: Any) -> None:
    back = sparkray.to_spark(refs, spark).coalesce(1)
    started = time.monotonic()
    total = back.selectExpr("count(*)", "sum(length(text))", "sum(id)").collect()[0]
    # A store of which everything is in use waits for so long, and then goes on on disk.
    assert time.monotonic() - started < 10
    assert tuple(total) == (ROWS, ROWS * 128, ROWS * (ROWS - 1) // 2)


@pytest.mark.parametrize(
    "columns",
    [
        ("max(text)", "min(text)"),
        ("first(text)", "last(text)"),
        ("max(struct(text, id))", "min(struct(text, id))"),
        ("max_by(text, id)", "min_by(text, id)"),
    ],
)
def test_aggregates_hold_strings_of_blocks_that_were_read_before(spark: Any, refs: Any, columns: Any) -> None:
    back = sparkray.to_spark(refs, spark).coalesce(1)
    wanted = frame(spark).coalesce(1)
    assert back.selectExpr(*columns).collect() == wanted.selectExpr(*columns).collect()


def test_a_killed_task_waits_no_longer_for_the_store(spark: Any, refs: Any) -> None:
    back = sparkray.to_spark(refs, spark)
    scheduler = spark.sparkContext._jsc.sc().taskScheduler()

    def running() -> int:
        # Spark's status tracker may say so ten seconds later, and the raylet must not stand still for so long.
        count = scheduler.runningTasksByExecutors().get("driver")
        return int(count.get()) if count.isDefined() else 0

    (node,) = sparkray.RayContext.get().nodes()
    os.kill(node["pid"], signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(back.count)
            wait_until(lambda: running() > 0, 60, "tasks wait for the store")
            spark.sparkContext.cancelAllJobs()
            wait_until(lambda: running() == 0, 60, "the tasks have ended")
            with pytest.raises(Exception, match="cancel"):
                job.result(10)
    finally:
        os.kill(node["pid"], signal.SIGCONT)
    assert back.count() == ROWS


def test_joins_sorts_and_windows_hold_rows_of_blocks_that_were_read_before(spark: Any, refs: Any) -> None:
    from pyspark.sql import functions
    from pyspark.sql.window import Window

    back = sparkray.to_spark(refs, spark).coalesce(1)
    wanted = frame(spark).coalesce(1)
    few = spark.range(7).selectExpr("id as key", "concat('k', id) as name")

    def answers(df: Any) -> list[Any]:
        latest = Window.partitionBy("key").orderBy(functions.desc("text"))
        return [
            sorted(df.groupBy("key").agg(functions.max("text"), functions.min("text")).collect()),
            df.orderBy("text").limit(5).collect(),
            sorted(df.withColumn("n", functions.row_number().over(latest)).filter("n = 1").collect()),
            sorted(df.join(few, "key").groupBy("name").agg(functions.max("text")).collect()),
            df.crossJoin(few.limit(1)).selectExpr("max(text)", "max(name)").collect(),
            df.selectExpr("id", "text").orderBy("id").limit(3).collect(),
        ]

    assert answers(back) == answers(wanted)
