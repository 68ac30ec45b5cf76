"""Columns of blocks: types that differ, types that Spark lacks, metadata, and what columns say about themselves."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray.spark import unify
from support.sessions import spark_session

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        spark_session(
            cores=2,
            conf={
                "spark.ui.enabled": "false",
                "spark.sql.session.timeZone": "UTC",
                "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
            },
        ) as session,
        sparkray.RayContext(session.sparkContext, object_store_memory="64m"),
    ):
        yield session


def frame_of(spark: Any, *columns: Any) -> Any:
    """A DataFrame over one block for each of these Arrow arrays, whose only column is `c`."""
    return sparkray.to_spark([sparkray.put(pa.table({"c": column})) for column in columns], spark)


# ------------------------------------------------------------------------------------------ types that differ

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000)
MONEY = decimal.Decimal

UNIFIED: dict[str, tuple[list[Any], str, list[Any]]] = {
    "nulls and strings": (
        [pa.array(["a"]), pa.nulls(2), pa.array(["b"], pa.large_string())],
        "string",
        ["a", None, None, "b"],
    ),
    "nulls first": ([pa.nulls(1), pa.array([b"x"])], "binary", [None, b"x"]),
    "nulls and dates": (
        [pa.nulls(1), pa.array([datetime.date(2024, 1, 2)])],
        "date",
        [None, datetime.date(2024, 1, 2)],
    ),
    "nulls only": ([pa.nulls(1), pa.nulls(1)], "void", [None, None]),
    "layouts of strings": (
        [pa.array(["a"]), pa.array(["b"], pa.string_view()), pa.array(["c", "c"]).dictionary_encode()],
        "string",
        ["a", "b", "c", "c"],
    ),
    "layouts of bytes": (
        [pa.array([b"ab"]), pa.array([b"cd"], pa.binary(2)), pa.array([b"ef"], pa.large_binary())],
        "binary",
        [b"ab", b"cd", b"ef"],
    ),
    "widths of integers": (
        [pa.array([-1], pa.int8()), pa.array([2**16 - 1], pa.uint16()), pa.array([2**40], pa.int64())],
        "bigint",
        [-1, 2**16 - 1, 2**40],
    ),
    "unsigned longs": (
        [pa.array([-1], pa.int64()), pa.array([2**64 - 1], pa.uint64())],
        "decimal(20,0)",
        [MONEY(-1), MONEY(2**64 - 1)],
    ),
    "integers and doubles": ([pa.array([2**53, -7]), pa.array([0.5, None])], "double", [2.0**53, -7.0, 0.5, None]),
    "floats and integers": (
        [pa.array([2**24 + 1], pa.int32()), pa.array([0.25], pa.float32())],
        "double",
        [2.0**24 + 1, 0.25],
    ),
    "floats and shorts": ([pa.array([-3], pa.int16()), pa.array([0.25], pa.float32())], "float", [-3.0, 0.25]),
    "floats of all widths": (
        [pa.array([0.5], pa.float16()), pa.array([0.25], pa.float32()), pa.array([0.1])],
        "double",
        [0.5, 0.25, 0.1],
    ),
    "decimals": (
        [pa.array([MONEY("1.5")], pa.decimal128(2, 1)), pa.array([MONEY("12.34")], pa.decimal128(4, 2))],
        "decimal(4,2)",
        [MONEY("1.50"), MONEY("12.34")],
    ),
    "decimals and integers": (
        [pa.array([MONEY("0.125")], pa.decimal256(5, 3)), pa.array([-(2**31)], pa.int32())],
        "decimal(13,3)",
        [MONEY("0.125"), MONEY(-(2**31))],
    ),
    "units of timestamps": (
        [pa.array([MOMENT], pa.timestamp(unit)) for unit in ("ms", "us", "ns")],
        "timestamp_ntz",
        [MOMENT, MOMENT, MOMENT],
    ),
    "dates": (
        [pa.array([datetime.date(1969, 12, 31)], kind) for kind in (pa.date32(), pa.date64())],
        "date",
        [datetime.date(1969, 12, 31)] * 2,
    ),
}


@pytest.mark.parametrize("name", UNIFIED)
def test_blocks_of_compatible_types_are_one_column(spark: Any, name: str) -> None:
    columns, kind, values = UNIFIED[name]
    parts = []
    for column in columns:
        parts.append(values[: len(column)])
        values = values[len(column) :]
    for order in (1, -1):
        frame = frame_of(spark, *columns[::order])
        assert dict(frame.dtypes) == {"c": kind}
        assert [row["c"] for row in frame.collect()] == [value for part in parts[::order] for value in part]


def test_zones_of_timestamps_are_one_column(spark: Any) -> None:
    columns = [
        pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("ms", zone)) for zone in ("UTC", "Asia/Tokyo", "+02:00")
    ]
    frame = frame_of(spark, *columns)
    assert frame.selectExpr("c = timestamp'2024-02-29 12:30:15.25 UTC' as same").distinct().collect() == [(True,)]


REFUSED = {
    "strings and numbers": [pa.array(["1"]), pa.array([1])],
    "strings and bytes": [pa.array(["1"]), pa.array([b"1"])],
    "booleans and numbers": [pa.array([True]), pa.array([1])],
    "dates and timestamps": [pa.array([datetime.date(2024, 1, 1)]), pa.array([MOMENT])],
    "zone and no zone": [pa.array([MOMENT], pa.timestamp("us", "UTC")), pa.array([MOMENT])],
    "decimals and doubles": [pa.array([MONEY("1.5")]), pa.array([1.5])],
    "decimals of too many digits": [
        pa.array([MONEY(1)], pa.decimal128(38, 0)),
        pa.array([MONEY("0.1")], pa.decimal128(38, 10)),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_blocks_of_other_types_are_refused_by_the_column_s_name(spark: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"column 'c' of block 1 .* has the type .* in the first block"):
        frame_of(spark, *REFUSED[name])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([pa.array([2**53 + 1]), pa.array([0.5])], "9007199254740993 is not exact as a double"),
        ([pa.array([1_999], pa.timestamp("ns"))], "floor_temporal"),
        ([pa.array([1_999], pa.timestamp("ns", "UTC")), pa.array([1], pa.timestamp("s", "UTC"))], "floor_temporal"),
        ([pa.array([1_999], pa.timestamp("ns")).dictionary_encode()], "floor_temporal"),
    ],
    ids=["long", "nanoseconds", "nanoseconds with a zone", "nanoseconds in a dictionary"],
)
def test_a_value_that_would_change_is_an_error(spark: Any, columns: list[Any], words: str) -> None:
    with pytest.raises(Exception, match="column 'c'") as caught:
        frame_of(spark, *columns).collect()
    assert words in str(caught.value)


def test_common_types_do_not_depend_on_the_order() -> None:
    names = [
        "void",
        "byte",
        "short",
        "integer",
        "long",
        "float",
        "double",
        "string",
        "decimal(4,2)",
        "decimal(20,0)",
        "date",
    ]

    def of(*types: str) -> str | None:
        result: str | None = types[0]
        for one in types[1:]:
            result = None if result is None else unify.common_type(result, one)
        return result

    for a in names:
        assert unify.common_type(a, a) == a
        for b in names:
            assert of(a, b) == of(b, a)
            for c in names:
                if None not in (of(a, b), of(b, c), of(a, c)):
                    assert of(a, b, c) == of(b, c, a) == of(c, a, b), (a, b, c)


# -------------------------------------------------------------------------------------- metadata and extensions


def test_metadata_that_means_nothing_to_spark_stops_nobody(spark: Any) -> None:
    bad = {
        b"k": b"\xff",
        b"\xfe": b"\x00\xff",
        b"ARROW:extension:metadata": b"\x80",
        b"": b"",
        b"SPARK::metadata::json": b"\xff{",
    }
    field = pa.field("c", pa.int64(), metadata=bad)
    tables = [
        pa.table({"c": [1]}).replace_schema_metadata({b"k": b"\xff"}),
        pa.table([pa.array([2])], schema=pa.schema([field], metadata=bad)),
        pa.table([pa.array([3])], schema=pa.schema([field], metadata={b"pandas": b"\xff" * 10_000})),
        pa.table(
            [pa.array([4])],
            schema=pa.schema([pa.field("c", pa.int64(), metadata={b"SPARK::metadata::json": b'{"a":[1,"x"]}'})]),
        ),
    ]
    frame = sparkray.to_spark([sparkray.put(table) for table in tables], spark)
    assert [row["c"] for row in frame.collect()] == [1, 2, 3, 4]


def test_every_kind_of_column_is_read_or_refused_by_its_name(spark: Any) -> None:
    """Whatever pyarrow can write."""
    kinds = [
        pa.time32("s"), pa.time64("ns"), pa.duration("us"), pa.month_day_nano_interval(), pa.list_(pa.int64()),
        pa.large_list(pa.int8()), pa.list_(pa.int8(), 2), pa.list_view(pa.int8()), pa.struct([("x", pa.int8())]),
        pa.map_(pa.string(), pa.int8()), pa.run_end_encoded(pa.int32(), pa.int64()), pa.decimal256(60, 2),
        pa.dense_union([pa.field("x", pa.int8())]), pa.dictionary(pa.int8(), pa.duration("s")),
    ]  # fmt: skip
    for kind in kinds:
        column = (
            pa.nulls(1, kind)
            if not pa.types.is_union(kind)
            else pa.UnionArray.from_dense(
                pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1], pa.int8())]
            )
        )
        with pytest.raises((ValueError, TypeError), match="column 'c' has the type"):
            frame_of(spark, column)


class _Celsius(pa.ExtensionType):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__(pa.float64(), "test.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"\xff\xfe"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> _Celsius:
        return cls()


def test_extension_types_are_mapped_or_refused_by_the_column_s_name(spark: Any) -> None:
    one = uuid.uuid4()
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes, None], pa.binary(16)))
    flags = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1, -1, None], pa.int8()))
    texts = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(['{"a": 1}']))
    for column, kind, values in [
        (uuids, "string", [str(one), None]),
        (flags, "boolean", [False, True, True, None]),
        (texts, "string", ['{"a": 1}']),
    ]:
        frame = frame_of(spark, column)
        assert dict(frame.dtypes) == {"c": kind}
        assert [row["c"] for row in frame.collect()] == values
    odd = pa.ExtensionArray.from_storage(_Celsius(), pa.array([36.6]))
    with pytest.raises(ValueError, match="column 'c' has the type extension<test.celsius> over Float64"):
        frame_of(spark, odd)


# ---------------------------------------------------------------------------- what columns say about themselves


def _is_spark_4() -> bool:
    import pyspark

    return int(pyspark.__version__.split(".")[0]) >= 4


def metadata_of(df: Any) -> dict[str, Any]:
    return {field["name"]: field["metadata"] for field in df.schema.jsonValue()["fields"]}


def test_what_columns_say_about_themselves_survives(spark: Any, tmp_path: pathlib.Path) -> None:
    from pyspark.ml.feature import StringIndexer
    from pyspark.sql import functions

    spark.sql(
        "create table said (a char(3) comment 'three', b varchar(5), c int comment 'a \"number\"', d string) "
        "using parquet"
    )
    spark.sql("insert into said values ('a', 'bb', 1, 'x'), ('b', 'cc', 2, 'y')")
    df = StringIndexer(inputCol="d", outputCol="e").fit(spark.table("said")).transform(spark.table("said"))
    odd = {"n": 1, "f": 0.5, "t": True, "s": 'ä"', "l": [1, 2], "o": {"x": ["a"]}}
    df = df.withColumn("g", functions.col("c").alias("g", metadata=odd)).withColumn("c c", functions.col("c"))
    assert metadata_of(df)["e"]["ml_attr"]["vals"]
    refs = sparkray.from_spark(df, max_block_bytes=64 * 1024)
    back = sparkray.to_spark(refs, spark)
    assert metadata_of(back) == metadata_of(df)
    assert back.schema.jsonValue() == df.schema.jsonValue()
    assert sorted(map(tuple, back.collect())) == sorted(map(tuple, df.collect()))
    # Spark pads what a char column is compared with.
    assert back.filter("a = 'a'").count() == df.filter("a = 'a'").count() == 1
    # pyarrow keeps the fields through its own operations, and pyspark knows the key.
    tables = [table.filter(pa.compute.field("c") > 1).select(["a", "e"]) for table in sparkray.get(refs)]
    changed = sparkray.to_spark([sparkray.put(table) for table in tables], spark)
    assert metadata_of(changed) == {name: metadata_of(df)[name] for name in ("a", "e")}


def test_marks_of_spark_s_planner_do_not_survive(spark: Any, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "file")
    spark.range(3).write.parquet(path)
    df = spark.read.parquet(path).selectExpr("id", "_metadata.file_name as file")
    back = sparkray.to_spark(sparkray.from_spark(df), spark)
    assert back.columns == ["id", "file"]
    assert back.select("*").count() == 3
    assert not any(key.startswith("__") for said in metadata_of(back).values() for key in said)


def test_a_collation_survives(spark: Any) -> None:
    if not _is_spark_4():
        pytest.skip("collations came with Spark 4")
    df = spark.sql("select 'a' collate UNICODE_CI as c, 'x' collate UTF8_LCASE as `C`, 'y' as d")
    refs = sparkray.from_spark(df)
    back = sparkray.to_spark(refs, spark)
    assert [field.dataType for field in back.schema] == [field.dataType for field in df.schema]
    first = spark.sql("select 'a' collate UNICODE_CI as c union all select 'b' collate UNICODE_CI")
    again = sparkray.to_spark(sparkray.from_spark(first), spark)
    assert again.filter("c = 'A'").count() == first.filter("c = 'A'").count() == 1
    # A task gives the column another name, or another type.
    (table,) = sparkray.get(refs)
    renamed = sparkray.to_spark([sparkray.put(table.select([0]).rename_columns(["other"]))], spark)
    assert renamed.filter("other = 'A'").count() == 1
    numbers = table.select([0]).set_column(0, table.schema.field(0).with_type(pa.int64()), pa.array([1]))
    assert sparkray.to_spark([sparkray.put(numbers)], spark).dtypes == [("c", "bigint")]
    # Blocks that say nothing go with it, blocks that say something else do not.
    silent = pa.table({"c": ["A"]})
    both = sparkray.to_spark([sparkray.put(table.select([0])), sparkray.put(silent)], spark)
    assert both.filter("c = 'A'").count() == 2
    other = sparkray.from_spark(spark.sql("select 'a' collate UTF8_LCASE as c"))
    with pytest.raises(ValueError, match="column 'c' of block 1 .* has the collation .*UTF8_LCASE"):
        sparkray.to_spark([sparkray.put(table.select([0])), *other], spark)


def test_char_and_varchar_types_that_spark_preserves(spark: Any) -> None:
    if not _is_spark_4():
        pytest.skip("char and varchar are types of a DataFrame in Spark 4 only")
    spark.conf.set("spark.sql.preserveCharVarcharTypeInfo", "true")
    try:
        df = spark.sql("select cast('ab' as char(3)) as c, cast('ab' as varchar(4)) as v")
        back = sparkray.to_spark(sparkray.from_spark(df), spark)
    finally:
        spark.conf.unset("spark.sql.preserveCharVarcharTypeInfo")
    assert tuple(back.collect()[0]) == ("ab ", "ab")
    assert [said["__CHAR_VARCHAR_TYPE_STRING"] for said in metadata_of(back).values()] == ["char(3)", "varchar(4)"]
