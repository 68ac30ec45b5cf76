"""The pickler of values, functions and classes: cloudpickle's, with reducers of our own that only it uses.

- Code keeps the name of its file whatever cloudpickle does with it (3.1.3 leaves it out), so that tracebacks of workers
  show file and source line.
- Arrow data goes as far as it is used, at any depth of a value (`arrow_values`): a slice is not its whole buffers.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from sparkray._private import arrow_values

_Reducer = Callable[[Any], Any]
_CLOUDPICKLE: Any = cloudpickle.Pickler.dispatch_table
# Where types.CodeType takes the name of the file, in every CPython since 3.8.
_FILE_NAME = 10


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    reduced = _CLOUDPICKLE[types.CodeType](code)
    arguments = list(reduced[1])
    if isinstance(arguments[_FILE_NAME], str):
        arguments[_FILE_NAME] = code.co_filename
    return (reduced[0], tuple(arguments), *reduced[2:])


class _Reducers(dict[type, _Reducer]):
    """cloudpickle's table with ours in front of it. Nothing found is kept: classes are not to live longer for it."""

    def __missing__(self, kind: type) -> _Reducer:
        pyarrow = sys.modules.get("pyarrow")
        array_class = getattr(pyarrow, "Array", None)  # not there yet while pyarrow is being imported
        if array_class is not None and issubclass(kind, array_class):
            return arrow_values.reduce_array
        found: _Reducer = _CLOUDPICKLE[kind]
        return found


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler with the reducers of this module."""

    dispatch_table = _Reducers({types.CodeType: _reduce_code})
