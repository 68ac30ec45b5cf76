"""Actors: what `@remote` makes of a class, and handles to its instances."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sparkray import exceptions
from sparkray._private import options as option_checks
from sparkray._private.remote_function import argument_error, definition_id, pickle_definition
from sparkray._private.serialization import SerializationError
from sparkray._private.signature import CallShape
from sparkray._private.worker import core_worker, job_namespace, state

if TYPE_CHECKING:
    from sparkray._native import ActorRef, CoreWorker

F = TypeVar("F", bound=Callable[..., Any])

ASYNC_DEFAULT_CONCURRENCY = 1000
_NUM_RETURNS = "__ray_num_returns__"


def method(*, num_returns: int | None = None, **options: Any) -> Callable[[F], F]:
    """Options of one method of an actor class (Ray: ray.method).

    Args:
        num_returns: how many references a call returns; the method then returns a tuple of that length.

    Raises:
        NotImplementedError: an option of Ray that is not there yet.
    """
    for name in options:
        raise NotImplementedError(f"option {name} of @method is not there yet: leave it out")
    option_checks.check({"num_returns": num_returns}, is_actor=False)

    def decorate(function: F) -> F:
        if num_returns is not None:
            setattr(function, _NUM_RETURNS, num_returns)
        return function

    return decorate


class _ClassInfo:
    """What handles know about a class: picklable, small, without the class."""

    def __init__(self, name: str, is_async: bool, methods: dict[str, tuple[int, CallShape]]) -> None:
        self.name = name
        self.is_async = is_async
        self.methods = methods

    def __reduce__(self) -> tuple[type[_ClassInfo], tuple[Any, ...]]:
        return _ClassInfo, (self.name, self.is_async, self.methods)

    @classmethod
    def of(cls, actor_class: type) -> _ClassInfo:
        methods: dict[str, tuple[int, CallShape]] = {}
        is_async = False
        for name, function in inspect.getmembers(actor_class, callable):
            if name.startswith("__") and name not in ("__call__", "__len__", "__getitem__", "__contains__"):
                continue
            if inspect.isclass(function):
                continue
            if inspect.iscoroutinefunction(function):
                is_async = True
            if inspect.isasyncgenfunction(function):
                raise NotImplementedError(f"{actor_class.__name__}.{name} is an async generator: not there yet")
            static = inspect.getattr_static(actor_class, name)
            skip_first = not isinstance(static, (staticmethod, classmethod))
            shape = CallShape.of(function, skip_first=skip_first)
            methods[name] = (getattr(function, _NUM_RETURNS, 1), shape)
        methods["__ray_ready__"] = (1, CallShape(()))
        methods["__ray_call__"] = (1, CallShape(None))
        return cls(actor_class.__name__, is_async, methods)


class ActorClass:
    """A class whose instances live in workers: `Counter.remote(...)` (Ray: ray.actor.ActorClass)."""

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

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise TypeError(
            f"{self.__name__} is an actor class and cannot be inherited from: inherit from the plain class, "
            "and apply remote() to the result"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options; the arguments are those of `sparkray.remote`."""
        merged = {**self._options, **option_checks.check(options, is_actor=True)}
        return ActorClass(self._class, merged, parent=self._parent or self)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's lazy graphs are not there yet."""
        raise NotImplementedError("bind() is not there yet: call remote() and pass the handle on")

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Makes an instance in a worker. Returns at once; an error of the constructor is raised by the calls.

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
        return ActorHandle(ref, self._info, metadata)

    def _creation_options(self) -> dict[str, Any]:
        options = self._options
        resources = option_checks.resources_of(options)
        if set(resources) <= {"memory"}:
            # Ray's rule: an actor without named resources needs a CPU to be placed and none to live.
            placement = {**resources, "CPU": 1.0}
        else:
            resources.setdefault("CPU", 1.0)
            placement = dict(resources)
        concurrency = options.get("max_concurrency")
        if concurrency is None:
            concurrency = ASYNC_DEFAULT_CONCURRENCY if self._info.is_async else 1
        return {
            "resources": {name: amount for name, amount in resources.items() if amount > 0},
            "placement_resources": {name: amount for name, amount in placement.items() if amount > 0},
            "max_restarts": options.get("max_restarts", 0),
            "name": options.get("name"),
            "namespace": options.get("namespace") or (job_namespace() if options.get("name") else None),
            "detached": options.get("lifetime") == "detached",
            "max_concurrency": concurrency,
            "is_async": self._info.is_async,
        }

    def _pickled_for(self, core: CoreWorker) -> tuple[bytes, bytes]:
        if self._parent is not None:
            return self._parent._pickled_for(core)
        if self._core is not core:
            self._blob = pickle_definition(self._class, f"the class {self.__name__}")
            self._metadata = pickle.dumps(self._info, 5)
            self._core = core
        return self._blob, self._metadata


class ActorMethod:
    """`handle.method`: call it with `.remote(...)` (Ray: ray.actor.ActorMethod).

    It keeps the actor alive, not the handle, so that handle and method make no cycle.
    """

    __slots__ = ("_info", "_method", "_num_returns", "_ref", "_shape")

    def __init__(self, ref: ActorRef, info: _ClassInfo, method: str, num_returns: int, shape: CallShape) -> None:
        self._ref = ref
        self._info = info
        self._method = method
        self._num_returns = num_returns
        self._shape = shape

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"methods of an actor cannot be called directly: write .{self._method}.remote() for .{self._method}()"
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._info.name}.{self._method})"

    def options(self, **options: Any) -> ActorMethod:
        """The same method with another `num_returns`; `name` is accepted without effect."""
        for option in options:
            if option not in ("num_returns", "name"):
                raise ValueError(
                    option_checks.unknown(f"option {option!r} for actor methods", option, ("num_returns", "name"))
                )
        checked = option_checks.check({"num_returns": options.get("num_returns")}, is_actor=False)
        count = checked["num_returns"]
        return ActorMethod(
            self._ref, self._info, self._method, self._num_returns if count is None else count, self._shape
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method. Calls of one process on one actor start in the order in which they are made.

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
            return core.submit_actor(self._ref, self._method, self._num_returns, args, kwargs)
        except SerializationError as error:
            name = f"{self._info.name}.{self._method}"
            raise argument_error(name, self._shape, args, kwargs, error) from error


class ActorHandle:
    """A handle to an actor (Ray: ray.actor.ActorHandle). It can be passed to tasks and other actors."""

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
        bound = ActorMethod(self._ref, found, name, num_returns, shape)
        self.__dict__[name] = bound
        return bound

    def __dir__(self) -> list[str]:
        return sorted(self._info.methods)

    @property
    def _actor_id(self) -> bytes:
        return self._ref.actor_id()

    @property
    def _ray_actor_id(self) -> bytes:
        return self._ref.actor_id()

    def __repr__(self) -> str:
        return f"Actor({self._info.name}, {self._ref.actor_id().hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._ref.actor_id() == self._ref.actor_id()

    def __hash__(self) -> int:
        return hash(self._ref.actor_id())

    def __reduce__(self) -> tuple[Callable[..., ActorHandle], tuple[bytes, bytes]]:
        self._ref.escape()
        return _handle_from_pickle, (self._ref.actor_id(), self._metadata)


def _handle_from_pickle(actor_id: bytes, metadata: bytes) -> ActorHandle:
    info = pickle.loads(metadata)
    return ActorHandle(core_worker().actor_from_id(actor_id, info.name), info, metadata)


def handle_from_id(actor_id: bytes, metadata: bytes) -> ActorHandle:
    """The handle of an actor whose id and metadata are known."""
    return _handle_from_pickle(actor_id, metadata)


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
    return ActorHandle(ref, pickle.loads(metadata), metadata)


def kill(actor: Any, no_restart: bool) -> None:
    """See sparkray.kill."""
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes the handle of an actor, not a {type(actor).__name__}; tasks cannot be killed")
    core_worker().kill_actor(actor._ref, no_restart)
