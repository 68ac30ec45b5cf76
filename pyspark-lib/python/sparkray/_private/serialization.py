"""Values to bytes and back.

The body and the out-of-band buffers made here are laid out by Rust (runtime/common/src/value.rs). Exact built-in types
and numpy arrays go through the C pickler; everything else through cloudpickle, so that functions, classes and
objects of `__main__` travel by value. Large buffers (numpy, pandas, pyarrow) are never copied into the pickle. Whole
pyarrow tables are Arrow IPC streams, which other languages read too.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

from sparkray._native import ForeignReferenceError
from sparkray._private import arrow_values, job_modules
from sparkray._private.pickler import Pickler

# sparkray_common::ValueFormat
FORMAT_PICKLE5 = 1
FORMAT_ARROW = 2
FORMAT_RAW = 3
FORMAT_ERROR = 4
FORMAT_NONE = 6

_SCALARS = frozenset({int, float, str, bool, bytes, complex, type(None)})
# Containers up to this length are looked through; longer ones go to cloudpickle's pickler at once.
_LOOK_THROUGH = 32


class SerializationError(TypeError):
    """A value cannot be pickled.

    Attributes:
        path: how to get from the value to the part that fails, for example `("[0]", ".lock")`.
        part: type and reason of that part.
    """

    def __init__(self, path: tuple[str, ...], part: str, reason: str) -> None:
        super().__init__(path, part, reason)
        self.path = path
        self.part = part
        self.reason = reason

    def describe(self, whole: str) -> str:
        """One sentence about `whole`, for example `argument 'x' of f()`."""
        where = f"its part {''.join(self.path)} is" if self.path else "it is"
        return (
            f"cannot serialize {whole}: {where} a {self.part} ({self.reason}); "
            "create such a thing inside the task or actor, or leave it out with __getstate__"
        )

    def __str__(self) -> str:
        return self.describe("the value")


def dumps(value: Any) -> tuple[int, Any, list[pickle.PickleBuffer]]:
    """Returns (format, body, out-of-band buffers). Raises SerializationError, which is a TypeError."""
    kind = type(value)
    if value is None:
        return FORMAT_NONE, b"", []
    if kind is bytes:
        return FORMAT_RAW, value, []
    if isinstance(value, BaseException):
        body = error_body(value)
        if body is not None:
            return FORMAT_ERROR, body, []
    buffers: list[pickle.PickleBuffer] = []
    if kind in _SCALARS:
        return FORMAT_PICKLE5, pickle.dumps(value, 5), buffers
    if _is_plain(value, kind, 3):
        return FORMAT_PICKLE5, pickle.dumps(value, 5, buffer_callback=buffers.append), buffers
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and kind in (getattr(pyarrow, "Table", None), getattr(pyarrow, "RecordBatch", None)):
        return FORMAT_ARROW, arrow_values.dump_table(pyarrow, value, pickle_by_value), []
    job_modules.publish_changes()
    try:
        body = pickle_by_value(value, buffers)
    except ForeignReferenceError:
        raise
    except Exception as error:
        raise explain(value, error) from error
    return FORMAT_PICKLE5, body, buffers


def error_body(error: BaseException) -> bytes | None:
    """The body of an Error value, when `error` is one of the runtime's: whoever gets it has it raised, as in Ray.

    None: it is a value like others.
    """
    from sparkray import exceptions

    if not isinstance(error, exceptions.RayError):
        return None
    try:
        return pickle.dumps((str(error), pickle_by_value(error)), 5)
    except Exception as problem:
        raise explain(error, problem) from problem


def _is_plain(value: Any, kind: type, depth: int) -> bool:
    """Whether C pickle can be trusted: nothing inside could belong to `__main__`."""
    if kind is list or kind is tuple:
        items: Iterable[Any] = value
    elif kind is dict:
        items = (*value.keys(), *value.values()) if len(value) <= _LOOK_THROUGH else ()
    else:
        numpy = sys.modules.get("numpy")
        return numpy is not None and kind is getattr(numpy, "ndarray", None) and not value.dtype.hasobject
    if len(value) > _LOOK_THROUGH:
        return False
    for item in items:
        item_kind = type(item)
        if item_kind not in _SCALARS and (depth == 0 or not _is_plain(item, item_kind, depth - 1)):
            return False
    return True


class _Pickling(threading.local):
    """Whether this thread pickles now."""

    depth = 0


pickling = _Pickling()


def pickle_by_value(value: Any, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
    """cloudpickle with protocol 5; buffers go out of band when a list for them is given."""
    pickling.depth += 1
    try:
        with io.BytesIO() as file:
            callback = None if buffers is None else buffers.append
            Pickler(file, protocol=5, buffer_callback=callback).dump(value)
            return file.getvalue()
    finally:
        pickling.depth -= 1


def loads(format: int, body: Any, buffers: list[Any]) -> Any:
    """The value. `body` and `buffers` are read-only views that stay valid as long as something refers to them.

    For FORMAT_ERROR: the exception, ready to be raised.
    """
    if format == FORMAT_PICKLE5:
        return pickle.loads(body, buffers=buffers)
    if format == FORMAT_NONE:
        return None
    if format == FORMAT_RAW:
        return bytes(body)
    if format == FORMAT_ARROW:
        return arrow_values.load_table(body)
    if format == FORMAT_ERROR:
        return load_error(body)
    raise ValueError(f"values of format {format} are not known to this version of sparkray: use one version everywhere")


def _load_layer(body: Any) -> Exception | None:
    """The error of a call that never ran because an argument had failed: its layer is described in
    runtime/core-worker/src/state/dependency_errors.rs. None: there is none."""
    from sparkray import exceptions

    kind = bytes(body[:1])
    if kind == b"C":
        cause = load_error(body[17:])
        if not isinstance(cause, exceptions.RayTaskError):
            cause = exceptions.RayTaskError("__init__", str(cause), cause)
        return exceptions.ActorDiedError.of_creation(cause, bytes(body[1:17]).hex())
    if kind != b"D":
        return None
    end = 3 + int.from_bytes(body[1:3], "little")
    name = bytes(body[3:end]).decode(errors="replace")
    cause = load_error(body[end:])
    is_task_error = isinstance(cause, exceptions.RayTaskError)
    kind_name = "RayTaskError" if is_task_error else type(cause).__name__
    text = (
        f"ray::{name}()\nAt least one of the input arguments for this task could not be computed:\n"
        f"ray.exceptions.{kind_name}: {cause}"
    )
    first = cause.cause if isinstance(cause, exceptions.RayTaskError) else cause
    return exceptions.RayTaskError(name, text, first).as_instanceof_cause()


def load_error(body: Any) -> Exception:
    """The exception of a failed task from the body of an Error value."""
    from sparkray import exceptions

    layered = _load_layer(body)
    if layered is not None:
        return layered
    text = ""
    try:
        error = pickle.loads(body)
        if isinstance(error, tuple):  # the text apart from the exception, whose class may not be here
            text, inner = error
            error = pickle.loads(inner)
    except Exception as problem:  # for example a module that this process does not have
        return exceptions.UnserializableException(
            f"{text}\n(it cannot be read here: {type(problem).__name__}: {problem}; "
            "install the module of the exception's class in this environment too)"
        )
    if isinstance(error, exceptions.RayTaskError):
        return error.as_instanceof_cause()
    if isinstance(error, Exception):
        return error
    return exceptions.RaySystemError(f"the task failed with {error!r}")


# ------------------------------------------------------------------------------------------- what went wrong


def explain(value: Any, error: Exception) -> SerializationError:
    """Finds the part of `value` that cannot be pickled."""
    if isinstance(error, SerializationError):
        return error
    path: list[str] = []
    part: Any = value
    reason = f"{type(error).__name__}: {error}"
    seen = {id(value)}
    while len(path) < 16:
        for step, inner in _parts(part):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            problem = _problem(inner)
            if problem is not None:
                path.append(step)
                part, reason = inner, problem
                break
        else:
            break
    return SerializationError(tuple(path), _type_name(part), reason)


def _problem(value: Any) -> str | None:
    try:
        pickle_by_value(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in list(value.items())[:1000]:
            yield f"[{key!r}]", inner
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value[:1000]):
            yield f"[{index}]", inner
    elif isinstance(value, (set, frozenset)):
        for inner in list(value)[:1000]:
            yield "{…}", inner
    elif isinstance(value, types.FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, type):
        for name, inner in list(vars(value).items()):
            if not name.startswith("__") or isinstance(inner, types.FunctionType):
                yield f".{name}", inner
    else:
        for name, inner in list(getattr(value, "__dict__", {}).items()):
            yield f".{name}", inner


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" closure variable {name}", cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" global variable {name}", function.__globals__[name]


def dump_definition(definition: Any) -> bytes:
    """A function or class, after the digest by which a worker sees whether it can import what it refers to."""
    return job_modules.digest() + pickle_by_value(definition)


def load_definition(blob: bytes) -> Any:
    """A function or class that a driver or worker pickled by `dump_definition`."""
    job_modules.before(blob)
    return pickle.loads(memoryview(blob)[job_modules.DIGEST_BYTES :])
