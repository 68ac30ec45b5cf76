"""Remote functions: what `@remote` makes of a function."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkray._native import ForeignReferenceError
from sparkray._private import options as option_checks
from sparkray._private import runtime_env, scheduling
from sparkray._private.serialization import SerializationError, dump_definition, explain, pickle_by_value
from sparkray._private.signature import CallShape
from sparkray._private.worker import core_worker, state

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, TaskTemplate

DEFAULT_MAX_RETRIES = 3


def definition_id(blob: bytes) -> bytes:
    """The id of a pickled function or class."""
    return hashlib.blake2b(blob, digest_size=16).digest()


def pickle_definition(definition: Any, what: str) -> bytes:
    """Pickles a function or class by cloudpickle. Raises TypeError that names what it refers to and cannot travel."""
    try:
        return dump_definition(definition)
    except ForeignReferenceError:  # among what it refers to
        raise
    except Exception as error:
        found = explain(definition, error)
        where = f"its{''.join(found.path)} is" if found.path else "it is"
        raise TypeError(
            f"cannot serialize {what}: {where} a {found.part} ({found.reason}); "
            "make it inside, or pass it as an argument that can be pickled"
        ) from error


def argument_error(
    name: str, shape: CallShape, args: tuple[Any, ...], kwargs: dict[str, Any], error: SerializationError
) -> TypeError:
    """Says which argument of `name(*args, **kwargs)` cannot be serialized."""
    keywords = tuple(kwargs)
    for index, value in enumerate((*args, *kwargs.values())):
        try:
            pickle_by_value(value)
        except Exception as problem:
            which = shape.name_of(index, len(args), keywords)
            return TypeError(explain(value, problem).describe(f"argument {which} of {name}()"))
    return TypeError(error.describe(f"the arguments of {name}()"))


# Functions with a template, and what is held while one is made or they are forgotten.
_prepared: weakref.WeakSet[RemoteFunction] = weakref.WeakSet()
_preparing = threading.Lock()


def forget_templates() -> None:
    """What templates were made of has changed."""
    with _preparing:
        for function in list(_prepared):
            function._template = None
        _prepared.clear()


def _after_fork_in_child() -> None:
    global _preparing
    _preparing = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class RemoteFunction:
    """A function that runs in a worker: `f.remote(...)` (Ray: ray.remote_function.RemoteFunction)."""

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, Any], parent: RemoteFunction | None = None
    ) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        if inspect.iscoroutinefunction(function):
            raise ValueError(f"{name} is async, and tasks are plain functions: make it a method of an actor")
        self._function = function
        self._options = dict(options)
        # The function that `.options` was called on: both have one blob.
        self._parent = parent
        self._name: str = options.get("name") or name
        self._shape: CallShape = parent._shape if parent is not None else CallShape.of(function)
        self._forget()
        functools.update_wrapper(self, function)

    def _forget(self) -> None:
        self._core: CoreWorker | None = None
        self._template: TaskTemplate | None = None
        self._blob = b""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"a remote function cannot be called directly: write {self._name}.remote() for {self._name}()")

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name or getattr(self, '__name__', '')})"

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self._function, "options": self._options, "name": getattr(self, "__name__", "")}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        # Not __init__: while a function that refers to itself is read back, it has no attributes yet.
        self._function = saved["function"]
        self._options = saved["options"]
        self._parent = None
        self.__name__ = saved["name"]
        self._name = ""
        self._shape = CallShape(None)
        self._forget()

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options.

        Args:
            options: as of `sparkray.remote`; those that are not given stay as they are.

        Returns:
            The function with these options.

        Raises:
            ValueError, TypeError: an unknown option or a wrong value.
            NotImplementedError: an option of Ray that is not there yet.
        """
        merged = {**self._options, **option_checks.check(options, is_actor=False)}
        return RemoteFunction(self._function, merged, parent=self._parent or self)

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the function in a worker.

        Arguments that are ObjectRefs are replaced by their values before the function runs; references inside
        other arguments stay references.

        Args:
            args, kwargs: arguments of the function.

        Returns:
            An ObjectRef; a list of them when num_returns is above 1; None when it is 0.

        Raises:
            TypeError: the arguments do not fit the function, or one cannot be pickled (it is named).
            RaySystemError: sparkray is not running in this process.
        """
        core = state.core
        template = self._template
        if core is None or core is not self._core or template is None:
            core, template = self._prepare()
        self._shape.check(self._name, args, kwargs)
        try:
            return core.submit(template, args, kwargs)
        except SerializationError as error:
            raise argument_error(self._name, self._shape, args, kwargs, error) from error

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def _check_no_stream(self) -> None:
        """A generator is called only for a fixed number of values, which a task can return."""
        if inspect.isasyncgenfunction(self._function):
            raise NotImplementedError(
                f"{self._name} is an async generator, and streams are not there yet: return a list"
            )
        if inspect.isgeneratorfunction(self._function) and self._options.get("num_returns") is None:
            raise NotImplementedError(
                f"{self._name} is a generator, and streams are not there yet: return a list, or set num_returns to the "
                "number of its values, at least 2"
            )

    def _prepare(self) -> tuple[CoreWorker, TaskTemplate]:
        from sparkray._native import TaskTemplate

        core = core_worker()
        state.expects_output = True
        if not self._name:  # read back from a pickle
            self._name = str(self._options.get("name") or getattr(self._function, "__name__", "function"))
            self._shape = CallShape.of(self._function)
            functools.update_wrapper(self, self._function)
        self._check_no_stream()
        blob = self._pickled_for(core)
        options = self._options
        count = options.get("num_returns")
        count = 1 if count is None else count
        resources = option_checks.resources_of(options)
        if "num_cpus" not in options:  # None is Ray's way to say none
            resources.setdefault("CPU", 1.0)
        strategy = scheduling.strategy_of(options, resources, {}, f"task {self._name}")
        with _preparing:
            template = TaskTemplate(
                definition_id(blob),
                blob,
                self._name,
                count,
                {name: amount for name, amount in resources.items() if amount > 0},
                options.get("max_retries", DEFAULT_MAX_RETRIES),
                options.get("retry_exceptions", False),
                strategy,
                runtime_env.env_vars_of(options),
            )
            self._core, self._template = core, template
            _prepared.add(self)
        return core, template

    def _pickled_for(self, core: CoreWorker) -> bytes:
        """The pickled function. What it refers to is taken as it is at the first call in this cluster."""
        if self._parent is not None:
            return self._parent._pickled_for(core)
        if not self._blob or self._core is not core:
            self._blob = pickle_definition(self._function, f"the function {self._name}")
            self._core = core
            self._template = None
        return self._blob

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's lazy graphs are not there yet.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("bind() is not there yet: call remote() and pass the references on")
