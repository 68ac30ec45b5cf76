"""Ray calls inside Spark's tasks: Spark hands batches to Ray tasks beside it, and sums up what they give.

`ask_ray` runs in Python workers of Spark's executors, `count_late` in the Ray workers of the same executors.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

import ray

SCHEMA = "origin_code int, flights long, late long"


@ray.remote
def count_late(flights: pa.RecordBatch) -> pa.RecordBatch:
    """Flights and late ones of each airport."""
    table = pa.Table.from_batches([flights])
    counted = table.group_by("origin_code").aggregate([("label", "count"), ("label", "sum")])
    late = pc.cast(counted["label_sum"], pa.int64())
    columns = pa.table([counted["origin_code"], counted["label_count"], late], ["origin_code", "flights", "late"])
    return columns.combine_chunks().to_batches()[0]


def ask_ray(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What a task of Spark does: puts its batches, has Ray tasks count, and gives back what they counted."""
    yield from ray.get([count_late.remote(ray.put(batch)) for batch in batches])


def late_by_airport(rows: DataFrame) -> DataFrame:
    """How many flights left each airport (its code in `rows`), and how many of them were late."""
    counted = rows.select("origin_code", "label").mapInArrow(ask_ray, SCHEMA)
    return counted.groupBy("origin_code").sum("flights", "late").toDF("origin_code", "flights", "late")
