"""Calls of Java that Ctrl-C can interrupt.

pyspark's handler of SIGINT talks to Java itself, on the connection of the main thread. A main thread that waits there
for an answer gets an error of the connection instead of KeyboardInterrupt, so long calls are made by a helper thread,
which has a connection of its own, and the main thread waits for the helper.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")

_RETRY_SECONDS = 0.2


class Call(Generic[Result]):
    """A function that runs in a thread of its own, at once."""

    def __init__(self, function: Callable[[], Result], name: str) -> None:
        self._function = function
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def join(self, seconds: float) -> bool:
        """Waits; whether the function has ended."""
        return self._ended.wait(seconds)

    def result(self) -> Result:
        """Waits for what the function returns, or raises what it raised."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._results[0]


def call(function: Callable[[], Result], cancel: Callable[[], object], name: str, cancel_seconds: float) -> Result:
    """Runs a function in a helper thread and waits for it.

    Arguments:
        function: what to run.
        cancel: called when the wait is interrupted, again and again until the function has ended: what it cancels may
            not have begun when it is called first.
        name: the thread's name.
        cancel_seconds: how long to wait then.

    Returns:
        What the function returned; what it raised is raised, and what interrupted the wait.
    """
    running = Call(function, name)
    try:
        return running.result()
    except BaseException:
        waited = 0.0
        while not running.join(0) and waited < cancel_seconds:
            with contextlib.suppress(Exception):
                cancel()
            running.join(_RETRY_SECONDS)
            waited += _RETRY_SECONDS
        raise
