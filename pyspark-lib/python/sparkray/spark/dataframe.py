"""DataFrames into the object stores and back."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sparkray import _native, exceptions
from sparkray._private import worker
from sparkray._private.memory import MEBIBYTE
from sparkray._private.units import parse_bytes
from sparkray.spark import blocks, interruptible, java_errors, unify
from sparkray.spark.ray_context import RayContext, RayContextError
from sparkray.spark.spark_conf import MEMORY_BUDGET, OVERHEAD, spark_memory

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkray._native import CoreWorker, ObjectRef

_Result = TypeVar("_Result")

__all__ = ["from_spark", "to_spark"]

# A smaller block would be mostly headers; a larger one does not fit the 32-bit offsets of Arrow's strings.
_SMALLEST_BLOCK = 64 * 1024
_LARGEST_BLOCK = 1024 * MEBIBYTE
_DEFAULT_BLOCK = 64 * MEBIBYTE
_SMALLEST_DEFAULT = MEBIBYTE
# Partitions whose node died before the job ended are run again this often.
_FEED_ATTEMPTS = 3
# Tasks of Spark 4.3 hold what they have read: so much of the store, and the rest on disk.
_HELD_PART_OF_STORE = 4
# How long an interrupted call waits for Spark to end its job.
_CANCEL_SECONDS = 10.0
_PROVIDER = "org.sparkray.data.RayTableProvider"


def from_spark(df: DataFrame, max_block_bytes: str | int | None = None) -> list[ObjectRef[Any]]:
    """Puts a DataFrame into the executors' object stores, as pyarrow Tables.

    One Spark job runs. Each of its tasks writes its partition into the store of its own executor's node; no data
    passes through the driver, and no Python worker of pyspark runs. This program owns the objects. For Spark it is an
    action like a write, named sparkray.from_spark: it is on the SQL page with its metrics, and observations of the
    DataFrame and query execution listeners hear of it.

    Arguments:
        df: a DataFrame of the SparkContext that the RayContext was made for. Its columns have flat types: boolean,
            byte, short, int, long, float, double, decimal, string, binary, date, timestamp, timestamp_ntz.
        max_block_bytes: a partition is cut into blocks of at most this size, in bytes or with a unit (``"64m"``);
            between 64 KiB and 1 GiB. A single row that is larger is a block by itself. Each running task of the job
            needs up to this much memory outside the executor's heap. None: 64 MiB, or less on YARN, so that the tasks
            of an executor need at most half of the memory overhead that is not set aside for Ray.

    Returns:
        A reference for each block, in the order of the partitions and, inside a partition, of the rows. Empty
        partitions have no block; a DataFrame without rows has one empty block, which has the columns.

    Raises:
        TypeError: ``df`` is no DataFrame, a column has another type (it is named), or max_block_bytes is no size.
        ValueError: ``df`` is a stream or belongs to another SparkContext; max_block_bytes is out of range.
        RayContextError: there is no cluster on a SparkContext, or it is lost.
        ObjectStoreFullError: neither shared memory nor disk of a node has room.
        RaySystemError: the job failed for another reason, which the message has; for a Python function of the
            DataFrame, its traceback. The cause has Spark's own words.

    Upstream name: ``ray.data.from_spark`` (which gives a Dataset).
    """
    core, context = _running()
    limit = _default_limit(context) if max_block_bytes is None else _block_limit(max_block_bytes)
    _check_dataframe(df, context)
    feed_id = os.urandom(16)
    request = blocks.encode_request(core, feed_id, limit)
    jvm: Any = context.sc._jvm
    with java_errors.translated("from_spark failed"):
        feed = jvm.org.sparkray.data.Feed(df._jdf, feed_id.hex(), request)
    _drop_collected(context)
    try:
        found = _interruptible(lambda: _run_feed(core, feed), feed.cancel, df.sparkSession)
        return blocks.adopt(core, feed_id, found)
    except BaseException as error:
        # Also Ctrl-C: the job ends and what it wrote is dropped.
        with contextlib.suppress(Exception):
            feed.cancel()
        with contextlib.suppress(Exception):
            blocks.abort(core, feed_id)
        if isinstance(error, Exception):
            # When the cluster was lost meanwhile, that is the reason.
            context.check()
        raise


def _run_feed(core: CoreWorker, feed: Any) -> list[blocks.Partition]:
    """The blocks of every partition, all on nodes that live."""
    with java_errors.translated("from_spark failed"):
        partitions = blocks.read_report(feed.run())
        for _ in range(_FEED_ATTEMPTS - 1):
            lost = blocks.on_dead_nodes(core, partitions)
            if not lost:
                break
            if feed.isDeterminate():
                again = blocks.read_report(feed.runPartitions(_native.encode_feed_partitions(lost)))
                partitions = [partition for partition in partitions if partition.index not in lost] + again
            else:
                # Rows may be in other partitions when Spark computes some of them again: all or none.
                partitions = blocks.read_report(feed.run())
        if not any(partition.blocks for partition in partitions):
            partitions = blocks.read_report(feed.runEmpty())
    lost = blocks.on_dead_nodes(core, partitions)
    if lost:
        raise exceptions.ObjectLostError._saying(
            f"the blocks of {len(lost)} partitions were lost {_FEED_ATTEMPTS} times because nodes died while the "
            "DataFrame was written: look into the executors' logs"
        )
    return partitions


def to_spark(refs: Sequence[ObjectRef[Any]], spark: SparkSession) -> DataFrame:
    """A DataFrame over pyarrow Tables in the object stores.

    The tables stay where they are: Spark's tasks run on the executors whose stores hold them and read them in place;
    columns that Spark cannot take as they are (unsigned integers, large strings, dictionaries, timestamps of other
    units, ...) are cast by the tasks, exactly or not at all. Each table is one partition. No Python worker of pyspark
    runs.

    Tables may differ in the types of their columns as long as one type holds all values: nulls only go with anything,
    integers and decimals become the wider type, integers and floats double. What Spark says about a column (collation,
    char and varchar, comment, other metadata) is kept in the tables that from_spark makes, and restored here. Arrow's
    extension types uuid, bool8 and json become string, boolean and string.

    The objects are kept until the DataFrame, and all that are derived from it, have been collected by Python and by
    Java, or until the RayContext stops. Columns may have the same name, as in Spark.

    Arguments:
        refs: references to pyarrow Tables with the same columns. Results of tasks that have not ended are waited for.
        spark: a SparkSession of the SparkContext that the RayContext was made for.

    Returns:
        The DataFrame. Its rows are in the order of the references.

    Raises:
        TypeError: ``refs`` holds something else than references, or a reference to something else than a table.
        ValueError: there is no reference; the columns of a table do not go together with those before, or Spark has no
            type for one (it is named); ``spark`` belongs to another SparkContext. A value that the DataFrame's type
            cannot hold exactly (nanoseconds, integers above 2**53 beside floats) fails the job that reads it.
        RayContextError: there is no cluster on a SparkContext, or it is lost.
        RayTaskError: the task that should have made a table raised.
        ObjectLostError: a table was lost with its node.

    Upstream name: ``ray.data.Dataset.to_spark``.
    """
    core, context = _running()
    _check_session(spark, context)
    references = _check_references(refs)
    described = blocks.describe(core, references)
    table_id = uuid.uuid4().hex
    tables: Any = context.sc._jvm.org.sparkray.data.RayTables
    _drop_collected(context)
    group = f"sparkray-table-{table_id}"

    def make() -> DataFrame:
        context.sc.setJobGroup(group, "sparkray.to_spark: the columns of the tables", True)
        rows = spark.read.format(_PROVIDER).option("table", table_id).option("content", "schemas").load().collect()
        schema = blocks.common_schema(b"".join(row["schemas"] for row in rows), described)
        names = [field["name"] for field in schema["fields"]]
        # Spark cannot tell columns of one name apart when it leaves out some of them.
        unique = unify.with_unique_names(schema)
        tables.setSchema(table_id, json.dumps(schema), json.dumps(unique))
        df = spark.read.format(_PROVIDER).option("table", table_id).load()
        return df if unique is schema else df.toDF(*names)

    tables.register(table_id, blocks.encode_table(core, described, _hold_bytes(context)))
    try:
        with java_errors.translated("to_spark failed"):
            df = _interruptible(make, lambda: context.sc.cancelJobGroup(group), spark)
            tables.handOver(table_id)
    except BaseException:
        with contextlib.suppress(Exception):
            tables.unregister(table_id)
        raise
    context.keep(table_id, references)
    return df


def _hold_bytes(context: RayContext) -> int:
    """What blocks may occupy of a node's store until the tasks of Spark that read them end."""
    return min((node["object_store_bytes"] for node in context.nodes()), default=0) // _HELD_PART_OF_STORE


def _interruptible(function: Callable[[], _Result], cancel: Callable[[], object], spark: SparkSession) -> _Result:
    """Runs a function that waits for a job of Spark, with this thread's local properties (pool, tags, …)."""
    import pyspark
    from pyspark import inheritable_thread_target

    # A session of Spark 4 has tags beside the properties.
    has_tags = int(pyspark.__version__.split(".")[0]) >= 4
    target: Callable[[], _Result] = (
        inheritable_thread_target(spark)(function) if has_tags else inheritable_thread_target(function)
    )
    return interruptible.call(target, cancel, "sparkray-dataframe", _CANCEL_SECONDS)


def _drop_collected(context: RayContext) -> None:
    """Lets go of the objects of DataFrames that are gone."""
    for table_id in context.sc._jvm.org.sparkray.data.RayTables.collected().split(","):
        context.keep_no_longer(table_id)


def _running() -> tuple[CoreWorker, RayContext]:
    core = worker.connected()
    if not worker.state.is_driver:
        raise RayContextError(
            "from_spark and to_spark belong in the driver program, where Spark is: give tasks and actors the tables"
        )
    context = RayContext._active
    if context is None or not context.initialized:
        raise RayContextError(
            "sparkray runs without Spark in this program: DataFrames need a RayContext(sc) and its init() instead of "
            "sparkray.init()"
        )
    context.check()
    return core, context


def _block_limit(given: str | int) -> int:
    limit = parse_bytes("max_block_bytes", given)
    if not _SMALLEST_BLOCK <= limit <= _LARGEST_BLOCK:
        raise ValueError(f"max_block_bytes is between 64 KiB and 1 GiB, not {given!r}")
    return limit


def _default_limit(context: RayContext) -> int:
    """What fits beside Ray's budget into the containers: a task holds a block, and its rows before they are one."""
    if context.sc.master != "yarn":
        return _DEFAULT_BLOCK
    # One copy: pyspark asks Java for each of its entries.
    conf = context.sc.getConf()
    settings = {key: conf.get(key) or "" for key in (OVERHEAD, MEMORY_BUDGET)}
    if not settings[OVERHEAD]:
        return _DEFAULT_BLOCK
    free = spark_memory(settings, OVERHEAD)
    budget = settings[MEMORY_BUDGET]
    if budget:
        free -= int(budget) if budget.isdigit() else parse_bytes(MEMORY_BUDGET, budget)
    cores = int(conf.get("spark.executor.cores") or 1)
    return max(_SMALLEST_DEFAULT, min(_DEFAULT_BLOCK, free // (2 * cores)))


def _check_dataframe(df: Any, context: RayContext) -> None:
    from pyspark.sql import DataFrame

    kind = type(df)
    if kind.__module__.startswith("pyspark.sql.connect"):
        raise TypeError("this is a DataFrame of Spark Connect: its SparkContext runs elsewhere; use a classic session")
    if not isinstance(df, DataFrame):
        raise TypeError(f"from_spark takes a Spark DataFrame, not a {kind.__module__}.{kind.__qualname__}")
    _check_session(df.sparkSession, context)
    if df.isStreaming:
        raise ValueError(
            "from_spark takes a DataFrame of rows that are there, and this one is a stream: write it somewhere first, "
            "or call from_spark inside foreachBatch"
        )


def _check_session(spark: Any, context: RayContext) -> None:
    from pyspark.sql import SparkSession

    if not isinstance(spark, SparkSession):
        raise TypeError(f"a SparkSession is needed, not a {type(spark).__qualname__}")
    if spark.sparkContext is not context.sc:
        raise ValueError(
            "this SparkSession belongs to another SparkContext than the RayContext: stop() the RayContext and make one "
            "for the SparkContext that runs now"
        )


def _check_references(refs: Any) -> list[ObjectRef[Any]]:
    from sparkray._native import ObjectRef

    if isinstance(refs, ObjectRef):
        return [refs]
    if not isinstance(refs, Sequence) or isinstance(refs, (str, bytes)):
        raise TypeError(f"to_spark takes a list of ObjectRefs, not a {type(refs).__qualname__}")
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"to_spark takes a list of ObjectRefs, and element {index} is a {type(ref).__qualname__}")
    if not refs:
        raise ValueError("to_spark needs at least one reference: an empty list has no columns")
    return list(refs)
