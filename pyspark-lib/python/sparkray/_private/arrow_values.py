"""Arrow data in values: tables as Arrow IPC streams, arrays at any depth as the part of their buffers that they use.

A whole table or record batch is an IPC stream, which other languages read too. Everything else that holds Arrow data
(a list of tables, a frame of pandas, a closure) is a pickle, in which pyarrow writes the buffers of each array: all of
them, even for a slice of ten rows. So an array that uses only a part is copied first; the others go without a copy.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

_MARK_RECORD_BATCH = b"sparkray.record_batch"
# Pickled extension types of the columns: a reader that does not know them would be given their storage.
_EXTENSION_TYPES = b"sparkray.extension_types"
# Bytes that may travel for nothing: less than what a copy costs.
_WASTE = 512


def reduce_array(array: Any) -> Any:
    """What `__reduce_ex__` of an array gives, without the parts of buffers that it does not use."""
    return _compact(array).__reduce__()


def _compact(array: Any) -> Any:
    import pyarrow

    plain = _without_views(pyarrow, array.type)
    if plain is not None:
        return _compact_views(pyarrow, array, plain)
    if not _is_wasteful(array):
        return array
    for copy in (_by_concatenation, _by_taking, _by_stream):
        try:
            copied = copy(pyarrow, array)
        except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid, pyarrow.ArrowKeyError):
            continue  # a type that this version of pyarrow cannot copy that way
        if not _is_wasteful(copied):  # concatenation leaves the children of dense unions as they are
            return copied
    return array


def _is_wasteful(array: Any, used: int | None = None) -> bool:
    """`used`: bytes that the array needs; None: those that pyarrow counts."""
    needed: int = array.nbytes if used is None else used
    return bool(array.get_total_buffer_size() - needed > max(_WASTE, needed // 8))


def _without_views(pyarrow: Any, kind: Any) -> Any:
    """The type with offsets in place of views, at any depth; None: it has no views.

    Views are not moved when an array of them is cut or copied, and nbytes counts all that they might point to.
    """
    types = pyarrow.types
    if not hasattr(types, "is_string_view"):  # pyarrow before 16
        return None
    if types.is_string_view(kind):
        return pyarrow.large_string()
    if types.is_binary_view(kind):
        return pyarrow.large_binary()
    fields = [kind.field(index) for index in range(kind.num_fields)]
    inner = [_without_views(pyarrow, field.type) for field in fields]
    if not any(inner):
        return None
    plain = [
        field if replaced is None else field.with_type(replaced) for field, replaced in zip(fields, inner, strict=True)
    ]
    if types.is_struct(kind):
        return pyarrow.struct(plain)
    if types.is_map(kind):
        return pyarrow.map_(plain[0].type.field(0), plain[0].type.field(1), kind.keys_sorted)
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(plain[0], kind.list_size)
    if types.is_large_list(kind):
        return pyarrow.large_list(plain[0])
    return pyarrow.list_(plain[0]) if types.is_list(kind) else None


def _compact_views(pyarrow: Any, array: Any, plain: Any) -> Any:
    try:
        copied = pyarrow.concat_arrays([array]).cast(plain).cast(array.type)
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):
        return array
    return copied if _is_wasteful(array, copied.get_total_buffer_size()) else array


def _by_concatenation(pyarrow: Any, array: Any) -> Any:
    if isinstance(array, pyarrow.ExtensionArray):
        return type(array).from_storage(array.type, pyarrow.concat_arrays([array.storage]))
    return pyarrow.concat_arrays([array])


def _by_taking(pyarrow: Any, array: Any) -> Any:
    return array.take(pyarrow.array(range(len(array)), pyarrow.int64()))


def _by_stream(pyarrow: Any, array: Any) -> Any:
    batch = pyarrow.RecordBatch.from_arrays([array], ["values"])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write(batch)
    copied = pyarrow.ipc.open_stream(sink.getvalue()).read_next_batch().column(0)
    if copied.type != array.type:
        raise pyarrow.ArrowInvalid(f"{array.type} does not survive an IPC stream")
    return copied


# ------------------------------------------------------------------------------------------- tables


def _compact_column(pyarrow: Any, column: Any) -> Any:
    if _without_views(pyarrow, column.type) is None:
        return column  # an IPC stream has no more of it than is used
    if isinstance(column, pyarrow.ChunkedArray):
        return pyarrow.chunked_array([_compact(chunk) for chunk in column.chunks], column.type)
    return _compact(column)


def dump_table(pyarrow: Any, value: Any, pickle_by_value: Callable[[Any], bytes]) -> Any:
    """The IPC stream of a Table or RecordBatch, as a buffer."""
    schema = value.schema
    if any(_without_views(pyarrow, kind) for kind in schema.types):
        value = type(value).from_arrays([_compact_column(pyarrow, column) for column in value.columns], schema=schema)
    marks: dict[bytes, bytes] = {}
    if isinstance(value, pyarrow.RecordBatch):
        marks[_MARK_RECORD_BATCH] = b"1"
    extensions = [kind for field in schema for kind in _python_types(pyarrow, field.type)]
    if extensions:
        marks[_EXTENSION_TYPES] = pickle_by_value(extensions)
    if marks:
        schema = schema.with_metadata({**(schema.metadata or {}), **marks})
        value = type(value).from_arrays(value.columns, schema=schema)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write(value)
    return sink.getvalue()


def load_table(body: Any) -> Any:
    """The Table or RecordBatch, over the bytes of `body`."""
    import pyarrow

    buffer = pyarrow.py_buffer(body)
    reader = pyarrow.ipc.open_stream(buffer)
    metadata = dict(reader.schema.metadata or {})
    extensions = metadata.pop(_EXTENSION_TYPES, None)
    if extensions is not None:
        _register(pyarrow, pickle.loads(extensions))
        reader = pyarrow.ipc.open_stream(buffer)
    is_batch = metadata.pop(_MARK_RECORD_BATCH, None) is not None
    table = reader.read_all()
    if is_batch or extensions is not None:
        table = table.replace_schema_metadata(metadata or None)
    if not is_batch:
        return table
    batches = table.to_batches()
    return batches[0] if batches else pyarrow.RecordBatch.from_arrays([[] for _ in table.schema], schema=table.schema)


def _python_types(pyarrow: Any, kind: Any) -> Iterator[Any]:
    """Extension types that are defined in Python, in a type and all that it is made of."""
    if isinstance(kind, pyarrow.ExtensionType):
        yield kind
        yield from _python_types(pyarrow, kind.storage_type)
        return
    for index in range(kind.num_fields):
        yield from _python_types(pyarrow, kind.field(index).type)
    if isinstance(kind, pyarrow.DictionaryType):
        yield from _python_types(pyarrow, kind.value_type)


def _register(pyarrow: Any, kinds: list[Any]) -> None:
    """Has pyarrow know the types, as the import of their module would where it registers them."""
    for kind in kinds:
        try:
            pyarrow.register_extension_type(kind)
        except pyarrow.ArrowKeyError:
            continue  # it knows it already
