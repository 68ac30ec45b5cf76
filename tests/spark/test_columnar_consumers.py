"""Every way in which Spark consumes the columns of a to_spark frame gives the rows that were put in.

The blocks have several batches, and there are more bytes of them than the object store has memory.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from support.sessions import spark_session

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

ARROW_CACHE = "org.apache.spark.sql.execution.columnar.ArrowCachedBatchSerializer"
BLOCKS = 24
ROWS = 4_000
BATCH = 700


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    import pyspark

    # Spark 4.3 has a cache that keeps columns as they are, when told so before it starts.
    keeps_columns = tuple(int(part) for part in pyspark.__version__.split(".")[:2]) >= (4, 3)
    cache = {"spark.sql.cache.serializer": ARROW_CACHE} if keeps_columns else {}
    with (
        spark_session(
            cores=2,
            conf={
                **cache,
                "spark.ui.enabled": "false",
                "spark.sql.shuffle.partitions": "2",
                # More batches to Python than one for each block.
                "spark.sql.execution.arrow.maxRecordsPerBatch": "300",
                "spark.sql.execution.arrow.pyspark.enabled": "true",
            },
        ) as session,
        sparkray.RayContext(session.sparkContext, object_store_memory="16m"),
    ):
        yield session


def make_table(part: int) -> Any:
    ids = range(part * ROWS, (part + 1) * ROWS)
    table = pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "text": [None if n % 11 == 0 else f"{n:>9} " + "x" * 300 for n in ids],
            "key": pa.array([n % 7 for n in ids], pa.uint8()),
            "ratio": [n / 8 for n in ids],
        }
    )
    return pa.Table.from_batches(table.to_batches(max_chunksize=BATCH))


@pytest.fixture(scope="module")
def frame(spark: Any) -> Any:
    refs = [sparkray.put(make_table(part)) for part in range(BLOCKS)]
    frame = sparkray.to_spark(refs, spark)
    size = sum(node["ObjectStore"]["capacity_bytes"] for node in sparkray.nodes())
    assert 0 < size < BLOCKS * ROWS * 300
    return frame


@pytest.fixture(scope="module")
def wanted(spark: Any) -> Any:
    """The same rows, made by Spark itself."""
    return spark.range(0, BLOCKS * ROWS, 1, 4).selectExpr(
        "id",
        "if(id % 11 = 0, null, concat(lpad(id, 9, ' '), ' ', repeat('x', 300))) as text",
        "cast(id % 7 as smallint) as key",
        "id / 8D as ratio",
    )


def _python_udf(df: Any) -> Any:
    from pyspark.sql import functions

    shout = functions.udf(lambda text: None if text is None else text.strip() + "!", "string")
    return df.select("id", shout("text").alias("loud"), "key", "ratio")


def _two_python_udfs(df: Any) -> Any:
    from pyspark.sql import functions

    one = functions.udf(lambda number: number + 1, "long")
    half = functions.udf(lambda number: number / 2, "double")
    return df.select("id", "text", one(one("id")).alias("one"), half("ratio").alias("half"))


def _pandas_udf(df: Any) -> Any:
    from pyspark.sql import functions

    @functions.pandas_udf("long")
    def double(numbers):
        return numbers * 2

    return df.select("id", "text", double("id").alias("twice"), "ratio")


def _iterator_pandas_udf(df: Any) -> Any:
    from collections.abc import Iterator as Batches

    import pandas
    from pyspark.sql import functions

    def triple(batches: Batches[pandas.Series]) -> Batches[pandas.Series]:
        # Looks ahead: several batches are there before the first answer.
        waiting = list(batches)
        for batch in waiting:
            yield batch * 3

    triple.__annotations__ = {"batches": Batches[pandas.Series], "return": Batches[pandas.Series]}
    return df.select("id", "text", functions.pandas_udf(triple, "long")("id").alias("thrice"))


def _udf_and_filter(df: Any) -> Any:
    return _python_udf(df).filter("loud like '%7 x%' and id % 3 = 0")


def _udf_and_group(df: Any) -> Any:
    from pyspark.sql import functions

    parity = functions.udf(lambda number: number % 2, "long")
    return (
        df.withColumn("parity", parity("id"))
        .groupBy("parity", "key")
        .agg(
            functions.count("text").alias("n"),
            functions.max("text").alias("most"),
            functions.sum("ratio").alias("total"),
        )
    )


def _map_in_arrow(df: Any) -> Any:
    def same(batches: Any) -> Any:
        yield from list(batches)

    return df.mapInArrow(same, df.schema)


def _map_in_pandas(df: Any) -> Any:
    def same(batches: Any) -> Any:
        yield from batches

    return df.select("id", "text").mapInPandas(same, "id long, text string")


def _apply_in_pandas(df: Any) -> Any:
    def largest(frame: Any) -> Any:
        return frame.nlargest(5, "id")[["id", "text", "ratio"]]

    return df.groupBy("key").applyInPandas(largest, "id long, text string, ratio double")


def _cache(df: Any) -> Any:
    cached = df.select("id", "text", "ratio").cache()
    cached.count()
    return cached


def _join(df: Any) -> Any:
    few = df.filter("id % 50 = 0").selectExpr("id", "text as other")
    return df.join(few, "id").select("id", "text", "other", "key")


def _sort_merge_join(df: Any) -> Any:
    return df.hint("merge").join(df.selectExpr("id", "text as other").hint("merge"), "id").filter("id % 20 = 0")


def _union(df: Any) -> Any:
    return df.filter("id % 2 = 0").union(df.filter("id % 2 = 1"))


def _window(df: Any) -> Any:
    return df.selectExpr("id", "row_number() over (partition by key order by id desc) as n", "text").filter("n <= 20")


def _limit_behind_udf(df: Any) -> Any:
    return _python_udf(df).orderBy("id").limit(50)


CONSUMERS: dict[str, Callable[[Any], Any]] = {
    "columns": lambda df: df,
    "python udf": _python_udf,
    "two python udfs": _two_python_udfs,
    "pandas_udf": _pandas_udf,
    "pandas_udf over iterators": _iterator_pandas_udf,
    "filter behind a udf": _udf_and_filter,
    "groupBy behind a udf": _udf_and_group,
    "mapInArrow": _map_in_arrow,
    "mapInPandas": _map_in_pandas,
    "applyInPandas": _apply_in_pandas,
    "cache": _cache,
    "cache behind a udf": lambda df: _cache(_two_python_udfs(df).selectExpr("id", "text", "half as ratio")),
    "sort": lambda df: df.sort("ratio", "text"),
    "join": _join,
    "sort-merge join": _sort_merge_join,
    "union": _union,
    "window": _window,
    "limit behind a udf": _limit_behind_udf,
    "distinct": lambda df: df.select("key", "text").distinct().selectExpr("hash(key, text) as id", "text", "key"),
}


def rows(df: Any) -> list[Any]:
    return sorted((tuple(row) for row in df.collect()), key=str)


@pytest.mark.parametrize("partitions", [BLOCKS, 1], ids=["a task for each block", "one task"])
@pytest.mark.parametrize("name", CONSUMERS)
def test_the_rows_are_right(frame: Any, wanted: Any, name: str, partitions: int) -> None:
    consume = CONSUMERS[name]
    found = rows(consume(frame if partitions == BLOCKS else frame.coalesce(partitions)))
    assert len(found) > 0
    assert found == rows(consume(wanted))


@pytest.mark.parametrize("name", ["columns", "python udf", "pandas_udf"])
def test_what_is_written_is_right(spark: Any, frame: Any, wanted: Any, name: str, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "written")
    CONSUMERS[name](frame.coalesce(2)).write.parquet(path)
    assert rows(spark.read.parquet(path)) == rows(CONSUMERS[name](wanted))


def test_a_limit_stops_early(frame: Any) -> None:
    for _ in range(5):
        found = _python_udf(frame.coalesce(2)).limit(3).collect()
        assert [row["loud"] for row in found] == [
            None if row["id"] % 11 == 0 else f"{row['id']:>9} ".strip() + " " + "x" * 300 + "!" for row in found
        ]
