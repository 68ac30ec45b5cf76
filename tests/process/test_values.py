"""Values are what they were at any depth, and no larger than what they use."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,call-overload"
from __future__ import annotations

import dataclasses
import decimal
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray._private import serialization

pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.usefixtures("shared")

ROWS = 100_000
# What ten rows and their pickle may take; all rows are a hundred times as much.
FEW = 8_000


@dataclasses.dataclass
class Holder:
    """Something of the user's with data inside."""

    what: Any


class Note(Exception):
    """An error that carries data."""


def _size(value: Any) -> int:
    """Bytes of a value as it travels."""
    _, body, buffers = serialization.dumps(value)
    return memoryview(body).nbytes + sum(buffer.raw().nbytes for buffer in buffers)


def _copy(value: Any) -> Any:
    """The value as another process reads it."""
    format, body, buffers = serialization.dumps(value)
    return serialization.loads(format, memoryview(body), [memoryview(buffer.raw()) for buffer in buffers])


def _table() -> Any:
    numbers = np.arange(ROWS)
    return pa.table({"n": numbers, "text": [f"row {n}" for n in range(ROWS)], "even": numbers % 2 == 0})


ARRAYS = {
    "int": lambda: pa.array(range(ROWS)),
    "bool": lambda: pa.array([n % 3 == 0 for n in range(ROWS)] * 10),
    "null": lambda: pa.array([None] * ROWS),
    "nulls": lambda: pa.array([None if n % 7 == 0 else n for n in range(ROWS)]),
    "string": lambda: pa.array([f"value {n}" for n in range(ROWS)]),
    "large_string": lambda: pa.array([f"value {n}" for n in range(ROWS)], pa.large_string()),
    "binary": lambda: pa.array([b"x" * (n % 10) for n in range(ROWS)]),
    "fixed_binary": lambda: pa.array([b"12345678"] * ROWS, pa.binary(8)),
    "decimal": lambda: pa.array([decimal.Decimal(n) for n in range(ROWS)], pa.decimal128(12, 2)),
    "timestamp": lambda: pa.array(range(ROWS), pa.timestamp("us", "Europe/Berlin")),
    "list": lambda: pa.array([[n, n + 1] for n in range(ROWS)]),
    "fixed_list": lambda: pa.array([[n, n + 1] for n in range(ROWS)], pa.list_(pa.int64(), 2)),
    "struct": lambda: pa.array([{"a": n, "b": [str(n)]} for n in range(ROWS)]),
    "map": lambda: pa.array([[("k", n)] for n in range(ROWS)], pa.map_(pa.string(), pa.int64())),
    "dictionary": lambda: pa.array(["one", "two"] * (ROWS // 2)).dictionary_encode(),
    "union": lambda: pa.UnionArray.from_sparse(
        pa.array([n % 2 for n in range(ROWS)], pa.int8()), [pa.array(range(ROWS)), pa.array(["x"] * ROWS)]
    ),
    "dense_union": lambda: pa.UnionArray.from_dense(
        pa.array([0] * ROWS, pa.int8()), pa.array(range(ROWS), pa.int32()), [pa.array(range(ROWS)), pa.array(["x"])]
    ),
}

if hasattr(pa, "string_view"):
    VIEW_IN_STRUCTS = pa.struct([("a", pa.struct([("b", pa.string_view())]))])
    VIEWS = [f"a value that is not in its view: {n}" for n in range(ROWS)]
    ARRAYS |= {
        "string_view": lambda: pa.array(VIEWS, pa.string_view()),
        "binary_view": lambda: pa.array([text.encode() for text in VIEWS], pa.binary_view()),
        "short_views": lambda: pa.array(["short"] * ROWS, pa.string_view()),
        "views_in_lists": lambda: pa.array([[text, None] for text in VIEWS], pa.list_(pa.string_view())),
        "views_in_fixed_lists": lambda: pa.FixedSizeListArray.from_arrays(pa.array(VIEWS, pa.string_view()), 1),
        "views_in_structs": lambda: pa.array([{"a": {"b": v}} for v in VIEWS], VIEW_IN_STRUCTS),
        "views_in_maps": lambda: pa.array([[(v, v)] for v in VIEWS], pa.map_(pa.string_view(), pa.string_view())),
    }


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_slice_of_an_array_travels_as_a_slice(kind):
    array = ARRAYS[kind]()
    for start in (0, 1, 13, ROWS - 10):
        part = array.slice(start, 10)
        found = _copy([part])[0]
        assert found.equals(part) and found.type == part.type
        found.validate(full=True)
        assert _size([part]) < FEW, f"{kind} from {start}"
    empty = array.slice(5, 0)
    assert _copy([empty])[0].equals(empty)
    whole = _copy([array])[0]
    assert whole.equals(array)
    found = _copy([pa.chunked_array([array.slice(1, 10), array.slice(100, 10)])])[0]
    assert found.equals(pa.chunked_array([array.slice(1, 10), array.slice(100, 10)]))


def test_whole_arrays_are_not_copied():
    array = pa.array(range(ROWS))
    _, _, buffers = serialization.dumps([array])
    assert memoryview(buffers[-1].raw()).nbytes == array.buffers()[1].size
    ours = np.frombuffer(array.buffers()[1], np.uint8)
    assert any(np.shares_memory(np.frombuffer(buffer.raw(), np.uint8), ours) for buffer in buffers)


HOLDERS = {
    "list": lambda part: [part],
    "tuple in dict": lambda part: {"a": (1, part)},
    "dataclass": Holder,
    "object array": lambda part: np.array([None, part, 1], dtype=object)[:2],
    "set of closures": lambda part: {lambda: part},
    "exception": lambda part: Note("a", part),
    "columns": lambda part: [part.column(0), part.column(1).chunk(0)],
    "batches": lambda part: part.to_batches(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_slice_of_a_table_travels_as_a_slice_wherever_it_stands(holder):
    part = _table().slice(77, 10)
    value = HOLDERS[holder](part)
    assert _size(value) < FEW
    found = _copy(value)
    if holder == "list":
        assert found[0].equals(part)
    elif holder == "exception":
        assert found.args[1].equals(part)
    elif holder == "dataclass":
        assert found.what.equals(part)


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="this pyarrow has no views")
def test_a_slice_of_a_table_of_views_travels_as_a_slice():
    column = pa.chunked_array([pa.array(VIEWS, pa.string_view())] * 2)
    for whole in (pa.table({"v": column, "n": range(2 * ROWS)}), pa.record_batch({"v": column.chunk(0)})):
        part = whole.slice(ROWS - 5, 10)
        found = _copy(part)
        assert found.equals(part) and type(found) is type(part)
        assert _size(part) < FEW and _size([part]) < FEW


def test_slices_are_put_passed_returned_and_kept_as_slices():
    table = _table()

    @sparkray.remote
    def split(whole, count):
        size = whole.num_rows // count
        return {n: whole.slice(n * size, size) for n in range(count)}

    @sparkray.remote
    class Keeper:
        def keep(self, what):
            self.what = what

        def give(self):
            return [self.what.slice(3, 4)]

    parts = sparkray.get(split.remote(sparkray.put(table), 16))
    assert pa.concat_tables(parts.values()).equals(table.slice(0, ROWS // 16 * 16))
    size = ROWS // 16
    assert parts[3].equals(table.slice(3 * size, size))
    keeper = Keeper.remote()
    sparkray.get(keeper.keep.remote([table.slice(5, 20)][0]))
    assert sparkray.get(keeper.give.remote())[0].equals(table.slice(8, 4))
    assert _size(parts) < 2 * table.nbytes


def test_arrays_in_values_are_read_in_place():
    array = pa.array(range(ROWS))
    one, two = (sparkray.get(r)["a"] for r in [sparkray.put({"a": array})] * 2)
    assert one.equals(array)
    assert one.buffers()[1].address == two.buffers()[1].address, "both are views of one mapping"
    assert one.buffers()[1].address % 64 == 0


class Celsius(pa.ExtensionType):  # type: ignore[misc, name-defined]
    """A type of the user's, which nobody has registered."""

    def __init__(self) -> None:
        super().__init__(pa.float64(), "tests.celsius")

    def __reduce__(self):  # pyarrow 12 asks for it
        return Celsius, ()

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def test_extension_types_stay_what_they_are():
    array = pa.ExtensionArray.from_storage(Celsius(), pa.array(np.arange(ROWS, dtype=np.float64)))
    part = array.slice(10, 5)

    @sparkray.remote
    def look(value):
        inner = value[0] if isinstance(value, list) else value.column("t").chunk(0)
        return type(inner.type).__name__, inner.storage.to_pylist(), value

    for value in ([part], pa.table({"t": part}), pa.RecordBatch.from_arrays([part], ["t"]).slice(0)):
        if isinstance(value, pa.RecordBatch):
            value = pa.Table.from_batches([value])
        name, numbers, back = sparkray.get(look.remote(value))
        assert (name, numbers) == ("Celsius", [10.0, 11.0, 12.0, 13.0, 14.0])
        inner = back[0] if isinstance(back, list) else back.column("t").chunk(0)
        assert inner.type == Celsius()
    assert _size([part]) < FEW


def test_views_of_arrays_and_frames_travel_as_what_they_show():
    array = np.arange(ROWS * 10)
    for view in (array[10:20], array[::10_000], array.reshape(-1, 10)[5], array[5:15].view(np.int32)):
        assert _size([view]) < FEW and _size(view) < FEW
        np.testing.assert_array_equal(_copy([view])[0], view)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"n": array[:ROWS], "text": ["x"] * ROWS})
    assert _size(frame.iloc[10:20]) < FEW
    assert _size({"part": frame["n"].iloc[10:20]}) < FEW
    arrow = pd.DataFrame({"n": pd.array(range(ROWS), dtype="int64[pyarrow]")})
    part = arrow.iloc[10:20]
    assert _size([part]) < FEW
    pd.testing.assert_frame_equal(_copy([part])[0], part)


def test_our_reducers_are_ours_alone():
    from cloudpickle import Pickler

    assert type(Pickler.dispatch_table) is not type(serialization.Pickler.dispatch_table)
    assert type(pa.array([1])) not in Pickler.dispatch_table
