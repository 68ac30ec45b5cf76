"""DataFrame -> objects -> DataFrame on two executors in JVMs of their own."""

from __future__ import annotations

import gc
import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray import exceptions
from sparkray.spark import RayContextError
from support import frames
from support.figures import reported_nodes
from support.minicluster import wait_until
from support.sessions import spark_session

STORE = 48 << 20

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:

    with spark_session(
        conf={
            "spark.master": "local-cluster[2,1,1024]",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "4",
            "spark.sql.session.timeZone": "America/New_York",
            # The values of the frames are cast with wrap-around.
            "spark.sql.ansi.enabled": "false",
        }
    ) as session:
        yield session


@pytest.fixture(scope="module")
def ray(spark: Any) -> Iterator[Any]:
    with sparkray.RayContext(spark.sparkContext, object_store_memory="48m") as context:
        yield context


def executors() -> list[dict[str, Any]]:
    """The executors' nodes that are alive."""
    return [node for node in sparkray.nodes() if node["Alive"] and node["Labels"]["executor_id"] != "driver"]


def stores() -> list[dict[str, int]]:
    """What the executors' stores say of themselves."""
    return [node["ObjectStore"] for node in reported_nodes() if node["Labels"]["executor_id"] != "driver"]


def total(what: str) -> int:
    return sum(store[what] for store in stores())


def let_go(spark: Any, ray: Any) -> None:
    """What only DataFrames that are gone have kept goes too."""
    from sparkray.spark import dataframe

    gc.collect()
    spark._jvm.System.gc()
    dataframe._drop_collected(ray)


def held_objects(spark: Any, ray: Any) -> int:
    """The objects in the executors' stores, once nothing of earlier tests is on its way out."""
    seen = [-1]

    def is_steady() -> bool:
        let_go(spark, ray)
        seen.append(total("object_count"))
        return seen[-1] == seen[-2]

    wait_until(is_steady, 60, "the number of objects is steady")
    return seen[-1]


def schema_of(df: Any) -> list[tuple[str, str, bool]]:
    return [(field.name, field.dataType.simpleString(), field.nullable) for field in df.schema]


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("limit", "seed"), [("64m", 0), (64 * 1024, 0), ("1m", 1), ("64m", 2)], ids=["whole", "cut", "other", "another"]
)
def test_every_value_of_every_flat_type_is_exact(spark: Any, ray: Any, limit: str | int, seed: int) -> None:
    df = frames.every_flat_type(spark, 5000, 5, seed)
    wanted = frames.canonical_rows(frames.collect(df))
    assert wanted[1 + 3 * 8][7] == bytes.fromhex("0000000000000080"), "the frame has -0.0"

    refs = sparkray.from_spark(df, max_block_bytes=limit)
    tables = sparkray.get(refs)
    assert frames.canonical_rows(tables) == wanted
    assert [row for table in tables for row in table.column("id").to_pylist()] == list(range(5000))

    back = sparkray.to_spark(refs, spark)
    assert schema_of(back) == schema_of(df)
    assert back.rdd.getNumPartitions() == len(refs)
    assert frames.canonical_rows(frames.collect(back)) == wanted


def test_blocks_keep_to_their_limit(spark: Any, ray: Any) -> None:
    df = spark.range(0, 40_000, 1, 2).selectExpr("id", "repeat('x', cast(id % 100 as int)) as text")
    refs = sparkray.from_spark(df, max_block_bytes="256k")
    assert len(refs) > 8
    assert all(table.nbytes <= 256 * 1024 for table in sparkray.get(refs))


def test_a_row_larger_than_a_block_is_a_block_by_itself(spark: Any, ray: Any) -> None:
    df = spark.range(0, 6, 1, 1).selectExpr("id", "repeat('x', if(id = 2, 500000, 10)) as text")
    tables = sparkray.get(sparkray.from_spark(df, max_block_bytes=64 * 1024))
    assert [table.num_rows for table in tables] == [2, 1, 3]
    assert len(tables[1].column("text")[0].as_py()) == 500_000


def test_empty_partitions_have_no_block(spark: Any, ray: Any) -> None:
    df = frames.every_flat_type(spark, 1000, 10).filter("id < 250")
    refs = sparkray.from_spark(df)
    assert len(refs) == 3
    wanted = frames.canonical_rows(frames.collect(df))
    assert len(wanted) == 250
    assert frames.canonical_rows(frames.collect(sparkray.to_spark(refs, spark))) == wanted


@pytest.mark.parametrize("partitions", [0, 3])
def test_a_frame_without_rows_keeps_its_columns(spark: Any, ray: Any, partitions: int) -> None:
    if partitions:
        df = frames.every_flat_type(spark, 30, partitions).filter("id < 0")
    else:
        df = spark.createDataFrame(spark.sparkContext.emptyRDD(), "id long, text string")
    refs = sparkray.from_spark(df)
    assert len(refs) == 1
    table = sparkray.get(refs[0])
    assert table.num_rows == 0
    assert table.column_names == df.columns
    back = sparkray.to_spark(refs, spark)
    assert schema_of(back) == schema_of(df)
    assert back.collect() == []


def test_columns_are_read_in_any_selection(spark: Any, ray: Any) -> None:
    df = frames.every_flat_type(spark, 200, 2)
    back = sparkray.to_spark(sparkray.from_spark(df), spark)
    assert back.select("text", "id").filter("id % 2 = 0").count() == 100
    some = ["id", "wide_decimal", "flag"]
    wanted = frames.canonical_rows(frames.collect(df.select(*some)))
    assert frames.canonical_rows(frames.collect(back.select(*some))) == wanted
    assert back.count() == 200


def test_strings_outlive_their_batch(spark: Any, ray: Any) -> None:
    """Aggregates and sorts hold strings that point into the mapping while later batches are read."""
    df = spark.range(0, 20_000, 1, 3).selectExpr("id", "concat('key-', id % 50) as key", "uuid() as text").cache()
    back = sparkray.to_spark(sparkray.from_spark(df, max_block_bytes=64 * 1024), spark)
    query = "key", "max(text) as most", "min(text) as least", "count(*) as n"
    wanted = sorted(df.groupBy("key").agg(*map(_sql, query[1:])).collect())
    assert sorted(back.groupBy("key").agg(*map(_sql, query[1:])).collect()) == wanted
    joined = back.alias("a").join(back.alias("b"), "id").filter("a.text = b.text").count()
    assert joined == 20_000
    df.unpersist()


def _sql(text: str) -> Any:
    from pyspark.sql import functions

    return functions.expr(text)


def test_frames_of_odd_shapes(spark: Any, ray: Any) -> None:
    no_columns = spark.range(0, 5, 1, 2).select()
    assert sparkray.to_spark(sparkray.from_spark(no_columns), spark).count() == 5
    twice = spark.range(0, 5, 1, 1).selectExpr("id as a", "id * 2 as a", "'x' as `a.b c`")
    table = sparkray.get(sparkray.from_spark(twice))[0]
    assert table.column_names == ["a", "a", "a.b c"]
    assert [table.column(index).to_pylist()[4] for index in range(3)] == [4, 8, "x"]
    wide = spark.range(0, 50, 1, 2).selectExpr(
        "id", *[f"if(id % 3 = {n % 3}, null, id + {n}) as c{n}" for n in range(200)]
    )
    refs = sparkray.from_spark(wide)
    wanted = frames.canonical_rows(frames.collect(wide))
    assert frames.canonical_rows(sparkray.get(refs)) == wanted
    assert frames.canonical_rows(frames.collect(sparkray.to_spark(refs, spark))) == wanted


def test_readers_that_stop_early_do_no_harm(spark: Any, ray: Any) -> None:
    """Under a limit a thread that feeds a Python worker may be inside a row when its task completes."""
    from pyspark.sql import functions

    df = spark.range(0, 200_000, 1, 2).selectExpr("id", "sha2(cast(id as string), 256) as text")
    back = sparkray.to_spark(sparkray.from_spark(df, max_block_bytes="4m"), spark)
    shout = functions.udf(str.upper, "string")
    for _ in range(10):
        rows = back.select("id", shout("text").alias("loud")).limit(3).collect()
        assert all(row["loud"] == row["loud"].upper() and len(row["loud"]) == 64 for row in rows)
    assert back.count() == 200_000


def test_several_frames_at_once(spark: Any, ray: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def there_and_back(number: int) -> Any:
        df = spark.range(number * 1000, (number + 1) * 1000, 1, 3)
        return sparkray.to_spark(sparkray.from_spark(df), spark).selectExpr("min(id)", "count(*)").collect()[0]

    with ThreadPoolExecutor(4) as pool:
        assert [tuple(row) for row in pool.map(there_and_back, range(8))] == [(n * 1000, 1000) for n in range(8)]


# ---------------------------------------------------------------------------------------------------- stores


def test_columns_of_one_name_come_back(spark: Any, ray: Any) -> None:
    twice = spark.range(0, 5, 1, 1).selectExpr("id as a", "id * 2 as a", "'x' as A", "id * 3 as b")
    back = sparkray.to_spark(sparkray.from_spark(twice), spark)
    assert back.columns == ["a", "a", "A", "b"]
    assert [tuple(row) for row in back.collect()] == [(n, 2 * n, "x", 3 * n) for n in range(5)]
    # Spark reads only what it needs: here one column, by its own name.
    assert [row["b"] for row in back.select("b").collect()] == [0, 3, 6, 9, 12]
    assert [tuple(row) for row in back.toDF("p", "q", "r", "s").select("s", "q").collect()][4] == (12, 8)


def test_each_executor_writes_and_reads_its_own_blocks(spark: Any, ray: Any) -> None:
    before = stores()
    # Enough work for each task that both executors take part.
    df = spark.range(0, 400_000, 1, 8).selectExpr("id", "sha2(cast(id as string), 256) as text")
    refs = sparkray.from_spark(df)
    after = stores()
    assert all(new["created_bytes"] > old["created_bytes"] for old, new in zip(before, after, strict=True))
    pulled = total("pulled_bytes")
    back = sparkray.to_spark(refs, spark)
    assert back.selectExpr("sum(length(text))").collect()[0][0] == 400_000 * 64
    assert total("pulled_bytes") == pulled


def test_a_store_that_is_too_small_spills_and_goes_on(spark: Any, ray: Any) -> None:
    spilled = total("spilled_bytes")
    df = spark.range(0, 1_500_000, 1, 6).selectExpr("id", "sha2(cast(id as string), 512) as text")
    refs = sparkray.from_spark(df, max_block_bytes="8m")
    assert total("created_bytes") > 2 * STORE
    assert total("spilled_bytes") > spilled
    back = sparkray.to_spark(refs, spark)
    different = back.filter("text != sha2(cast(id as string), 512)").count()
    assert (back.count(), different) == (1_500_000, 0)


def test_blocks_go_away_with_their_references(spark: Any, ray: Any) -> None:
    held = held_objects(spark, ray)
    created = total("created_bytes")
    refs = sparkray.from_spark(spark.range(0, 800_000, 1, 2), max_block_bytes=64 * 1024)
    assert len(refs) > held + 10
    wait_until(lambda: total("created_bytes") >= created + 8 * 800_000, 60, "the blocks are counted")
    # Of those that were held others may have gone meanwhile.
    assert total("object_count") >= len(refs)
    del refs
    wait_until(lambda: total("object_count") <= held + 10, 60, "the blocks are freed")


def test_a_job_that_fails_leaves_no_block(spark: Any, ray: Any) -> None:
    held = held_objects(spark, ray)
    df = spark.range(0, 1000, 1, 4).selectExpr("id", "if(id = 999, raise_error('this row is bad'), 'x') as text")
    with pytest.raises(exceptions.RaySystemError, match="from_spark failed") as caught:
        sparkray.from_spark(df, max_block_bytes=64 * 1024)
    assert "this row is bad" in str(caught.value.__cause__)
    wait_until(lambda: total("object_count") <= held, 60, "the blocks of the failed job are dropped")


@pytest.mark.parametrize("shuffled", [False, True], ids=["determinate", "unordered"])
def test_partitions_on_a_node_that_dies_meanwhile_are_written_again(
    spark: Any, ray: Any, shuffled: bool, tmp_path: pathlib.Path
) -> None:
    """One partition is done and its node dies; the other ends after that."""
    from pyspark.sql import functions

    go = tmp_path / "go"

    @functions.udf("long")
    def wait_for_file(one: int) -> int:
        import os
        import time

        deadline = time.monotonic() + 60
        while one % 2 == 1 and not os.path.exists(path):
            assert time.monotonic() < deadline, "the test gave no sign"
            time.sleep(0.02)
        return one

    path = str(go)
    df = spark.range(0, 2, 1, 2)
    if shuffled:
        df = df.repartitionByRange(2, "id")
    df = df.select("id", wait_for_file("id").alias("same"))
    before = {node["NodeID"]: node["ObjectStore"]["created_bytes"] for node in reported_nodes()}
    found: list[Any] = []
    feed = threading.Thread(target=lambda: found.extend(sparkray.from_spark(df)))
    feed.start()
    try:

        def holder() -> Any:
            more = [node for node in executors() if node["ObjectStore"]["created_bytes"] > before[node["NodeID"]]]
            return more[0] if more else None

        first = wait_until(holder, 60, "the first partition is written")
        os.kill(first["Pid"], signal.SIGKILL)
        wait_until(lambda: first["NodeID"] not in {node["NodeID"] for node in executors()}, 60, "its node is dead")
    finally:
        go.touch()
        feed.join(60)
    assert len(found) == 2
    assert [table.column("same").to_pylist() for table in sparkray.get(found)] == [[0], [1]]
    assert sorted(row["id"] for row in sparkray.to_spark(found, spark).collect()) == [0, 1]
    wait_until(lambda: len(executors()) == 2, 60, "the raylet is back")


def test_a_task_whose_raylet_dies_runs_again(spark: Any, ray: Any, tmp_path: pathlib.Path) -> None:
    """It has written some blocks; the next one has no store to go to until the raylet is back."""
    from pyspark.sql import functions

    go = tmp_path / "go"
    path = str(go)

    @functions.udf("long")
    def wait_for_file(one: int) -> int:
        import os
        import time

        deadline = time.monotonic() + 60
        while one == 35_000 and not os.path.exists(path):
            assert time.monotonic() < deadline, "the test gave no sign"
            time.sleep(0.02)
        return one

    df = spark.range(0, 40_000, 1, 1).select("id", wait_for_file("id").alias("same"))
    before = {node["NodeID"]: node["ObjectStore"]["created_bytes"] for node in reported_nodes()}
    found: list[Any] = []
    feed = threading.Thread(target=lambda: found.extend(sparkray.from_spark(df, max_block_bytes=64 * 1024)))
    feed.start()
    try:

        def writer() -> Any:
            more = [node for node in executors() if node["ObjectStore"]["created_bytes"] > before[node["NodeID"]]]
            return more[0] if more else None

        node = wait_until(writer, 60, "the first blocks are written")
        os.kill(node["Pid"], signal.SIGKILL)
        wait_until(lambda: node["NodeID"] not in {one["NodeID"] for one in executors()}, 60, "its node is dead")
    finally:
        go.touch()
        feed.join(60)
    assert [row for table in sparkray.get(found) for row in table.column("same").to_pylist()] == list(range(40_000))
    wait_until(lambda: len(executors()) == 2, 60, "the raylet is back")


# ------------------------------------------------------------------------------------- tables made by tasks


def test_tables_made_by_tasks_become_dataframes(spark: Any, ray: Any) -> None:
    @sparkray.remote
    def make(part: int) -> Any:
        import datetime
        import decimal

        import numpy
        import pyarrow

        count = 100
        ids = numpy.arange(part * count, (part + 1) * count)
        texts = [None if index % 7 == 0 else f"text {index}" for index in ids]
        instants = [datetime.datetime(1960, 1, 1) + datetime.timedelta(microseconds=int(index)) for index in ids]
        return pyarrow.table(
            {
                "id": pyarrow.array(ids, pyarrow.int64()),
                "large_text": pyarrow.array(texts, pyarrow.large_string()),
                "view": pyarrow.array(texts, pyarrow.string_view()),
                "category": pyarrow.array(texts).dictionary_encode(),
                "unsigned": pyarrow.array(ids, pyarrow.uint32()),
                "huge": pyarrow.array([2**64 - 1 - int(index) for index in ids], pyarrow.uint64()),
                "half": pyarrow.array(ids.astype(numpy.float16)),
                "nanos": pyarrow.array(instants, pyarrow.timestamp("ns")),
                "millis": pyarrow.array([0] * count, pyarrow.timestamp("ms", "Asia/Tokyo")),
                "day": pyarrow.array([datetime.date(1969, 12, 31)] * count, pyarrow.date64()),
                "fixed": pyarrow.array([b"abcd"] * count, pyarrow.binary(4)),
                "wide": pyarrow.array([decimal.Decimal("1.50")] * count, pyarrow.decimal256(20, 2)),
                "nothing": pyarrow.nulls(count),
            }
        )

    refs = [make.remote(part) for part in range(4)]
    back = sparkray.to_spark(refs, spark)
    assert dict(back.dtypes) == {
        "id": "bigint",
        "large_text": "string",
        "view": "string",
        "category": "string",
        "unsigned": "bigint",
        "huge": "decimal(20,0)",
        "half": "float",
        "nanos": "timestamp_ntz",
        "millis": "timestamp",
        "day": "date",
        "fixed": "binary",
        "wide": "decimal(20,2)",
        "nothing": "void",
    }
    wrong = back.filter(
        "not (large_text <=> if(id % 7 = 0, null, concat('text ', id))) or not (view <=> large_text)"
        " or not (category <=> large_text) or unsigned != id or huge != 18446744073709551615BD - id"
        " or half != cast(id as float)"
        " or nanos != timestamp_ntz'1960-01-01 00:00:00' + make_dt_interval(0, 0, 0, id / 1e6)"
        " or millis != timestamp_micros(0) or day != date'1969-12-31' or fixed != X'61626364' or wide != 1.50"
        " or nothing is not null"
    )
    assert (back.count(), wrong.count()) == (400, 0)


def test_a_table_that_pandas_made(spark: Any, ray: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1, 2], "name": ["a", None], "at": pandas.to_datetime(["2020-01-01", None])})
    back = sparkray.to_spark([sparkray.put(pa.Table.from_pandas(frame))], spark)
    assert [(row["id"], row["name"], row["at"] is None) for row in back.collect()] == [
        (1, "a", False),
        (2, None, True),
    ]


def test_the_dataframe_keeps_its_objects(spark: Any, ray: Any) -> None:
    back = sparkray.to_spark(sparkray.from_spark(spark.range(0, 1000, 1, 2)), spark).filter("id >= 500")
    assert back.count() == 500


def test_objects_go_away_with_the_last_dataframe_that_reads_them(spark: Any, ray: Any) -> None:
    refs = sparkray.from_spark(spark.range(0, 240_000, 1, 2), max_block_bytes=64 * 1024)
    count = len(refs)
    assert count > 25
    back = sparkray.to_spark(refs, spark).filter("id >= 500")
    del refs
    table_id = list(ray._cluster.kept)[-1]
    wait_until(lambda: total("object_count") >= count, 60, "the blocks are counted")
    rows = back._jdf.queryExecution().toRdd()
    del back
    let_go(spark, ray)
    # Only an RDD is left of it.
    assert table_id in ray._cluster.kept and rows.count() == 239_500
    held = held_objects(spark, ray)
    del rows

    def freed() -> bool:
        let_go(spark, ray)
        return table_id not in ray._cluster.kept and total("object_count") <= held - count

    wait_until(freed, 60, "the blocks are freed")


# ------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("where", ["feed", "shuffle", "schemas"])
def test_interrupt_ends_the_job_and_leaves_no_block(spark: Any, ray: Any, where: str, tmp_path: pathlib.Path) -> None:
    """In the tasks that write blocks, in a stage that runs while Spark plans, and in the job of to_spark."""
    from pyspark.sql import functions

    started = tmp_path / "started"
    path = str(started)

    @functions.udf("long")
    def slow(one: int) -> int:
        import pathlib
        import time

        pathlib.Path(path).touch()
        time.sleep(60 if one >= 20_000 else 0)
        return one

    df = spark.range(0, 20_001, 1, 1).select(slow("id").alias("id"))
    if where == "shuffle":
        df = df.groupBy("id").count()
    held = held_objects(spark, ray)
    refs = [sparkray.put(pa.table({"id": [1]})) for _ in range(3)]
    status = spark.sparkContext.statusTracker()

    def is_running() -> bool:
        return bool(status.getActiveJobsIds()) and (where == "schemas" or started.exists())

    def interrupt() -> None:
        wait_until(is_running, 60, "the job runs")
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        if where == "schemas":
            stopped = [node["Pid"] for node in executors()]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                sparkray.to_spark(refs, spark)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
        else:
            sparkray.from_spark(df, max_block_bytes=64 * 1024)
    interrupter.join(10)
    wait_until(lambda: not status.getActiveJobsIds(), 60, "the job is cancelled")
    # Executors may have got copies of what to_spark was given.
    del refs
    wait_until(lambda: total("object_count") <= held, 60, "the blocks are dropped")
    # The connection to Java is as good as before, and so are the settings of this thread.
    assert spark.sparkContext.getLocalProperty("spark.jobGroup.id") is None
    assert sparkray.to_spark(sparkray.from_spark(spark.range(10)), spark).count() == 10


def test_properties_of_the_caller_hold_in_the_jobs(spark: Any, ray: Any) -> None:
    from sparkray.spark import dataframe

    context = spark.sparkContext
    context.setLocalProperty("spark.scheduler.pool", "night")
    try:
        seen = dataframe._interruptible(lambda: context.getLocalProperty("spark.scheduler.pool"), lambda: None, spark)
    finally:
        context.setLocalProperty("spark.scheduler.pool", None)
    assert seen == "night"


# ------------------------------------------------------------------------------------------------- bad input


def test_tasks_are_sent_to_the_driver_program(ray: Any) -> None:
    @sparkray.remote
    def inside() -> None:
        from sparkray.spark import from_spark

        from_spark(None)

    with pytest.raises(RayContextError, match="driver program"):
        sparkray.get(inside.remote(), timeout=60)


def test_another_type_is_refused_by_the_name_of_its_column(spark: Any, ray: Any) -> None:
    for sql, name in [
        ("array(id) as tags", "array<bigint>"),
        ("named_struct('x', id) as tags", "struct<x:bigint>"),
        ("map(id, 'x') as tags", "map<bigint,string>"),
        ("make_dt_interval(1) as tags", "interval day to second"),
        ("null as tags", "void"),
    ]:
        with pytest.raises(TypeError, match="column 'tags' has the type") as caught:
            sparkray.from_spark(spark.range(5).selectExpr("id", sql))
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "error", "words"),
    [
        ("64", ValueError, "unit"),
        ("64q", ValueError, "unit"),
        ("1k", ValueError, "between 64 KiB and 1 GiB"),
        (0, ValueError, "between 64 KiB and 1 GiB"),
        ("2g", ValueError, "between 64 KiB and 1 GiB"),
        ([], TypeError, "max_block_bytes"),
    ],
)
def test_a_bad_block_size_is_refused(spark: Any, ray: Any, limit: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sparkray.from_spark(spark.range(5), max_block_bytes=limit)


def test_what_is_no_dataframe_is_refused(spark: Any, ray: Any) -> None:
    with pytest.raises(TypeError, match="not a builtins.list"):
        sparkray.from_spark([1, 2, 3])
    with pytest.raises(ValueError, match="stream"):
        sparkray.from_spark(spark.readStream.format("rate").load())


def test_what_is_no_table_is_refused(spark: Any, ray: Any) -> None:
    table = sparkray.put(pa.table({"id": [1]}))
    with pytest.raises(TypeError, match="element 1 is a int"):
        sparkray.to_spark([table, 7], spark)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not a dict"):
        sparkray.to_spark({"a": table}, spark)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one reference"):
        sparkray.to_spark([], spark)
    with pytest.raises(TypeError, match="reference 1 is not a pyarrow.Table"):
        sparkray.to_spark([table, sparkray.put("small")], spark)
    with pytest.raises(TypeError, match="block 1 .*not an Arrow table"):
        sparkray.to_spark([table, sparkray.put(b"x" * 500_000)], spark)
    with pytest.raises(TypeError, match="SparkSession is needed"):
        sparkray.to_spark([table], None)


def test_tables_with_other_columns_are_named(spark: Any, ray: Any) -> None:
    first = sparkray.put(pa.table({"id": [1], "name": ["x"]}))
    with pytest.raises(ValueError, match="column 'name' of block 1 .* has the type long, in the first block string"):
        sparkray.to_spark([first, sparkray.put(pa.table({"id": [1], "name": [2]}))], spark)
    with pytest.raises(ValueError, match="block 1 .* has 1 columns, the first block has 2"):
        sparkray.to_spark([first, sparkray.put(pa.table({"id": [1]}))], spark)
    with pytest.raises(ValueError, match="column 'tags'.*List.*cannot be read by Spark"):
        sparkray.to_spark([sparkray.put(pa.table({"tags": [[1]]}))], spark)


def test_the_error_of_a_task_is_raised(spark: Any, ray: Any) -> None:
    @sparkray.remote
    def fail() -> Any:
        raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        sparkray.to_spark([fail.remote()], spark)


def test_after_stop_everything_says_so(spark: Any, ray: Any) -> None:
    refs = sparkray.from_spark(spark.range(10))
    back = sparkray.to_spark(refs, spark)
    ray.stop()
    with pytest.raises(exceptions.RaySystemError, match="was stopped"):
        sparkray.from_spark(spark.range(10))
    with pytest.raises(exceptions.RaySystemError, match="was stopped"):
        sparkray.to_spark(refs, spark)
    with pytest.raises(Exception, match="stopped"):
        back.count()
    ray.init()
    with pytest.raises((exceptions.RayError, RayContextError, ValueError)):
        sparkray.to_spark(refs, spark)
    with pytest.raises(Exception, match="stopped"):
        back.count()
    assert sparkray.to_spark(sparkray.from_spark(spark.range(10)), spark).count() == 10
