"""Generated DataFrames with every flat type, and the exact bytes of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ID = "id"


def _cases(value: str, *special: str) -> str:
    """A column: `value` for most rows, each special value for some, null for some."""
    count = len(special) + 1
    branches = " ".join(f"when pmod(id, {3 * count}) = {index} then {text}" for index, text in enumerate(special))
    return f"case {branches} when pmod(id, {3 * count}) = {len(special)} then null else {value} end"


def _random(column: int) -> str:
    return f"xxhash64(id, {column}, {{seed}})"


# Name -> SQL. Values are functions of the id, so that a row is the same however often Spark computes it.
FLAT_COLUMNS = {
    "flag": _cases(f"{_random(1)} > 0", "true", "false"),
    "one_byte": _cases(f"cast({_random(2)} as tinyint)", "cast(-128 as tinyint)", "cast(127 as tinyint)"),
    "two_bytes": _cases(f"cast({_random(3)} as smallint)", "cast(-32768 as smallint)", "cast(32767 as smallint)"),
    "four_bytes": _cases(f"cast({_random(4)} as int)", "cast(-2147483648 as int)", "2147483647"),
    "eight_bytes": _cases(_random(5), "-9223372036854775808", "9223372036854775807", "0L"),
    "single": _cases(
        f"cast({_random(6)} as float)",
        "float('NaN')",
        "float('-0.0')",
        "float('0.0')",
        "float('Infinity')",
        "float('-Infinity')",
        "float('1.4E-45')",
        "float('3.4028235E38')",
    ),
    "double_": _cases(
        f"cast({_random(7)} as double) / 3",
        "double('NaN')",
        "double('-0.0')",
        "double('0.0')",
        "double('Infinity')",
        "double('-Infinity')",
        "double('4.9E-324')",
        "double('-1.7976931348623157E308')",
    ),
    "money": _cases(f"cast(pmod({_random(8)}, 10000000) as decimal(9, 2)) / 7", "-9999999.99BD", "9999999.99BD"),
    "long_decimal": _cases(
        f"cast(pmod({_random(9)}, 1000000000) as decimal(18, 0))", "-999999999999999999BD", "999999999999999999BD"
    ),
    "wide_decimal": _cases(
        f"cast({_random(10)} as decimal(38, 10)) * 1000000BD",
        "cast('-9999999999999999999999999999.9999999999' as decimal(38, 10))",
        "cast('9999999999999999999999999999.9999999999' as decimal(38, 10))",
        "cast(0 as decimal(38, 10))",
        "cast('-0.0000000001' as decimal(38, 10))",
    ),
    "text": _cases(
        f"repeat(substring('aé漢🎉 z', 1 + pmod({_random(11)}, 6)), cast(pmod({_random(12)}, 9) as int))",
        "''",
        "'grün'",
        "decode(X'00', 'UTF-8')",
        "cast(X'FFFE80' as string)",
    ),
    "bytes_": _cases(f"unhex(hex({_random(13)}))", "X''", "X'00'", "X'FF00FF'"),
    "day": _cases(
        f"date_from_unix_date(cast(pmod({_random(14)}, 40000) as int))",
        "date_from_unix_date(-2147483648)",
        "date_from_unix_date(2147483647)",
        "date'0001-01-01'",
        "date'1969-12-31'",
    ),
    "instant": _cases(
        f"timestamp_micros(pmod({_random(15)}, 4000000000000000))",
        "timestamp_micros(-9223372036854775808)",
        "timestamp_micros(9223372036854775807)",
        "timestamp_micros(-1)",
    ),
    "wall_clock": _cases(
        f"cast(timestamp_micros(pmod({_random(16)}, 4000000000000000)) as timestamp_ntz)",
        "timestamp_ntz'-290308-12-21 19:59:05.224192'",
        "timestamp_ntz'+294247-01-10 04:00:54.775807'",
        "timestamp_ntz'0001-01-01 00:00:00'",
        "timestamp_ntz'9999-12-31 23:59:59.999999'",
        "timestamp_ntz'1969-12-31 23:59:59.999999'",
    ),
    "never_null": "cast(id as int)",
}


def every_flat_type(spark: Any, rows: int, partitions: int, seed: int = 0) -> Any:
    """A DataFrame with the column `id` and one column for each flat type; another seed makes other values."""
    columns = [f"{sql.replace('{seed}', str(seed))} as {name}" for name, sql in FLAT_COLUMNS.items()]
    return spark.range(0, rows, 1, partitions).selectExpr(ID, *columns)


def collect(df: Any) -> pa.Table:
    """The rows of a DataFrame, through Spark's own conversion to Arrow: neither ours nor through Python objects."""
    batches = df._collect_as_arrow()
    return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in df.columns})


def canonical_rows(tables: pa.Table | Iterable[pa.Table]) -> dict[int, tuple[bytes | None, ...]]:
    """The exact bytes of every value (so NaN equals itself and -0.0 is not 0.0), by the row's id."""
    if isinstance(tables, pa.Table):
        tables = [tables]
    rows: dict[int, tuple[bytes | None, ...]] = {}
    for table in tables:
        ids = table.column(ID).to_pylist()
        columns = [_bytes_of(table.column(name)) for name in table.column_names]
        for index, row in enumerate(zip(*columns, strict=True)):
            assert ids[index] not in rows, f"id {ids[index]} occurs twice"
            rows[ids[index]] = row
    return rows


def _bytes_of(column: pa.ChunkedArray) -> list[bytes | None]:
    kind = column.type
    if pa.types.is_boolean(kind):
        return [None if value is None else bytes([value]) for value in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        # Spark's strings need not be valid UTF-8: look at the bytes.
        values: list[bytes | None] = []
        for chunk in column.chunks:
            _, offsets, data = chunk.buffers()
            binary = pa.Array.from_buffers(
                pa.binary(), len(chunk), [chunk.buffers()[0], offsets, data], chunk.null_count, chunk.offset
            )
            values.extend(binary.to_pylist())
        return values
    width = kind.bit_width // 8
    values = []
    for chunk in column.chunks:
        data = chunk.buffers()[1]
        body = b"" if data is None else data.to_pybytes()[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        valid = pc.is_valid(chunk).to_pylist()
        values.extend(
            body[index * width : (index + 1) * width] if valid[index] else None for index in range(len(chunk))
        )
    return values
