"""A worker: what happens after the fork, and what the native loop asks of Python."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from sparkray import exceptions
from sparkray._private import job_modules, process, serialization, thread_limits, worker
from sparkray._private.worker import python_version, state


def reseed_generators() -> None:
    """Forked workers must not draw the same random numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def main(connection: int, config: dict[str, Any]) -> int:
    """Runs the worker until its raylet ends it; returns the exit code."""
    from sparkray import _native

    reseed_generators()
    _native.after_fork_in_child()
    # What tasks start inherits it; the raylet ends what this worker leaves behind.
    os.environ["SPARKRAY_WORKER_ID"] = str(config["worker_id"])
    own = {"python_version": python_version(), "report_unhandled_errors": True}
    core = _native.CoreWorker.connect_worker(connection, {**config, **own})
    state.core = core
    state.is_driver = False
    state.why_not = "this worker is about to end"
    job_modules.begin_worker(core)
    # The driver's own; those of the modules that the zygote has imported belong to every process.
    atexit.unregister(worker.disconnect)
    core.run_worker(Hooks(core))
    run_exit_handlers()
    return 0


def run_exit_handlers() -> None:
    """What user code wants done when an actor or worker ends in order: `__ray_shutdown__`, `__del__`, then atexit."""
    instance = actor_info.get("instance")
    # Frames of user code may refer to the instance to the very end of this process, which does not end by unwinding: so
    # its finalizer is called by hand, for the one time.
    for name in ("__ray_shutdown__", "__del__"):
        last_deed = getattr(type(instance), name, None)
        if callable(last_deed):
            try:
                last_deed(instance)
            except Exception:
                traceback.print_exc()
    atexit._run_exitfuncs()


# What the runtime context tells about an actor.
_ACTOR_FACTS = ("actor_id", "name", "namespace", "incarnation", "resources", "handle_metadata")


# Characters of an actor's own description before each line of its output.
_MAX_LABEL = 80


class _ConstructorFailed(Exception):
    """Carries the error that all calls of an actor get whose constructor raised."""

    def __init__(self, error: exceptions.ActorDiedError) -> None:
        super().__init__(str(error))
        self.error = error


class Hooks:
    """See sparkray._native.WorkerHooks."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def load_function(self, blob: bytes) -> Callable[..., Any]:
        """The function of a task, from its pickle."""
        function: Callable[..., Any] = serialization.load_definition(blob)
        return function

    def set_job(self, job_id: str) -> None:
        """The next task, or the actor, belongs to this job."""
        os.environ["RAY_JOB_ID"] = job_id

    def set_threads(self, count: int) -> None:
        """The next task, or the actor, has so many CPUs for the threads of libraries."""
        thread_limits.set_threads(count)

    def set_placement_group(self, group_id: bytes | None, captures_child_tasks: bool) -> None:
        """The next task, or the actor, is in this placement group."""
        group = None if group_id is None else worker.CurrentPlacementGroup(group_id, captures_child_tasks)
        worker.enter_placement_group(group)

    def before_actor(self, class_blob: bytes) -> None:
        """The arguments of a constructor are about to be loaded."""
        job_modules.before(class_blob)

    def make_error(self, error: BaseException, name: str, pid: int, ip: str) -> bytes:
        """The body of an Error value for what a task raised."""
        if isinstance(error, _ConstructorFailed):
            return serialization.pickle_by_value(error.error)
        if isinstance(error, SystemExit) and actor_info:
            self._exit(error)
        if isinstance(error, serialization.SerializationError):
            error = TypeError(error.describe(f"the result of {name}()"))
        task = current_task()
        actor_id = task.get("actor_id") if task is not None else None
        if isinstance(actor_id, bytes):
            actor_id = actor_id.hex()
        task_id = task.get("task_id") if task is not None else None
        task_id = bytes(task_id).hex() if task_id else None
        wrapped = exceptions.task_error(error, name, pid, ip, _actor_repr(), actor_id or None, task_id)
        return _pickle_error(wrapped)

    def _exit(self, error: SystemExit) -> NoReturn:
        """Ends the actor, as `sys.exit` and `exit_actor` want it; without an error it is not restarted."""
        code = error.code
        if code is None or code == 0:
            self._core.announce_exit()
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        with contextlib.suppress(BaseException):  # handlers print what they raise; nothing keeps the actor from ending
            run_exit_handlers()
        self._core.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # user code may have put anything there
                stream.flush()
        os._exit(code or 0)

    def create_actor(self, spec: dict[str, Any]) -> object:
        """Makes the instance of an actor; raises what its constructor raises."""
        actor_info.clear()
        actor_info.update({key: spec[key] for key in _ACTOR_FACTS if key in spec})
        try:
            plain_class = serialization.load_definition(spec["class_blob"])
            actor_class = _with_runtime_methods(plain_class)
            args, kwargs = spec.get("args", ()), spec.get("kwargs", {})
            if spec["is_async"]:
                from sparkray._private import concurrent_actor

                instance: object = concurrent_actor.create_async(actor_class, args, kwargs)
            else:
                instance = actor_class(*args, **kwargs)
        except BaseException as error:
            if state.core is None:  # a child that the constructor forked
                process.end_forked_child(error)
            name = f"{spec['class_name']}.__init__"
            actor_id = bytes(spec["actor_id"]).hex()
            wrapped = exceptions.task_error(error, name, os.getpid(), self._core.node_ip, actor_id=actor_id)
            raise _ConstructorFailed(exceptions.ActorDiedError.from_task_error(wrapped)) from None
        actor_info["instance"] = instance
        return instance

    def actor_label(self) -> str | None:
        """What stands before the output of an actor that has a `__repr__` of its own; None: its class's name."""
        kind: Any = type(actor_info.get("instance"))
        if kind.__repr__ is object.__repr__:
            return None
        text = " ".join((_actor_repr() or "").split())
        return text[:_MAX_LABEL] or None

    def run_actor(self, instance: object, spec: dict[str, Any]) -> None:
        """Drives an actor that is async or has several threads."""
        from sparkray._private import concurrent_actor

        if spec["is_async"]:
            concurrent_actor.run_async(self._core, instance, int(spec["max_concurrency"]))
        else:
            concurrent_actor.run_threads(self._core, instance, int(spec["max_concurrency"]))


# About the actor that lives in this worker; empty in others.
actor_info: dict[str, Any] = {}


def current_task() -> dict[str, Any] | None:
    """The task that runs on this thread or in this coroutine."""
    from sparkray._private import concurrent_actor

    running = concurrent_actor.current.get()
    if running is not None:
        return concurrent_actor.describe(running)
    return None if state.core is None else state.core.current_task()


def _actor_repr() -> str | None:
    instance = actor_info.get("instance")
    if instance is None:
        return None
    try:
        return repr(instance)
    except Exception:  # the user's __repr__
        return object.__repr__(instance)


def _pickle_error(error: exceptions.RayTaskError) -> bytes:
    text = error.traceback_str
    try:
        return pickle.dumps((text, serialization.pickle_by_value(error)), 5)
    except Exception:  # a representation that is not a plain string, for example
        plain = exceptions.RayError(text)
        return serialization.pickle_by_value(
            exceptions.RayTaskError(error.function_name, error.traceback_str, plain, None, error.pid, error.ip)
        )


@functools.cache
def _with_runtime_methods(plain_class: type) -> type:
    """The user's class with the methods that Ray adds to every actor."""

    def ready(self: object) -> bool:
        return True

    def terminate(self: object) -> None:
        from sparkray._private.actor import exit_actor

        exit_actor()

    def call(self: object, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    members = {
        "__ray_ready__": ready,
        "__ray_call__": call,
        "__ray_terminate__": terminate,
        "__module__": plain_class.__module__,
        "__qualname__": plain_class.__qualname__,
        "__doc__": plain_class.__doc__,
    }
    try:
        return type(plain_class)(plain_class.__name__, (plain_class,), members)
    except TypeError:  # a class that refuses subclasses, or wants arguments for them
        return plain_class
