"""No data passes through the driver: neither its JVM, nor its Python, nor its raylet receives or holds it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from sparkray.spark import RayContext
from support.received import Received

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

MIB = 1 << 20
ROWS = 60_000
# What the driver hears of a job does not depend on the size of its data.
MESSAGES = 1 * MIB
# Heaps of the JVM and of Python go up and down by more than their data.
NOISE = 16 * MIB


@pytest.fixture(scope="module")
def ray(shared_spark: Any) -> Iterator[RayContext]:
    with RayContext(shared_spark.sparkContext, object_store_memory="256m") as context:
        yield context


@dataclasses.dataclass
class Cost:
    """What something cost each process of the driver."""

    received: dict[str, int]
    grown: dict[str, int]


def resident(pid: int, what: str) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not count memory")


def measured(processes: dict[str, int], action: Callable[[], None]) -> Cost:
    """Bytes received over TCP, and the peak of resident memory over what there was before."""
    before = {}
    for name, pid in processes.items():
        # The peak begins anew.
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        before[name] = resident(pid, "VmRSS")
    with Received(processes) as received:
        action()
    grown = {name: resident(pid, "VmHWM") - before[name] for name, pid in processes.items()}
    return Cost(received.bytes(), grown)


def test_bytes_that_reach_the_driver_do_not_grow_with_the_data(shared_spark: Any, ray: RayContext) -> None:
    spark = shared_spark
    processes = {
        "JVM": spark.sparkContext._gateway.proc.pid,
        "Python": os.getpid(),
        "raylet": ray._running()["driver_node"]["pid"],
    }
    kept: list[Any] = []

    def there_and_back(rows: int) -> None:
        df = spark.range(0, rows, 1, 4).selectExpr("id", "sha2(cast(id as string), 256) as text")
        kept[:] = sparkray.from_spark(df)
        back = sparkray.to_spark(kept, spark)
        assert back.selectExpr("sum(length(text))").collect()[0][0] == rows * 64

    def bytes_kept() -> int:
        from sparkray._private import worker

        return sum(size for _, size, _, _ in worker.core_worker().object_locations(kept, None))

    # Spark's first job of a kind costs more than others.
    there_and_back(ROWS)
    small = measured(processes, lambda: there_and_back(ROWS))
    size = bytes_kept()
    large = measured(processes, lambda: there_and_back(10 * ROWS))
    grown = bytes_kept() - size
    assert size > 4 * MIB and grown > 8.5 * size
    for name in processes:
        more = large.received[name] - small.received[name]
        assert more < MESSAGES, f"the driver's {name} received {more} bytes more for {grown} bytes more"
        if name != "JVM":
            # A JVM's heap grows as it likes.
            assert large.grown[name] - max(small.grown[name], 0) < NOISE, f"the driver's {name} held the data"

    # What is measured is there when the data does pass through: to Python it comes from the raylet, in shared memory.
    fetched = measured(processes, lambda: assert_tables(kept))
    assert fetched.received["raylet"] > grown
    assert fetched.grown["raylet"] + fetched.grown["Python"] > NOISE
    collected = measured(processes, lambda: assert_rows(spark, 10 * ROWS))
    assert collected.received["JVM"] > grown / 2 and collected.received["Python"] > grown / 2


def assert_tables(refs: list[Any]) -> None:
    for table in sparkray.get(refs):
        table.validate(full=True)


def assert_rows(spark: Any, rows: int) -> None:
    df = spark.range(0, rows, 1, 4).selectExpr("id", "sha2(cast(id as string), 256) as text")
    assert sum(batch.num_rows for batch in df._collect_as_arrow()) == rows
