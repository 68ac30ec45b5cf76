"""DataFrames whose plans give columns: from_spark takes them without making rows of them first."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray import exceptions
from support import frames
from support.figures import reported_stores
from support.minicluster import wait_until
from support.sessions import spark_session

pa = pytest.importorskip("pyarrow")

FIXED_WIDTH = [
    "id",
    "flag",
    "one_byte",
    "two_bytes",
    "four_bytes",
    "eight_bytes",
    "single",
    "double_",
    "day",
    "instant",
    "wall_clock",
    "never_null",
]
# Files have no timestamps of such years: Spark refuses to write them.
IN_FILES = [name for name in FIXED_WIDTH if name not in ("instant", "wall_clock", "day")]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with (
        spark_session(
            conf={
                "spark.master": "local-cluster[2,1,1024]",
                "spark.ui.enabled": "false",
                "spark.sql.session.timeZone": "America/New_York",
                "spark.sql.ansi.enabled": "false",
            }
        ) as session,
        sparkray.RayContext(session.sparkContext, object_store_memory="48m"),
    ):
        yield session


def blocks_in_stores() -> int:
    """What the stores of all nodes hold."""
    return sum(store["object_count"] for store in reported_stores())


def rows_through_spark(df: Any) -> int:
    """The rows that the plan's last node has made of columns; its plan must be final and have such a node."""
    plan = df._jdf.queryExecution().executedPlan()
    while plan.getClass().getSimpleName() != "ColumnarToRowExec":
        name = plan.getClass().getSimpleName()
        plan = plan.executedPlan() if name == "AdaptiveSparkPlanExec" else plan.children().head()
    return int(plan.metrics().apply("numOutputRows").value())


def test_columns_of_a_cached_frame_are_exact(spark: Any) -> None:
    df = frames.every_flat_type(spark, 30_000, 2).select(FIXED_WIDTH).cache()
    wanted = frames.canonical_rows(frames.collect(df))
    # The vectors of a cached frame have 10,000 rows, none of which ends where a block does.
    for limit in ("64m", 100_000):
        tables = sparkray.get(sparkray.from_spark(df, max_block_bytes=limit))
        assert frames.canonical_rows(tables) == wanted
        assert [row for table in tables for row in table.column("id").to_pylist()] == list(range(30_000))
    df.unpersist()


def test_columns_of_files_are_exact_and_no_rows_are_made_of_them(spark: Any, tmp_path: pathlib.Path) -> None:
    frames.every_flat_type(spark, 20_000, 2).select(IN_FILES).write.parquet(str(tmp_path / "table"))
    df = spark.read.parquet(str(tmp_path / "table"))
    wanted = frames.canonical_rows(frames.collect(spark.read.parquet(str(tmp_path / "table"))))
    assert frames.canonical_rows(sparkray.get(sparkray.from_spark(df))) == wanted
    assert rows_through_spark(df) == 0


def test_columns_of_a_partitioned_table_have_the_values_of_their_directories(
    spark: Any, tmp_path: pathlib.Path
) -> None:
    table = str(tmp_path / "table")
    spark.range(0, 10_000).selectExpr("id", "cast(nullif(id % 3, 1) as int) as part").write.partitionBy("part").parquet(
        table
    )
    df = spark.read.parquet(table)
    tables = sparkray.get(sparkray.from_spark(df))
    assert frames.canonical_rows(tables) == frames.canonical_rows(frames.collect(df))


def test_blocks_that_came_back_as_columns_are_fed_again(spark: Any) -> None:
    df = frames.every_flat_type(spark, 10_000, 2).select(FIXED_WIDTH)
    wanted = frames.canonical_rows(frames.collect(df))
    references = sparkray.from_spark(df, max_block_bytes=200_000)
    again = sparkray.from_spark(sparkray.to_spark(references, spark), max_block_bytes=150_000)
    assert len(again) > len(references) > 1
    assert frames.canonical_rows(sparkray.get(again)) == wanted


def test_columns_without_rows_are_an_empty_table(spark: Any) -> None:
    df = spark.range(0, 100).selectExpr("id", "id / 2 as half").where("id < 0").cache()
    tables = sparkray.get(sparkray.from_spark(df))
    assert [(table.num_rows, table.column_names) for table in tables] == [(0, ["id", "half"])]
    df.unpersist()


def test_a_job_that_fails_between_two_batches_leaves_no_block(spark: Any, tmp_path: pathlib.Path) -> None:
    table = str(tmp_path / "table")
    spark.range(0, 2_000_000, 1, 2).selectExpr("id", "id / 2 as half").write.parquet(table)
    # One of the files ends in the middle.
    file = max((tmp_path / "table").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    file.write_bytes(content)
    for checksum in (tmp_path / "table").glob(".*.crc"):
        checksum.unlink()
    gc.collect()
    # The blocks that the job writes before it fails are far more than what earlier tests may still let go.
    held = blocks_in_stores()
    with pytest.raises(exceptions.RaySystemError, match="from_spark failed"):
        sparkray.from_spark(spark.read.parquet(table), max_block_bytes=64 * 1024)
    wait_until(lambda: blocks_in_stores() <= held, 60, "the blocks of the failed job are dropped")
