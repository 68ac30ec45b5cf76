"""RayContext on a SparkContext that somebody else started: no plugin, no jar, no setting of ours."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pyspark
import pytest

import sparkray
from process.helpers import alive, driver_environment, run_driver, wait_until
from sparkray.spark import RayContext, RayContextError, gateway, packaging
from sparkray.spark.manager import Manager
from support.ray_processes import Recorded, Traces, allowed_troubles, executors_of_spark

STORE = "64m"


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A plain session with two executors of one core each, in a Java that has never heard of sparkray."""
    from pyspark.sql import SparkSession

    gateway.end_gateway()
    with gateway.changed_environment({"PYSPARK_PYTHON": sys.executable}):
        builder = SparkSession.builder.master("local-cluster[2,1,1024]")
        session = builder.config("spark.ui.enabled", "false").getOrCreate()
    yield session
    session.stop()


def attached(spark: Any, **arguments: Any) -> RayContext:
    return RayContext(spark, object_store_memory=STORE, allow_unauthenticated_spark=True, **arguments)


@pytest.fixture
def context(spark: Any, request: pytest.FixtureRequest) -> Iterator[RayContext]:
    """A cluster on both executors; nothing of it is left afterwards, and its logs are quiet."""
    wait_until(lambda: executors_of_spark(spark.sparkContext) == 2, 90, "Spark has its executors")
    context = attached(spark)
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()
    recorded.assert_quiet(allowed_troubles(request))


@sparkray.remote
def where() -> str:
    return str(sparkray.get_runtime_context().get_node_id())


@sparkray.remote
def double(table: Any) -> Any:
    import pyarrow
    import pyarrow.compute

    return pyarrow.table({"id": pyarrow.compute.multiply(table["id"], 2)})


def executors(context: RayContext) -> dict[str, dict[str, Any]]:
    return {node["executor_id"]: node for node in context.nodes()}


def other_than_head(context: RayContext) -> dict[str, Any]:
    head = context._running()["head_executor_id"]
    return next(node for node in context.nodes() if node["executor_id"] != head)


def all_up(context: RayContext, count: int) -> bool:
    return [node["state"] for node in context.nodes()] == ["up"] * count


def test_without_authentication_no_executor_is_told_anything(spark: Any) -> None:
    with pytest.raises(RayContextError) as caught:
        RayContext(spark, object_store_memory=STORE).init()
    ways = ("spark.authenticate=true", "allow_unauthenticated_spark=True", "spark.ray.allowUnauthenticatedSpark=true")
    for way in ways:
        assert way in str(caught.value)
    assert Manager.find(spark.sparkContext).status()["nodes"] == []


def test_tasks_and_dataframes_and_sparks_own_jobs(context: RayContext, spark: Any) -> None:
    assert len(executors(context)) == 2
    nodes = {node["node_id"] for node in context.nodes()}
    assert set(sparkray.get([where.remote() for _ in range(20)], timeout=60)) <= nodes
    blocks = sparkray.from_spark(spark.range(0, 10_000, 1, 4))
    back = sparkray.to_spark([double.remote(block) for block in blocks], spark)
    assert back.selectExpr("count(1)", "sum(id)").collect()[0] == (10_000, 99_990_000)
    assert spark.sparkContext.parallelize(range(8), 8).map(lambda value: value * value).sum() == 140


def test_the_settings_of_the_session_are_not_changed(context: RayContext, spark: Any) -> None:
    settings = dict(spark.sparkContext.getConf().getAll())
    assert "spark.plugins" not in settings
    assert not [key for key, value in settings.items() if key.startswith("spark.ray.") or "sparkray" in value]


def test_a_cluster_after_a_cluster(spark: Any) -> None:
    ids = set()
    for _ in range(2):
        with attached(spark) as context:
            ids.add(context.cluster_id)
            recorded = Recorded(context)
            assert len(sparkray.get([where.remote() for _ in range(4)], timeout=60)) == 4
        recorded.assert_gone()
    assert len(ids) == 2


@pytest.mark.trouble("raylet ended")
def test_a_killed_executor_is_replaced_and_its_processes_are_gone(context: RayContext) -> None:
    victim = other_than_head(context)
    directory = pathlib.Path(os.readlink(f"/proc/{victim['pid']}/exe")).parent
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["pid"]), 60, "its raylet is gone")
    wait_until(lambda: not directory.exists(), 60, "its files are gone")
    wait_until(lambda: victim["executor_id"] not in executors(context), 60, "its end is noticed")
    wait_until(lambda: all_up(context, 2), 120, "Spark replaces it and it joins")
    context.check()
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


def test_an_executor_that_comes_later_joins(spark: Any) -> None:
    wait_until(lambda: executors_of_spark(spark.sparkContext) == 2, 90, "Spark has its executors")
    java: Any = spark.sparkContext._jsc.sc()
    with attached(spark) as context:
        leaving = other_than_head(context)["executor_id"]
        assert java.killExecutor(leaving), "Spark agrees to have one executor less"
        wait_until(lambda: leaving not in executors(context), 60, "it has left")
        assert len(executors(context)) == 1
        assert java.requestTotalExecutors(2, 0, _empty_map(spark))
        wait_until(lambda: all_up(context, 2), 120, "the new one joins")
        assert leaving not in executors(context)


def _empty_map(spark: Any) -> Any:
    jvm = spark.sparkContext._jvm
    return getattr(jvm.scala.collection.immutable, "Map$").__getattr__("MODULE$").empty()


def test_an_executor_without_a_free_slot_is_named(tmp_path: pathlib.Path) -> None:
    program = f"""
    import pathlib, threading, time
    from pyspark.sql import SparkSession
    from process.helpers import wait_until
    from sparkray.spark import RayContext, RayContextError

    builder = SparkSession.builder.master("local-cluster[1,1,1024]").config("spark.ui.enabled", "false")
    spark = builder.getOrCreate()
    go_on, begun = pathlib.Path("{tmp_path}/go-on"), pathlib.Path("{tmp_path}/begun")

    def hold(_):
        begun.touch()
        while not go_on.exists():
            time.sleep(0.05)

    job = threading.Thread(target=lambda: spark.sparkContext.parallelize([0], 1).foreach(hold))
    job.start()
    wait_until(begun.exists, 120, "the only slot is taken")
    context = RayContext(spark, object_store_memory="64m", allow_unauthenticated_spark=True)
    request = context._request
    context._request = lambda driver_cores: {{**request(driver_cores), "deadline_seconds": 8.0}}
    try:
        context.init()
    except RayContextError as error:
        print("REFUSED", error)
    context._request = request
    waiting = threading.Timer(1, go_on.touch)
    waiting.start()
    with context:
        print("NODES", len(context.nodes()))
    job.join()
    spark.stop()
    """
    done = run_driver(program, 300, PYSPARK_PYTHON=sys.executable)
    assert done.returncode == 0 and "NODES 1" in done.stdout, done.stdout + done.stderr
    refusal = next(line for line in done.stdout.splitlines() if line.startswith("REFUSED"))
    assert "0 of 1 executors have joined" in refusal and "without sparkray's plugin" in refusal
    assert re.search(r"a free slot and has not run yet on executor 0 on \S+$", refusal)


def test_in_one_process_and_again_after_the_sparkcontext(tmp_path: pathlib.Path) -> None:
    program = """
    from pyspark.sql import SparkSession
    import sparkray
    from process.helpers import wait_until
    from sparkray.spark import RayContext
    from support.ray_processes import Recorded

    for _ in range(2):
        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        context = RayContext(spark, object_store_memory="64m")
        context.init()
        recorded = Recorded(context)
        (node,) = context.nodes()
        assert node["executor_id"] == "driver" and node["cpus"] == 2
        blocks = sparkray.from_spark(spark.range(0, 1000, 1, 2))
        assert sparkray.to_spark(blocks, spark).count() == 1000
        # Ends the cluster first.
        spark.stop()
        recorded.assert_gone()
    print("TWICE")
    """
    done = run_driver(program, 240)
    assert done.returncode == 0 and "TWICE" in done.stdout, done.stdout + done.stderr


def test_a_killed_program_leaves_nothing(tmp_path: pathlib.Path) -> None:
    program = """
    import json, os, signal
    from pyspark.sql import SparkSession
    from sparkray.spark import RayContext
    from support.ray_processes import Recorded

    session = SparkSession.builder.master("local-cluster[1,1,1024]").config("spark.ui.enabled", "false")
    spark = session.getOrCreate()
    context = RayContext(spark, object_store_memory="64m", allow_unauthenticated_spark=True)
    context.init()
    recorded = Recorded(context)
    java = [spark.sparkContext._gateway.proc.pid, *recorded.java_pids]
    print("recorded", json.dumps(java), recorded.text(), sep="|", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_driver(program, 240, PYSPARK_PYTHON=sys.executable)
    line = next((line for line in done.stdout.splitlines() if line.startswith("recorded|")), None)
    assert line is not None, done.stdout + done.stderr
    _, java, text = line.split("|", 2)
    Traces.of_text(text).assert_gone_with(json.loads(java))


SUBMITTED = """
from pyspark.sql import SparkSession
import sparkray
from sparkray.spark import RayContext

spark = SparkSession.builder.getOrCreate()
with RayContext(spark, object_store_memory="64m", allow_unauthenticated_spark=True) as context:
    assert sparkray.get(sparkray.remote(len).remote("abc"), timeout=120) == 3
    tracker = spark.sparkContext.statusTracker()
    print("NODES", len(context.nodes()), "JOBS", len(tracker.getJobIdsForGroup("sparkray-attach")), flush=True)
spark.stop()
"""
PLUGIN = ["--jars", str(packaging.jar_path()), "--conf", "spark.plugins=org.sparkray.RayPlugin"]
# Nothing that crosses between driver and executors may need to be registered.
KRYO = [
    *("--conf", "spark.serializer=org.apache.spark.serializer.KryoSerializer"),
    *("--conf", "spark.kryo.registrationRequired=true"),
]


@pytest.mark.parametrize("options", [KRYO, PLUGIN], ids=["attached", "plugin"])
def test_spark_submit_with_and_without_the_plugin(options: list[str], tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SUBMITTED)
    submit = str(pathlib.Path(pyspark.__file__).parent / "bin" / "spark-submit")
    settings = ["--master", "local-cluster[1,1,1024]", "--conf", "spark.ui.enabled=false", *options]
    done = subprocess.run(
        [submit, *settings, str(program)],
        env=driver_environment(PYSPARK_PYTHON=sys.executable),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (jobs,) = re.findall(r"^NODES 1 JOBS (\d+)$", done.stdout, re.MULTILINE)
    assert (jobs == "0") == (options is PLUGIN), f"{jobs} jobs"
