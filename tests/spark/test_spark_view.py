"""What Spark sees of from_spark and to_spark: its SQL page, observations, listeners, and the reasons of errors."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray import exceptions
from support.minicluster import wait_until
from support.sessions import spark_session

pa = pytest.importorskip("pyarrow")

PATIENCE = 60.0


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with (
        spark_session(
            cores=2, conf={"spark.ui.enabled": "true", "spark.ui.port": "0", "spark.sql.shuffle.partitions": "2"}
        ) as session,
        sparkray.RayContext(session.sparkContext, object_store_memory="64m"),
    ):
        yield session


def executions(spark: Any) -> list[dict[str, Any]]:
    """What the SQL page shows."""
    context = spark.sparkContext
    url = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/sql?details=true&length=100000"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def finished(spark: Any, after: set[int], description: str) -> dict[str, Any]:
    """The execution with this description that was not there before, with all its metrics."""

    def find() -> dict[str, Any] | None:
        for execution in executions(spark):
            is_new = execution["id"] not in after and execution["status"] != "RUNNING"
            if is_new and execution["description"] == description:
                return execution
        return None

    found: dict[str, Any] = wait_until(find, PATIENCE, f"{description} is on the SQL page")
    return found


def metrics(execution: dict[str, Any], node: str) -> dict[str, str]:
    (found,) = (one for one in execution["nodes"] if one["nodeName"].startswith(node))
    return {metric["name"]: metric["value"] for metric in found["metrics"]}


@pytest.mark.parametrize("shape", ["rows", "adaptive", "cached"])
def test_from_spark_is_an_execution_with_its_metrics(spark: Any, shape: str) -> None:
    df = spark.range(0, 30_000, 1, 3)
    if shape == "adaptive":
        df = df.selectExpr("id", "id % 5 as key").groupBy("key").count()
    if shape == "cached":
        df = df.cache()
        df.count()
    before = {execution["id"] for execution in executions(spark)}
    refs = sparkray.from_spark(df, max_block_bytes=64 * 1024)
    execution = finished(spark, before, "sparkray.from_spark")
    assert execution["status"] == "COMPLETED" and execution["successJobIds"]
    seen = metrics(execution, "sparkray.from_spark")
    assert seen["number of rows"].replace(",", "") == str(df.count())
    assert seen["number of blocks"] == str(len(refs))
    assert "KiB" in seen["bytes of blocks"] or " B" in seen["bytes of blocks"]
    # The frame's own plan is below it.
    assert len(execution["nodes"]) > 1 and execution["edges"]


def test_a_second_transfer_of_a_frame_counts_anew(spark: Any) -> None:
    df = spark.range(0, 1000, 1, 2)
    for _ in range(2):
        before = {execution["id"] for execution in executions(spark)}
        sparkray.from_spark(df)
        seen = metrics(finished(spark, before, "sparkray.from_spark"), "sparkray.from_spark")
        assert (seen["number of rows"], seen["number of blocks"]) == ("1,000", "2")


def test_the_scan_of_to_spark_has_a_name_and_metrics(spark: Any) -> None:
    tables = [sparkray.put(pa.table({"id": list(range(part))})) for part in range(10)]
    frame = sparkray.to_spark(tables, spark)
    for consumed in (frame, frame.coalesce(3)):
        before = {execution["id"] for execution in executions(spark)}
        spark.sparkContext.setJobDescription("all of them")
        try:
            assert len(consumed.collect()) == 45
        finally:
            spark.sparkContext.setJobDescription(None)
        seen = metrics(finished(spark, before, "all of them"), "BatchScan sparkray objects")
        assert (seen["number of output rows"], seen["number of blocks"]) == ("45", "10")
        assert int(seen["bytes of blocks"].replace(",", "")) > 10 * 8


def test_observations_of_a_frame_are_there_afterwards(spark: Any) -> None:
    from pyspark.sql import Observation, functions

    for plan in (spark.range(100), spark.range(100).repartition(3), spark.range(100).groupBy("id").count()):
        observation = Observation("m")
        sparkray.from_spark(plan.observe(observation, functions.count(functions.lit(1)).alias("n")))
        found: list[Any] = []
        thread = threading.Thread(target=lambda seen=observation, to=found: to.append(seen.get), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert found == [{"n": 100}]


class _Listener:
    """A QueryExecutionListener of Java, made in Python."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def onSuccess(self, name: str, execution: Any, nanoseconds: int) -> None:
        self.heard.append(("success", name))

    def onFailure(self, name: str, execution: Any, error: Any) -> None:
        self.heard.append(("failure", name))

    class Java:
        implements = ["org.apache.spark.sql.util.QueryExecutionListener"]


def test_query_execution_listeners_hear_of_it(spark: Any) -> None:
    from pyspark.java_gateway import ensure_callback_server_started

    ensure_callback_server_started(spark.sparkContext._gateway)
    listener = _Listener()
    manager = spark._jsparkSession.listenerManager()
    manager.register(listener)
    try:
        sparkray.from_spark(spark.range(10))
        with pytest.raises(exceptions.RaySystemError):
            sparkray.from_spark(spark.range(10).selectExpr("cast(raise_error('no') as int) as x"))
        wanted = {("success", "sparkray.from_spark"), ("failure", "sparkray.from_spark")}
        wait_until(lambda: wanted <= set(listener.heard), PATIENCE, "the listener hears of both")
    finally:
        manager.unregister(listener)


def test_a_description_and_a_group_of_the_caller_stay(spark: Any) -> None:
    context = spark.sparkContext
    context.setJobGroup("nightly", "the nightly load")
    try:
        sparkray.from_spark(spark.range(10))
        assert context.getLocalProperty("spark.jobGroup.id") == "nightly"
        assert context.getLocalProperty("spark.job.description") == "the nightly load"
        assert context.getLocalProperty("spark.sql.execution.id") is None
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)
        context.setLocalProperty("spark.job.description", None)


# ------------------------------------------------------------------------------------------------------ errors


def test_the_traceback_of_a_python_function_is_in_the_error(spark: Any) -> None:
    from pyspark.sql import functions

    def fail_at_three(number: int) -> int:
        if number == 3:
            raise LookupError("no such\nthing as 3")
        return number

    def fail_in_batches(batches: Any) -> Any:
        for _ in batches:
            raise LookupError("no such\nthing as 3")
        yield from ()

    frames = {
        "udf": spark.range(5).select(functions.udf(fail_at_three, "long")("id").alias("x")),
        "arrow": spark.range(5).mapInArrow(fail_in_batches, "id long"),
        "shuffled": spark.range(5).select(functions.udf(fail_at_three, "long")("id").alias("x")).groupBy("x").count(),
    }
    for name, df in frames.items():
        with pytest.raises(exceptions.RaySystemError, match="from_spark failed") as caught:
            sparkray.from_spark(df)
        text = str(caught.value)
        assert type(caught.value) is exceptions.RaySystemError, name
        assert "Traceback (most recent call last)" in text and "in fail_" in text, text
        assert "LookupError: no such\nthing as 3" in text, text
        assert "\tat org.apache.spark" not in text, text
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("cast(raise_error(concat('first line', char(10), 'second line')) as int)", "first line\nsecond line"),
        ("assert_true(id < 2, 'id is too large') is null", "id is too large"),
        ("element_at(array(1), cast(id as int))", "0"),
    ],
)
def test_the_reason_of_an_expression_is_in_the_error(spark: Any, sql: str, words: str) -> None:
    spark.conf.set("spark.sql.ansi.enabled", "true")
    try:
        with pytest.raises(exceptions.RaySystemError, match="from_spark failed") as caught:
            sparkray.from_spark(spark.range(5).selectExpr(f"{sql} as x"))
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")
    assert type(caught.value) is exceptions.RaySystemError
    assert words in str(caught.value) and "\tat " not in str(caught.value)


# ------------------------------------------------------------------------------------------------- many blocks


def test_the_schemas_of_many_tables_are_read_by_few_tasks(spark: Any) -> None:
    tables = [sparkray.put(pa.table({"id": [number]})) for number in range(1500)]
    tracker = spark.sparkContext.statusTracker()
    before = {execution["id"] for execution in executions(spark)}
    frame = sparkray.to_spark(tables, spark)
    job = finished(spark, before, "sparkray.to_spark: the columns of the tables")["successJobIds"][-1]
    (stage,) = (tracker.getStageInfo(stage) for stage in tracker.getJobInfo(job).stageIds)
    assert stage.numTasks == 24
    assert frame.coalesce(2).selectExpr("sum(id)").collect()[0][0] == 1500 * 1499 // 2


def test_a_bad_table_among_many_is_named(spark: Any) -> None:
    tables = [sparkray.put(pa.table({"id": [number]})) for number in range(200)]
    other = sparkray.put(pa.table({"id": ["text"]}))
    with pytest.raises(ValueError, match="column 'id' of block 150 .* has the type string, in the first block long"):
        sparkray.to_spark([*tables[:150], other, *tables[150:]], spark)
    wrong = sparkray.put(b"x" * 500_000)
    with pytest.raises(TypeError, match="block 70 .*not an Arrow table"):
        sparkray.to_spark([*tables[:70], wrong, *tables[70:]], spark)
