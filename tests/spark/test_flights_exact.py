"""Every value of every flight from New York in 2013, as published: DataFrame -> objects -> DataFrame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import data
import pytest

import sparkray
from sparkray.spark import gateway
from support import frames

pa = pytest.importorskip("pyarrow")

# Rows whose bytes are compared at a time: as Python objects, all of them would take much memory.
SLICE = 32_768


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    conf = {
        "spark.master": "local-cluster[2,1,1024]",
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "America/New_York",
        "spark.ray.init.timeout": "120s",
    }
    context = sparkray.init_spark_on_local(memory="2g", conf=conf)
    try:
        yield SparkSession(context)
    finally:
        context.stop()
        gateway.end_gateway()


@pytest.fixture(scope="module")
def published() -> Any:
    """The flights as the package has them, read by Arrow; times as Spark keeps them, in microseconds."""
    table = data.read_table("flights").rename_columns({"flight_id": frames.ID})
    fields = [
        pa.field(field.name, pa.timestamp("us", field.type.tz) if pa.types.is_timestamp(field.type) else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def assert_same_bytes(found: Any, wanted: Any) -> int:
    """Compares all values of all rows by their bytes; both tables by id. The values that were compared."""
    assert found.column_names == wanted.column_names
    assert found.num_rows == wanted.num_rows
    found, wanted = found.sort_by(frames.ID), wanted.sort_by(frames.ID)
    compared = 0
    for start in range(0, wanted.num_rows, SLICE):
        right = frames.canonical_rows(wanted.slice(start, SLICE))
        left = frames.canonical_rows(found.slice(start, SLICE))
        if left != right:
            different = next(row for row in right if left.get(row) != right[row])
            raise AssertionError(f"flight {different}: {left.get(different)} instead of {right[different]}")
        compared += sum(len(row) for row in left.values())
    return compared


def test_every_value_of_every_flight_is_exact(
    spark: Any, published: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("flights") / "tables"
    data.write_parquet(directory)
    flights = spark.read.parquet(f"file://{directory}/flights").withColumnRenamed("flight_id", frames.ID)
    with sparkray.RayContext(spark.sparkContext, object_store_memory="128m") as context:
        assert len(context.nodes()) == 2
        references = sparkray.from_spark(flights, max_block_bytes="8m")
        assert len(references) >= data.FLIGHT_FILES
        tables = sparkray.get(references, timeout=60)
        assert sum(table.num_rows for table in tables) == data.FLIGHTS
        values = data.FLIGHTS * len(published.column_names)
        assert assert_same_bytes(pa.concat_tables(tables), published) == values
        del tables
        back = sparkray.to_spark(references, spark)
        assert back.schema == flights.schema
        assert assert_same_bytes(frames.collect(back), published) == values
