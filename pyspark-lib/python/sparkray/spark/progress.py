"""Lines that tell how far a start is: on standard error, one every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_SECONDS = 2.0

Progress = Callable[[str], None]


def print_progress(line: str) -> None:
    """Shows a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def mebibytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1024**2:.0f} MB"


class ByteProgress:
    """How many bytes of how many are done, shown now and then.

    Arguments:
        what: what the lines begin with, such as ``"environment: packed"``.
        total: number of bytes.
        show: takes the lines.
    """

    def __init__(self, what: str, total: int, show: Progress) -> None:
        self._what = what
        self._total = total
        self._show = show
        self._done = 0
        self._shown_at = time.monotonic()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        self.set(self._done + count)

    def set(self, done: int) -> None:
        """So many bytes are done now."""
        self._done = done
        now = time.monotonic()
        if now - self._shown_at > _SECONDS:
            self._shown_at = now
            self._show(f"{self._what} {mebibytes(done)} of {mebibytes(self._total)}")
