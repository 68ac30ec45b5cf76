"""Actors that run several calls at a time: on threads, or as coroutines of one event loop.

Calls are fetched from the native side on the main thread, in the order in which they arrived; `current` names the call
that a thread or coroutine runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextvars
import inspect
import os
import select
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sparkray import exceptions
from sparkray._private import process
from sparkray._private.worker_main import actor_info

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, IncomingTask

current: contextvars.ContextVar[IncomingTask | None] = contextvars.ContextVar("sparkray_task", default=None)


def describe(task: IncomingTask) -> dict[str, Any]:
    """What the runtime context tells about a call."""
    return {"task_id": task.task_id, "name": task.name, "actor_id": actor_info.get("actor_id"), "attempt": 0}


def run_threads(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    """Runs each call on one of `max_concurrency` threads until the worker is told to end."""

    def run_call(task: IncomingTask) -> None:
        if task.is_cancelled():
            core.give_up_task(task)
            return
        token = current.set(task)
        try:
            args, kwargs = task.load_args()
            result = getattr(instance, task.method)(*args, **kwargs)
            # Answers of calls that follow each other travel together.
            core.finish_task(task, result, not waiting.empty())
        except BaseException as error:  # SystemExit of user code too: it is the caller's to know
            core.fail_task(task, error)
        finally:
            current.reset(token)

    os.register_at_fork(after_in_child=_leave_pool_in_child)
    pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="actor")
    waiting = pool._work_queue
    poller = select.poll()
    poller.register(core.event_fd(), select.POLLIN)
    while (tasks := core.poll_tasks()) is not None:
        core.poll_cancelled()  # calls look for themselves when their turn comes
        for task in tasks:
            pool.submit(run_call, task)
        if not tasks:
            poller.poll()
    pool.shutdown(wait=False, cancel_futures=True)


def _leave_pool_in_child() -> None:
    """multiprocessing joins the threads of all pools before its child ends.

    The one that forked is the only one left there. It would join itself, and every child's exit code would be 1.
    """
    threads = getattr(concurrent.futures.thread, "_threads_queues", None)
    if threads is not None:
        threads.pop(threading.current_thread(), None)


# Threads that wait for arguments of an async actor's calls.
_LOADERS = 16
# The loop of an async actor, from its constructor on.
_loop: asyncio.AbstractEventLoop | None = None


def create_async(actor_class: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Makes the instance of an async actor, on the loop on which its calls will run; `__init__` may be async."""
    global _loop

    async def create() -> object:
        kind: Any = actor_class
        constructor = kind.__init__
        if not inspect.iscoroutinefunction(constructor):
            made: object = actor_class(*args, **kwargs)
            return made
        instance: object = kind.__new__(kind)
        await constructor(instance, *args, **kwargs)
        return instance

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        instance = loop.run_until_complete(create())
    except BaseException:
        asyncio.set_event_loop(None)
        loop.close()
        raise
    _loop = loop
    return instance


def run_async(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    """Runs each call as a coroutine, at most `max_concurrency` at a time, until the worker is told to end.

    Methods that are not async run on the loop's thread and hold it up, as in Ray.
    """
    loop = _loop
    if loop is None:
        raise RuntimeError("an async actor is created by create_async")
    loop_thread = threading.get_ident()

    def end_child() -> None:
        # A child that was forked on this thread and awaits something would run other calls: the loop's next step
        # ends it.
        if threading.get_ident() == loop_thread:
            handle = asyncio.Handle(process.end_forked_child, (None,), loop)
            ready = getattr(loop, "_ready", None)
            if isinstance(ready, deque):
                ready.appendleft(handle)
            else:
                loop.call_soon(process.end_forked_child, None)

    os.register_at_fork(after_in_child=end_child)
    try:
        loop.run_until_complete(_serve(core, instance, max_concurrency))
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _as_cancelled(task: IncomingTask, error: BaseException) -> BaseException:
    """What the caller is told of an error: a coroutine that ended because it was cancelled is a cancelled task."""
    if not (isinstance(error, asyncio.CancelledError) and task.is_cancelled()):
        return error
    cancelled = exceptions.TaskCancelledError(task_id=task.task_id.hex())
    cancelled.__cause__ = error
    return cancelled


async def _serve(core: CoreWorker, instance: object, max_concurrency: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    running: dict[asyncio.Task[None], IncomingTask] = {}
    waiting: deque[IncomingTask] = deque()
    flushing = False
    loaders = ThreadPoolExecutor(min(max_concurrency, _LOADERS), thread_name_prefix="arguments")

    async def run_call(task: IncomingTask) -> None:
        nonlocal flushing
        current.set(task)  # each asyncio task has its own context
        try:
            # The loop waits for nobody: other calls go on meanwhile.
            if task.has_stored_args():
                await loop.run_in_executor(loaders, task.fetch_args)
            args, kwargs, waits = task.build_args()
            if waits:
                await loop.run_in_executor(loaders, task.wait_for_owners)
            result = getattr(instance, task.method)(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            core.finish_task(task, result, True)
            if not flushing:
                # Answers of one round of the loop travel together.
                flushing = True
                loop.call_soon(flush)
        except BaseException as error:
            core.fail_task(task, _as_cancelled(task, error))
            if isinstance(error, asyncio.CancelledError) and ended.is_set():
                raise

    def flush() -> None:
        nonlocal flushing
        flushing = False
        core.flush()

    def start(task: IncomingTask) -> None:
        started = loop.create_task(run_call(task))
        running[started] = task
        started.add_done_callback(done)

    def done(finished: asyncio.Task[None]) -> None:
        running.pop(finished, None)
        if waiting:
            start(waiting.popleft())

    def cancel(task_id: bytes) -> None:
        for started, task in running.items():
            if task.task_id == task_id:
                started.cancel()
                return
        for task in waiting:
            if task.task_id == task_id:
                waiting.remove(task)
                core.give_up_task(task)
                return

    def fetch() -> None:
        tasks = core.poll_tasks()
        if tasks is None:
            loop.remove_reader(core.event_fd())
            ended.set()
            return
        for task in tasks:
            if len(running) < max_concurrency:
                start(task)
            else:
                waiting.append(task)
        for task_id in core.poll_cancelled():
            cancel(task_id)

    loop.add_reader(core.event_fd(), fetch)
    fetch()
    await ended.wait()
    waiting.clear()
    loaders.shutdown(wait=False, cancel_futures=True)
    for started in list(running):
        started.cancel()
