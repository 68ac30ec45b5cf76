"""Actors: what `@remote` makes of a class, and handles to its instances."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from types import FunctionType, GenericAlias
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from sparkray import exceptions
from sparkray._private import options as option_checks
from sparkray._private import runtime_env, scheduling
from sparkray._private.ids import HexId
from sparkray._private.remote_function import argument_error, definition_id, pickle_definition
from sparkray._private.serialization import SerializationError, pickling
from sparkray._private.signature import CallShape
from sparkray._private.worker import core_worker, job_namespace, state

if TYPE_CHECKING:
    from sparkray._native import ActorRef, CoreWorker

F = TypeVar("F", bound=Callable[..., Any])

ASYNC_DEFAULT_CONCURRENCY = 1000
_NUM_RETURNS = "__ray_num_returns__"


@overload
def method(function: F, /) -> F: ...
@overload
def method(*, num_returns: int | None = None, **options: Any) -> Callable[[F], F]: ...
def method(*function: Any, num_returns: int | None = None, **options: Any) -> Any:
    """Options of one method of an actor class (Ray: ray.method). As `@method` or `@method(num_returns=...)`.

    Args:
        function: the method, when there are no options.
        num_returns: how many references a call returns; the method then returns a tuple of that length.
        options: others of Ray's that have no effect; the rest is refused.

    Returns:
        The method itself, or what makes it one with these options.

    Raises:
        NotImplementedError: an option of Ray that is not there yet.
        ValueError, TypeError: an unknown option or a wrong value.
    """
    if function:
        if len(function) > 1 or num_returns is not None or options or not callable(function[0]):
            raise TypeError("write @method or @method(num_returns=...); options are given by name")
        return function[0]
    if "name" in options:
        raise ValueError("@method takes no name: handles call the method by its own")
    option_checks.check_method({"num_returns": num_returns, **options})

    def decorate(function: F) -> F:
        if num_returns is not None:
            setattr(function, _NUM_RETURNS, num_returns)
        return function

    return decorate


# Instead of a number of returns: what such methods give is a stream, which is not there yet.
_GENERATOR = -1
_ASYNC_GENERATOR = -2


class _ClassInfo:
    """What handles know about a class: picklable, small, without the class."""

    def __init__(
        self, name: str, is_async: bool, methods: dict[str, tuple[int, CallShape]], is_concurrent: bool = False
    ) -> None:
        self.name = name
        self.is_async = is_async
        self.methods = methods
        # Several calls run at a time: one whose arguments are late does not hold up others.
        self.is_concurrent = is_concurrent

    def __reduce__(self) -> tuple[type[_ClassInfo], tuple[Any, ...]]:
        return _ClassInfo, (self.name, self.is_async, self.methods, self.is_concurrent)

    def with_concurrency(self, is_concurrent: bool) -> _ClassInfo:
        """The same, for an actor that runs several calls at a time, or one."""
        if is_concurrent == self.is_concurrent:
            return self
        return _ClassInfo(self.name, self.is_async, self.methods, is_concurrent)

    @classmethod
    def of(cls, actor_class: type) -> _ClassInfo:
        methods: dict[str, tuple[int, CallShape]] = {}
        is_async = False
        for name, function in inspect.getmembers(actor_class, callable):
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                is_async = True
            if name.startswith("__") and name not in ("__call__", "__len__", "__getitem__", "__contains__"):
                continue
            if inspect.isclass(function):
                continue
            static = inspect.getattr_static(actor_class, name)
            skip_first = not isinstance(static, (staticmethod, classmethod))
            shape = CallShape.of(function, skip_first=skip_first)
            num_returns = getattr(function, _NUM_RETURNS, None)
            if inspect.isasyncgenfunction(function):
                num_returns = _ASYNC_GENERATOR
            elif num_returns is None:
                num_returns = _GENERATOR if inspect.isgeneratorfunction(function) else 1
            methods[name] = (num_returns, shape)
        methods["__ray_ready__"] = (1, CallShape(()))
        methods["__ray_call__"] = (1, CallShape(None))
        methods["__ray_terminate__"] = (1, CallShape(()))
        return cls(actor_class.__name__, is_async, methods)


class ActorClassInheritanceException(TypeError):
    """An actor class was inherited from (Ray: ray.actor.ActorClassInheritanceException)."""


class ActorClass:
    """A class whose instances live in workers: `Counter.remote(...)` (Ray: ray.actor.ActorClass).

    Attributes, static methods and class methods of the class are its own too.
    """

    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias:  # for annotations
        return GenericAlias(cls, item)

    def __init__(self, actor_class: type, options: Mapping[str, Any], parent: ActorClass | None = None) -> None:
        self._parent = parent
        self._set(
            {
                "class": actor_class,
                "options": dict(options),
                "info": parent._info if parent is not None else _ClassInfo.of(actor_class),
                "init_shape": parent._init_shape if parent is not None else CallShape.of(actor_class),
                "module": actor_class.__module__,
                "qualname": actor_class.__qualname__,
            }
        )
        self.__doc__ = actor_class.__doc__

    def _set(self, fields: dict[str, Any]) -> None:
        self._class: type = fields["class"]
        self._options: dict[str, Any] = fields["options"]
        self._info: _ClassInfo = fields["info"]
        self._init_shape: CallShape = fields["init_shape"]
        self.__module__ = fields["module"]
        self.__qualname__ = fields["qualname"]
        self.__name__ = self._info.name
        self._core: CoreWorker | None = None
        self._blob = b""
        self._metadata = b""

    def __getstate__(self) -> dict[str, Any]:
        return {
            "class": self._class,
            "options": self._options,
            "info": self._info,
            "init_shape": self._init_shape,
            "module": self.__module__,
            "qualname": self.__qualname__,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        # The class may still be without methods here, when one of them refers to this: nothing is asked of it.
        self._parent = None
        self._set(saved)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self.__name__
        raise TypeError(f"an actor cannot be made directly: write {name}.remote() for {name}()")

    def __getattr__(self, name: str) -> Any:
        # Constants, static methods and class methods belong to the class. Special names would confuse pickle and copy.
        plain: type | None = self.__dict__.get("_class")
        if plain is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        try:
            value = getattr(plain, name)
        except AttributeError:
            raise AttributeError(f"the actor class {plain.__name__} has no attribute {name!r}") from None
        if pickling.depth and isinstance(value, (FunctionType, type)):
            # The pickler asks whether it can name this by its module. Then only workers that have the module could read
            # the class, but the class travels by value, whole.
            raise AttributeError(name)
        return value

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            f"{self.__name__} is an actor class and cannot be inherited from: inherit from the plain class, "
            "and apply remote() to the result"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options.

        Args:
            options: as of `sparkray.remote`; those that are not given stay as they are.

        Returns:
            The class with these options.

        Raises:
            ValueError, TypeError: an unknown option or a wrong value.
            NotImplementedError: an option of Ray that is not there yet.
        """
        merged = {**self._options, **option_checks.check(options, is_actor=True)}
        return ActorClass(self._class, merged, parent=self._parent or self)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's lazy graphs are not there yet.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("bind() is not there yet: call remote() and pass the handle on")

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Makes an instance in a worker. Returns at once; an error of the constructor is raised by the calls.

        Args:
            args, kwargs: arguments of the constructor; references are replaced by their values.

        Returns:
            The handle. The actor ends when its last handle goes, unless it is detached.

        Raises:
            ValueError: the name is taken in this namespace, or an option has a wrong value.
            TypeError: the arguments do not fit the constructor, or one cannot be pickled (it is named).
            RaySystemError: sparkray is not running in this process.
        """
        core = core_worker()
        state.expects_output = True
        options = self._options
        name = options.get("name")
        if options.get("get_if_exists"):
            if name is None:
                raise ValueError("get_if_exists=True needs name=...")
            try:
                return get_actor(name, options.get("namespace"))
            except exceptions.ActorHandleNotFoundError:
                pass
        self._init_shape.check(self.__name__, args, kwargs)
        blob, metadata = self._pickled_for(core)
        try:
            ref = core.create_actor(
                self._creation_options(), definition_id(blob), blob, self.__name__, args, kwargs, metadata
            )
        except SerializationError as error:
            raise argument_error(self.__name__, self._init_shape, args, kwargs, error) from error
        except exceptions.ActorAlreadyExistsError:
            if options.get("get_if_exists"):  # another process made it meanwhile
                return get_actor(str(name), options.get("namespace"))
            raise
        return _handle_of(ref, self._info, metadata)

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> ActorHandle:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def _is_concurrent(self) -> bool:
        """Whether calls with late arguments do not hold up others: Ray's rule."""
        several = self._info.is_async or self._concurrency() > 1
        chosen = self._options.get("allow_out_of_order_execution")
        if chosen is False and several:
            raise ValueError(
                f"{self.__name__} runs several calls at a time, in no fixed order: allow_out_of_order_execution=False "
                "cannot be kept"
            )
        return several if chosen is None else bool(chosen)

    def _concurrency(self) -> int:
        chosen = self._options.get("max_concurrency")
        if chosen is None:
            return ASYNC_DEFAULT_CONCURRENCY if self._info.is_async else 1
        return int(chosen)

    def _creation_options(self) -> dict[str, Any]:
        options = self._options
        resources = option_checks.resources_of(options)
        if set(resources) <= {"memory"}:
            # Ray's rule: an actor without named resources needs a CPU to be placed and none to live.
            placement = {**resources, "CPU": 1.0}
        else:
            resources.setdefault("CPU", 1.0)
            placement = dict(resources)
        return {
            "resources": {name: amount for name, amount in resources.items() if amount > 0},
            "placement_resources": {name: amount for name, amount in placement.items() if amount > 0},
            "max_restarts": options.get("max_restarts", 0),
            "name": options.get("name"),
            "namespace": options.get("namespace") or (job_namespace() if options.get("name") else None),
            "detached": options.get("lifetime") == "detached",
            "max_concurrency": self._concurrency(),
            "is_async": self._info.is_async,
            "strategy": scheduling.strategy_of(options, resources, placement, f"actor {self.__name__}"),
            "env_vars": runtime_env.env_vars_of(options),
        }

    def _pickled_for(self, core: CoreWorker) -> tuple[bytes, bytes]:
        if self._core is core:
            return self._blob, self._metadata
        info = self._info.with_concurrency(self._is_concurrent())
        if self._parent is None:
            self._blob = pickle_definition(self._class, f"the class {self.__name__}")
        else:
            self._blob, self._metadata = self._parent._pickled_for(core)
        if self._parent is None or info.is_concurrent != self._parent._info.is_concurrent:
            self._metadata = pickle.dumps(info, 5)
        self._info = info
        self._core = core
        return self._blob, self._metadata


class ActorMethod:
    """`handle.method`: call it with `.remote(...)` (Ray: ray.actor.ActorMethod).

    It keeps the actor alive, not the handle, so that handle and method make no cycle.
    """

    __slots__ = ("_info", "_key", "_method", "_name", "_num_returns", "_ref", "_shape")

    def __init__(
        self,
        ref: ActorRef,
        info: _ClassInfo,
        method: str,
        num_returns: int,
        shape: CallShape,
        name: str | None = None,
    ) -> None:
        self._ref = ref
        self._info = info
        self._method = method
        self._num_returns = num_returns
        self._shape = shape
        self._name = name
        # What `submit_actor` takes.
        self._key = method if name is None else f"{method}\0{name}"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"methods of an actor cannot be called directly: write .{self._method}.remote() for .{self._method}()"
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._info.name}.{self._method})"

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options.

        Args:
            options: `num_returns`, as of `sparkray.method`; `name` of the calls, for tracebacks and the runtime
                context.

        Returns:
            The method with these options.

        Raises:
            ValueError, TypeError: an unknown option or a wrong value.
            NotImplementedError: an option of Ray that is not there yet.
        """
        count = option_checks.check_method(options)
        count = self._num_returns if count is None else count
        name = options.get("name") or self._name
        return _bound(self._ref, self._info, self._method, count, self._shape, name)

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the method. Calls of one process on one actor start in the order in which they are made.

        An actor that runs several calls at a time (async, or max_concurrency above 1) starts them in the order in which
        their arguments are there.

        Args:
            args, kwargs: arguments of the method; references are replaced by their values.

        Returns:
            An ObjectRef; a list of them when num_returns is above 1; None when it is 0.

        Raises:
            TypeError: the arguments do not fit the method, or one cannot be pickled (it is named).
            RaySystemError: sparkray is not running in this process.
        """
        core = state.core
        if core is None:
            core = core_worker()
        self._shape.check(self._method, args, kwargs)
        try:
            return core.submit_actor(self._ref, self._key, self._num_returns, args, kwargs)
        except SerializationError as error:
            name = f"{self._info.name}.{self._method}"
            raise argument_error(name, self._shape, args, kwargs, error) from error

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's lazy graphs are not there yet.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("bind() is not there yet: call remote() and pass the references on")

    def __reduce__(self) -> tuple[Callable[..., ActorMethod], tuple[Any, ...]]:
        return _method_from_pickle, (
            self._ref.escape(),
            self._ref.actor_id(),
            self._info,
            self._method,
            self._num_returns,
            self._shape,
            self._name,
        )


class _StreamingMethod(ActorMethod):
    """A method that is a generator, whose results would come one by one."""

    __slots__ = ()

    def options(self, **options: Any) -> ActorMethod:
        """As of ActorMethod; an async generator stays one."""
        changed = super().options(**options)
        if self._num_returns != _ASYNC_GENERATOR:
            return changed
        return _StreamingMethod(self._ref, self._info, self._method, _ASYNC_GENERATOR, self._shape)

    def remote(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Streams are not there yet."""
        name = f"{self._info.name}.{self._method}"
        if self._num_returns == _ASYNC_GENERATOR:
            raise NotImplementedError(f"{name} is an async generator, and streams are not there yet: return a list")
        raise NotImplementedError(
            f"{name} is a generator, and streams are not there yet: return a list, or call it by "
            ".options(num_returns=...) with the number of its values, at least 2"
        )


def _bound(
    ref: ActorRef, info: _ClassInfo, method: str, num_returns: int, shape: CallShape, name: str | None = None
) -> ActorMethod:
    kind = ActorMethod if num_returns >= 0 else _StreamingMethod
    return kind(ref, info, method, num_returns, shape, name)


class ActorHandle:
    """A handle to an actor (Ray: ray.actor.ActorHandle). It can be passed to tasks and other actors."""

    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias:  # for annotations
        return GenericAlias(cls, item)

    def __init__(self, ref: ActorRef, info: _ClassInfo, metadata: bytes) -> None:
        self._ref = ref
        self._info = info
        self._metadata = metadata

    def __getattr__(self, name: str) -> ActorMethod:
        found: _ClassInfo | None = self.__dict__.get("_info")
        if found is None:  # while it is being made
            raise AttributeError(name)
        entry = found.methods.get(name)
        if entry is None:
            if name.startswith("__") and name.endswith("__"):
                raise AttributeError(name)
            raise AttributeError(option_checks.unknown(f"method {name!r} of actor {found.name}", name, found.methods))
        num_returns, shape = entry
        bound = _bound(self._ref, found, name, num_returns, shape)
        self.__dict__[name] = bound
        return bound

    def __dir__(self) -> list[str]:
        return sorted(self._info.methods)

    @property
    def _actor_id(self) -> HexId:
        return HexId(self._ref.actor_id().hex())

    @property
    def _ray_actor_id(self) -> HexId:
        return self._actor_id

    def __repr__(self) -> str:
        return f"Actor({self._info.name}, {self._ref.actor_id().hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._ref.actor_id() == self._ref.actor_id()

    def __hash__(self) -> int:
        return hash(self._ref.actor_id())

    def __reduce__(self) -> tuple[Callable[..., ActorHandle], tuple[bytes, bytes, bytes]]:
        return _handle_from_pickle, (self._ref.escape(), self._ref.actor_id(), self._metadata)


def _handle_from_pickle(origin: bytes, actor_id: bytes, metadata: bytes) -> ActorHandle:
    info = pickle.loads(metadata)
    return _handle_of(core_worker().actor_from_id(actor_id, info.name, origin), info, metadata)


def _method_from_pickle(
    origin: bytes,
    actor_id: bytes,
    info: _ClassInfo,
    method: str,
    num_returns: int,
    shape: CallShape,
    name: str | None,
) -> ActorMethod:
    ref = core_worker().actor_from_id(actor_id, info.name, origin)
    if info.is_concurrent:
        ref.call_out_of_order()
    return _bound(ref, info, method, num_returns, shape, name)


def _handle_of(ref: ActorRef, info: _ClassInfo, metadata: bytes) -> ActorHandle:
    if info.is_concurrent:
        ref.call_out_of_order()
    return ActorHandle(ref, info, metadata)


def handle_from_id(actor_id: bytes, metadata: bytes) -> ActorHandle:
    """The handle of an actor of this cluster whose id and metadata are known."""
    info = pickle.loads(metadata)
    return _handle_of(core_worker().actor_from_id(actor_id, info.name), info, metadata)


class _ActorExit(SystemExit):
    """Ends the actor in which it is raised; sparkray._private.worker_main sees to it."""


def exit_actor() -> NoReturn:
    """Ends the actor that calls it, for good (Ray: ray.actor.exit_actor).

    The call that is being run, and later ones, raise ActorDiedError. The actor is not restarted.

    Raises:
        TypeError: not called in an actor.
    """
    from sparkray._private import worker_main

    if not worker_main.actor_info:
        raise TypeError("exit_actor() ends the actor that calls it, and this is none")
    raise _ActorExit(0)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """See sparkray.get_actor."""
    if not isinstance(name, str) or not name:
        raise ValueError("the name of an actor is a string that is not empty")
    if namespace is not None and (not isinstance(namespace, str) or not namespace):
        raise ValueError("namespace is a string that is not empty, or None for this driver's own")
    ref, metadata = core_worker().get_actor(name, namespace or job_namespace())
    return _handle_of(ref, pickle.loads(metadata), metadata)


def kill(actor: Any, no_restart: bool) -> None:
    """See sparkray.kill."""
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes the handle of an actor, not a {type(actor).__name__}; tasks cannot be killed")
    core_worker().kill_actor(actor._ref, no_restart)
