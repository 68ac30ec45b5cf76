"""Prints what workers wrote, each line after Ray's prefix: `(f pid=123)` or `(f pid=123, ip=1.2.3.4)`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

_CYAN = "\033[36m"
_RESET = "\033[0m"

# Lines that a worker wrote before its last task ended are here after this time without any: a few times what raylets
# take to pass them on.
_QUIET_SECONDS = 0.08
_DRAIN_SECONDS = 1.0

_local_ip = ""
_arrival = threading.Condition()
_arrivals = 0


def set_local_ip(ip: str) -> None:
    """Lines from this address are printed without it."""
    global _local_ip
    _local_ip = ip


def prefix(name: str, pid: int, ip: str, local_ip: str) -> str:
    """What stands before a line of worker `pid` on node `ip`."""
    who = f"{name} pid={pid}" if name else f"pid={pid}"
    return f"({who}, ip={ip})" if ip and ip != local_ip else f"({who})"


def print_lines(lines: Sequence[tuple[str, int, str, str, bool]]) -> None:
    """Prints lines of (name, pid, ip, text, is_stderr). Called by a native thread of the driver."""
    global _arrivals
    out: list[str] = []
    err: list[str] = []
    for name, pid, ip, text, is_stderr in lines:
        stream = sys.stderr if is_stderr else sys.stdout
        start = prefix(name, pid, ip, _local_ip)
        if _is_terminal(stream):
            start = f"{_CYAN}{start}{_RESET}"
        (err if is_stderr else out).append(f"{start} {text}\n")
    _write(sys.stdout, out)
    _write(sys.stderr, err)
    with _arrival:
        _arrivals += 1
        _arrival.notify_all()


def drain() -> None:
    """Waits until the workers' output has stopped coming, so that the last lines of a program are not lost."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    with _arrival:
        while True:
            seen = _arrivals
            wait = min(_QUIET_SECONDS, deadline - time.monotonic())
            if wait <= 0 or not _arrival.wait_for(lambda seen=seen: _arrivals != seen, wait):  # type: ignore[misc]
                return


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _write(stream: TextIO | None, lines: list[str]) -> None:
    if not lines or stream is None:
        return
    try:
        stream.write("".join(lines))
        stream.flush()
    except (OSError, ValueError):
        # A closed pipe or stream of the driver is the driver's affair: its workers' output has nowhere to go.
        return
