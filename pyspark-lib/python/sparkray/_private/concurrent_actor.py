"""Actors that run several calls at a time: on threads, or as coroutines of one event loop.

Calls are fetched from the native side on the main thread, in the order in which they arrived; `current` names the call
that a thread or coroutine runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import select
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sparkray._private.worker_main import actor_info

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, IncomingTask

current: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("sparkray_task", default=None)


def _describe(task: IncomingTask) -> dict[str, Any]:
    return {"task_id": task.task_id, "name": task.name, "actor_id": actor_info.get("actor_id"), "attempt": 0}


def _deliver(core: CoreWorker, task: IncomingTask, run: Callable[[], Any]) -> None:
    """Reports what `run` returns or raises."""
    try:
        core.finish_task(task, run())
    except BaseException as error:  # SystemExit of user code too: it is the caller's to know
        core.fail_task(task, error)


def run_threads(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    """Runs each call on one of `max_concurrency` threads until the worker is told to end."""

    def run_call(task: IncomingTask) -> None:
        token = current.set(_describe(task))
        try:
            _deliver(core, task, lambda: _call(instance, task))
        finally:
            current.reset(token)

    pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="actor")
    poller = select.poll()
    poller.register(core.event_fd(), select.POLLIN)
    while (tasks := core.poll_tasks()) is not None:
        for task in tasks:
            pool.submit(run_call, task)
        if not tasks:
            poller.poll()
    pool.shutdown(wait=False, cancel_futures=True)


def _call(instance: object, task: IncomingTask) -> Any:
    args, kwargs = task.load_args()
    return getattr(instance, task.method)(*args, **kwargs)


def run_async(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    """Runs each call as a coroutine, at most `max_concurrency` at a time, until the worker is told to end.

    Methods that are not async run on the loop's thread and hold it up, as in Ray.
    """
    asyncio.run(_serve(core, instance, max_concurrency))


async def _serve(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(max_concurrency)
    ended = asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    async def run_call(task: IncomingTask) -> None:
        async with room:
            current.set(_describe(task))  # each asyncio task has its own context
            try:
                args, kwargs = task.load_args()
                result = getattr(instance, task.method)(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
                core.finish_task(task, result)
            except BaseException as error:
                core.fail_task(task, error)
                if isinstance(error, asyncio.CancelledError) and ended.is_set():
                    raise

    def fetch() -> None:
        tasks = core.poll_tasks()
        if tasks is None:
            loop.remove_reader(core.event_fd())
            ended.set()
            return
        for task in tasks:
            started = loop.create_task(run_call(task))
            running.add(started)
            started.add_done_callback(running.discard)

    loop.add_reader(core.event_fd(), fetch)
    fetch()
    await ended.wait()
    for started in list(running):
        started.cancel()
