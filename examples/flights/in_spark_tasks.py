"""Ray calls inside Spark's tasks: each puts its partition, has a Ray task count, and gives rows back.

`ask_ray` runs in Python workers of Spark's executors, `count_late` in the Ray workers of the same executors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pyspark.sql import DataFrame, Row

import ray

SCHEMA = "origin_code int, flights long, late long"
# Of flights that did not arrive.
UNKNOWN = -1


@ray.remote
def count_late(flights: np.ndarray) -> list[tuple[int, int, int]]:
    """Airport, flights and late ones among them, of rows of airport and label."""
    arrived = flights[flights[:, 1] != UNKNOWN]
    counted = []
    for origin in np.unique(arrived[:, 0]):
        labels = arrived[arrived[:, 0] == origin, 1]
        counted.append((int(origin), len(labels), int(labels.sum())))
    return counted


def ask_ray(rows: Iterator[Row]) -> Iterator[tuple[int, int, int]]:
    """What a task of Spark does with its partition."""
    pairs = [(row.origin_code, UNKNOWN if row.label is None else row.label) for row in rows]
    flights = np.array(pairs, dtype=np.int8).reshape(-1, 2)
    counted: list[tuple[int, int, int]] = ray.get(count_late.remote(ray.put(flights)))
    yield from counted


def late_by_airport(rows: DataFrame) -> DataFrame:
    """How many flights that left each airport (its code in `rows`) arrived, and how many of them late."""
    counted = rows.select("origin_code", "label").rdd.mapPartitions(ask_ray)
    frame = rows.sparkSession.createDataFrame(counted, SCHEMA)
    return frame.groupBy("origin_code").sum("flights", "late").toDF("origin_code", "flights", "late")
