"""Ray calls inside Spark's own tasks: Python workers of executors join the raylet beside them by themselves."""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.spark import RayContext, init_spark_on_local
from support.ray_processes import Recorded, executors_of_spark

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

EXECUTORS = 2
STORE = "64m"
# Of values that lie in shared memory.
LARGE = 1 << 20
CONF = {
    "spark.master": f"local-cluster[{EXECUTORS},2,1024]",
    "spark.ui.enabled": "false",
    "spark.ray.memory.budget": "1g",
    "spark.ray.init.timeout": "120s",
    # Both executors get tasks, however slow one of them starts its Python.
    "spark.locality.wait": "0s",
}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark import cloudpickle
    from pyspark.sql import SparkSession

    # Executors do not have the directory of the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    context = init_spark_on_local(memory="1g", conf=CONF)
    wait_until(lambda: executors_of_spark(context) == EXECUTORS, 120, "Spark has its executors")
    yield SparkSession(context)
    context.stop()


@pytest.fixture
def ray(spark: Any) -> Iterator[RayContext]:
    """A cluster on both executors; nothing of it is left afterwards."""
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()


@sparkray.remote
def square(value: int) -> int:
    return value * value


@sparkray.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count


def rows(spark: Any, count: int) -> Any:
    """An RDD of as many partitions with a number each."""
    return spark.sparkContext.parallelize(range(count), count)


def test_tasks_of_an_rdd_put_call_and_get_as_a_part_of_the_drivers_job(spark: Any, ray: RayContext) -> None:
    def above() -> list[int]:
        pids, pid = [], os.getpid()
        while pid > 1:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
            pids.append(pid)
        return pids

    def work(number: int) -> tuple[Any, ...]:
        was = sparkray.is_initialized()
        reference = sparkray.put(number)
        result = sparkray.get(square.remote(reference))
        large = sparkray.put(bytes(LARGE))
        size = len(sparkray.get(large))
        runtime = sparkray.get_runtime_context()
        return was, result, size, runtime.get_job_id(), runtime.get_node_id(), os.getpid(), above()

    outcomes = rows(spark, 6).map(work).collect()
    nodes = {node["node_id"]: node["executor_pid"] for node in ray.nodes()}
    job = sparkray.get_runtime_context().get_job_id()
    for number, (_, result, size, its_job, its_node, _, pids) in enumerate(outcomes):
        assert (result, size, its_job) == (number * number, LARGE, job)
        assert nodes[its_node] in pids, "the raylet is that of its own executor"
    # Whoever had joined is a process that served an earlier task, and each process was one that had not.
    assert {outcome[5] for outcome in outcomes if not outcome[0]} == {outcome[5] for outcome in outcomes}


def test_joining_is_quick(spark: Any, ray: RayContext, capsys: pytest.CaptureFixture[str]) -> None:
    def join(_: Iterator[int]) -> Iterator[tuple[int, float, float]]:
        # The iterator is not read: the next task gets a new process.
        started = time.perf_counter()
        import sparkray._private.spark_task
        from sparkray._private import worker

        imported = time.perf_counter()
        assert not sparkray.is_initialized()
        worker.core_worker()
        yield os.getpid(), imported - started, time.perf_counter() - imported

    seen = [rows(spark, 2).mapPartitions(join).collect() for _ in range(5)]
    measured = [entry for entries in seen for entry in entries]
    assert len({pid for pid, _, _ in measured}) == len(measured), "each joined for itself"
    milliseconds = sorted(seconds * 1000 for _, _, seconds in measured)
    with capsys.disabled():
        print(f"\njoining from a task: {', '.join(f'{time:.2f}' for time in milliseconds)} ms")
    # 5 ms are promised, on a machine that does nothing else.
    assert milliseconds[0] < 50


def test_threads_of_a_task_that_are_first_join_once(spark: Any, ray: RayContext) -> None:
    def work(numbers: Iterator[int]) -> Iterator[tuple[str, int, int]]:
        together = threading.Barrier(8)

        def use(number: int) -> tuple[str, int, int]:
            together.wait(60)
            result = sparkray.get(square.remote(number))
            return sparkray.get_runtime_context().get_worker_id(), number, result

        with ThreadPoolExecutor(8) as pool:
            yield from pool.map(use, range(8))

    outcomes = rows(spark, 1).mapPartitions(work).collect()
    assert len({worker for worker, _, _ in outcomes}) == 1
    assert [(number, result) for _, number, result in outcomes] == [(n, n * n) for n in range(8)]


def test_init_and_shutdown_in_a_task_join_and_leave_the_cluster_that_runs(spark: Any, ray: RayContext) -> None:
    def work(number: int) -> tuple[Any, ...]:
        first = sparkray.init(num_cpus=64)
        again = sparkray.init("auto", namespace="mine", ignore_reinit_error=True)
        sparkray.shutdown()
        left = sparkray.is_initialized()
        return first["cluster_id"], again["cluster_id"], again["namespace"], left, sparkray.get(square.remote(number))

    for number, outcome in enumerate(rows(spark, 3).map(work).collect()):
        assert outcome == (ray.cluster_id, ray.cluster_id, "mine", False, number * number)
    # What a task says of namespaces is its own.
    assert sparkray.get_runtime_context().namespace != "mine"


def test_workers_have_the_variables_that_the_driver_said(spark: Any, ray: RayContext) -> None:
    sparkray.init(runtime_env={"env_vars": {"OF_THE_JOB": "said"}})

    @sparkray.remote
    def look() -> str | None:
        return os.environ.get("OF_THE_JOB")

    assert rows(spark, 1).map(lambda _: sparkray.get(look.remote())).collect() == ["said"]


def test_functions_handles_and_references_of_the_driver_work_in_tasks(spark: Any, ray: RayContext) -> None:
    counter = Counter.remote()
    small, large = sparkray.put(5), sparkray.put(bytes(LARGE))
    named = Counter.options(name="named").remote()

    def work(number: int) -> tuple[int, int, int, int]:
        added = sparkray.get(counter.add.remote(1))
        sparkray.get(sparkray.get_actor("named").add.remote(number))
        return sparkray.get(small), len(sparkray.get(large)), sparkray.get(square.remote(small)), added

    outcomes = rows(spark, 4).map(work).collect()
    assert {outcome[:3] for outcome in outcomes} == {(5, LARGE, 25)}
    assert sorted(outcome[3] for outcome in outcomes) == [1, 2, 3, 4]
    assert sparkray.get([counter.add.remote(0), named.add.remote(0)]) == [4, 6]


def by_pandas_udf(spark: Any) -> Any:
    from pyspark.sql.functions import pandas_udf

    def squares(values: pd.Series) -> pd.Series:  # type: ignore[name-defined]
        return pd.Series(sparkray.get([square.remote(int(value)) for value in values]))

    frame = spark.range(0, 8, 1, 4)
    return frame.select(pandas_udf(squares, "long")(frame.id).alias("square"))


def by_map_in_arrow(spark: Any) -> Any:
    def squares(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            reference = sparkray.put(pa.Table.from_batches([batch]))
            column = sparkray.get(reference).column("id").to_pylist()
            values = sparkray.get([square.remote(value) for value in column])
            yield pa.RecordBatch.from_pydict({"square": pa.array(values, pa.int64())})

    return spark.range(0, 8, 1, 4).mapInArrow(squares, "square long")


def by_apply_in_pandas(spark: Any) -> Any:
    def squares(group: Any) -> Any:
        return pd.DataFrame({"square": sparkray.get([square.remote(int(value)) for value in group["id"]])})

    frame = spark.range(0, 8, 1, 4)
    return frame.groupBy(frame.id % 3).applyInPandas(squares, "square long")


@pytest.mark.parametrize("frame", [by_pandas_udf, by_map_in_arrow, by_apply_in_pandas])
def test_functions_of_sql_call_too(spark: Any, ray: RayContext, frame: Callable[[Any], Any]) -> None:
    assert sorted(row.square for row in frame(spark).collect()) == [number * number for number in range(8)]


def test_batches_of_a_stream_call_on_the_driver_and_in_its_tasks(
    spark: Any, ray: RayContext, tmp_path: pathlib.Path
) -> None:
    source = str(tmp_path / "numbers")
    frame = spark.range(0, 8, 1, 4)
    frame.write.parquet(source)
    seen: dict[int, list[int]] = {}

    def take(batch: Any, number: int) -> None:
        in_tasks = batch.rdd.map(lambda row: sparkray.get(square.remote(row.id))).collect()
        seen[number] = sparkray.get([square.remote(value) for value in in_tasks])

    stream = spark.readStream.schema(frame.schema).option("maxFilesPerTrigger", 2).parquet(source)
    writer = stream.writeStream.foreachBatch(take).option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = writer.trigger(availableNow=True).start()
    try:
        assert query.awaitTermination(120)
    finally:
        query.stop()
    assert len(seen) == 2
    assert sorted(value for values in seen.values() for value in values) == [number**4 for number in range(8)]


def end(spark: Any, pids: set[int]) -> None:
    """Kills Python workers that wait for tasks, and has Spark find out: it gives its tasks to dead ones, too."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="the processes of the tasks end")

    def are_all_used_up() -> bool:
        try:
            rows(spark, 32).map(str).collect()
        except Exception as error:
            assert "Broken pipe" in str(error) or "Connection reset" in str(error) or "EOFException" in str(error)
            return False
        return True

    wait_until(are_all_used_up, 120, "Spark has no dead workers")


def test_references_that_a_task_returns_are_the_drivers_whatever_becomes_of_its_process(
    spark: Any, ray: RayContext
) -> None:
    def work(number: int) -> tuple[Any, ...]:
        small, large = sparkray.put(number), sparkray.put([number] * LARGE)
        return os.getpid(), small, large, square.remote(small)

    outcomes = rows(spark, 2).map(work).collect()
    end(spark, {outcome[0] for outcome in outcomes})
    for number, (_, small, large, result) in enumerate(outcomes):
        assert sparkray.get([small, result]) == [number, number * number]
        assert sparkray.get(large)[-1] == number
        assert sparkray.get(square.remote(small)) == number * number

    # So does a task of another process.
    def read(entry: Any) -> int:
        return len(sparkray.get(entry[2]))

    assert spark.sparkContext.parallelize(outcomes, 2).map(read).collect() == [LARGE, LARGE]


def test_what_only_its_process_knows_of_ends_with_it(spark: Any, ray: RayContext) -> None:
    def work(number: int) -> tuple[Any, ...]:
        nested = sparkray.put([sparkray.put(number)])
        kept = Counter.options(lifetime="detached", name=f"kept-{number}").remote()
        return os.getpid(), nested, Counter.remote(), kept

    (outcome,) = rows(spark, 1).map(work).collect()
    pid, nested, counter, kept = outcome
    end(spark, {pid})
    with pytest.raises(exceptions.OwnerDiedError, match="its value cannot be found"):
        sparkray.get(nested)
    with pytest.raises(exceptions.ActorDiedError, match="its owner"):
        sparkray.get(counter.add.remote(1))
    assert sparkray.get(kept.add.remote(1)) == 1
    sparkray.kill(kept)


def test_a_call_that_failed_fails_the_task_that_returns_its_reference(spark: Any, ray: RayContext) -> None:
    @sparkray.remote
    def fail() -> None:
        raise ValueError("a number too many")

    with pytest.raises(Exception, match="a number too many"):
        rows(spark, 1).map(lambda _: fail.remote()).collect()


def test_a_killed_python_worker_costs_nothing_but_its_task(spark: Any, ray: RayContext) -> None:
    counter = Counter.remote()
    before = sparkray.available_resources()

    def work(number: int) -> int:
        own = Counter.remote()
        sparkray.get(own.add.remote(1))
        kept = sparkray.put(bytes(LARGE))
        if sparkray.get(counter.add.remote(1)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(sparkray.get(kept)) + number

    assert rows(spark, 2).map(work).collect() == [LARGE, LARGE + 1]
    assert sparkray.get(counter.add.remote(0)) == 3, "one task was run again"
    wait_until(lambda: sparkray.available_resources().get("CPU") == before.get("CPU"), what="its actors end")


def test_a_cluster_that_is_stopped_ends_the_waits_of_tasks(spark: Any, ray: RayContext) -> None:
    reached = Counter.remote()

    @sparkray.remote
    def endless() -> None:
        time.sleep(3600)

    def work(number: int) -> None:
        reference = endless.remote()
        sparkray.get(reached.add.remote(1))
        sparkray.get(reference)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            rows(spark, 1).map(work).collect()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: sparkray.get(reached.add.remote(0)) == 1, what="the task waits")
    ray.stop()
    thread.join(120)
    assert not thread.is_alive() and len(failures) == 1
    assert "RaySystemError" in str(failures[0])


def test_a_process_that_tasks_share_joins_the_job_of_a_driver_that_came_back(spark: Any, ray: RayContext) -> None:
    def work(number: int) -> tuple[int, str, int]:
        result = sparkray.get(square.remote(number))
        return os.getpid(), sparkray.get_runtime_context().get_job_id(), result

    first = rows(spark, 4).map(work).collect()
    sparkray.shutdown()
    sparkray.init()
    second = rows(spark, 4).map(work).collect()
    assert {pid for pid, _, _ in first} & {pid for pid, _, _ in second}, "a process served both"
    assert {job for _, job, _ in second} == {sparkray.get_runtime_context().get_job_id()}
    assert {job for _, job, _ in first} != {job for _, job, _ in second}
    assert [result for _, _, result in second] == [0, 1, 4, 9]


def test_without_a_driver_that_is_connected_it_says_so(spark: Any, ray: RayContext) -> None:
    sparkray.shutdown()
    with pytest.raises(Exception, match="no driver is connected to this cluster"):
        rows(spark, 1).map(lambda number: sparkray.put(number) and None).collect()


def test_an_executor_that_takes_another_ones_place_is_joined_too(spark: Any, ray: RayContext) -> None:
    head = ray._running()["head_executor_id"]
    (victim,) = [node for node in ray.nodes() if node["executor_id"] != head]
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["executor_pid"]))

    def work(number: int) -> tuple[int, str]:
        return sparkray.get(square.remote(number)), sparkray.get_runtime_context().get_node_id()

    def nodes_that_serve() -> set[str]:
        outcomes = rows(spark, 8).map(work).collect()
        assert [result for result, _ in outcomes] == [number * number for number in range(8)]
        return {node for _, node in outcomes}

    # Spark gives it tasks before its raylet runs.
    wait_until(lambda: len(nodes_that_serve() - {victim["node_id"]}) == EXECUTORS, 180, "both serve")


def test_a_raylet_that_is_started_again_is_joined(spark: Any, ray: RayContext) -> None:
    def work(number: int) -> tuple[int, int, str]:
        return os.getpid(), sparkray.get(square.remote(number)), sparkray.get_runtime_context().get_node_id()

    head = ray._running()["head_executor_id"]
    first = rows(spark, 8).map(work).collect()
    (victim,) = [node for node in ray.nodes() if node["executor_id"] != head]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["pid"]))
    second = rows(spark, 8).map(work).collect()
    assert {result for _, result, _ in first} == {result for _, result, _ in second}
    assert victim["node_id"] not in {node for _, _, node in second}


def test_where_no_cluster_runs_a_task_says_what_to_do_and_starts_none(spark: Any) -> None:
    for use in (lambda _: sparkray.put(1) and None, lambda _: sparkray.init() and None):
        with pytest.raises(Exception, match="executor without a Ray cluster") as caught:
            rows(spark, 1).map(use).collect()
        assert "RayContext(sc).init()" in str(caught.value)


def test_a_reference_of_a_cluster_that_was_stopped_is_refused(spark: Any) -> None:
    first = RayContext(spark, object_store_memory=STORE)
    first.init()
    stale = sparkray.put(5)
    broadcast = spark.sparkContext.broadcast([stale])
    assert rows(spark, 1).map(lambda _: sparkray.get(broadcast.value[0])).collect() == [5]
    first.stop()
    second = RayContext(spark, object_store_memory=STORE)
    second.init()
    try:
        with pytest.raises(Exception, match="belongs to a(nother)? cluster"):
            rows(spark, 1).map(lambda _: sparkray.get(broadcast.value[0])).collect()
    finally:
        second.stop()
