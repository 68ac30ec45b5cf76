"""DataFrames and objects on a real YARN: where the bytes go, and where they do not."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray import exceptions
from sparkray.spark import RayContext
from support import frames
from support.figures import reported_nodes
from support.minicluster import MiniCluster, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def spark(shared_spark: Any) -> Any:
    return shared_spark


@pytest.fixture(scope="module")
def ray(spark: Any) -> Iterator[RayContext]:
    with RayContext(spark.sparkContext, object_store_memory="256m") as context:
        yield context


def stores() -> dict[str, dict[str, int]]:
    """What the store of each executor (and of "driver") says of itself, by executor id."""
    return {node["Labels"]["executor_id"]: node["ObjectStore"] for node in reported_nodes()}


def sizes_of(refs: list[Any]) -> dict[bytes, int]:
    from sparkray._private import worker

    return {ref: size for ref, size, _, _ in worker.core_worker().object_locations(refs, None)}


def rows_with_text(spark: Any, rows: int, partitions: int = 4) -> Any:
    """72 bytes and more for each row; every text follows from its id."""
    return spark.range(0, rows, 1, partitions).selectExpr("id", "sha2(cast(id as string), 256) as text")


def wrong_rows(df: Any) -> int:
    return int(df.filter("text is null or text != sha2(cast(id as string), 256)").count())


def test_every_flat_type_is_exact_on_yarn(spark: Any, ray: RayContext) -> None:
    df = frames.every_flat_type(spark, 2000, 4)
    wanted = frames.canonical_rows(frames.collect(df))
    refs = sparkray.from_spark(df, max_block_bytes="128k")
    assert frames.canonical_rows(sparkray.get(refs)) == wanted
    assert frames.canonical_rows(frames.collect(sparkray.to_spark(refs, spark))) == wanted


def test_each_executor_writes_and_reads_its_own_blocks(spark: Any, ray: RayContext) -> None:
    before = stores()
    refs = sparkray.from_spark(rows_with_text(spark, 400_000, 8))
    written = stores()
    created = {name: store["created_bytes"] - before[name]["created_bytes"] for name, store in written.items()}
    assert created.pop("driver") == 0
    assert all(created.values()), "one executor wrote nothing"
    assert sum(created.values()) == sum(sizes_of(refs).values())
    back = sparkray.to_spark(refs, spark)
    assert (back.count(), wrong_rows(back)) == (400_000, 0)
    after = stores()
    for name, store in after.items():
        assert store["pulled_bytes"] == before[name]["pulled_bytes"], f"executor {name} did not read its own blocks"
    assert after["driver"]["created_bytes"] == before["driver"]["created_bytes"]


def test_a_task_on_the_other_node_pulls(spark: Any, ray: RayContext) -> None:
    class Reader:
        def node(self) -> str:
            return sparkray.get_runtime_context().get_node_id()

        def read(self, refs: list[Any]) -> int:
            return sum(table.num_rows for table in sparkray.get(refs))

    refs = sparkray.from_spark(rows_with_text(spark, 100_000, 4))
    sizes = sizes_of(refs)
    before = stores()
    # Each takes the only CPU of its node.
    reader_class: Any = sparkray.remote(num_cpus=1)(Reader)
    readers = [reader_class.remote() for _ in range(2)]
    assert len(set(sparkray.get([reader.node.remote() for reader in readers], timeout=60))) == 2
    assert sparkray.get([reader.read.remote(refs) for reader in readers], timeout=60) == [100_000, 100_000]
    # What one node has, the other pulls: together everything once.
    after = stores()
    pulled = {name: store["pulled_bytes"] - before[name]["pulled_bytes"] for name, store in after.items()}
    assert pulled.pop("driver") == 0
    assert sum(pulled.values()) == sum(sizes.values())
    for reader in readers:
        sparkray.kill(reader)


def test_tables_of_tasks_are_read_where_they_were_made(spark: Any, ray: RayContext) -> None:
    @sparkray.remote
    def make(part: int) -> Any:
        import hashlib

        import pyarrow

        ids = range(part * 5000, (part + 1) * 5000)
        return pyarrow.table({"id": ids, "text": [hashlib.sha256(str(one).encode()).hexdigest() for one in ids]})

    back = sparkray.to_spark([make.remote(part) for part in range(6)], spark)
    assert (back.count(), wrong_rows(back)) == (30_000, 0)


def python_workers(cluster: MiniCluster) -> list[str]:
    """Processes of pyspark's own workers. Their daemon stays for a minute after a job that used it."""
    return [
        found.command for found in cluster.container_processes() if "pyspark" in found.command and "-m" in found.command
    ]


def test_no_python_worker_of_pyspark_runs(spark: Any, ray: RayContext, mini_cluster: MiniCluster) -> None:
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            seen.update(python_workers(mini_cluster))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        refs = sparkray.from_spark(rows_with_text(spark, 200_000))
        back = sparkray.to_spark(refs, spark)
        assert (back.count(), wrong_rows(back)) == (200_000, 0)
    finally:
        done.set()
        watcher.join()
    assert not seen

    # The look would find them.
    assert spark.sparkContext.parallelize(range(4), 2).map(lambda one: one + 1).sum() == 10
    assert python_workers(mini_cluster)


def test_spark_runs_an_ordinary_job_on_all_its_slots_meanwhile(
    spark: Any, ray: RayContext, tmp_path: pathlib.Path
) -> None:
    @sparkray.remote(num_cpus=1)
    def hold(directory: str, number: int) -> str:
        """Runs until the file `go` is there."""
        started = pathlib.Path(directory, str(number))
        started.touch()
        while not (started.parent / "go").exists():
            time.sleep(0.01)
        return sparkray.get_runtime_context().get_node_id()

    def meet(_: Any) -> Iterator[list[str]]:
        from pyspark import BarrierTaskContext

        # Returns once both tasks run, so each has a slot at the same time.
        yield BarrierTaskContext.get().allGather(os.environ["CONTAINER_ID"])

    # Together they take every CPU of the cluster.
    holding = [hold.remote(str(tmp_path), number) for number in range(2)]
    try:
        wait_until(lambda: all((tmp_path / str(number)).exists() for number in range(2)), 60, "both tasks run")
        refs = sparkray.from_spark(rows_with_text(spark, 10_000))
        met = spark.sparkContext.parallelize(range(2), 2).barrier().mapPartitions(meet).collect()
        assert len(set(met[0])) == 2
        assert sparkray.to_spark(refs, spark).count() == 10_000
        assert sparkray.wait(holding, num_returns=2, timeout=0) == ([], holding)
    finally:
        (tmp_path / "go").touch()
    assert len(set(sparkray.get(holding, timeout=60))) == 2


@pytest.mark.trouble("raylet ended", "the head is lost")
def test_blocks_of_a_dead_executor_are_lost_and_say_so(spark: Any, ray: RayContext) -> None:
    refs = sparkray.from_spark(rows_with_text(spark, 50_000, 8))
    back = sparkray.to_spark(refs, spark)
    head = ray._running()["head_executor_id"]
    victim = next(node for node in ray.nodes() if node["executor_id"] != head)
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(
        lambda: (
            any(node["NodeID"] == victim["node_id"] and not node["Alive"] for node in sparkray.nodes())
            or all(node["NodeID"] != victim["node_id"] for node in sparkray.nodes())
        ),
        10,
        "the head declares the node dead",
    )
    with pytest.raises(exceptions.ObjectLostError):
        sparkray.to_spark(refs, spark)
    with pytest.raises(Exception, match="(?i)lost|dead|died"):
        back.selectExpr("sum(length(text))").collect()
    # Spark replaces the executor, and it joins.
    wait_until(lambda: sum(node["state"] == "up" for node in ray.nodes()) >= 2, 90, "another executor has joined")
    again = sparkray.to_spark(sparkray.from_spark(rows_with_text(spark, 50_000, 8)), spark)
    assert (again.count(), wrong_rows(again)) == (50_000, 0)
